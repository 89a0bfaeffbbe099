//! Blobs on their way in.

use super::{Handlers, owner};
use cipherform_proto::wire::{upload, upload_chunk_parts, upload_status};
use cipherform_proto::{BlobHeader, Fault, Id, Owner, pb};
use tonic::{Request, Response, Status, Streaming, async_trait};

impl Handlers {
    fn status_of(&self, owner: Owner, id: Id) -> Result<Response<pb::UploadStatus>, Status> {
        Ok(Response::new(upload_status(id, self.0.uploads.status(owner, id)?)))
    }
}

#[async_trait]
impl pb::uploads_server::Uploads for Handlers {
    async fn begin(
        &self,
        request: Request<pb::BlobHeader>,
    ) -> Result<Response<pb::Upload>, Status> {
        let owner = owner(&request)?;
        let header = BlobHeader::try_from(request.into_inner())?;
        let exact = self.0.registry.get(&header.model)?.exact_bytes(&header)?;
        let id = self.0.uploads.begin(owner, header, exact)?;
        Ok(Response::new(upload(id, self.0.config.limits.upload_expiry())))
    }

    async fn put_chunks(
        &self,
        request: Request<Streaming<pb::UploadChunk>>,
    ) -> Result<Response<pb::UploadStatus>, Status> {
        let owner = owner(&request)?;
        let mut stream = request.into_inner();
        let mut upload = None;
        // The next chunk is not read before the last one is in place: flow control slows the sender.
        loop {
            let message =
                match tokio::time::timeout(self.0.config.limits.idle(), stream.message()).await {
                    Ok(message) => message?,
                    // A silent sender is cut off; what has arrived stays, and the sender can go on from there.
                    Err(_) => break,
                };
            let Some(message) = message else { break };
            let (id, chunk) = upload_chunk_parts(message)?;
            self.0.uploads.accept(owner, id, chunk)?;
            upload = Some(id);
        }
        let id = upload.ok_or_else(|| Fault::malformed("chunk stream", "it held no chunk"))?;
        self.status_of(owner, id)
    }

    async fn put_chunk(
        &self,
        request: Request<pb::UploadChunk>,
    ) -> Result<Response<pb::UploadStatus>, Status> {
        let owner = owner(&request)?;
        let (id, chunk) = upload_chunk_parts(request.into_inner())?;
        self.0.uploads.accept(owner, id, chunk)?;
        self.status_of(owner, id)
    }

    async fn status(
        &self,
        request: Request<pb::UploadId>,
    ) -> Result<Response<pb::UploadStatus>, Status> {
        let owner = owner(&request)?;
        self.status_of(owner, Id::try_from(&request.into_inner())?)
    }

    async fn discard(
        &self,
        request: Request<pb::UploadId>,
    ) -> Result<Response<pb::UploadStatus>, Status> {
        let owner = owner(&request)?;
        let id = Id::try_from(&request.into_inner())?;
        let last = self.status_of(owner, id)?;
        self.0.uploads.discard(owner, id);
        Ok(last)
    }
}
