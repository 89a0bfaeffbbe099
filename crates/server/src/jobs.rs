//! Jobs: a bounded queue, one worker thread a device, and a record of each job that its owner can watch, cancel and read.
//!
//! ```text
//! submit ──> queued ──> running ──> done        the result and the recording stay until they expire
//!               │           ├─────> failed      an error, a panic, or a shutdown; the worker takes the next job
//!               └───────────┴─────> cancelled   at once while queued, after the running operator otherwise
//! ```

use crate::config::Limits;
use crate::uploads::{busy, lock};
use bytes::Bytes;
use cipherform_nn::exec::Progress;
use cipherform_profile::Recording;
use cipherform_proto::wire::{JobEvent, JobState};
use cipherform_proto::{BlobKind, Chunked, Fault, Id, Owner, Result};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What a running job calls before every operator.
pub(crate) type OnProgress<'a> = dyn FnMut(&Progress) -> ControlFlow<()> + 'a;

/// What a job does: serialised outputs from nothing but what it captured.
pub(crate) type Work = Box<dyn FnOnce(&mut OnProgress<'_>) -> Result<Vec<Output>> + Send>;

/// A serialised output and what it is.
pub(crate) type Output = (BlobKind, Bytes);

/// The queue and the records.
pub(crate) struct Jobs {
    limits: Limits,
    state: Mutex<State>,
    /// Signalled when the queue, the running jobs or `stopping` changes.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    records: HashMap<(Owner, Id), Arc<Record>>,
    queue: VecDeque<(Arc<Record>, Work)>,
    /// By worker.
    running: BTreeMap<usize, Arc<Record>>,
    stopping: bool,
}

/// One job, as the worker, the watchers and the owner share it.
pub(crate) struct Record {
    owner: Owner,
    pub(crate) id: Id,
    idempotency_key: [u8; 16],
    /// Whose turn it is.
    worker: usize,
    cancelled: AtomicBool,
    events: watch::Sender<JobEvent>,
    outcome: Mutex<Outcome>,
}

#[derive(Default)]
struct Outcome {
    finished: Option<Instant>,
    outputs: Vec<(BlobKind, Chunked)>,
    recording: Option<Chunked>,
}

impl Record {
    pub(crate) fn state(&self) -> JobState {
        self.events.borrow().state
    }

    /// The job's events from now on; a slow watcher misses intermediate ones but never the last.
    pub(crate) fn watch(&self) -> watch::Receiver<JobEvent> {
        self.events.subscribe()
    }

    /// Output `index` of a finished job.
    pub(crate) fn output(&self, index: u32) -> Result<(BlobKind, Chunked)> {
        self.ready()?;
        let output = lock(&self.outcome).outputs.get(index as usize).cloned();
        output.ok_or_else(|| Fault::not_found("output", index.to_string()))
    }

    /// The recording of a finished job.
    pub(crate) fn recording(&self) -> Result<Chunked> {
        self.ready()?;
        lock(&self.outcome).recording.clone().ok_or(Fault::Internal)
    }

    fn ready(&self) -> Result<()> {
        let event = self.events.borrow();
        match event.state {
            JobState::Done => Ok(()),
            JobState::Cancelled => Err(Fault::Cancelled),
            JobState::Failed => Err(event.error.clone().unwrap_or(Fault::Internal)),
            state => Err(Fault::NotReady { state: state.name().into() }),
        }
    }

    /// Ends the job. Whoever ends it first wins.
    fn finish(
        &self,
        event: JobEvent,
        outputs: Vec<(BlobKind, Chunked)>,
        recording: Option<Chunked>,
    ) {
        let mut outcome = lock(&self.outcome);
        if outcome.finished.is_none() {
            *outcome = Outcome { finished: Some(Instant::now()), outputs, recording };
            self.events.send_replace(event);
        }
    }

    fn fail(&self, fault: Fault) {
        let state = match fault {
            Fault::Cancelled => JobState::Cancelled,
            _ => JobState::Failed,
        };
        self.finish(JobEvent { error: Some(fault), ..JobEvent::new(state) }, Vec::new(), None);
    }
}

impl Jobs {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Queues a job for a worker. The same idempotency key gives the job it gave before.
    pub(crate) fn submit(
        &self,
        owner: Owner,
        idempotency_key: [u8; 16],
        worker: usize,
        work: Work,
    ) -> Result<Arc<Record>> {
        let mut state = lock(&self.state);
        if let Some(record) = state.known(owner, idempotency_key) {
            return Ok(record);
        }
        state.admit(&self.limits, owner)?;
        let mut event = JobEvent::new(JobState::Queued);
        event.queue_position = state.before(worker, state.queue.len());
        let record = Arc::new(Record {
            owner,
            id: Id::random()?,
            idempotency_key,
            worker,
            cancelled: AtomicBool::new(false),
            events: watch::Sender::new(event),
            outcome: Mutex::default(),
        });
        state.records.insert((owner, record.id), record.clone());
        state.queue.push_back((record.clone(), work));
        self.changed.notify_all();
        Ok(record)
    }

    /// The job that this idempotency key already gave.
    pub(crate) fn known(&self, owner: Owner, idempotency_key: [u8; 16]) -> Option<Arc<Record>> {
        lock(&self.state).known(owner, idempotency_key)
    }

    /// Whether a job could be queued now, asked before the inputs are unpacked.
    pub(crate) fn admits(&self, owner: Owner) -> Result<()> {
        lock(&self.state).admit(&self.limits, owner)
    }

    pub(crate) fn get(&self, owner: Owner, id: Id) -> Result<Arc<Record>> {
        let record = lock(&self.state).records.get(&(owner, id)).cloned();
        record.ok_or_else(|| Fault::not_found("job", id.to_string()))
    }

    /// Cancels a job: at once while it waits, before its next operator while it runs.
    pub(crate) fn cancel(&self, owner: Owner, id: Id) -> Result<Arc<Record>> {
        let record = self.get(owner, id)?;
        record.cancelled.store(true, Ordering::Release);
        let mut state = lock(&self.state);
        let before = state.queue.len();
        state.queue.retain(|(queued, _)| queued.id != id);
        if state.queue.len() < before {
            record.fail(Fault::Cancelled);
            state.tell_positions();
        }
        Ok(record)
    }

    /// Forgets the jobs that finished too long ago.
    pub(crate) fn sweep(&self) {
        let expiry = self.limits.job_expiry();
        lock(&self.state).records.retain(|_, record| {
            lock(&record.outcome).finished.is_none_or(|finished| finished.elapsed() <= expiry)
        });
    }

    /// Refuses new jobs, ends the waiting ones and asks the running ones to stop; waits at most `grace` for them.
    pub(crate) fn stop(&self, grace: Duration) {
        let mut state = lock(&self.state);
        state.stopping = true;
        for (record, _) in state.queue.drain(..) {
            record.fail(Fault::ShuttingDown);
        }
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(state, grace, |s| !s.running.is_empty());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // An operator that outlasts the grace does not keep its watchers waiting.
        for record in std::mem::take(&mut state.running).into_values() {
            record.fail(Fault::ShuttingDown);
        }
    }

    /// Runs the jobs of a worker until [`Jobs::stop`]. The worker thread's only loop.
    pub(crate) fn work(&self, worker: usize) {
        while let Some((record, work)) = self.next(worker) {
            self.run(&record, work);
            lock(&self.state).running.remove(&worker);
            self.changed.notify_all();
        }
    }

    fn next(&self, worker: usize) -> Option<(Arc<Record>, Work)> {
        let mut state = lock(&self.state);
        loop {
            if state.stopping {
                return None;
            }
            let mine = state.queue.iter().position(|(record, _)| record.worker == worker);
            if let Some((record, work)) = mine.and_then(|index| state.queue.remove(index)) {
                state.running.insert(worker, record.clone());
                state.tell_positions();
                return Some((record, work));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, record: &Record, work: Work) {
        record.events.send_replace(JobEvent::new(JobState::Running));
        let mut on_progress = |progress: &Progress| {
            if record.cancelled.load(Ordering::Acquire) || lock(&self.state).stopping {
                return ControlFlow::Break(());
            }
            record.events.send_replace(running(progress));
            ControlFlow::Continue(())
        };
        // A panic fails this job alone: what it could have left half-changed is its own, everything shared is behind
        // locks whose holders never panic half-way.
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cipherform_profile::record(|| work(&mut on_progress))
        }));
        match caught {
            Ok((Ok(outputs), recording)) => finish(record, outputs, &recording),
            Ok((Err(_), _)) if lock(&self.state).stopping => record.fail(Fault::ShuttingDown),
            Ok((Err(_), _)) if record.cancelled.load(Ordering::Acquire) => {
                record.fail(Fault::Cancelled);
            }
            Ok((Err(fault), _)) => record.fail(fault),
            Err(_) => {
                tracing::error!(job = %record.id, "a job panicked");
                record.fail(Fault::Internal);
            }
        }
    }
}

impl State {
    fn known(&self, owner: Owner, idempotency_key: [u8; 16]) -> Option<Arc<Record>> {
        let mut mine = self.records.values().filter(|record| record.owner == owner);
        mine.find(|record| record.idempotency_key == idempotency_key).cloned()
    }

    fn admit(&mut self, limits: &Limits, owner: Owner) -> Result<()> {
        if self.stopping {
            return Err(Fault::ShuttingDown);
        }
        if self.queue.len() >= limits.queue_length {
            return Err(busy("job queue", limits.queue_length as u64));
        }
        // Nobody fills the queue of all alone.
        if self.queue.iter().filter(|(r, _)| r.owner == owner).count() >= limits.queued_per_owner {
            return Err(busy("waiting jobs of this session", limits.queued_per_owner as u64));
        }
        if self.records.keys().filter(|(o, _)| *o == owner).count() >= limits.jobs_per_owner {
            // The oldest finished job makes room; unfinished ones are never forgotten.
            let finished = |record: &Record| lock(&record.outcome).finished;
            let oldest = self
                .records
                .iter()
                .filter(|((o, _), _)| *o == owner)
                .filter_map(|(key, record)| Some((finished(record)?, *key)))
                .min()
                .ok_or_else(|| busy("jobs of this session", limits.jobs_per_owner as u64))?;
            self.records.remove(&oldest.1);
        }
        Ok(())
    }

    /// Jobs that a worker has before the one at `index` of the queue.
    fn before(&self, worker: usize, index: usize) -> u32 {
        let waiting = self.queue.iter().take(index).filter(|(r, _)| r.worker == worker).count();
        waiting as u32 + u32::from(self.running.contains_key(&worker))
    }

    /// Tells the waiting jobs how many are before them.
    fn tell_positions(&self) {
        for (i, (record, _)) in self.queue.iter().enumerate() {
            let queue_position = self.before(record.worker, i);
            let event = JobEvent { queue_position, ..JobEvent::new(JobState::Queued) };
            record.events.send_replace(event);
        }
    }
}

fn running(progress: &Progress) -> JobEvent {
    JobEvent {
        step: progress.step as u32,
        steps: progress.steps as u32,
        operator: progress.operator.clone(),
        layer: progress.layer.clone(),
        level: progress.level as u32,
        elapsed: progress.elapsed,
        eta: progress.eta,
        ..JobEvent::new(JobState::Running)
    }
}

fn finish(record: &Record, outputs: Vec<Output>, recording: &Recording) {
    let Ok(json) = serde_json::to_vec(recording) else {
        record.fail(Fault::Internal);
        return;
    };
    let mut event = JobEvent::new(JobState::Done);
    event.outputs = outputs.len() as u32;
    event.elapsed = recording.wall();
    let outputs = outputs.into_iter().map(|(kind, bytes)| (kind, Chunked::new(bytes))).collect();
    record.finish(event, outputs, Some(Chunked::new(json.into())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipherform_proto::SessionToken;
    use std::sync::mpsc;

    fn owner() -> Owner {
        Owner::of(&SessionToken::random().unwrap())
    }

    fn key(i: u8) -> [u8; 16] {
        [i; 16]
    }

    /// A queue with a running worker.
    fn start(limits: Limits) -> Arc<Jobs> {
        let jobs = Arc::new(Jobs::new(limits));
        let worker = jobs.clone();
        std::thread::spawn(move || worker.work(0));
        jobs
    }

    fn step(i: usize) -> Progress {
        Progress {
            step: i,
            steps: 1000,
            operator: format!("op{i}"),
            layer: "layer.0".into(),
            level: 3,
            elapsed: Duration::ZERO,
            eta: Duration::ZERO,
        }
    }

    /// Work that returns `text` at once.
    fn quick(text: &'static str) -> Work {
        Box::new(move |_| Ok(vec![(BlobKind::Ciphertext, Bytes::from_static(text.as_bytes()))]))
    }

    /// Work that steps until it is told to stop, and says when it began.
    fn endless(began: mpsc::Sender<()>) -> Work {
        Box::new(move |on_progress| {
            for i in 0.. {
                if on_progress(&step(i)).is_break() {
                    return Err(Fault::Cancelled);
                }
                let _ = began.send(());
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Fault::Internal)
        })
    }

    fn wait(record: &Record) -> JobEvent {
        let mut events = record.watch();
        for _ in 0..5000 {
            let event = events.borrow_and_update().clone();
            if event.state.is_final() {
                return event;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the job did not end");
    }

    #[test]
    fn a_job_runs_once_per_idempotency_key() {
        let jobs = start(Limits::default());
        let me = owner();
        let first = jobs.submit(me, key(1), 0, quick("a")).unwrap();
        assert_eq!(wait(&first).outputs, 1);
        let again = jobs.submit(me, key(1), 0, quick("b")).unwrap();
        assert_eq!(again.id, first.id);
        assert_eq!(first.output(0).unwrap().1.len(), 1);
        assert!(matches!(first.output(1), Err(Fault::NotFound { .. })));
        assert!(first.recording().unwrap().len() > 2);
        // Another owner's key is another job, and a foreign job is an absent one.
        let theirs = jobs.submit(owner(), key(1), 0, quick("c")).unwrap();
        assert_ne!(theirs.id, first.id);
        assert!(matches!(jobs.get(me, theirs.id), Err(Fault::NotFound { .. })));
        assert!(matches!(jobs.cancel(me, theirs.id), Err(Fault::NotFound { .. })));
    }

    #[test]
    fn a_full_queue_refuses_and_recovers() {
        let jobs = start(Limits { queue_length: 1, ..Limits::default() });
        let me = owner();
        let (tx, rx) = mpsc::channel();
        let long = jobs.submit(me, key(1), 0, endless(tx)).unwrap();
        rx.recv().unwrap();
        let waiting = jobs.submit(me, key(2), 0, quick("b")).unwrap();
        assert_eq!(waiting.watch().borrow().queue_position, 1);
        let refused = jobs.submit(me, key(3), 0, quick("c"));
        assert!(matches!(refused, Err(Fault::Busy { limit: 1, .. })));
        assert_eq!(waiting.output(0).err(), Some(Fault::NotReady { state: "queued".into() }));
        jobs.cancel(me, long.id).unwrap();
        assert_eq!(wait(&long).state, JobState::Cancelled);
        assert_eq!(wait(&waiting).state, JobState::Done);
        wait(&jobs.submit(me, key(3), 0, quick("c")).unwrap());
    }

    #[test]
    fn workers_do_not_wait_for_each_other() {
        let jobs = start(Limits::default());
        let other = jobs.clone();
        std::thread::spawn(move || other.work(1));
        let me = owner();
        let (tx, rx) = mpsc::channel();
        let long = jobs.submit(me, key(0), 0, endless(tx)).unwrap();
        rx.recv().unwrap();
        // Behind a job that does not end, on the same worker; and on the other.
        let behind = jobs.submit(me, key(1), 0, quick("a")).unwrap();
        assert_eq!(behind.watch().borrow().queue_position, 1);
        let beside = jobs.submit(me, key(2), 1, quick("b")).unwrap();
        assert_eq!(wait(&beside).state, JobState::Done);
        assert_eq!((long.state(), behind.state()), (JobState::Running, JobState::Queued));
        jobs.cancel(me, long.id).unwrap();
        assert_eq!(wait(&behind).state, JobState::Done);
    }

    #[test]
    fn nobody_fills_the_queue_alone() {
        let jobs = start(Limits::default());
        let (me, another) = (owner(), owner());
        let (tx, rx) = mpsc::channel();
        let long = jobs.submit(me, key(0), 0, endless(tx)).unwrap();
        rx.recv().unwrap();
        let waiting = [1, 2].map(|i| jobs.submit(me, key(i), 0, quick("a")).unwrap());
        for refused in [jobs.admits(me), jobs.submit(me, key(3), 0, quick("a")).map(drop)] {
            assert!(matches!(refused, Err(Fault::Busy { limit: 2, .. })), "{refused:?}");
        }
        // A repeated submission is no new job, and others have their share.
        assert_eq!(jobs.submit(me, key(2), 0, quick("a")).unwrap().id, waiting[1].id);
        let theirs = jobs.submit(another, key(3), 0, quick("a")).unwrap();
        jobs.cancel(me, waiting[0].id).unwrap();
        let again = jobs.submit(me, key(3), 0, quick("a")).unwrap();
        jobs.cancel(me, long.id).unwrap();
        for record in [&waiting[1], &theirs, &again] {
            assert_eq!(wait(record).state, JobState::Done);
        }
    }

    #[test]
    fn a_waiting_job_is_cancelled_at_once() {
        let jobs = start(Limits::default());
        let me = owner();
        let (tx, rx) = mpsc::channel();
        let long = jobs.submit(me, key(1), 0, endless(tx)).unwrap();
        rx.recv().unwrap();
        let waiting = jobs.submit(me, key(2), 0, quick("b")).unwrap();
        jobs.cancel(me, waiting.id).unwrap();
        assert_eq!(waiting.state(), JobState::Cancelled);
        assert_eq!(waiting.output(0).err(), Some(Fault::Cancelled));
        assert_eq!(long.state(), JobState::Running);
        jobs.cancel(me, long.id).unwrap();
        assert_eq!(wait(&long).state, JobState::Cancelled);
    }

    #[test]
    fn a_panic_fails_one_job() {
        let jobs = start(Limits::default());
        let me = owner();
        let bad = jobs.submit(me, key(1), 0, Box::new(|_| panic!("secret detail"))).unwrap();
        let event = wait(&bad);
        assert_eq!((event.state, event.error), (JobState::Failed, Some(Fault::Internal)));
        assert_eq!(wait(&jobs.submit(me, key(2), 0, quick("a")).unwrap()).state, JobState::Done);
    }

    #[test]
    fn stopping_ends_every_job_within_the_grace() {
        let jobs = start(Limits::default());
        let me = owner();
        let (tx, rx) = mpsc::channel();
        let long = jobs.submit(me, key(1), 0, endless(tx)).unwrap();
        rx.recv().unwrap();
        let waiting = jobs.submit(me, key(2), 0, quick("b")).unwrap();
        let began = Instant::now();
        jobs.stop(Duration::from_secs(10));
        assert!(began.elapsed() < Duration::from_secs(5));
        for record in [long, waiting] {
            assert_eq!(wait(&record).error, Some(Fault::ShuttingDown));
        }
        assert_eq!(jobs.submit(me, key(3), 0, quick("c")).err(), Some(Fault::ShuttingDown));
    }

    #[test]
    fn an_operator_that_outlasts_the_grace_keeps_nobody_waiting() {
        let jobs = start(Limits::default());
        let (tx, rx) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let stuck = jobs.submit(
            owner(),
            key(1),
            0,
            Box::new(move |_| {
                tx.send(()).unwrap();
                let _ = released.recv();
                Ok(vec![])
            }),
        );
        rx.recv().unwrap();
        jobs.stop(Duration::from_millis(20));
        assert_eq!(wait(&stuck.unwrap()).error, Some(Fault::ShuttingDown));
        drop(release);
    }

    #[test]
    fn finished_jobs_make_room_and_expire() {
        let limits = Limits { jobs_per_owner: 2, job_expiry_s: 0, ..Limits::default() };
        let jobs = start(limits);
        let me = owner();
        let all: Vec<_> = (0..3)
            .map(|i| {
                let record = jobs.submit(me, key(i), 0, quick("a")).unwrap();
                wait(&record);
                record.id
            })
            .collect();
        assert!(jobs.get(me, all[0]).is_err());
        assert!(jobs.get(me, all[2]).is_ok());
        std::thread::sleep(Duration::from_millis(2));
        jobs.sweep();
        assert!(jobs.get(me, all[2]).is_err());
    }
}
