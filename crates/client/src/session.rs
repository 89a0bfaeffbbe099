//! One model, one key bundle, one server: keys up, inputs up, results down.

use crate::connection::{Authorized, Bearer, Client, Described};
use crate::error::{Error, Result};
use crate::key_file::{KeyBundle, entropy};
use crate::prediction::{Label, Logits, Prediction, Timings};
use crate::transfer::{receive, send};
use bytes::Bytes;
use cipherform_ckks::{
    Ciphertext, Context, Decryptor, Encoder, Encryptor, KeyGenerator, KeySpec, Parameters,
    SeededKey,
};
use cipherform_exact::{EncryptedLabel, LabelParameters, LabelSecret};
use cipherform_nn::{Matrix, Mode, ModelDescription};
use cipherform_profile::Recording;
use cipherform_proto::wire::{self, JobEvent, JobRequest, JobState, KeySetInfo};
use cipherform_proto::{BlobKind, Chunked, Fault, Id, MESSAGE_BYTES, pb};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::transport::Channel;

/// Longest recording that a client takes.
const MAX_RECORDING_BYTES: u64 = 64 << 20;

/// How far beyond the calibrated logits a result may lie. A decryption under a wrong key is uniform modulo q_0, which
/// is some 2^20 where logits are tens.
const PLAUSIBLE: f64 = 1000.0;

/// Keys that are ready to be sent while the next one is made. Each takes tens of MB.
const KEYS_AHEAD: usize = 1;

/// How far the keys have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyProgress {
    /// Keys that the server has validated and taken.
    pub keys: usize,
    /// Keys of the plan.
    pub total_keys: usize,
    /// Bytes sent by this call.
    pub bytes: u64,
    /// Bytes that this call will send, known from the plan.
    pub total_bytes: u64,
}

/// An input ready to be sent: serialised ciphertexts in the order of the plan.
#[derive(Clone, Debug)]
pub struct EncryptedInput {
    blobs: Vec<Chunked>,
    tokens: u32,
}

impl EncryptedInput {
    /// Encrypted bytes, all ciphertexts together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(Chunked::len).sum()
    }

    /// Tokens of the input, which the server is told.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }
}

/// A model, the keys to it, and the server that runs it.
#[derive(Debug)]
pub struct Session {
    client: Client,
    described: Described,
    context: Context,
    bundle: Arc<KeyBundle>,
    authorized: (Channel, Bearer),
    key_set: Option<Id>,
}

/// A generated client that speaks for the session.
macro_rules! rpc {
    ($self:ident, $module:ident, $client:ident) => {{
        let (channel, bearer) = $self.authorized.clone();
        pb::$module::$client::with_interceptor(channel, bearer)
            .max_decoding_message_size(MESSAGE_BYTES)
    }};
}

impl Client {
    /// Opens a session on a described model. `context` is [`Client::context`]'s, `bundle` fresh or from a file.
    ///
    /// # Errors
    /// [`Error::WrongBundle`] when the secret key or the context is of another parameter set than the model's.
    pub fn session(
        &self,
        described: Described,
        context: Context,
        bundle: KeyBundle,
    ) -> Result<Session> {
        let needed = described.parameters.fingerprint();
        let ours = [bundle.secret.params().fingerprint(), context.params().fingerprint()];
        if ours.iter().any(|fingerprint| *fingerprint != needed) {
            return Err(Error::WrongBundle { needed: described.parameters.name().to_owned() });
        }
        let authorized = self.authorized(&bundle.token)?;
        let bundle = Arc::new(bundle);
        Ok(Session { client: self.clone(), described, context, bundle, authorized, key_set: None })
    }
}

impl Session {
    /// What is known of the model.
    #[must_use]
    pub fn description(&self) -> &ModelDescription {
        &self.described.description
    }

    /// The parameter set.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.described.parameters
    }

    /// The session's secrets, for instance to save them.
    #[must_use]
    pub fn bundle(&self) -> &KeyBundle {
        &self.bundle
    }

    fn uploads(&self) -> pb::uploads_client::UploadsClient<Authorized> {
        rpc!(self, uploads_client, UploadsClient)
    }

    /// The session's key sets on the server, those for other models included.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn key_sets(&self) -> Result<Vec<KeySetInfo>> {
        let mut keys = rpc!(self, keys_client, KeysClient);
        let sets = self.client.call("listing keys", keys.list(pb::ListKeysRequest {})).await?;
        Ok(wire::key_set_list(sets)?)
    }

    /// Deletes a key set on the server.
    ///
    /// # Errors
    /// `NotFound` for an absent or foreign set; `Busy` while a job waits or runs that uses it.
    pub async fn delete_keys(&mut self, id: Id) -> Result<()> {
        let mut keys = rpc!(self, keys_client, KeysClient);
        self.client.call("deleting keys", keys.delete(wire::key_set_id(id))).await?;
        self.key_set = self.key_set.filter(|own| *own != id);
        Ok(())
    }

    /// Sees to it that the server holds every key of the plan: finds the set of an earlier call, completes one that was
    /// interrupted, or makes a new one. Keys are made one at a time, sent and dropped, so that memory holds two or three
    /// of them whatever the plan needs; while one travels the next is made.
    ///
    /// # Errors
    /// `Busy` and `TooLarge` when the server has no room for the set; [`Error::Protocol`] for a server that asks for a key
    /// again which it has taken; those of the connection.
    pub async fn ensure_keys(
        &mut self,
        on_progress: &mut (dyn FnMut(KeyProgress) + Send),
    ) -> Result<KeySetInfo> {
        let plan = self.needed();
        let mine = self.key_sets().await?.into_iter().find(|set| {
            set.model == self.description().name() && set.description == self.described.digest
        });
        let mut set = mine;
        let mut progress =
            KeyProgress { keys: 0, total_keys: plan.len(), bytes: 0, total_bytes: 0 };
        // Each key is sent once at most, which bounds the rounds whatever the server claims to lack.
        let mut asked = vec![false; plan.len()];
        loop {
            let missing = match &set {
                Some(info) if info.is_complete() => {
                    progress.keys = plan.len();
                    on_progress(progress);
                    self.key_set = Some(info.id);
                    return Ok(info.clone());
                }
                Some(info) => info.missing.clone(),
                None => (0..plan.len() as u32).collect(),
            };
            let mut wanted = Vec::new();
            for index in missing {
                let spec = plan.get(index as usize).cloned();
                let spec = spec.ok_or_else(|| Error::Protocol("a key beyond the plan".into()))?;
                if asked.get_mut(index as usize).is_some_and(|asked| std::mem::replace(asked, true))
                {
                    let detail = format!("key {index} was sent and is still missing");
                    return Err(Error::Protocol(detail));
                }
                wanted.push((index, spec));
            }
            if wanted.is_empty() {
                return Err(Error::Protocol("an incomplete key set that lacks no key".into()));
            }
            progress.keys = plan.len() - wanted.len();
            progress.total_bytes = progress.bytes
                + wanted.iter().map(|(_, needed)| needed.bytes(self.parameters())).sum::<u64>();
            on_progress(progress);
            set =
                self.send_keys(wanted, set.map(|info| info.id), &mut progress, on_progress).await?;
        }
    }

    /// Every key that the server has to hold: those of the plan, then those of its exact step.
    fn needed(&self) -> Vec<Needed> {
        let plan = self.description().plan();
        let keys = plan.keys().iter().map(|&spec| Needed::Evaluation(spec));
        keys.chain(plan.label_step(self.parameters()).map(Needed::Label)).collect()
    }

    /// Makes and sends `wanted`.
    async fn send_keys(
        &self,
        wanted: Vec<(u32, Needed)>,
        mut set: Option<Id>,
        progress: &mut KeyProgress,
        on_progress: &mut (dyn FnMut(KeyProgress) + Send),
    ) -> Result<Option<KeySetInfo>> {
        let mut keys = rpc!(self, keys_client, KeysClient);
        let mut uploads = self.uploads();
        let (sender, mut made) = mpsc::channel(KEYS_AHEAD);
        let (context, bundle) = (self.context.clone(), self.bundle.clone());
        let maker = tokio::task::spawn_blocking(move || -> Result<()> {
            let mut rng = entropy()?;
            let generator = KeyGenerator::new(&context);
            for (index, needed) in wanted {
                let bytes = match &needed {
                    Needed::Evaluation(spec) => {
                        generator.evaluation_key(&bundle.secret, *spec, &mut rng)?.to_bytes()?
                    }
                    Needed::Label(step) => {
                        LabelSecret::new(&bundle.secret)?.keys(step, &mut rng)?.to_bytes()
                    }
                };
                let blob = Chunked::new(Bytes::from(bytes));
                if sender.blocking_send((index, needed.kind(), blob)).is_err() {
                    // The sending side gave up and says why.
                    return Ok(());
                }
            }
            Ok(())
        });
        let (name, parameters) = (self.description().name(), self.parameters().fingerprint());
        let mut last = None;
        while let Some((index, kind, blob)) = made.recv().await {
            let header = blob.header(kind, parameters, name, index);
            let doing = "uploading keys";
            let upload = send(&self.client, &mut uploads, doing, header, &blob).await?;
            let request = wire::commit_request(upload, set);
            let info = KeySetInfo::try_from(self.client.call(doing, keys.commit(request)).await?)?;
            set = Some(info.id);
            progress.keys += 1;
            progress.bytes += blob.len();
            on_progress(*progress);
            last = Some(info);
        }
        maker.await.map_err(|_| Error::Thread)??;
        Ok(last)
    }

    /// Encodes and encrypts one input (tokens by features) at the levels of the plan, after the model's range checks.
    ///
    /// # Errors
    /// An error of the model for an input of the wrong shape, with a NaN, or outside the calibrated range.
    pub async fn encrypt(&self, input: &Matrix) -> Result<EncryptedInput> {
        let tokens = input.rows() as u32;
        let vectors = self.description().encode(input)?;
        let inputs = self.description().plan().inputs();
        let levels: Vec<_> = inputs.iter().map(|input| input.level).collect();
        let (context, bundle) = (self.context.clone(), self.bundle.clone());
        let encrypt = move || -> Result<EncryptedInput> {
            let mut rng = entropy()?;
            let encoder = Encoder::new(&context);
            let encryptor = Encryptor::with_secret_key(&context, &bundle.secret)?;
            let mut blobs = Vec::new();
            for (slots, level) in vectors.iter().zip(levels) {
                let plain = encoder.encode(slots, level, context.params().scale_at(level))?;
                let ciphertext = encryptor.encrypt(&plain, &mut rng)?;
                blobs.push(Chunked::new(Bytes::from(ciphertext.to_bytes()?)));
            }
            Ok(EncryptedInput { blobs, tokens })
        };
        tokio::task::spawn_blocking(encrypt).await.map_err(|_| Error::Thread)?
    }

    /// Uploads an input and queues a job for it.
    ///
    /// # Security
    /// Tells the server how many tokens the input has, where inputs vary in length.
    ///
    /// # Errors
    /// `KeyMissing` without [`Session::ensure_keys`]; `Busy` when the queue is full; those of the connection.
    pub async fn submit(&self, input: &EncryptedInput) -> Result<Id> {
        let doing = "submitting a job";
        let missing = || {
            let keys = self.description().plan().keys();
            Fault::KeyMissing { keys: keys.to_vec(), count: keys.len() as u64 }
        };
        let key_set = self.key_set.ok_or_else(missing)?;
        let (name, parameters) = (self.description().name(), self.parameters().fingerprint());
        let mut rpc = self.uploads();
        let mut uploads = Vec::new();
        for (index, blob) in input.blobs.iter().enumerate() {
            let header = blob.header(BlobKind::Ciphertext, parameters, name, index as u32);
            uploads.push(send(&self.client, &mut rpc, doing, header, blob).await?);
        }
        let idempotency_key = *Id::random()?.as_bytes();
        let model = name.to_owned();
        let request = JobRequest { model, key_set, uploads, idempotency_key, tokens: input.tokens };
        let mut infer = rpc!(self, infer_client, InferClient);
        let job = self.client.call(doing, infer.submit(pb::JobRequest::from(request))).await?;
        Ok(Id::try_from(&job)?)
    }

    /// Follows a job to its end and returns its last event, whose state is `Done`.
    ///
    /// # Errors
    /// The fault of a failed job, [`Fault::Cancelled`] for a cancelled one; [`Error::Disconnected`] when the server goes
    /// away, which is noticed within [`crate::Options::liveness`].
    pub async fn watch(
        &self,
        job: Id,
        on_event: &mut (dyn FnMut(&JobEvent) + Send),
    ) -> Result<JobEvent> {
        let doing = "watching a job";
        let mut infer = rpc!(self, infer_client, InferClient);
        let mut events = self.client.call(doing, infer.watch(wire::job_id(job))).await?;
        loop {
            let event = match events.message().await {
                Ok(Some(event)) => JobEvent::try_from(event)?,
                Ok(None) => {
                    let detail = "the stream ended before the job did".into();
                    return Err(Error::Disconnected { doing, detail });
                }
                Err(status) => return Err(Error::from_status(doing, &status)),
            };
            on_event(&event);
            match event.state {
                JobState::Done => return Ok(event),
                JobState::Cancelled => return Err(Fault::Cancelled.into()),
                JobState::Failed => return Err(event.error.unwrap_or(Fault::Internal).into()),
                JobState::Queued | JobState::Running => {}
            }
        }
    }

    /// Asks for a job to stop: at once while it waits, after its running operator otherwise.
    ///
    /// # Errors
    /// `NotFound` for an absent or foreign job.
    pub async fn cancel(&self, job: Id) -> Result<JobState> {
        let mut infer = rpc!(self, infer_client, InferClient);
        let job = self.client.call("cancelling a job", infer.cancel(wire::job_id(job))).await?;
        Ok(wire::job_state(&job)?)
    }

    /// Fetches the result of a finished job; it stays encrypted until [`Session::decrypt`].
    ///
    /// # Errors
    /// `NotReady` for a job that is not done.
    pub async fn result(&self, job: Id) -> Result<Bytes> {
        let doing = "fetching a result";
        let plan = self.description().plan();
        let (kind, limit) = if let Some(step) = plan.label_step(self.parameters()) {
            (BlobKind::Label, step.label_bytes())
        } else {
            let level = plan.output_level();
            (BlobKind::Ciphertext, Ciphertext::serialized_len(self.parameters(), level, 1, false))
        };
        let mut infer = rpc!(self, infer_client, InferClient);
        let mut parts = self.client.call(doing, infer.result(wire::result_request(job, 0))).await?;
        Ok(receive(&self.client, doing, &mut parts, kind, limit as u64).await?.1)
    }

    /// The logits in an encrypted result.
    ///
    /// # Errors
    /// An error of the scheme for bytes that are no ciphertext of this set, of the model for slots that hold no logits and for a
    /// plan that answers with a label;
    /// [`Error::Implausible`] for noise, which is what a wrong key under a false name gives.
    ///
    /// # Security
    /// For the owner of the key. The server must not learn what came out, nor whether anything sensible did: do not
    /// retry, complain or publish depending on it (IND-CPA-D, ePrint 2020/1533).
    pub async fn decrypt(&self, result: Bytes) -> Result<Vec<f64>> {
        let (context, bundle) = (self.context.clone(), self.bundle.clone());
        if self.description().plan().mode() != Mode::Logits {
            return Err(HAS_LABELS);
        }
        let expected = self.description().plan().output_level();
        let decrypt = move || -> Result<_> {
            let ciphertext = Ciphertext::from_bytes(&context, &result)?;
            let (level, degree) = (ciphertext.level(), ciphertext.degree());
            if level != expected || degree != 1 {
                let detail = format!("a result at level {level} of degree {degree}");
                return Err(Error::Protocol(detail));
            }
            let plain = Decryptor::new(&context, &bundle.secret)?.decrypt(&ciphertext)?;
            Ok(Encoder::new(&context).decode(&plain)?)
        };
        let slots = tokio::task::spawn_blocking(decrypt).await.map_err(|_| Error::Thread)??;
        let logits = self.description().decode(&slots)?;
        let value = logits.iter().fold(0.0, |max: f64, logit| max.max(logit.abs()));
        let limit = PLAUSIBLE * self.description().config().logit_abs_max.max(1.0);
        if value > limit {
            return Err(Error::Implausible { value, limit });
        }
        Ok(logits)
    }

    /// The class in an encrypted reply of a plan that answers with a label.
    ///
    /// # Errors
    /// [`Error::WrongAnswer`] for a plan that answers with logits; [`Error::Exact`] for bytes that are no reply, a reply under
    /// another secret, and one that decrypts to no class.
    ///
    /// # Security
    /// As [`Session::decrypt`].
    pub async fn decrypt_label(&self, result: Bytes) -> Result<usize> {
        let step = self.description().plan().label_step(self.parameters());
        let step = step.ok_or(HAS_LOGITS)?;
        let bundle = self.bundle.clone();
        let decrypt = move || -> Result<_> {
            let reply = EncryptedLabel::from_bytes(&step, &result)?;
            Ok(reply.decrypt(&step, &LabelSecret::new(&bundle.secret)?)?)
        };
        tokio::task::spawn_blocking(decrypt).await.map_err(|_| Error::Thread)?
    }

    /// Where the time of a finished job went, as the server recorded it.
    ///
    /// # Errors
    /// `NotReady` for a job that is not done.
    pub async fn recording(&self, job: Id) -> Result<Recording> {
        let doing = "fetching a profile";
        let mut infer = rpc!(self, infer_client, InferClient);
        let mut parts = self.client.call(doing, infer.profile(wire::job_id(job))).await?;
        let (_, json) =
            receive(&self.client, doing, &mut parts, BlobKind::Recording, MAX_RECORDING_BYTES)
                .await?;
        recording(&json)
    }

    /// Encrypts, submits, watches, fetches, and decrypts when the last call has been made, so that the server sees the
    /// same calls whatever comes out.
    ///
    /// # Errors
    /// [`Error::WrongAnswer`] for a plan that answers with a label; those of the steps.
    pub async fn infer(
        &self,
        input: &Matrix,
        on_event: &mut (dyn FnMut(&JobEvent) + Send),
    ) -> Result<Prediction<Logits>> {
        if self.description().plan().mode() != Mode::Logits {
            return Err(HAS_LABELS);
        }
        let (fetched, result) = self.fetch(input, on_event).await?;
        let answer = Logits::new(self.decrypt(result).await?);
        Ok(fetched.answered(answer))
    }

    /// As [`Session::infer`], of a plan that answers with a label: there are no logits, here or on the wire.
    ///
    /// # Errors
    /// [`Error::WrongAnswer`] for a plan that answers with logits; those of the steps.
    pub async fn infer_label(
        &self,
        input: &Matrix,
        on_event: &mut (dyn FnMut(&JobEvent) + Send),
    ) -> Result<Prediction<Label>> {
        if self.description().plan().mode() != Mode::Label {
            return Err(HAS_LOGITS);
        }
        let (fetched, result) = self.fetch(input, on_event).await?;
        let answer = Label::new(self.decrypt_label(result).await?);
        Ok(fetched.answered(answer))
    }

    /// Everything but the decryption, which comes last: a result that fails to decrypt must not change what the server sees of
    /// this client.
    async fn fetch(
        &self,
        input: &Matrix,
        on_event: &mut (dyn FnMut(&JobEvent) + Send),
    ) -> Result<(Fetched, Bytes)> {
        let start = Instant::now();
        let mut lap = Instant::now();
        let mut next = || -> Duration {
            let elapsed = lap.elapsed();
            lap = Instant::now();
            elapsed
        };
        let encrypted = self.encrypt(input).await?;
        let encrypt = next();
        let job = self.submit(&encrypted).await?;
        let submit = next();
        let done = self.watch(job, on_event).await?;
        let wait = next();
        let result = self.result(job).await?;
        let recording = self.recording(job).await?;
        let download = next();
        let (uploaded_bytes, downloaded_bytes) = (encrypted.bytes(), result.len() as u64);
        let timings =
            Timings { encrypt, submit, wait, run: done.elapsed, download, ..Timings::default() };
        let prediction =
            Prediction { job, answer: (), timings, uploaded_bytes, downloaded_bytes, recording };
        Ok((Fetched { start, decrypting: Instant::now(), prediction }, result))
    }
}

/// An inference whose answer is about to be decrypted.
struct Fetched {
    start: Instant,
    decrypting: Instant,
    prediction: Prediction<()>,
}

impl Fetched {
    fn answered<A>(self, answer: A) -> Prediction<A> {
        let Prediction {
            job,
            answer: (),
            mut timings,
            uploaded_bytes,
            downloaded_bytes,
            recording,
        } = self.prediction;
        timings.decrypt = self.decrypting.elapsed();
        timings.total = self.start.elapsed();
        Prediction { job, answer, timings, uploaded_bytes, downloaded_bytes, recording }
    }
}

/// A key that the server has to hold.
#[derive(Clone, Debug)]
enum Needed {
    /// One of the plan's.
    Evaluation(KeySpec),
    /// Those of its exact step, in one piece.
    Label(LabelParameters),
}

impl Needed {
    fn kind(&self) -> BlobKind {
        match self {
            Self::Evaluation(_) => BlobKind::EvaluationKey,
            Self::Label(_) => BlobKind::LabelKeys,
        }
    }

    fn bytes(&self, params: &Parameters) -> u64 {
        match self {
            Self::Evaluation(spec) => SeededKey::serialized_len(params, *spec) as u64,
            Self::Label(step) => step.seeded_key_bytes() as u64,
        }
    }
}

const HAS_LABELS: Error = Error::WrongAnswer {
    has: "labels alone",
    hint: "ask for the label (`infer_label`, or --label-only)",
};

const HAS_LOGITS: Error = Error::WrongAnswer {
    has: "logits",
    hint: "ask for them (`infer`, or without --label-only), or have it served with `serve --label-only`",
};

/// A recording from the server: a tree, which deserialising checks, with names fit for a terminal.
fn recording(json: &[u8]) -> Result<Recording> {
    let foreign = |e: &dyn std::fmt::Display| Error::Protocol(wire::text(&e.to_string()));
    let raw: Recording = serde_json::from_slice(json).map_err(|e| foreign(&e))?;
    let mut spans = raw.spans().to_vec();
    for operator in spans.iter_mut().map(|span| &mut span.operator) {
        for name in [&mut operator.name, &mut operator.layer, &mut operator.shape] {
            *name = wire::text(name);
        }
    }
    Recording::from_spans(spans).map_err(|e| foreign(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipherform_profile::{Operator, operator, record};

    #[test]
    fn names_in_a_recording_do_not_steer_a_terminal() {
        let bad = format!("\u{1b}[2J\n{}", "x".repeat(4000));
        let hostile =
            Operator { layer: bad.clone(), shape: bad.clone(), ..Operator::new(bad.clone()) };
        let ((), sent) = record(|| drop(operator(hostile)));
        let got = recording(&serde_json::to_vec(&sent).unwrap()).unwrap();
        assert_eq!(got.spans().len(), sent.spans().len());
        for span in got.spans() {
            let Operator { name, layer, shape, .. } = &span.operator;
            for text in [name, layer, shape] {
                assert!(text.len() <= wire::MAX_TEXT, "{}", text.len());
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
        }
        let error = recording(format!("{{\"\u{9b}{bad}").as_bytes()).unwrap_err().to_string();
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
}
