//! An answer of a server, logits or a label alone.

use cipherform_client::{Answer, Id, JobEvent, Prediction, Session, Timings};
use cipherform_nn::{Matrix, Mode};
use cipherform_profile::Recording;

/// One answer, of either kind.
pub(crate) struct Answered {
    pub(crate) job: Id,
    pub(crate) label: usize,
    /// None where the plan answers with a label.
    pub(crate) logits: Option<Vec<f64>>,
    pub(crate) timings: Timings,
    pub(crate) uploaded_bytes: u64,
    pub(crate) downloaded_bytes: u64,
    pub(crate) recording: Recording,
}

impl Answered {
    fn new<A: Answer>(prediction: Prediction<A>, logits: Option<Vec<f64>>) -> Self {
        let label = prediction.label();
        let Prediction { job, timings, uploaded_bytes, downloaded_bytes, recording, .. } =
            prediction;
        Self { job, label, logits, timings, uploaded_bytes, downloaded_bytes, recording }
    }
}

/// One inference with the kind of answer that the plan has.
pub(crate) async fn answer(
    session: &Session,
    input: &Matrix,
    on_event: &mut (dyn FnMut(&JobEvent) + Send),
) -> Result<Answered, cipherform_client::Error> {
    Ok(match session.description().plan().mode() {
        Mode::Logits => {
            let prediction = session.infer(input, on_event).await?;
            let logits = prediction.logits().to_vec();
            Answered::new(prediction, Some(logits))
        }
        Mode::Label => Answered::new(session.infer_label(input, on_event).await?, None),
    })
}
