//! The secret key.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::params::Parameters;
use crate::rlwe::{EPHEMERAL_SECRET_CONTEXT, HAND_OVER_SECRET_CONTEXT};
use cipherform_ring::{Limbs, Ring, RingPoly, sample};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::fmt;
use std::sync::Arc;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Domain of the hash behind [`SecretKey::id`].
const KEY_ID_CONTEXT: &str = "cipherform 2026-11 name of a secret key";

/// Names a secret key, so that what belongs to different ones is not mixed: a hash that tells nothing about the secret.
///
/// Every key and ciphertext carries the name of its secret, in memory and serialised. Mixing two would give a result that
/// decrypts to noise; here it is an [`Error::KeyMismatch`]. It finds mistakes, not attacks: a name that came over a wire is
/// whatever its sender wrote, and all that one key made can be linked by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretId(pub(crate) [u8; SecretId::LEN]);

impl SecretId {
    /// Bytes of a name.
    pub(crate) const LEN: usize = 32;

    /// The name's bytes, for formats outside this crate.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The name with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Fails unless both are the same.
    pub(crate) fn require_same(self, op: &'static str, got: Self) -> Result<()> {
        if self == got { Ok(()) } else { Err(Error::KeyMismatch { op, expected: self, got }) }
    }
}

/// The first four bytes, in hexadecimal.
impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretId({self})")
    }
}

/// The secret s: uniform ternary, derived from a 32-byte seed. Zeroised on drop; prints no content; not serialisable.
///
/// Its owner decrypts with [`crate::Decryptor`]; nobody else may hold it.
pub struct SecretKey {
    params: Parameters,
    seed: [u8; 32],
    /// Over all primes, in NTT order.
    s: RingPoly,
}

impl SecretKey {
    pub(crate) fn from_seed(ctx: &Context, seed: [u8; 32]) -> Result<Self> {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let limbs = ctx.key_limbs(ctx.params().max_level());
        let s = sample::ternary(ctx.ring(), &mut rng).to_ntt(ctx.ring(), limbs)?;
        Ok(Self { params: ctx.params().clone(), seed, s })
    }

    /// A secret from elsewhere.
    #[cfg(test)]
    pub(crate) fn from_coefficients(ctx: &Context, coefficients: Vec<i64>) -> Result<Self> {
        let limbs = ctx.key_limbs(ctx.params().max_level());
        let s = sample::SmallPoly::from_coefficients(coefficients).to_ntt(ctx.ring(), limbs)?;
        Ok(Self { params: ctx.params().clone(), seed: [0; 32], s })
    }

    /// The parameter set.
    #[must_use]
    pub fn params(&self) -> &Parameters {
        &self.params
    }

    /// s over all primes.
    pub(crate) fn poly(&self) -> &RingPoly {
        &self.s
    }

    /// s over limbs of a ring of the same degree, derived again: for the small ring of the dense-to-sparse key.
    pub(crate) fn poly_in(&self, ring: &Arc<Ring>, limbs: Limbs) -> Result<RingPoly> {
        let mut rng = ChaCha20Rng::from_seed(self.seed);
        Ok(sample::ternary(ring, &mut rng).to_ntt(ring, limbs)?)
    }

    /// The ephemeral secret of bootstrapping over limbs of a ring, `weight` coefficients of +-1.
    ///
    /// Its seed is derived from that of s, by BLAKE3 for this purpose alone, so that the keys to it and from it can be made
    /// independently of each other. Whoever holds s needs no other secret; nobody learns one from the other.
    pub(crate) fn ephemeral(
        &self,
        ring: &Arc<Ring>,
        limbs: Limbs,
        weight: u32,
    ) -> Result<RingPoly> {
        let seed = self.derive_seed(EPHEMERAL_SECRET_CONTEXT);
        let mut rng = ChaCha20Rng::from_seed(*seed);
        Ok(sample::ternary_of_weight(ring, weight as usize, &mut rng)?.to_ntt(ring, limbs)?)
    }

    /// The hand-over secret: uniform ternary in the subring Z[X^k], k the degree over its dimension, over limbs of a ring.
    pub(crate) fn hand_over(&self, ring: &Arc<Ring>, limbs: Limbs) -> Result<RingPoly> {
        let small = self.hand_over_coefficients();
        let mut coefficients = Zeroizing::new(vec![0; self.params.n()]);
        let stride = self.params.n() / small.len().max(1);
        for (to, &s) in coefficients.iter_mut().step_by(stride.max(1)).zip(small.iter()) {
            *to = s;
        }
        Ok(RingPoly::from_i64(ring, limbs, &coefficients)?.into_ntt()?)
    }

    fn hand_over_coefficients(&self) -> Zeroizing<Vec<i64>> {
        let dimension = self.params.hand_over_dimension();
        let seed = self.derive_seed(HAND_OVER_SECRET_CONTEXT);
        let mut rng = ChaCha20Rng::from_seed(*seed);
        Zeroizing::new(sample::ternary_of_degree(dimension, &mut rng).coefficients().to_vec())
    }

    /// **Hands out the hand-over secret**, under which [`crate::LweSample`]s are encrypted: -1, 0 or 1 each, uniform.
    ///
    /// Derived from the seed of s by BLAKE3 for this purpose alone: whoever holds s needs no other secret, and this one
    /// tells nothing about s. For the key that goes on from there, in another scheme.
    ///
    /// # Security
    /// It decrypts whatever is handed over. As [`Self::expose_bytes_for_storage`].
    #[must_use]
    pub fn expose_hand_over_secret(&self) -> Zeroizing<Vec<i64>> {
        self.hand_over_coefficients()
    }

    /// **Hands out a seed for another secret** of the same owner, derived by BLAKE3 for a purpose that `context` names; it
    /// tells nothing about s nor about seeds of other purposes.
    ///
    /// # Security
    /// As secret as what is made of it. `context` is a constant of the calling code, unique to its purpose, as BLAKE3 asks.
    #[must_use]
    pub fn derive_seed(&self, context: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, &self.seed))
    }

    /// The name of the key: BLAKE3 of its seed and set, for this purpose alone.
    #[must_use]
    pub fn id(&self) -> SecretId {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_ID_CONTEXT);
        hasher.update(&self.seed).update(&self.params.fingerprint());
        SecretId(*hasher.finalize().as_bytes())
    }

    /// **Hands out the secret itself**: 32 bytes from which anyone recovers the key.
    ///
    /// # Security
    /// Whoever reads these bytes decrypts every ciphertext ever made under this key, past and future. Write them
    /// nowhere but to storage that only the owner can read, never to a log, a message or a server, and drop the
    /// buffer at once: it is zeroised when dropped, copies of it are not.
    #[must_use]
    pub fn expose_bytes_for_storage(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.seed)
    }

    /// The key whose [`Self::expose_bytes_for_storage`] gave these bytes, for the same parameter set.
    ///
    /// Any 32 bytes are some key: nothing here can tell whether they are the right ones.
    ///
    /// # Errors
    /// [`crate::Error::Ring`] for an error of the device.
    pub fn from_stored_bytes(ctx: &Context, bytes: &[u8; 32]) -> Result<Self> {
        Self::from_seed(ctx, *bytes)
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.seed.zeroize();
        self.s.zeroize();
    }
}

impl ZeroizeOnDrop for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}
