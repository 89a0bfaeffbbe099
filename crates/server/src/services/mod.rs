//! The gRPC handlers: who asks, what exactly, and whom to hand it to.

mod admin;
mod infer;
mod keys;
mod models;
mod uploads;

use crate::config::Config;
use crate::jobs::Jobs;
use crate::key_store::KeyStore;
use crate::registry::Registry;
use crate::uploads::Uploads;
use cipherform_proto::wire::BlobPart;
use cipherform_proto::{BlobHeader, Chunked, Fault, MESSAGE_BYTES, Owner, pb};
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::Stream;
use tonic::transport::server::Router;
use tonic::{Request, Status};

/// What every handler can reach.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) uploads: Uploads,
    pub(crate) keys: KeyStore,
    pub(crate) jobs: Arc<Jobs>,
}

impl Shared {
    /// Drops what has expired.
    pub(crate) fn sweep(&self) {
        self.uploads.sweep();
        self.keys.sweep();
        self.jobs.sweep();
    }
}

/// One value that implements every service.
#[derive(Clone)]
struct Handlers(Arc<Shared>);

/// The stream of a server-streaming call.
type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Adds every service to `server`, with the decode limit that all messages obey.
pub(crate) fn router(mut server: tonic::transport::Server, shared: &Arc<Shared>) -> Router {
    use pb::admin_server::AdminServer;
    use pb::infer_server::InferServer;
    use pb::keys_server::KeysServer;
    use pb::models_server::ModelsServer;
    use pb::uploads_server::UploadsServer;
    macro_rules! limited {
        ($service:ident) => {
            $service::new(Handlers(shared.clone())).max_decoding_message_size(MESSAGE_BYTES)
        };
    }
    server
        .add_service(limited!(AdminServer))
        .add_service(limited!(UploadsServer))
        .add_service(limited!(KeysServer))
        .add_service(limited!(ModelsServer))
        .add_service(limited!(InferServer))
}

fn owner<T>(request: &Request<T>) -> Result<Owner, Fault> {
    Owner::from_metadata(request.metadata())
}

/// A blob as the stream of its header and its chunks; nothing is copied, and HTTP/2 flow control paces it.
fn blob_stream(header: BlobHeader, blob: &Chunked) -> Streaming<pb::BlobPart> {
    let chunks = blob.chunks().map(BlobPart::Chunk);
    let parts = std::iter::once(BlobPart::Header(header)).chain(chunks);
    Box::pin(tokio_stream::iter(parts.map(|part| Ok(part.into()))))
}

/// Runs `f`, which takes milliseconds of arithmetic, where it does not keep the network waiting.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    // A panic in `f` ends here and fails this call alone.
    tokio::task::spawn_blocking(f).await.unwrap_or(Err(Fault::Internal))
}
