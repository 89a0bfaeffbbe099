//! What the two sides speak.

use super::Handlers;
use cipherform_proto::wire::{ServerInfo, negotiate};
use cipherform_proto::{FORMAT, pb};
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl pb::admin_server::Admin for Handlers {
    async fn negotiate(
        &self,
        request: Request<pb::ClientInfo>,
    ) -> Result<Response<pb::ServerInfo>, Status> {
        let info = ServerInfo {
            server: concat!("cipherform ", env!("CARGO_PKG_VERSION")).into(),
            format: FORMAT,
            queue_length: self.0.config.limits.queue_length as u32,
        };
        Ok(Response::new(negotiate(&request.into_inner(), &info)?))
    }
}
