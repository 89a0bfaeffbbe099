//! Why a server does not start. What goes wrong afterwards is a [`Fault`](cipherform_proto::Fault) of one call.

use std::net::SocketAddr;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; is another server running there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Threads or the runtime could not be started.
    #[error("cannot start the server's threads")]
    Threads(#[source] std::io::Error),
    /// The model's parameter set protects nothing.
    #[error(
        "model {model}: the parameter set {set} is a toy and protects nothing; allow it only in tests"
    )]
    Insecure {
        /// The model.
        model: String,
        /// Its parameter set.
        set: String,
    },
    /// Two models of one name.
    #[error("two models are called {0}")]
    DuplicateModel(String),
    /// A name that clients could not ask for.
    #[error("{0:?} cannot be served under that name; use letters, digits and ._-/+")]
    UnspeakableName(String),
    /// Devices and models that do not fit together.
    #[error("{detail}; serve every model on the same devices, in the same order")]
    Replicas {
        /// What does not fit.
        detail: String,
    },
    /// A plan that answers with a label, in a build without the exact step.
    #[error(transparent)]
    Exact(#[from] cipherform_exact::Error),
    /// A model whose jobs hold more keys at once than its share of a device's memory.
    #[error(
        "model {model}: a job holds {needed} bytes of keys at once and {share} are its share of {device}; serve fewer \
         models there, allow more resident keys, or use a device with more memory"
    )]
    KeyMemory {
        /// The model.
        model: String,
        /// The device.
        device: String,
        /// Bytes that a job holds at once.
        needed: u64,
        /// Bytes it may have.
        share: u64,
    },
    /// The model cannot be described.
    #[error(transparent)]
    Model(#[from] cipherform_nn::Error),
}
