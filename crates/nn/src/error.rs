//! What can go wrong between a model directory and a forward pass.

use std::path::PathBuf;

use crate::estimate::DeviceBytes;
use crate::shape::Shape;

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of `config.json` is out of its range or contradicts another one.
    #[error("config field `{field}`: expected {expected}, got {got}")]
    InvalidConfig {
        /// Path of the field, such as `layers[0].ranges.denominator[2]`.
        field: String,
        /// What would have been accepted.
        expected: String,
        /// What was found.
        got: String,
    },
    /// Bytes that are not what their name says.
    #[error("malformed {what}: {detail}")]
    Malformed {
        /// The kind of file or message.
        what: &'static str,
        /// Where and why.
        detail: String,
    },
    /// A file or buffer larger than this crate is willing to read.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The kind of file or message.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A file could not be read or written.
    #[error("cannot access {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: std::io::Error,
    },
    /// A tensor that the config asks for is absent.
    #[error("tensor `{name}` is missing from the weights")]
    MissingTensor {
        /// Its safetensors name.
        name: String,
    },
    /// A tensor that the config does not ask for.
    #[error("tensor `{name}` is not part of a model with this config")]
    UnexpectedTensor {
        /// Its safetensors name.
        name: String,
    },
    /// A tensor of the wrong shape or element type.
    #[error("tensor `{name}`: expected {expected}, got {got}")]
    TensorMismatch {
        /// Its safetensors name.
        name: String,
        /// Shape and type the config asks for.
        expected: String,
        /// Shape and type found.
        got: String,
    },
    /// A NaN or an infinity where a number is needed.
    #[error("{what} holds a value that is not finite at index {index}")]
    NotFinite {
        /// The tensor or input.
        what: String,
        /// Flat index of the first such value.
        index: usize,
    },
    /// Operands whose shapes do not fit together.
    #[error("{op}: expected shape {expected}, got {got}")]
    ShapeMismatch {
        /// The operator.
        op: &'static str,
        /// What it needs.
        expected: Shape,
        /// What it was given.
        got: Shape,
    },
    /// An operator with the wrong number of arguments, or a reference to a node or parameter that does not exist.
    #[error("invalid graph at {node}: {detail}")]
    InvalidGraph {
        /// Name of the node or operator.
        node: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A model that does not fit the memory of its device.
    #[error(
        "{device} has {available} bytes left and {needed} are needed: {} for weights and constants, {} for those of shorter inputs, \
         {} for ciphertexts, {} for one operation, {} for keys in use; use another device, a smaller model or a smaller \
         parameter set",
        bytes.constants, bytes.lengths, bytes.ciphertexts, bytes.operation, bytes.held_keys
    )]
    InsufficientMemory {
        /// The device.
        device: String,
        /// Bytes needed at once.
        needed: u64,
        /// Bytes that can be had.
        available: u64,
        /// What they are needed for.
        bytes: DeviceBytes,
    },
    /// A value outside the range that the model's polynomials were fitted for.
    #[error(
        "{what} reaches {value:.4} but the model is calibrated up to {limit:.4}; this input would be classified wrongly under encryption"
    )]
    OutOfRange {
        /// The quantity.
        what: String,
        /// The offending value.
        value: f64,
        /// The widened calibrated bound.
        limit: f64,
    },
    /// An input with no token, or with more than the model takes.
    #[error("the input has {tokens} tokens, the model takes 1 to {limit}; shorten it or split it")]
    InputLength {
        /// Its tokens.
        tokens: usize,
        /// The most that the model takes.
        limit: usize,
    },
    /// An input of another length to a model whose inputs all have the same.
    #[error("the input has {tokens} tokens, the model always takes {length}")]
    FixedLength {
        /// Its tokens.
        tokens: usize,
        /// What the model takes.
        length: usize,
    },
    /// A word piece without a vector.
    #[error(
        "token {index} of the input is word piece {id}, the vocabulary has {vocabulary}; use the model's own tokenizer"
    )]
    UnknownToken {
        /// Its place in the input.
        index: usize,
        /// What stands there.
        id: f64,
        /// Word pieces that have a vector.
        vocabulary: usize,
    },
    /// No polynomial within the supported depth reaches the tolerance.
    #[error(
        "{function} on [{low:.3e}, {high:.3e}] does not reach a relative error of {tolerance:.1e} within {levels} levels; narrow the calibrated range or raise the tolerance"
    )]
    Approximation {
        /// `reciprocal` or `inverse square root`.
        function: &'static str,
        /// Lower end of the interval.
        low: f64,
        /// Upper end of the interval.
        high: f64,
        /// The relative error asked for.
        tolerance: f64,
        /// The deepest form tried.
        levels: usize,
    },
    /// The data set is not installed.
    #[error(
        "no Fashion-MNIST files in {}; install the Debian package `dataset-fashion-mnist` or name a directory with the four IDX files",
        dir.display()
    )]
    DatasetMissing {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// An image that cannot be decoded.
    #[error("cannot read the image: {detail}; pass a PNG or JPEG file")]
    Image {
        /// The decoder's word.
        detail: String,
    },
    /// A layout bound is exceeded.
    #[error(
        "the model does not fit one ciphertext: {what} is {got}, at most {limit} fit; use a smaller model or a parameter set with more slots"
    )]
    DoesNotFit {
        /// The quantity.
        what: &'static str,
        /// What the model needs.
        got: usize,
        /// What there is.
        limit: usize,
    },
    /// The model consumes more levels than the parameter set has.
    #[error(
        "the model needs {needed} levels and {set} has {available}; use fewer layers, scaled heads, a lower power, narrower calibrated ranges or a higher tolerance"
    )]
    LevelsInsufficient {
        /// The parameter set.
        set: String,
        /// Its levels.
        available: usize,
        /// The levels that the model consumes.
        needed: usize,
    },
    /// A stretch between two places where ciphertexts can be refreshed is deeper than a bootstrap reaches.
    #[error(
        "{layer}: {needed} levels from {from} to the next place to refresh and {set} has {available} between two bootstraps; use a set with more levels, a lower power, narrower calibrated ranges or a higher tolerance"
    )]
    StretchTooLong {
        /// The parameter set.
        set: String,
        /// The layer.
        layer: String,
        /// Where the stretch begins.
        from: String,
        /// Its levels.
        needed: usize,
        /// Levels between two bootstraps.
        available: usize,
    },
    /// A value that a bootstrap was promised to be smaller than.
    #[error(
        "a slot of {value:.4} is refreshed and the bootstrap keeps values up to {bound}; recalibrate the model's ranges or widen them"
    )]
    RefreshBound {
        /// The largest part of a slot.
        value: f64,
        /// The bound.
        bound: f64,
    },
    /// The planner ran out of levels, which the depth count should have prevented.
    #[error("{op} at level {level} needs {needed} more")]
    LevelExhausted {
        /// The instruction.
        op: &'static str,
        /// Where it stands.
        level: usize,
        /// Levels it consumes.
        needed: usize,
    },
    /// Something that this planner cannot evaluate under encryption.
    #[error("{what} is not supported; {hint}")]
    Unsupported {
        /// The feature.
        what: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// The planner contradicted itself.
    #[error("planner: {op}: {detail}")]
    Planner {
        /// Where.
        op: &'static str,
        /// How.
        detail: String,
    },
    /// Input ciphertexts that do not match the plan.
    #[error("wrong inputs: {detail}")]
    WrongInputs {
        /// Expected and got.
        detail: String,
    },
    /// The run was cancelled from outside.
    #[error("cancelled before {operator}")]
    Cancelled {
        /// The operator that did not run.
        operator: String,
    },
    /// The scheme refused.
    #[error(transparent)]
    Ckks(#[from] cipherform_ckks::Error),
    /// A label was asked of a model whose logits have no known range.
    #[error(
        "model {model}: the differences of its logits are not calibrated, and a label needs their range; run `cipherform model logits {model}` on its training data, or export it again with training/"
    )]
    NotCalibrated {
        /// The model.
        model: String,
    },
    /// A plan that answers with labels was asked for logits, or the other way round.
    #[error("the plan answers with {has} and was asked for {asked}; plan the model for {asked}")]
    WrongAnswer {
        /// What it answers with.
        has: &'static str,
        /// What was asked for.
        asked: &'static str,
    },
    /// The exact step refused.
    #[error(transparent)]
    Exact(#[from] cipherform_exact::Error),
    /// The two-party engine refused.
    #[error(transparent)]
    Mpc(#[from] cipherform_mpc::Error),
    /// An index beyond the end of a data set.
    #[error("index {index} is beyond the {count} entries of {what}")]
    IndexOutOfBounds {
        /// The collection.
        what: &'static str,
        /// The index asked for.
        index: usize,
        /// How many entries there are.
        count: usize,
    },
}

/// Result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn malformed(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Malformed { what, detail: detail.into() }
    }
}

/// Reads a whole file of at most `limit` bytes. The size is asked for first, and the read is bounded as well, so a
/// file that grows meanwhile cannot exceed the limit either.
pub(crate) fn read_bounded(
    path: &std::path::Path,
    what: &'static str,
    limit: u64,
) -> Result<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let bytes = file.metadata().map_err(|e| Error::io(path, e))?.len();
    if bytes > limit {
        return Err(Error::TooLarge { what, bytes, limit });
    }
    let mut buffer = Vec::with_capacity(bytes as usize);
    file.take(limit + 1).read_to_end(&mut buffer).map_err(|e| Error::io(path, e))?;
    if buffer.len() as u64 > limit {
        return Err(Error::TooLarge { what, bytes: buffer.len() as u64, limit });
    }
    Ok(buffer)
}
