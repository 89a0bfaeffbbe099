//! Keys, encryption and decryption.

mod encrypt;
mod flooding;
mod keygen;
mod keys;
mod publish;
mod residency;
mod secret;

pub use encrypt::{Decryptor, Encryptor};
pub use keygen::KeyGenerator;
pub use keys::{EvaluationKeys, KeyKind, KeySpec, PublicKey, SeededKey, SwitchingKey};
pub use publish::{MIN_STATISTICAL_SECURITY, Publication, PublicationLedger};
pub(crate) use residency::KeyMemory;
pub use secret::{SecretId, SecretKey};

/// Stream of a seed that holds the uniform half of a ciphertext; digits of keys use 0, 1, ..
pub(crate) const CIPHERTEXT_DOMAIN: u64 = 1 << 32;
/// Stream of a seed that holds the uniform half of a public key.
pub(crate) const PUBLIC_KEY_DOMAIN: u64 = 2 << 32;

/// A fresh public seed.
pub(crate) fn fresh_seed<R: rand_core::CryptoRng + ?Sized>(rng: &mut R) -> [u8; 32] {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    seed
}

/// What the seed of the hand-over secret is derived for.
pub(crate) const HAND_OVER_SECRET_CONTEXT: &str = "cipherform 2026 hand-over secret";

/// What the seed of the ephemeral secret is derived for.
pub(crate) const EPHEMERAL_SECRET_CONTEXT: &str =
    "cipherform 2026 ephemeral secret of bootstrapping";
