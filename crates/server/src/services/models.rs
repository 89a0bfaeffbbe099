//! The models served.

use super::{Handlers, Streaming, blob_stream};
use cipherform_proto::pb;
use cipherform_proto::wire::{model_name_text, models};
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl pb::models_server::Models for Handlers {
    type DescribeStream = Streaming<pb::BlobPart>;

    async fn list(
        &self,
        _request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ModelList>, Status> {
        Ok(Response::new(models(self.0.registry.summaries())))
    }

    async fn describe(
        &self,
        request: Request<pb::ModelName>,
    ) -> Result<Response<Self::DescribeStream>, Status> {
        let name = model_name_text(request.into_inner())?;
        let (header, blob) = self.0.registry.get(&name)?.description_blob();
        Ok(Response::new(blob_stream(header, &blob)))
    }
}
