//! The crate's errors: every mismatch names both sides and says what to do.

use crate::rlwe::{KeySpec, SecretId};
use crate::security::SecretDistribution;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the scheme. No variant carries a secret value.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No preset of that name.
    #[error("unknown parameter set {name:?}; known sets: {known}")]
    UnknownParameters {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// The literal does not describe a usable parameter set.
    #[error("invalid parameter set {name:?}: {detail}")]
    InvalidParameters {
        /// Name of the literal.
        name: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The modulus is larger than the security table allows.
    #[error(
        "{what} has a modulus of {log2_modulus:.2} bits, but 128-bit security at n = {n} with {secret} \
         secrets allows at most {max_log2} bits"
    )]
    Insecure {
        /// What would be encrypted under that modulus.
        what: &'static str,
        /// Ring degree.
        n: usize,
        /// Distribution of the secret.
        secret: SecretDistribution,
        /// log2 of the exact modulus.
        log2_modulus: f64,
        /// The table's limit.
        max_log2: f64,
    },
    /// The security table has no cell for this pair; nothing is interpolated.
    #[error("the security table has no entry for n = {n} with {secret} secrets")]
    UnknownSecurity {
        /// Ring degree.
        n: usize,
        /// Distribution of the secret.
        secret: SecretDistribution,
    },
    /// An insecure set must say so in its name.
    #[error("{name:?} is not named toy* or insecure*; use `check` for secure sets")]
    NotAToy {
        /// Name of the literal.
        name: String,
    },
    /// Two objects belong to different parameter sets.
    #[error("{op}: parameter sets differ (expected {expected}, got {got})")]
    ParameterMismatch {
        /// The operation.
        op: &'static str,
        /// Name and fingerprint of the expected set.
        expected: String,
        /// Name and fingerprint of the other set.
        got: String,
    },
    /// Two objects belong to different secret keys.
    #[error(
        "{op}: secret keys differ (expected {expected}, got {got}); use the keys of the secret that encrypted"
    )]
    KeyMismatch {
        /// The operation.
        op: &'static str,
        /// Name of the expected secret.
        expected: SecretId,
        /// Name of the other secret.
        got: SecretId,
    },
    /// Two operands are at different levels.
    #[error(
        "{op}: levels differ ({lhs} and {rhs}); use `drop_level` or `set_level` on the higher one"
    )]
    LevelMismatch {
        /// The operation.
        op: &'static str,
        /// Level of the left operand.
        lhs: usize,
        /// Level of the right operand.
        rhs: usize,
    },
    /// Two operands have different scales.
    #[error(
        "{op}: scales differ (2^{lhs_log2:.6} and 2^{rhs_log2:.6}); use `set_level` to align them"
    )]
    ScaleMismatch {
        /// The operation.
        op: &'static str,
        /// log2 of the left scale.
        lhs_log2: f64,
        /// log2 of the right scale.
        rhs_log2: f64,
    },
    /// Not enough levels are left.
    #[error("{op}: level {level} is too low, level {needed} is needed")]
    LevelExhausted {
        /// The operation.
        op: &'static str,
        /// Level of the operand.
        level: usize,
        /// Lowest level at which the operation is possible.
        needed: usize,
    },
    /// A level above the operand's, or above the top of the set.
    #[error("{op}: level {level} is above the highest possible level {max}")]
    LevelTooHigh {
        /// The operation.
        op: &'static str,
        /// The level asked for.
        level: usize,
        /// The highest level possible here.
        max: usize,
    },
    /// A scale that is not a positive finite number, or that is too small to align to.
    #[error("{op}: scale {scale} is not usable here; scales are finite and positive")]
    InvalidScale {
        /// The operation.
        op: &'static str,
        /// The scale.
        scale: f64,
    },
    /// The result would not fit the modulus that is left.
    #[error(
        "{op}: a value of {log2_value:.1} bits does not fit a modulus of {log2_modulus:.1} bits; rescale first or \
         encode at a lower scale"
    )]
    ValueTooLarge {
        /// The operation.
        op: &'static str,
        /// log2 of the value, or of the scale of the result.
        log2_value: f64,
        /// log2 of the modulus at that level.
        log2_modulus: f64,
    },
    /// A ciphertext of another degree is needed.
    #[error(
        "{op}: needs a ciphertext of degree {needed}, got degree {degree}; relinearize products first"
    )]
    DegreeMismatch {
        /// The operation.
        op: &'static str,
        /// Degree of the operand.
        degree: usize,
        /// Degree needed.
        needed: usize,
    },
    /// The evaluation keys lack one that is needed.
    #[error("no key for {spec}; generate it and insert it into the evaluation keys")]
    MissingKey {
        /// The key, at the level at which it was needed.
        spec: KeySpec,
    },
    /// A value to encode is NaN or infinite.
    #[error("value {index} is not finite")]
    NonFinite {
        /// Its index.
        index: usize,
    },
    /// A vector or byte string has the wrong length.
    #[error("{what}: expected {expected}, got {got}")]
    Length {
        /// What was measured.
        what: &'static str,
        /// What would have been right.
        expected: String,
        /// The length found.
        got: usize,
    },
    /// Something would not fit the memory that it may use.
    #[error(
        "{op}: needs about {needed} bytes, the limit is {limit}; use fewer slots, a smaller set or a higher limit"
    )]
    InsufficientMemory {
        /// The operation.
        op: &'static str,
        /// Estimated bytes.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The keys that one operation holds at once are more than keys may take of the device's memory.
    #[error(
        "the key for {spec} takes {needed} bytes of the device's memory beside {held} of keys in use, keys may have \
         {budget}; raise the limit of the keys"
    )]
    KeyMemory {
        /// The key, at the level of its use.
        spec: KeySpec,
        /// Its bytes at that level.
        needed: u64,
        /// Bytes of keys that operations hold now.
        held: u64,
        /// What all keys together may take.
        budget: u64,
    },
    /// An argument that no operand could make right.
    #[error("{op}: {detail}")]
    InvalidArgument {
        /// The operation.
        op: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A sum of no terms.
    #[error("{op}: no terms; a sum needs at least one")]
    EmptySum {
        /// The operation.
        op: &'static str,
    },
    /// Bytes that are not a valid serialised object.
    #[error("malformed {what}: {detail}")]
    Malformed {
        /// The kind of object.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// More binary places were asked for than the flooding leaves.
    #[error(
        "{bits} binary places cannot be published: flooding leaves {available:.2}; publish fewer, allow fewer publications, \
         or compute with less error"
    )]
    PrecisionUnavailable {
        /// Places asked for.
        bits: u32,
        /// Places that are there, possibly less than none.
        available: f64,
    },
    /// A decryption lies outside the range of its estimate, which therefore bounds nothing. The publication counts.
    #[error(
        "the decryption exceeds the largest slot that the estimate allows, {message:.6}: this is not the output of the \
         circuit that was estimated, or its input was out of range; nothing was published"
    )]
    OutsideEstimate {
        /// Largest slot by the estimate.
        message: f64,
    },
    /// Everything that the ledger allows has been published.
    #[error("all {allowed} publications under this key have been made; use a new key")]
    PublicationsExhausted {
        /// How many were allowed.
        allowed: u64,
    },
    /// The ledger's owner could not store it, so nothing was published.
    #[error("the publication ledger could not be stored; nothing was published")]
    LedgerNotStored {
        /// What went wrong.
        source: std::io::Error,
    },
    /// An error of the ring.
    #[error(transparent)]
    Ring(#[from] cipherform_ring::Error),
}
