//! Typed refusals: the same value on both sides of the wire, so that a client reacts to a kind, not to a sentence.

use crate::wire;
use cipherform_ckks::KeySpec;
use tonic::{Code, Status};

/// Result of this crate.
pub type Result<T, E = Fault> = std::result::Result<T, E>;

/// Why a call, an upload or a job was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A key, ciphertext or header was made for another parameter set.
    #[error(
        "parameter sets differ: the model needs fingerprint {}, got {}; make keys for the model's set",
        hex(expected),
        hex(got)
    )]
    ParameterMismatch {
        /// Fingerprint of the model's set.
        expected: [u8; 32],
        /// Fingerprint received.
        got: [u8; 32],
    },
    /// The key set lacks keys of the model's plan.
    #[error(
        "{count} evaluation keys are missing, the first are {keys:?}; upload them before you submit"
    )]
    KeyMissing {
        /// The first missing keys.
        keys: Vec<KeySpec>,
        /// How many are missing.
        count: u64,
    },
    /// A key or ciphertext is at another level than the plan says.
    #[error("{what} is at level {got} where the plan needs {expected}")]
    LevelMismatch {
        /// What is at the wrong level.
        what: String,
        /// Level of the plan.
        expected: u32,
        /// Level received.
        got: u32,
    },
    /// The other side speaks another version of the format.
    #[error("format version {got} is not spoken here, only {min} to {max}; update the older side")]
    FormatVersion {
        /// Oldest version spoken.
        min: u32,
        /// Newest version spoken.
        max: u32,
        /// Version received.
        got: u32,
    },
    /// Something is larger than it may be.
    #[error("{what} of {got} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit in bytes.
        limit: u64,
        /// Bytes declared or received.
        got: u64,
    },
    /// There is no such thing, or it belongs to somebody else: the two are not distinguished.
    #[error("there is no {what} {name}")]
    NotFound {
        /// Kind of thing, e.g. `model`.
        what: String,
        /// Its name or id.
        name: String,
    },
    /// Bytes that do not say what they should.
    #[error("malformed {what}: {detail}")]
    Malformed {
        /// What is malformed.
        what: String,
        /// In which way.
        detail: String,
    },
    /// A limit on simultaneous use is reached.
    #[error(
        "the server is busy: {what} is at its limit of {limit}; try again in {retry_after_ms} ms"
    )]
    Busy {
        /// Which limit, e.g. `job queue`.
        what: String,
        /// Its value.
        limit: u64,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The job was cancelled.
    #[error("the job was cancelled")]
    Cancelled,
    /// The session token is absent or no token.
    #[error(
        "the session token is missing or malformed; send `authorization: Bearer <64 hex digits>`"
    )]
    Unauthenticated,
    /// An upload was used before all of it had arrived.
    #[error(
        "the upload is incomplete: {received} of {total} bytes; ask for its status and send the rest"
    )]
    Incomplete {
        /// Bytes received.
        received: u64,
        /// Bytes expected.
        total: u64,
    },
    /// A job that is not done was asked for its result.
    #[error("the job is {state}, it has no result yet")]
    NotReady {
        /// The job's state.
        state: String,
    },
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The computation failed.
    #[error("the computation failed: {detail}")]
    Failed {
        /// Why.
        detail: String,
    },
    /// A defect of the server; its log says more.
    #[error("internal error of the server")]
    Internal,
}

impl Fault {
    /// Bytes that do not say what they should.
    pub fn malformed(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), detail: detail.into() }
    }

    /// An absent thing.
    pub fn not_found(what: impl Into<String>, name: impl Into<String>) -> Self {
        Self::NotFound { what: what.into(), name: name.into() }
    }

    /// The gRPC code that goes with the fault.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::ParameterMismatch { .. }
            | Self::LevelMismatch { .. }
            | Self::FormatVersion { .. }
            | Self::Malformed { .. } => Code::InvalidArgument,
            Self::KeyMissing { .. } | Self::Incomplete { .. } | Self::NotReady { .. } => {
                Code::FailedPrecondition
            }
            Self::TooLarge { .. } | Self::Busy { .. } => Code::ResourceExhausted,
            Self::NotFound { .. } => Code::NotFound,
            Self::Cancelled => Code::Cancelled,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::ShuttingDown => Code::Unavailable,
            Self::Failed { .. } => Code::Aborted,
            Self::Internal => Code::Internal,
        }
    }

    /// The fault inside a status, if the other side sent one.
    #[must_use]
    pub fn from_status(status: &Status) -> Option<Self> {
        wire::fault_from_details(status.details())
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        Status::with_details(fault.code(), fault.to_string(), wire::fault_details(&fault))
    }
}

/// The first 8 bytes of a fingerprint or id, in hex: enough to tell two apart.
fn hex(bytes: &[u8; 32]) -> String {
    crate::session::hex(bytes.get(..8).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipherform_ckks::KeyKind;

    #[test]
    fn faults_survive_the_wire() {
        let faults = [
            Fault::ParameterMismatch { expected: [1; 32], got: [2; 32] },
            Fault::KeyMissing {
                keys: vec![
                    KeySpec { kind: KeyKind::Relinearization, level: 3 },
                    KeySpec { kind: KeyKind::Rotation(17), level: 5 },
                    KeySpec { kind: KeyKind::Conjugation, level: 0 },
                ],
                count: 9,
            },
            Fault::LevelMismatch { what: "input 0".into(), expected: 20, got: 19 },
            Fault::FormatVersion { min: 1, max: 1, got: 7 },
            Fault::TooLarge { what: "blob".into(), limit: 3, got: 1 << 40 },
            Fault::not_found("model", "x"),
            Fault::malformed("chunk", "y"),
            Fault::Busy { what: "job queue".into(), limit: 8, retry_after_ms: 1000 },
            Fault::Cancelled,
            Fault::Unauthenticated,
            Fault::Incomplete { received: 1, total: 2 },
            Fault::NotReady { state: "queued".into() },
            Fault::ShuttingDown,
            Fault::Failed { detail: "level".into() },
            Fault::Internal,
        ];
        for fault in faults {
            let status = Status::from(fault.clone());
            assert_eq!(Fault::from_status(&status), Some(fault));
        }
    }

    #[test]
    fn texts_of_a_fault_do_not_steer_a_terminal() {
        let bad = || format!("\u{1b}]0;title\u{7}{}", "x".repeat(4000));
        let faults = [
            Fault::LevelMismatch { what: bad(), expected: 1, got: 2 },
            Fault::TooLarge { what: bad(), limit: 1, got: 2 },
            Fault::not_found(bad(), bad()),
            Fault::malformed(bad(), bad()),
            Fault::Busy { what: bad(), limit: 1, retry_after_ms: 1 },
            Fault::NotReady { state: bad() },
            Fault::Failed { detail: bad() },
        ];
        for fault in faults {
            let got = Fault::from_status(&Status::from(fault)).unwrap().to_string();
            assert!(got.len() < 400 && !got.chars().any(char::is_control), "{got:?}");
        }
    }

    #[test]
    fn hostile_details_are_no_fault() {
        for details in [&b""[..], b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", &[0x0a; 4000]] {
            let status = Status::with_details(Code::Unknown, "", details.to_vec().into());
            assert_eq!(Fault::from_status(&status), None);
        }
    }
}
