//! Jobs.

use super::{Handlers, Streaming, blob_stream, blocking, owner};
use crate::convert;
use crate::jobs::{Record, Work};
use bytes::Bytes;
use cipherform_proto::wire::{JobRequest, job, result_parts};
use cipherform_proto::{BlobKind, Chunked, Fault, Id, Owner, pb};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

impl Handlers {
    /// Checks everything that can be checked before the job waits, so that it does not fail after its turn has come.
    fn submit_job(&self, owner: Owner, request: &JobRequest) -> Result<Arc<Record>, Fault> {
        let shared = &self.0;
        if let Some(record) = shared.jobs.known(owner, request.idempotency_key) {
            return Ok(record);
        }
        let served = shared.registry.get(&request.model)?;
        let (keys, device) = shared.keys.lend(owner, request.key_set, &served)?;
        let expected = served.plan().inputs().len();
        if request.uploads.len() != expected {
            let detail = format!("{} where the plan has {expected}", request.uploads.len());
            return Err(Fault::malformed("number of inputs", detail));
        }
        shared.jobs.admits(owner)?;
        let mut inputs = Vec::new();
        for (index, &upload) in request.uploads.iter().enumerate() {
            let (header, bytes) = shared.uploads.complete(owner, upload)?;
            if header.kind != BlobKind::Ciphertext || header.model != request.model {
                let detail = format!("it is not a ciphertext for {}", request.model);
                return Err(Fault::malformed("upload", detail));
            }
            let input = served.input(device, index, &bytes)?;
            if !keys.are_of(input.secret_id()) {
                let detail = "it was encrypted under another secret than that of the key set";
                return Err(Fault::malformed(format!("input {index}"), detail));
            }
            inputs.push(input);
        }
        let length = served.length(device, request.tokens)?;
        let work: Work = Box::new(move |on_progress| {
            let model = served.on(device)?;
            let failed = |error| convert::nn(&error);
            if let Some(label_keys) = &keys.label {
                let label = model
                    .run_label(
                        &keys.evaluation,
                        label_keys,
                        inputs,
                        &length,
                        &mut &mut *on_progress,
                    )
                    .map_err(failed)?;
                return Ok(vec![(BlobKind::Label, label.to_bytes().into())]);
            }
            let outputs = model
                .run(&keys.evaluation, inputs, &length, &mut &mut *on_progress)
                .map_err(failed)?;
            let bytes = outputs
                .iter()
                .map(|output| Ok((BlobKind::Ciphertext, Bytes::from(output.to_bytes()?))));
            bytes.collect::<Result<_, _>>().map_err(|error| convert::ckks(&error))
        });
        let record = shared.jobs.submit(owner, request.idempotency_key, device, work)?;
        // The job holds its inputs now. Until here a refused submission could be repeated with the same uploads.
        request.uploads.iter().for_each(|&upload| shared.uploads.discard(owner, upload));
        Ok(record)
    }
}

/// A blob of a finished job. The parameter fingerprint is inside the ciphertext, and a job's blobs need no model name.
fn blob_of(blob: &Chunked, kind: BlobKind, index: u32) -> Response<Streaming<pb::BlobPart>> {
    Response::new(blob_stream(blob.header(kind, [0; 32], "job", index), blob))
}

#[async_trait]
impl pb::infer_server::Infer for Handlers {
    type WatchStream = Streaming<pb::JobEvent>;
    type ResultStream = Streaming<pb::BlobPart>;
    type ProfileStream = Streaming<pb::BlobPart>;

    async fn submit(&self, request: Request<pb::JobRequest>) -> Result<Response<pb::Job>, Status> {
        let owner = owner(&request)?;
        let request = JobRequest::try_from(request.into_inner())?;
        let handlers = self.clone();
        let record = blocking(move || handlers.submit_job(owner, &request)).await?;
        Ok(Response::new(job(record.id, record.state())))
    }

    async fn watch(
        &self,
        request: Request<pb::JobId>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let owner = owner(&request)?;
        let record = self.0.jobs.get(owner, Id::try_from(&request.into_inner())?)?;
        let mut events = record.watch();
        // A slow reader holds up only its own stream: it skips to the newest event.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let event = events.borrow_and_update().clone();
                let last = event.state.is_final();
                if sender.send(Ok(event.into())).await.is_err() || last {
                    return;
                }
                tokio::select! {
                    changed = events.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn result(
        &self,
        request: Request<pb::ResultRequest>,
    ) -> Result<Response<Self::ResultStream>, Status> {
        let owner = owner(&request)?;
        let (id, index) = result_parts(&request.into_inner())?;
        let (kind, output) = self.0.jobs.get(owner, id)?.output(index)?;
        Ok(blob_of(&output, kind, index))
    }

    async fn profile(
        &self,
        request: Request<pb::JobId>,
    ) -> Result<Response<Self::ProfileStream>, Status> {
        let owner = owner(&request)?;
        let record = self.0.jobs.get(owner, Id::try_from(&request.into_inner())?)?;
        Ok(blob_of(&record.recording()?, BlobKind::Recording, 0))
    }

    async fn cancel(&self, request: Request<pb::JobId>) -> Result<Response<pb::Job>, Status> {
        let owner = owner(&request)?;
        let record = self.0.jobs.cancel(owner, Id::try_from(&request.into_inner())?)?;
        Ok(Response::new(job(record.id, record.state())))
    }
}
