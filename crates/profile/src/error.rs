//! What can go wrong when a report is built or read.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A report needs at least one run.
    #[error("no recordings: pass at least one run to the report")]
    NoRecordings,
    /// A report written by another version, or another kind of file.
    #[error("this file holds {got:?}, not {expected:?}: make the report again with this version")]
    Schema {
        /// The schema this version reads.
        expected: &'static str,
        /// The schema the file names.
        got: String,
    },
    /// The text is not the JSON of a report or a recording.
    #[error("not a readable report: {0}")]
    Json(#[from] serde_json::Error),
    /// The spans of a recording do not form a tree with the root first and parents before children.
    #[error("malformed recording: span {span} {detail}")]
    Recording {
        /// Index of the first span that does not fit.
        span: usize,
        /// What is wrong with it.
        detail: &'static str,
    },
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
