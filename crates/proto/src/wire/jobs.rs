//! Jobs and their events.

use super::faults::{from_detail, to_detail};
use super::{id_bytes, name, text};
use crate::{Fault, Id, Result, pb};
use bytes::Bytes;
use std::time::Duration;

/// Input ciphertexts of one job.
pub const MAX_INPUTS: usize = 4096;

/// An inference asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRequest {
    /// The model to run.
    pub model: String,
    /// The keys to run it with.
    pub key_set: Id,
    /// One uploaded ciphertext for each input of the plan.
    pub uploads: Vec<Id>,
    /// The same value gives the same job, never a second run.
    pub idempotency_key: [u8; 16],
    /// Tokens of the input: public.
    pub tokens: u32,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Waiting for the worker.
    Queued,
    /// Running.
    Running,
    /// Finished, the result can be fetched.
    Done,
    /// Failed; the event says why.
    Failed,
    /// Cancelled by its owner.
    Cancelled,
}

impl JobState {
    /// Whether the state is never left again.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// The state's name, as in "the job is queued".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One step of a job's life, as its watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEvent {
    /// Where the job stands.
    pub state: JobState,
    /// Jobs before this one, while queued.
    pub queue_position: u32,
    /// The operator now running, counted from 0.
    pub step: u32,
    /// Operators of the plan.
    pub steps: u32,
    /// Name of the operator now running.
    pub operator: String,
    /// Its layer; empty outside layers.
    pub layer: String,
    /// Level at which it runs.
    pub level: u32,
    /// Time since the job began to run.
    pub elapsed: Duration,
    /// Time it will still take, by the planner's cost model.
    pub eta: Duration,
    /// Output ciphertexts, when done.
    pub outputs: u32,
    /// Why, when failed.
    pub error: Option<Fault>,
}

impl JobEvent {
    /// An event that says only a state.
    #[must_use]
    pub fn new(state: JobState) -> Self {
        Self {
            state,
            queue_position: 0,
            step: 0,
            steps: 0,
            operator: String::new(),
            layer: String::new(),
            level: 0,
            elapsed: Duration::ZERO,
            eta: Duration::ZERO,
            outputs: 0,
            error: None,
        }
    }
}

impl From<JobRequest> for pb::JobRequest {
    fn from(job: JobRequest) -> Self {
        Self {
            model: job.model,
            key_set_id: id_bytes(job.key_set),
            upload_ids: job.uploads.into_iter().map(id_bytes).collect(),
            idempotency_key: Bytes::copy_from_slice(&job.idempotency_key),
            tokens: job.tokens,
        }
    }
}

impl TryFrom<pb::JobRequest> for JobRequest {
    type Error = Fault;
    fn try_from(job: pb::JobRequest) -> Result<Self> {
        if job.upload_ids.len() > MAX_INPUTS {
            let (limit, got) = (MAX_INPUTS as u64, job.upload_ids.len() as u64);
            return Err(Fault::TooLarge { what: "number of inputs".into(), limit, got });
        }
        let uploads: Result<Vec<_>> = job.upload_ids.iter().map(|b| Id::from_bytes(b)).collect();
        if job.tokens == 0 {
            return Err(Fault::malformed("number of tokens", "at least 1 expected"));
        }
        let key: &[u8] = &job.idempotency_key;
        Ok(Self {
            model: name("model name", job.model)?,
            key_set: Id::from_bytes(&job.key_set_id)?,
            uploads: uploads?,
            idempotency_key: key
                .try_into()
                .map_err(|_| Fault::malformed("idempotency key", "16 bytes expected"))?,
            tokens: job.tokens,
        })
    }
}

/// The message that names a job.
#[must_use]
pub fn job_id(id: Id) -> pb::JobId {
    pb::JobId { job_id: id_bytes(id) }
}

/// A job and its state.
#[must_use]
pub fn job(id: Id, state: JobState) -> pb::Job {
    pb::Job { job_id: id_bytes(id), state: pb::JobState::from(state).into() }
}

/// The state of a job.
///
/// # Errors
/// [`Fault::Malformed`] for an unknown one.
pub fn job_state(job: &pb::Job) -> Result<JobState> {
    job.state().try_into()
}

/// The message that asks for output `index` of a job.
#[must_use]
pub fn result_request(id: Id, index: u32) -> pb::ResultRequest {
    pb::ResultRequest { job_id: id_bytes(id), index }
}

/// The job and output asked for.
///
/// # Errors
/// [`Fault::Malformed`].
pub fn result_parts(message: &pb::ResultRequest) -> Result<(Id, u32)> {
    Ok((Id::from_bytes(&message.job_id)?, message.index))
}

impl From<JobState> for pb::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Running => Self::Running,
            JobState::Done => Self::Done,
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
        }
    }
}

impl TryFrom<pb::JobState> for JobState {
    type Error = Fault;
    fn try_from(state: pb::JobState) -> Result<Self> {
        match state {
            pb::JobState::Queued => Ok(Self::Queued),
            pb::JobState::Running => Ok(Self::Running),
            pb::JobState::Done => Ok(Self::Done),
            pb::JobState::Failed => Ok(Self::Failed),
            pb::JobState::Cancelled => Ok(Self::Cancelled),
            pb::JobState::Unspecified => Err(Fault::malformed("job state", "unknown")),
        }
    }
}

impl From<JobEvent> for pb::JobEvent {
    fn from(event: JobEvent) -> Self {
        Self {
            state: pb::JobState::from(event.state).into(),
            queue_position: event.queue_position,
            step: event.step,
            steps: event.steps,
            operator: event.operator,
            layer: event.layer,
            level: event.level,
            elapsed_us: event.elapsed.as_micros() as u64,
            eta_us: event.eta.as_micros() as u64,
            outputs: event.outputs,
            error: event.error.as_ref().map(to_detail),
        }
    }
}

impl TryFrom<pb::JobEvent> for JobEvent {
    type Error = Fault;
    fn try_from(event: pb::JobEvent) -> Result<Self> {
        Ok(Self {
            state: event.state().try_into()?,
            queue_position: event.queue_position,
            step: event.step,
            steps: event.steps,
            operator: text(&event.operator),
            layer: text(&event.layer),
            level: event.level,
            elapsed: Duration::from_micros(event.elapsed_us),
            eta: Duration::from_micros(event.eta_us),
            outputs: event.outputs,
            error: event.error.and_then(from_detail),
        })
    }
}
