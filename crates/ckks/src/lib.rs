//! The RNS-CKKS scheme: approximate arithmetic on encrypted vectors of complex numbers.
//!
//! A ciphertext holds n/2 complex *slots* at a *level* (rescalings left) and a *scale* (factor between values and
//! integers). Sums and products act slot by slot; rotations move slots. Every product multiplies scales, every
//! [`Evaluator::rescale`] divides the scale by one prime and takes one level. Results are approximate: see
//! [`noise`] for how approximate, and [`PrecisionStats`] to measure it.
//!
//! ```
//! use cipherform_ckks::{
//!     Context, Decryptor, Device, Encoder, Encryptor, EvaluationKeys, Evaluator, KeyGenerator, KeySpec, presets,
//! };
//! use rand_core::SeedableRng;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Toy parameters: not secure. Use "lev14" or "lev16_36" for anything but a doctest.
//! let ctx = Context::new(presets::get("toy11_lev")?, &Device::cpu())?;
//! let mut seed = [0; 32];
//! getrandom::fill(&mut seed)?;
//! let mut rng = rand_chacha::ChaCha20Rng::from_seed(seed);
//!
//! let generator = KeyGenerator::new(&ctx);
//! let secret = generator.secret_key(&mut rng)?;
//! let level = ctx.params().max_level();
//! let mut keys = EvaluationKeys::new(&ctx);
//! for spec in [Some(KeySpec::relinearization(level)), KeySpec::rotation(ctx.params(), 1, level)] {
//!     let Some(spec) = spec else { continue };
//!     keys.insert(generator.evaluation_key(&secret, spec, &mut rng)?.expand(&ctx)?)?;
//! }
//!
//! let encoder = Encoder::new(&ctx);
//! let x = encoder.encode(&[0.5, -1.25], level, ctx.params().scale_at(level))?; // repeats: 0.5, -1.25, 0.5, ..
//! let x = Encryptor::with_secret_key(&ctx, &secret)?.encrypt(&x, &mut rng)?;
//! let evaluator = Evaluator::new(&ctx);
//! let square = evaluator.rescale(evaluator.relinearize(&evaluator.mul(&x, &x)?, &keys)?)?;
//! let shifted = evaluator.rotate(&square, 1, &keys)?;
//!
//! let slots = encoder.decode(&Decryptor::new(&ctx, &secret)?.decrypt(&shifted)?)?;
//! assert!((slots[0].re - 1.5625).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```
//!
//! When levels run out, a [`Bootstrapper`] brings them back, in sets that can (`boot*`).
//!
//! # Security
//! Every parameter set that passes [`ParametersLiteral::check`], and every key at construction, meets the 128-bit
//! [`SecurityTable`]. That is IND-CPA security: it ends where somebody else sees *decryptions*, which carry the noise
//! of the computation and leak the key (IND-CPA-D, ePrint 2020/1533). What others may see comes from
//! [`Decryptor::decrypt_public`], which drowns that noise. Sets named `toy*` are insecure.
//!
//! # Non-goals
//! No automatic rescaling or scale alignment (a planner's job, where it is seen and costed); no
//! exact integer schemes; no multi-party keys.

mod alignment;
mod bits;
mod bootstrap;
mod ciphertext;
mod context;
pub mod cost;
mod double;
mod encoding;
mod error;
mod evaluator;
mod fft;
mod hand_over;
#[cfg(test)]
mod known_answers;
mod linear;
pub mod noise;
mod params;
mod paterson_stockmeyer;
mod plaintext;
mod polynomial;
mod precision;
pub mod presets;
mod rlwe;
mod rotation;
mod seam;
mod security;
mod serial;

pub use bootstrap::{
    BootstrapEstimate, BootstrapKind, BootstrapOptions, BootstrapPrecision, Bootstrapper,
};
pub use cipherform_ring::Device;
pub use ciphertext::Ciphertext;
pub use context::Context;
pub use encoding::Encoder;
pub use error::{Error, Result};
pub use evaluator::Evaluator;
pub use hand_over::LweSample;
pub use linear::LinearTransform;
pub use params::{BootstrappingLiteral, Parameters, ParametersLiteral};
pub use plaintext::Plaintext;
pub use polynomial::{Basis, Polynomial};
pub use precision::PrecisionStats;
pub use rlwe::{
    Decryptor, Encryptor, EvaluationKeys, KeyGenerator, KeyKind, KeySpec, MIN_STATISTICAL_SECURITY,
    PublicKey, Publication, PublicationLedger, SecretId, SecretKey, SeededKey, SwitchingKey,
};
pub use seam::{Half, Seam, SlotWords};
pub use security::{SecretDistribution, SecurityTable};

/// The example of the workspace's README, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
