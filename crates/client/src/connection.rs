//! The connection, and what can be asked without keys.

use crate::error::{Error, Result};
use crate::transfer::receive;
use cipherform_ckks::{Context, Parameters, presets};
use cipherform_nn::ModelDescription;
use cipherform_proto::wire::{self, ModelSummary, ServerInfo};
use cipherform_proto::{BlobKind, MESSAGE_BYTES, SessionToken, pb};
use cipherform_ring::Device;
use std::future::Future;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};

/// Longest model description that a client takes. The largest part is the embedding; a server that announces more is
/// refused before anything is stored.
const MAX_DESCRIPTION_BYTES: u64 = 256 << 20;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long to try to connect.
    pub connect_timeout: Duration,
    /// How long to wait for the answer to a call, and for each message of a download. Watching a job has no limit as long as the server is alive.
    pub call_timeout: Duration,
    /// How long a silent server counts as alive: it is asked every third of this time.
    pub liveness: Duration,
    /// Encrypt under toy parameter sets too. They protect nothing; for tests.
    pub allow_insecure: bool,
    /// Where to compute.
    pub device: Device,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_mins(2),
            liveness: Duration::from_secs(30),
            allow_insecure: false,
            device: Device::cpu(),
        }
    }
}

/// A connection to a server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    pub(crate) options: Options,
    info: ServerInfo,
}

/// What a server tells about a model, checked.
#[derive(Clone, Debug)]
pub struct Described {
    /// Config, client tensors and plan.
    pub description: ModelDescription,
    /// The parameter set of the plan: this client's own, found by name and equal to the server's.
    pub parameters: Parameters,
    /// Bytes received.
    pub bytes: u64,
    /// Digest of the description, by which the server knows which key sets belong to it.
    pub(crate) digest: [u8; 32],
}

/// Adds the session token to every call.
#[derive(Clone, Debug)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A channel that speaks for a session.
pub(crate) type Authorized = InterceptedService<Channel, Bearer>;

impl Client {
    /// Connects and agrees on a format version.
    ///
    /// # Errors
    /// [`Error::Url`] for every scheme but `http`: there is no TLS in this client, and `https` spoken in the clear would
    /// be a promise broken in silence. [`Error::Unreachable`] within the connect timeout, and a refusal when the two sides speak
    /// different versions.
    pub async fn connect(url: &str, options: Options) -> Result<Self> {
        let no_url = || Error::Url { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| no_url())?;
        // Of the URL itself: the transport would speak in the clear whatever the scheme promises, and knows further ones.
        if uri.scheme_str() != Some("http") {
            return Err(no_url());
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(8 << 20)
            .http2_keep_alive_interval(options.liveness / 3)
            .keep_alive_timeout(options.liveness * 2 / 3)
            .keep_alive_while_idle(true);
        let unreachable = |detail: String| Error::Unreachable { url: url.to_owned(), detail };
        let connecting = tokio::time::timeout(options.connect_timeout, endpoint.connect());
        let channel = match connecting.await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(unreachable(root_cause(&error))),
            Err(_) => return Err(unreachable("no answer in time".into())),
        };
        let mut admin = pb::admin_client::AdminClient::new(channel.clone());
        let hello = wire::client_info(concat!("cipherform ", env!("CARGO_PKG_VERSION")));
        let greeting = tokio::time::timeout(options.connect_timeout, admin.negotiate(hello));
        let info = match greeting.await {
            Ok(Ok(info)) => ServerInfo::try_from(info.into_inner())?,
            Ok(Err(status)) => match Error::from_status("connecting", &status) {
                Error::Disconnected { detail, .. } => return Err(unreachable(detail)),
                error => return Err(error),
            },
            Err(_) => return Err(unreachable("it accepts connections but does not answer".into())),
        };
        Ok(Self { channel, options, info })
    }

    /// What the server said of itself.
    #[must_use]
    pub fn server(&self) -> &ServerInfo {
        &self.info
    }

    /// The models served.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn models(&self) -> Result<Vec<ModelSummary>> {
        let mut models = pb::models_client::ModelsClient::new(self.channel.clone());
        let list = self.call("listing models", models.list(pb::ListModelsRequest {})).await?;
        Ok(wire::model_list(list)?)
    }

    /// All that may be known of a model, after these checks: the parameter set is known here under the same name with
    /// the same primes, it is secure, and every key and input of the plan is one of that set.
    ///
    /// # Errors
    /// `NotFound` for an unknown model; [`Error::ParameterMismatch`]; [`Error::Insecure`]; an error of the model for a
    /// description that does not hold together.
    pub async fn describe(&self, model: &str) -> Result<Described> {
        let mut models = pb::models_client::ModelsClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES);
        let doing = "fetching the model's description";
        let mut parts = self.call(doing, models.describe(wire::model_name(model))).await?;
        let (header, bytes) =
            receive(self, doing, &mut parts, BlobKind::ModelDescription, MAX_DESCRIPTION_BYTES)
                .await?;
        let description = ModelDescription::from_bytes(&bytes)?;
        if description.name() != model {
            let detail = format!("asked for {model}, got {}", wire::text(description.name()));
            return Err(Error::Protocol(detail));
        }
        let plan = description.plan();
        let parameters = presets::get(plan.parameter_set())?;
        if header.parameters != parameters.fingerprint() {
            return Err(Error::ParameterMismatch { name: parameters.name().to_owned() });
        }
        let bits = parameters.security_bits();
        if (parameters.is_toy() || bits < 128) && !self.options.allow_insecure {
            return Err(Error::Insecure { name: parameters.name().to_owned(), bits });
        }
        description.validate(&parameters)?;
        let bytes = header.bytes;
        Ok(Described { description, parameters, bytes, digest: header.digest })
    }

    /// The context in which this client encrypts for a model. Takes a second or so for a large set.
    ///
    /// # Errors
    /// Those of the device.
    pub fn context(&self, described: &Described) -> Result<Context> {
        Ok(Context::new(described.parameters.clone(), &self.options.device)?)
    }

    /// A channel that speaks for the owner of `token`.
    pub(crate) fn authorized(&self, token: &SessionToken) -> Result<(Channel, Bearer)> {
        Ok((self.channel.clone(), Bearer(token.to_header()?)))
    }

    /// Awaits a call for as long as a call may take.
    pub(crate) async fn call<T>(
        &self,
        doing: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        Ok(self.in_time(doing, call).await?.into_inner())
    }

    /// Awaits an answer, or a message of it, for as long as a call may take. Keepalive tells a dead line; only this tells
    /// a server that is alive and says nothing.
    pub(crate) async fn in_time<T>(
        &self,
        doing: &'static str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T> {
        let limit = self.options.call_timeout;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(Error::from_status(doing, &status)),
            Err(_) => Err(Error::Timeout { doing, seconds: limit.as_secs() }),
        }
    }
}

/// The innermost reason of an error: "connection refused" says more than "transport error".
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
