//! The exact end of a private inference: encrypted logits are compared, and only the winning class comes back.
//!
//! A vector of logits tells a client much of a model; a label tells little, and shows no approximate decryption. The
//! chain, for c classes:
//!
//! ```text
//! CKKS ciphertexts at level 0, the logit in the constant coefficient            one a class
//!   hand over    key switch to a secret of dimension 4096 modulo q_0, sample     ckks::Evaluator::hand_over
//!   modulus      q_0 -> 2^64 on every word
//!   bridge       key switch of scalar samples, dimension 4096 -> 918             one a class
//!   round        every word to a multiple of 2^52                                from here on the logits are 12-bit integers
//!   compare      difference, sign by a programmable bootstrap                    one a pair
//!   select       wins = sum of signs; wins = c - 1 by a bootstrap                one a class
//!   label        sum of class times indicator                                    one sample
//! ```
//!
//! Of more than 16 classes not pairs are compared but the leading 8 bits of each logit, bit after bit: whoever lacks a bit
//! that another class still in has is out; then the bits of the classes' numbers decide between equals.
//!
//! **Exact.** Samples are rounded *before* they are subtracted. The rounded values are integers that all comparisons see
//! alike, so they are totally ordered (ties go to the smaller class): exactly one class wins against all others. Noise
//! decides only which of two classes wins whose logits are closer than [`Noise::difference_sigma`] resolves.
//!
//! **Range.** Differences of logits live on a torus: [`scale_for`] places the largest one that the model promises at half
//! a turn, less a margin for noise. A larger difference wraps and the loser wins; with three classes and more there may then be
//! no winner at all, which reads as class 0. The range is a contract.
//!
//! [`LabelParameters`] answers for sizes, counts ([`LabelParameters::stages`]), noise and failure probability without
//! any key. The engine ([`LabelSecret`], [`LabelKeys`], [`EncryptedLabel`]) does something with the feature
//! `label-only` alone, which compiles `tfhe` for programmable bootstraps (Chillotti, Gama, Georgieva and Izabachène, ePrint
//! 2018/421; programmable: ePrint 2021/091). Without it those types have no values and whatever would make one is
//! [`Error::NotBuilt`], so that nobody who uses this crate needs a feature of their own.
//!
//! # Security
//! Keys under the CKKS secret and the hand-over secret are checked against [`cipherform_ckks::SecurityTable`], those in
//! dimension 918 and 2048 against the bounds for 132 bits that the makers of `tfhe` publish with it
//! ([`params::check_security`]). The keys form a cycle (bootstrapping key and switching key encrypt each other's
//! secrets): circular security is assumed, as in every use of that scheme. The noise of the reply depends on what the
//! server computed with; it is not drowned, so circuit privacy is not claimed.
//!
//! # Non-goals
//! No integers, no arithmetic on labels, no more than [`MAX_CLASSES`] classes.

#[cfg(not(feature = "label-only"))]
#[path = "absent.rs"]
mod engine;
#[cfg(feature = "label-only")]
mod engine;
mod error;
pub mod noise;
pub mod params;

pub use engine::{EncryptedLabel, LabelKeys, LabelSecret, SeededLabelKeys, evaluate};
pub use error::{Error, Result};
pub use noise::{Noise, scale_for};
pub use params::{LabelParameters, MAX_CLASSES, Stage, StageCost};

/// Whether the engine is in this build.
///
/// # Errors
/// [`Error::NotBuilt`].
pub fn check_built() -> Result<()> {
    if cfg!(feature = "label-only") { Ok(()) } else { Err(Error::NotBuilt) }
}
