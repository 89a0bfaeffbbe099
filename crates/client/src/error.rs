//! What can go wrong on the client's side, the server's refusals included.

use cipherform_proto::{Fault, wire};
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong on the client's side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL is none, or of another scheme than http.
    #[error(
        "{url} is not a server's URL; write it as http://host:port. TLS is not spoken: to protect the line, put both ends of it behind a tunnel (e.g. WireGuard, ssh)"
    )]
    Url {
        /// What was given.
        url: String,
    },
    /// Nobody answers there.
    #[error("cannot reach a server at {url}: {detail}; is it running, and is the port right?")]
    Unreachable {
        /// The server's URL.
        url: String,
        /// The reason given by the system.
        detail: String,
    },
    /// The connection broke.
    #[error("the connection to the server was lost while {doing}: {detail}")]
    Disconnected {
        /// What the client was doing.
        doing: &'static str,
        /// The reason given by the transport.
        detail: String,
    },
    /// The server did not answer in time, or stopped in the middle of an answer.
    #[error("the server did not answer within {seconds} s while {doing}")]
    Timeout {
        /// What the client was doing.
        doing: &'static str,
        /// How long it waited.
        seconds: u64,
    },
    /// The server refused, or the job failed.
    #[error(transparent)]
    Refused(#[from] Fault),
    /// The server gave an error without saying of which kind.
    #[error("the server answered {code:?} while {doing}: {message}")]
    Status {
        /// What the client was doing.
        doing: &'static str,
        /// The gRPC code.
        code: tonic::Code,
        /// The server's words, made fit for a terminal.
        message: String,
    },
    /// The server broke the protocol.
    #[error("the server's answer makes no sense: {0}")]
    Protocol(String),
    /// The server's parameter set is not the one known here under that name.
    #[error(
        "the server's parameter set {name} differs from the one known here; do not encrypt for this server"
    )]
    ParameterMismatch {
        /// Its name.
        name: String,
    },
    /// The model's parameter set protects nothing, or less than 128 bits.
    #[error(
        "the parameter set {name} gives {bits} bits of security; nothing is encrypted under it unless allowed"
    )]
    Insecure {
        /// Its name.
        name: String,
        /// Its security in bits.
        bits: u32,
    },
    /// The key bundle was made for another parameter set than the model's.
    #[error("the keys were made for another parameter set than {needed}; make new ones")]
    WrongBundle {
        /// The model's set.
        needed: String,
    },
    /// A key file could not be read or written.
    #[error("key file {}: {source}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A key file that others can read, or that is no key file.
    #[error("key file {}: {detail}", path.display())]
    KeyFileRefused {
        /// The file.
        path: PathBuf,
        /// Why it is refused.
        detail: String,
    },
    /// The system has no entropy to give.
    #[error("the operating system gives no random numbers")]
    Entropy,
    /// A text for a model that takes none, or that came without a tokenizer.
    #[error("the model {model} has no tokenizer; it takes no text")]
    NoTokenizer {
        /// Its name.
        model: String,
    },
    /// A tokenizer that cannot be used.
    #[error("the model's tokenizer is refused: {detail}")]
    Tokenizer {
        /// Why.
        detail: String,
    },
    /// A text without a word.
    #[error("the text is empty: there is nothing in it to classify")]
    EmptyText,
    /// A text of more word pieces than the model takes, or far more.
    #[error(
        "the text has {} word pieces, special ones included, the model takes {limit}; shorten it or split it",
        pieces.map_or("far too many".to_owned(), |n| n.to_string())
    )]
    TextTooLong {
        /// How many, if they were counted.
        pieces: Option<usize>,
        /// The most that the model takes.
        limit: usize,
    },
    /// A text that the vocabulary has no pieces for.
    #[error(
        "the model has no word piece for {text:?} at byte {at} of the text; leave it out or write it otherwise"
    )]
    UnknownText {
        /// What it is, shortened.
        text: String,
        /// Where it is.
        at: usize,
    },
    /// The model refused the input, or could not read the result.
    #[error(transparent)]
    Model(#[from] cipherform_nn::Error),
    /// The scheme refused something.
    #[error(transparent)]
    Ckks(#[from] cipherform_ckks::Error),
    /// The decryption is noise: keys under a false name, another model, or a server that computes something else.
    #[error(
        "the result decrypts to nonsense: {value:.3e} where this model's logits stay below {limit:.3e}; the evaluation keys may belong to another secret key"
    )]
    Implausible {
        /// The largest value found.
        value: f64,
        /// What the client believes, with a margin of a thousand.
        limit: f64,
    },
    /// Keys or reply of a plan that answers with a label.
    #[error(transparent)]
    Exact(#[from] cipherform_exact::Error),
    /// The model is served with the other kind of answer.
    #[error("the server answers with {has} for this model; {hint}")]
    WrongAnswer {
        /// What it answers with.
        has: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A thread of this process died.
    #[error("a background computation of the client died")]
    Thread,
}

impl Error {
    /// The meaning of a failed call.
    pub(crate) fn from_status(doing: &'static str, status: &tonic::Status) -> Self {
        if let Some(fault) = Fault::from_status(status) {
            return Self::Refused(fault);
        }
        let transport = std::error::Error::source(status).is_some();
        let (code, message) = (status.code(), wire::text(status.message()));
        match code {
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => {
                Self::Disconnected { doing, detail: message }
            }
            tonic::Code::Internal if transport => Self::Disconnected { doing, detail: message },
            _ => Self::Status { doing, code, message },
        }
    }
}
