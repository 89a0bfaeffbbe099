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
    /// The model cannot be described.
    #[error(transparent)]
    Model(#[from] cipherform_nn::Error),
}
