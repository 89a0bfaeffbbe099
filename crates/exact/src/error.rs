//! What can go wrong.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Fewer classes than two, or more than the step is built for.
    #[error(
        "label only: {classes} classes, 2 to {max} can be compared: {classes} would be {bootstraps} programmable bootstraps, about {seconds:.0} s on one core; serve this model with logits"
    )]
    Classes {
        /// The model's classes.
        classes: usize,
        /// [`crate::MAX_CLASSES`].
        max: usize,
        /// What comparing all of them would take.
        bootstraps: u64,
        /// The same in time, at [`crate::params::BOOTSTRAP_MS`] each.
        seconds: f64,
    },
    /// The range of logit differences is no range.
    #[error(
        "label only: the largest difference of logits is given as {range}; calibrate the model and give a finite positive number"
    )]
    Range {
        /// What was given.
        range: f64,
    },
    /// The number of samples is not the number of classes.
    #[error(
        "label only: {got} logits for {expected} classes; the program and the step must be of one plan"
    )]
    Logits {
        /// Classes of the step.
        expected: usize,
        /// Ciphertexts given.
        got: usize,
    },
    /// Keys of another secret than the logits'.
    #[error(
        "label only: keys of secret {got} where the logits are under {expected}; upload the keys of one secret"
    )]
    KeyMismatch {
        /// The secret of the logits.
        expected: cipherform_ckks::SecretId,
        /// The secret of the keys.
        got: cipherform_ckks::SecretId,
    },
    /// An object of another parameter set.
    #[error("label only: {what} of another parameter set than {expected}")]
    ParameterMismatch {
        /// What it is.
        what: &'static str,
        /// The set that is needed.
        expected: String,
    },
    /// Bytes that are no such object.
    #[error("malformed {what}: {detail}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A reply that decrypts to no label.
    #[error(
        "the reply decrypts to no label: {distance:.2} from the nearest where less than {limit} is possible; the keys at the server may belong to another secret"
    )]
    Implausible {
        /// Distance from the nearest label, in labels.
        distance: f64,
        /// Largest that is taken.
        limit: f64,
    },
    /// Parameters that would protect less than the security table asks for.
    #[error(
        "insecure {what}: noise of 2^{got} in dimension {dimension} where 2^{needed} is needed"
    )]
    Insecure {
        /// The key.
        what: &'static str,
        /// Its dimension.
        dimension: usize,
        /// log2 of the bound of its noise.
        got: u32,
        /// log2 of the least bound for 132 bits.
        needed: u32,
    },
    /// This program was compiled without the engine.
    #[error(
        "label only: this program was built without it; build it with `cargo build --release --features label-only`"
    )]
    NotBuilt,
    /// The step was told to stop.
    #[error("cancelled before {stage}")]
    Cancelled {
        /// The stage that was not begun.
        stage: &'static str,
    },
    /// The scheme refused something.
    #[error(transparent)]
    Ckks(#[from] cipherform_ckks::Error),
}
