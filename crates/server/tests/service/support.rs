//! A small server, an honest client, and a client that sends whatever it is told to.
use bytes::Bytes;
use cipherform_ckks::{Context, presets};
use cipherform_client::{Client, KeyBundle, Options, Session};
use cipherform_nn::exec::ClearExecutor;
use cipherform_nn::{Functions, HeModel, Matrix, Model, RandomModel, random_input};
use cipherform_proto::wire::{self, JobRequest, KeySetInfo};
use cipherform_proto::{
    BlobHeader, BlobKind, Chunk, Chunked, Fault, Id, MESSAGE_BYTES, Missing, SessionToken, pb,
};
use cipherform_ring::Device;
use cipherform_server::{Config, Registry, Server, ServerHandle};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::OnceCell;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Toy parameters: not secure.
pub(crate) const SET: &str = "toy11_deep";

/// A model that is small in every direction.
pub(crate) fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let shape = RandomModel {
            tokens: 4,
            width: 8,
            heads: 2,
            ffn: 16,
            classes: 4,
            ..RandomModel::default()
        };
        shape.generate().unwrap()
    })
}

pub(crate) fn context() -> Context {
    context_on(Device::cpu())
}

pub(crate) fn context_on(device: Device) -> Context {
    Context::new(presets::get(SET).unwrap(), &device).unwrap()
}

pub(crate) fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(HeModel::new(model(), &context()).unwrap()).unwrap();
    registry
}

pub(crate) fn config() -> Config {
    Config { allow_insecure: true, grace_ms: 2000, ..Config::default() }
}

pub(crate) fn serve(config: &Config) -> ServerHandle {
    Server::start(config, registry()).unwrap()
}

pub(crate) fn options() -> Options {
    Options {
        allow_insecure: true,
        connect_timeout: Duration::from_secs(2),
        liveness: Duration::from_secs(6),
        ..Options::default()
    }
}

pub(crate) fn input(index: u64) -> Matrix {
    random_input(&model().config, 7, index).unwrap()
}

/// A session with fresh secrets, and no keys on the server yet.
pub(crate) async fn open(url: &str) -> Session {
    open_session(url, &model().config.name).await
}

/// As [`open`], for a model of this name.
pub(crate) async fn open_session(url: &str, model: &str) -> Session {
    let client = Client::connect(url, options()).await.unwrap();
    let described = client.describe(model).await.unwrap();
    let context = client.context(&described).unwrap();
    let bundle = KeyBundle::generate(&context).unwrap();
    client.session(described, context, bundle).unwrap()
}

/// A session whose keys are on the server.
pub(crate) async fn open_with_keys(url: &str) -> Session {
    let mut session = open(url).await;
    session.ensure_keys(&mut |_| {}).await.unwrap();
    session
}

/// What the clear executor says about `input(index)`.
pub(crate) fn clear(index: u64) -> Vec<f64> {
    let executor = ClearExecutor::new(model(), Functions::Polynomial).unwrap();
    executor.run(&input(index)).unwrap()
}

/// Asserts that logits that went through the service are those of the clear executor.
///
/// Both evaluate the same polynomials, so only the noise of the scheme lies between them: the project's figure for it is
/// 2^-10 of the logits' range, and whatever the service could do wrong (another key, another slot, another input) is off
/// by the whole range.
pub(crate) fn assert_logits(got: &[f64], index: u64) {
    let want = clear(index);
    assert_eq!(got.len(), want.len());
    let tolerance = 2.0_f64.powi(-10) * model().config.logit_abs_max;
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < tolerance, "{got} where the clear executor has {want}");
    }
}

/// One server for all tests with hostile bytes, and the key file of an honest client whose keys are on it.
struct Shared {
    server: ServerHandle,
    _directory: tempfile::TempDir,
    key_file: PathBuf,
}

static SHARED: OnceCell<Shared> = OnceCell::const_new();

/// The URL of the server that all hostile tests attack at the same time.
pub(crate) async fn shared() -> String {
    let start = async || {
        let server = serve(&config());
        let session = open_with_keys(&server.url()).await;
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("key");
        session.bundle().save(&key_file).unwrap();
        Shared { server, _directory: directory, key_file }
    };
    SHARED.get_or_init(start).await.server.url()
}

/// What every test with hostile bytes ends with: the honest client gets its result.
pub(crate) async fn still_serves() {
    let url = shared().await;
    let client = Client::connect(&url, options()).await.unwrap();
    let described = client.describe(&model().config.name).await.unwrap();
    let context = client.context(&described).unwrap();
    let bundle = KeyBundle::load(&SHARED.get().unwrap().key_file, &context).unwrap();
    let mut session = client.session(described, context, bundle).unwrap();
    session.ensure_keys(&mut |keys| assert_eq!(keys.bytes, 0)).await.unwrap();
    let prediction = session.infer(&input(0), &mut |_| {}).await.unwrap();
    assert_logits(prediction.logits(), 0);
}

#[derive(Clone)]
pub(crate) struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

type Authorized = InterceptedService<Channel, Token>;

/// A client without manners.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) uploads: pb::uploads_client::UploadsClient<Authorized>,
    pub(crate) keys: pb::keys_client::KeysClient<Authorized>,
    pub(crate) models: pb::models_client::ModelsClient<Authorized>,
    pub(crate) infer: pb::infer_client::InferClient<Authorized>,
    pub(crate) admin: pb::admin_client::AdminClient<Authorized>,
}

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::with_token(url, Some(SessionToken::random().unwrap().to_header().unwrap())).await
    }

    pub(crate) async fn with_token(url: &str, token: Option<MetadataValue<Ascii>>) -> Self {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        let token = Token(token);
        macro_rules! rpc {
            ($module:ident, $client:ident) => {
                pb::$module::$client::with_interceptor(channel.clone(), token.clone())
                    .max_decoding_message_size(MESSAGE_BYTES)
            };
        }
        Self {
            uploads: rpc!(uploads_client, UploadsClient),
            keys: rpc!(keys_client, KeysClient),
            models: rpc!(models_client, ModelsClient),
            infer: rpc!(infer_client, InferClient),
            admin: rpc!(admin_client, AdminClient),
        }
    }

    pub(crate) async fn begin(&mut self, header: BlobHeader) -> Result<Id, Fault> {
        let upload = self.uploads.begin(pb::BlobHeader::from(header)).await.map_err(fault)?;
        Ok(Id::try_from(upload.get_ref()).unwrap())
    }

    pub(crate) async fn put(&mut self, id: Id, chunk: Chunk) -> Result<Missing, Fault> {
        let status = self.uploads.put_chunk(wire::upload_chunk(id, chunk)).await.map_err(fault)?;
        Ok(status.into_inner().into())
    }

    /// Uploads `bytes` as what `header` says, the header's length and digest made to fit.
    pub(crate) async fn upload(&mut self, header: &BlobHeader, bytes: &[u8]) -> Result<Id, Fault> {
        let blob = Chunked::new(Bytes::copy_from_slice(bytes));
        let header = BlobHeader { bytes: blob.len(), digest: blob.digest(), ..header.clone() };
        let id = self.begin(header).await?;
        for chunk in blob.chunks() {
            self.put(id, chunk).await?;
        }
        Ok(id)
    }

    pub(crate) async fn commit(
        &mut self,
        upload: Id,
        set: Option<Id>,
    ) -> Result<KeySetInfo, Fault> {
        let set = self.keys.commit(wire::commit_request(upload, set)).await.map_err(fault)?;
        Ok(set.into_inner().try_into().unwrap())
    }

    pub(crate) async fn submit(&mut self, request: JobRequest) -> Result<Id, Fault> {
        let job = self.infer.submit(pb::JobRequest::from(request)).await.map_err(fault)?;
        Ok(Id::try_from(job.get_ref()).unwrap())
    }
}

/// The typed refusal in a status; anything untyped fails the test.
#[expect(clippy::needless_pass_by_value, reason = "made for `map_err`")]
pub(crate) fn fault(status: Status) -> Fault {
    Fault::from_status(&status).unwrap_or_else(|| panic!("an untyped refusal: {status:?}"))
}

pub(crate) fn key_header(index: u32) -> BlobHeader {
    BlobHeader {
        kind: BlobKind::EvaluationKey,
        parameters: presets::get(SET).unwrap().fingerprint(),
        bytes: 0,
        digest: [0; 32],
        model: model().config.name.clone(),
        index,
    }
}

pub(crate) fn input_header(index: u32) -> BlobHeader {
    BlobHeader { kind: BlobKind::Ciphertext, ..key_header(index) }
}
