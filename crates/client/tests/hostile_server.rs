//! A server that lies: the client refuses with a type, and allocates and encrypts nothing for it.
#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

use bytes::Bytes;
use cipherform_ckks::{Context, presets};
use cipherform_client::{Client, Error, Fault, Options};
use cipherform_nn::{HeModel, RandomModel};
use cipherform_proto::wire::{self, BlobPart, ServerInfo};
use cipherform_proto::{BlobHeader, BlobKind, Chunk, Chunked, FORMAT, pb};
use cipherform_ring::Device;
use std::pin::Pin;
use std::time::Duration;
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};

/// What the server sends as a description.
#[derive(Clone)]
struct Liar {
    parts: Vec<BlobPart>,
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
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }
}

/// What an honest client makes of `parts`.
async fn describe(parts: Vec<BlobPart>) -> Result<(), Error> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let liar = Liar { parts };
    let serving = tonic::transport::Server::builder()
        .add_service(pb::admin_server::AdminServer::new(liar.clone()))
        .add_service(pb::models_server::ModelsServer::new(liar))
        .serve_with_incoming(TcpIncoming::from(listener));
    let server = tokio::spawn(serving);
    let call_timeout = Duration::from_secs(10);
    // Toy parameters: not secure.
    let options = Options { allow_insecure: true, call_timeout, ..Options::default() };
    let client = Client::connect(&url, options).await.unwrap();
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
