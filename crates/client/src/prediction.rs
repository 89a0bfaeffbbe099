//! What comes out.

use cipherform_profile::Recording;
use cipherform_proto::Id;
use std::time::Duration;

/// The result of one inference.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The job that computed it.
    pub job: Id,
    /// One logit a class.
    pub logits: Vec<f64>,
    /// Index of the largest logit.
    pub label: usize,
    /// Where the client's time went.
    pub timings: Timings,
    /// Encrypted bytes sent, keys excluded.
    pub uploaded_bytes: u64,
    /// Encrypted bytes received.
    pub downloaded_bytes: u64,
    /// Where the server's time went.
    pub recording: Recording,
}

/// Wall times as the client sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Embedding, encoding and encryption.
    pub encrypt: Duration,
    /// Upload of the input and submission.
    pub submit: Duration,
    /// Waiting in the queue and running.
    pub wait: Duration,
    /// Of `wait`: running, as the server measured it.
    pub run: Duration,
    /// Download of the result and the recording.
    pub download: Duration,
    /// Decryption and decoding.
    pub decrypt: Duration,
    /// Everything.
    pub total: Duration,
}
