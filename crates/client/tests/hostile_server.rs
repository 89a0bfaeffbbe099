//! A server that lies: the client refuses with a type, and allocates and encrypts nothing for it.
#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

use bytes::Bytes;
use cipherform_ckks::{Context, presets};
use cipherform_client::{Client, Error, Fault, Id, KeyBundle, KeySetInfo, Options};
use cipherform_nn::{HeModel, RandomModel};
use cipherform_proto::wire::{self, BlobPart, ServerInfo};
use cipherform_proto::{BlobHeader, BlobKind, Chunk, Chunked, FORMAT, Missing, pb};
use cipherform_ring::Device;
use std::pin::Pin;
use std::time::Duration;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// What the server sends as a description, and whether it goes silent after it instead of ending the stream. It takes
/// every key and still lacks the first.
#[derive(Clone)]
struct Liar {
    parts: Vec<BlobPart>,
    silent: bool,
}

#[async_trait]
impl pb::admin_server::Admin for Liar {
    async fn negotiate(
        &self,
        request: Request<pb::ClientInfo>,
    ) -> Result<Response<pb::ServerInfo>, Status> {
        let info = ServerInfo { server: "liar".into(), format: FORMAT, queue_length: 1 };
        Ok(Response::new(wire::negotiate(&request.into_inner(), &info)?))
    }
}

#[async_trait]
impl pb::models_server::Models for Liar {
    type DescribeStream = Pin<Box<dyn Stream<Item = Result<pb::BlobPart, Status>> + Send>>;

    async fn list(
        &self,
        _request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ModelList>, Status> {
        Ok(Response::new(wire::models(Vec::new())))
    }

    async fn describe(
        &self,
        _request: Request<pb::ModelName>,
    ) -> Result<Response<Self::DescribeStream>, Status> {
        let parts = self.parts.clone().into_iter().map(|part| Ok(part.into()));
        let parts = tokio_stream::iter(parts);
        Ok(Response::new(if self.silent {
            Box::pin(parts.chain(tokio_stream::pending()))
        } else {
            Box::pin(parts)
        }))
    }
}

#[async_trait]
impl pb::uploads_server::Uploads for Liar {
    async fn begin(&self, _: Request<pb::BlobHeader>) -> Result<Response<pb::Upload>, Status> {
        Ok(Response::new(wire::upload(Id::random()?, Duration::from_secs(9))))
    }

    async fn put_chunks(
        &self,
        request: Request<Streaming<pb::UploadChunk>>,
    ) -> Result<Response<pb::UploadStatus>, Status> {
        let mut stream = request.into_inner();
        while stream.message().await?.is_some() {}
        let all = Missing { received: 1, total: 1, ranges: Vec::new() };
        Ok(Response::new(wire::upload_status(Id::random()?, all)))
    }

    async fn put_chunk(
        &self,
        _: Request<pb::UploadChunk>,
    ) -> Result<Response<pb::UploadStatus>, Status> {
        Err(Fault::Internal.into())
    }

    async fn status(&self, _: Request<pb::UploadId>) -> Result<Response<pb::UploadStatus>, Status> {
        Err(Fault::Internal.into())
    }

    async fn discard(
        &self,
        _: Request<pb::UploadId>,
    ) -> Result<Response<pb::UploadStatus>, Status> {
        Err(Fault::Internal.into())
    }
}

#[async_trait]
impl pb::keys_server::Keys for Liar {
    async fn commit(&self, _: Request<pb::CommitRequest>) -> Result<Response<pb::KeySet>, Status> {
        let info = KeySetInfo {
            id: Id::from_bytes(&[7; 16])?,
            model: name(),
            description: [0; 32],
            present: 1,
            required: 2,
            bytes: 0,
            missing: vec![0],
        };
        Ok(Response::new(info.into()))
    }

    async fn list(&self, _: Request<pb::ListKeysRequest>) -> Result<Response<pb::KeySets>, Status> {
        Ok(Response::new(wire::key_sets(Vec::new())))
    }

    async fn delete(&self, _: Request<pb::KeySetId>) -> Result<Response<pb::KeySet>, Status> {
        Err(Fault::Internal.into())
    }
}

/// An honest client of `liar`, and the liar's task.
async fn connect(liar: Liar, call_timeout: Duration) -> (Client, tokio::task::AbortHandle) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tonic::transport::Server::builder()
        .add_service(pb::admin_server::AdminServer::new(liar.clone()))
        .add_service(pb::uploads_server::UploadsServer::new(liar.clone()))
        .add_service(pb::keys_server::KeysServer::new(liar.clone()))
        .add_service(pb::models_server::ModelsServer::new(liar))
        .serve_with_incoming(TcpIncoming::from(listener));
    let server = tokio::spawn(serving).abort_handle();
    // Toy parameters: not secure.
    let options = Options { allow_insecure: true, call_timeout, ..Options::default() };
    (Client::connect(&url, options).await.unwrap(), server)
}

/// What an honest client makes of `parts`.
async fn describe(parts: Vec<BlobPart>) -> Result<(), Error> {
    let liar = Liar { parts, silent: false };
    let (client, server) = connect(liar, Duration::from_secs(10)).await;
    let described = client.describe(&name()).await.map(drop);
    server.abort();
    described
}

fn model() -> RandomModel {
    RandomModel { tokens: 4, width: 8, heads: 2, ffn: 16, classes: 4, ..RandomModel::default() }
}

fn name() -> String {
    model().generate().unwrap().config.name
}

/// An honest description with its header.
fn honest() -> (BlobHeader, Vec<u8>) {
    let params = presets::get("toy11_deep").unwrap();
    let context = Context::new(params.clone(), &Device::cpu()).unwrap();
    let model = HeModel::new(&model().generate().unwrap(), &context).unwrap();
    let bytes = model.description().to_bytes().unwrap();
    let blob = Chunked::new(Bytes::from(bytes.clone()));
    (blob.header(BlobKind::ModelDescription, params.fingerprint(), &name(), 0), bytes)
}

/// `bytes` in chunks behind a header that fits them.
fn parts(header: &BlobHeader, bytes: &[u8]) -> Vec<BlobPart> {
    let blob = Chunked::new(Bytes::copy_from_slice(bytes));
    let header = BlobHeader { bytes: blob.len(), digest: blob.digest(), ..header.clone() };
    let chunks = blob.chunks().map(BlobPart::Chunk);
    std::iter::once(BlobPart::Header(header)).chain(chunks).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_description_is_taken() {
    let (header, bytes) = honest();
    describe(parts(&header, &bytes)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_streams_are_refused() {
    let (header, bytes) = honest();
    let good = parts(&header, &bytes);
    let chunk = Chunk { offset: 0, hash: [0; 32], data: Bytes::from_static(b"x") };
    let huge = BlobHeader { bytes: 1 << 40, ..header.clone() };
    let other = BlobHeader { kind: BlobKind::Recording, ..header.clone() };
    let streams = [
        Vec::new(),
        good[1..].to_vec(),
        good[..good.len() - 1].to_vec(),
        [&good[..], &good[..1]].concat(),
        vec![BlobPart::Header(huge), good[1].clone()],
        vec![BlobPart::Header(other), good[1].clone()],
        vec![good[0].clone(), BlobPart::Chunk(chunk)],
    ];
    for (i, stream) in streams.into_iter().enumerate() {
        let refused = describe(stream).await;
        let typed = matches!(refused, Err(Error::Protocol(_) | Error::Refused(_)));
        assert!(typed, "{i}: {refused:?}");
        if i == 4 {
            assert!(matches!(refused, Err(Error::Refused(Fault::TooLarge { .. }))));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_parameters_are_refused() {
    let (header, bytes) = honest();
    let foreign = BlobHeader { parameters: [1; 32], ..header };
    let refused = describe(parts(&foreign, &bytes)).await;
    assert!(matches!(refused, Err(Error::ParameterMismatch { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_descriptions_are_refused() {
    let (header, good) = honest();
    for length in [0, 1, 37, good.len() / 2, good.len() - 1] {
        let refused = describe(parts(&header, &good[..length])).await;
        assert!(matches!(refused, Err(Error::Model(_))), "{length}: {refused:?}");
    }
    let long = describe(parts(&header, &[&good[..], &[0]].concat())).await;
    assert!(matches!(long, Err(Error::Model(_))), "{long:?}");
    // Lengths of 2^56 and more inside the description decide nothing.
    for at in [0, 4, 45] {
        let mut bytes = good.clone();
        bytes[at] = 0xff;
        let refused = describe(parts(&header, &bytes)).await;
        assert!(matches!(refused, Err(Error::Model(_))), "{at}: {refused:?}");
    }
}

/// `https` in the clear would be a promise broken in silence.
#[tokio::test(flavor = "multi_thread")]
async fn every_scheme_but_http_is_refused() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for scheme in ["https", "HTTPS", "grpc", "ftp", "unix"] {
        let options = Options { connect_timeout: Duration::from_secs(1), ..Options::default() };
        let refused = Client::connect(&format!("{scheme}://{address}"), options).await;
        let error = refused.map(drop).unwrap_err();
        assert!(matches!(error, Error::Url { .. }), "{scheme}: {error}");
        assert!(error.to_string().contains("TLS is not spoken"));
    }
    // Nothing was said to whoever listens there.
    let said = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(said.is_err());
}

/// The transport is alive, so that keepalive notices nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_stops_is_a_timeout() {
    let (header, bytes) = honest();
    for sent in 0..2 {
        let parts = parts(&header, &bytes)[..sent].to_vec();
        let (client, server) =
            connect(Liar { parts, silent: true }, Duration::from_millis(500)).await;
        let name = name();
        let waited = tokio::time::timeout(Duration::from_secs(10), client.describe(&name)).await;
        let refused = waited.unwrap().map(drop);
        assert!(matches!(refused, Err(Error::Timeout { .. })), "{refused:?}");
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_always_lacks_a_key_is_refused() {
    let (header, bytes) = honest();
    let liar = Liar { parts: parts(&header, &bytes), silent: false };
    let (client, server) = connect(liar, Duration::from_secs(10)).await;
    let described = client.describe(&name()).await.unwrap();
    let context = client.context(&described).unwrap();
    let bundle = KeyBundle::generate(&context).unwrap();
    let mut session = client.session(described, context, bundle).unwrap();
    let mut ignored = |_| {};
    let ensured = session.ensure_keys(&mut ignored);
    let refused = tokio::time::timeout(Duration::from_mins(1), ensured).await.unwrap();
    assert!(matches!(refused, Err(Error::Protocol(_))), "{refused:?}");
    server.abort();
}
