//! What comes out.

use cipherform_nn::argmax;
use cipherform_profile::Recording;
use cipherform_proto::Id;
use std::time::Duration;

/// All logits: the answer of a plan that answers with logits.
#[derive(Clone, Debug)]
pub struct Logits(Vec<f64>);

/// The class and nothing else: the answer of a plan that answers with a label.
#[derive(Clone, Copy, Debug)]
pub struct Label(usize);

/// What both kinds of answer tell.
pub trait Answer {
    /// Index of the largest logit, the first of equal ones.
    fn label(&self) -> usize;
}

impl Logits {
    pub(crate) fn new(logits: Vec<f64>) -> Self {
        Self(logits)
    }
}

impl Label {
    pub(crate) fn new(label: usize) -> Self {
        Self(label)
    }
}

impl Answer for Logits {
    fn label(&self) -> usize {
        argmax(&self.0)
    }
}

impl Answer for Label {
    fn label(&self) -> usize {
        self.0
    }
}

/// The result of one inference. That of a plan which answers with a label has no logits to ask for:
///
/// ```compile_fail,E0599
/// # use cipherform_client::{Label, Prediction};
/// fn logits(prediction: &Prediction<Label>) -> &[f64] {
///     prediction.logits()
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Prediction<A = Logits> {
    /// The job that computed it.
    pub job: Id,
    pub(crate) answer: A,
    /// Where the client's time went.
    pub timings: Timings,
    /// Encrypted bytes sent, keys excluded.
    pub uploaded_bytes: u64,
    /// Encrypted bytes received.
    pub downloaded_bytes: u64,
    /// Where the server's time went.
    pub recording: Recording,
}

impl<A: Answer> Prediction<A> {
    /// Index of the largest logit.
    #[must_use]
    pub fn label(&self) -> usize {
        self.answer.label()
    }
}

impl Prediction<Logits> {
    /// One logit a class.
    #[must_use]
    pub fn logits(&self) -> &[f64] {
        &self.answer.0
    }
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
