//! Servers on other devices than the CPU alone.
//!
//! | test | shows |
//! | --- | --- |
//! | `two_devices_share_the_clients` | one server, two devices: each client's keys and jobs on one of them, answers as in the clear |
//! | `replicas_must_fit_together` | typed refusal of models on different devices |
//! | `a_card_answers_as_the_cpu_does` | the same request to a server on the CPU and to one on a card: the same bytes |
//! | `a_card_serves_the_shipped_model` | ignored (20 s, 8 GB): the same at full size |
//! | `a_card_serves_text` | ignored (a minute, 16 GB): the same with bootstraps and a sentence shorter than the longest |
//! | `two_cards_serve_the_shipped_model` | ignored: one server, two cards, the bytes of the CPU from both, and how much more they serve |
//!
//! Those with a card are skipped, loudly, where there is none; with `CIPHERFORM_NEED_CUDA` they fail there.

use crate::support::{
    Raw, assert_logits, config, context_on, fault, input, model, open_with_keys, options, registry,
};
use bytes::Bytes;
use cipherform_ckks::{Context, Encoder, Encryptor, KeyGenerator, Parameters};
use cipherform_client::{Client, KeyBundle, Tokenizer};
use cipherform_nn::calibrate::CostTable;
use cipherform_nn::data::{patches, samples};
use cipherform_nn::{HeModel, Matrix, Mode, Model, Plan};
use cipherform_proto::wire::{self, BlobPart, JobEvent, JobRequest, JobState};
use cipherform_proto::{BlobHeader, BlobKind, Id};
use cipherform_ring::Device;
use cipherform_server::{Config, Error, Limits, Registry, Server, ServerHandle};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The first card.
fn card() -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(std::env::var_os("CIPHERFORM_NEED_CUDA").is_none(), "{error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn start(replicas: Vec<HeModel>) -> ServerHandle {
    let mut registry = Registry::new();
    registry.add_replicas(replicas).unwrap();
    // Room for the keys of all clients of the shipped model.
    let limits = Limits { key_bytes: 32 << 30, ..Limits::default() };
    Server::start(&Config { limits, ..config() }, registry).unwrap()
}

fn small_on(device: Device) -> HeModel {
    HeModel::new(model(), &context_on(device)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_share_the_clients() {
    // Polynomials of different devices do not mix: a key on one and a job on the other would fail.
    let cpus = Device::cpus();
    let server = start(vec![small_on(Device::cpu()), small_on(cpus[cpus.len() - 1])]);
    let url = server.url();
    let (a, b) = tokio::join!(open_with_keys(&url), open_with_keys(&url));
    let (mut on_a, mut on_b) = (|_: &JobEvent| {}, |_: &JobEvent| {});
    let (first, second) = (input(0), input(1));
    let (first, second) = tokio::join!(a.infer(&first, &mut on_a), b.infer(&second, &mut on_b));
    assert_logits(first.unwrap().logits(), 0);
    assert_logits(second.unwrap().logits(), 1);
}

#[test]
fn replicas_must_fit_together() {
    let refused = |registry: &mut Registry, replicas| {
        let error = registry.add_replicas(replicas).unwrap_err();
        assert!(matches!(error, Error::Replicas { .. }), "{error}");
    };
    refused(&mut Registry::new(), Vec::new());
    // One device before, two now.
    refused(&mut registry(), vec![small_on(Device::cpu()), small_on(Device::cpu())]);
}

/// What a client sends, from one seed.
pub(crate) struct Blobs {
    model: String,
    parameters: [u8; 32],
    keys: Vec<Vec<u8>>,
    inputs: Vec<Vec<u8>>,
    tokens: u32,
}

impl Blobs {
    pub(crate) fn new(model: &Model, params: &Parameters, input: &Matrix) -> Self {
        let context = Context::new(params.clone(), &Device::cpu()).unwrap();
        let described = HeModel::new(model, &context).unwrap();
        let described = described.description();
        let mut rng = ChaCha20Rng::seed_from_u64(43);
        let generator = KeyGenerator::new(&context);
        let secret = generator.secret_key(&mut rng).unwrap();
        let mut key = |&spec| {
            let key = generator.evaluation_key(&secret, spec, &mut rng).unwrap();
            key.to_bytes().unwrap()
        };
        let keys = described.plan().keys().iter().map(&mut key).collect();
        let encoder = Encoder::new(&context);
        let encryptor = Encryptor::with_secret_key(&context, &secret).unwrap();
        let slots = described.encode(input).unwrap();
        let inputs = slots.iter().zip(described.plan().inputs()).map(|(slots, spec)| {
            let plain = encoder.encode(slots, spec.level, params.scale_at(spec.level)).unwrap();
            encryptor.encrypt(&plain, &mut rng).unwrap().to_bytes().unwrap()
        });
        let inputs = inputs.collect();
        let model = described.name().to_owned();
        let tokens = input.rows() as u32;
        Self { model, parameters: params.fingerprint(), keys, inputs, tokens }
    }

    fn header(&self, kind: BlobKind, index: usize) -> BlobHeader {
        let (model, parameters) = (self.model.clone(), self.parameters);
        BlobHeader { kind, parameters, bytes: 0, digest: [0; 32], model, index: index as u32 }
    }

    /// Sends everything to a server; what is left is to submit the job.
    pub(crate) async fn send(&self, url: &str) -> (Raw, JobRequest) {
        let mut raw = Raw::connect(url).await;
        let mut set = None;
        for (i, key) in self.keys.iter().enumerate() {
            let header = self.header(BlobKind::EvaluationKey, i);
            let upload = raw.upload(&header, key).await.unwrap();
            set = Some(raw.commit(upload, set).await.unwrap().id);
        }
        let mut uploads = Vec::new();
        for (i, input) in self.inputs.iter().enumerate() {
            uploads.push(raw.upload(&self.header(BlobKind::Ciphertext, i), input).await.unwrap());
        }
        let (model, key_set) = (self.model.clone(), set.unwrap());
        let idempotency_key = *Id::random().unwrap().as_bytes();
        let job = JobRequest { model, key_set, uploads, idempotency_key, tokens: self.tokens };
        (raw, job)
    }

    /// Sends everything to a server and fetches its answer.
    async fn ask(&self, url: &str) -> Bytes {
        let (mut raw, job) = self.send(url).await;
        let job = raw.submit(job).await.unwrap();
        let mut events = raw.infer.watch(wire::job_id(job)).await.unwrap().into_inner();
        let mut state = JobState::Queued;
        while let Some(event) = events.message().await.map_err(fault).unwrap() {
            let event = JobEvent::try_from(event).unwrap();
            assert!(event.error.is_none(), "{event:?}");
            state = event.state;
        }
        assert_eq!(state, JobState::Done);
        let parts = raw.infer.result(wire::result_request(job, 0)).await.map_err(fault).unwrap();
        let (mut parts, mut answer) = (parts.into_inner(), Vec::new());
        while let Some(part) = parts.message().await.unwrap() {
            if let BlobPart::Chunk(chunk) = BlobPart::try_from(part).unwrap() {
                answer.extend_from_slice(&chunk.data);
            }
        }
        answer.into()
    }
}

/// The answers of a server on the CPU and of one on `card` to one request.
async fn compare(model: &Model, params: &Parameters, input: &Matrix, card: Device) {
    let blobs = Blobs::new(model, params, input);
    let mut answers = Vec::new();
    for device in [Device::cpu(), card] {
        let context = Context::new(params.clone(), &device).unwrap();
        let server = start(vec![HeModel::new(model, &context).unwrap()]);
        answers.push(blobs.ask(&server.url()).await);
        server.shutdown();
    }
    assert!(!answers[0].is_empty() && answers[0] == answers[1], "the answers differ");
    let (name, bytes) = (params.name(), answers[0].len());
    eprintln!("{name}: {bytes} bytes of {card} are those of the CPU");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_answers_as_the_cpu_does() {
    let Some(card) = card() else { return };
    let params = context_on(Device::cpu()).params().clone();
    compare(model(), &params, &input(0), card).await;
    // And a client that knows nothing of this gets the right logits.
    let server = start(vec![small_on(card)]);
    let session = open_with_keys(&server.url()).await;
    let prediction = session.infer(&input(2), &mut |_| {}).await.unwrap();
    assert_logits(prediction.logits(), 2);
}

/// The shipped model, its parameter set and an image for it.
fn shipped() -> (Model, Parameters, Matrix) {
    // A program that is run on another machine than it was built on is told where the models are.
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let models = std::env::var_os("CIPHERFORM_MODELS").map_or_else(built, PathBuf::from);
    let model = Model::load(&models.join("fashion-mnist-vit")).unwrap();
    let image = samples().unwrap().swap_remove(0).image;
    let params = Plan::choose_parameters(&model, &CostTable::nominal(), Mode::Logits).unwrap();
    let input = patches(&model.config, &image).unwrap();
    (model, params, input)
}

fn shipped_on(model: &Model, params: &Parameters, devices: &[Device]) -> ServerHandle {
    let replica =
        |device| HeModel::new(model, &Context::new(params.clone(), device).unwrap()).unwrap();
    start(devices.iter().map(replica).collect())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: the shipped model, on the CPU too"]
async fn a_card_serves_the_shipped_model() {
    let Some(card) = card() else { return };
    let (model, params, input) = shipped();
    compare(&model, &params, &input, card).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: a bootstrapped model, on the CPU too"]
async fn a_card_serves_text() {
    let Some(card) = card() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bert-tiny-he");
    let model = Model::load(&path).unwrap();
    let params = Plan::choose_parameters(&model, &CostTable::nominal(), Mode::Logits).unwrap();
    let tokenizer = Tokenizer::from_json(&model.config, model.tokenizer.as_deref().unwrap());
    let input = tokenizer.unwrap().encode("a charming and often moving film").unwrap();
    compare(&model, &params, &input, card).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: the shipped model on two cards, and on the CPU"]
async fn two_cards_serve_the_shipped_model() {
    const CLIENTS: usize = 4;
    const JOBS: usize = 12;
    let (Some(first), Ok(second)) = (card(), Device::cuda(1)) else {
        eprintln!("skipped: no second card");
        return;
    };
    let (model, params, input) = shipped();
    let blobs = Blobs::new(&model, &params, &input);
    let cpu = shipped_on(&model, &params, &[Device::cpu()]);
    let expected = blobs.ask(&cpu.url()).await;
    cpu.shutdown();
    for cards in [vec![first], vec![first, second]] {
        let server = shipped_on(&model, &params, &cards);
        let url = server.url();
        // Key sets go where there is most room: with two cards, one on each.
        let (a, b) = tokio::join!(blobs.ask(&url), blobs.ask(&url));
        assert!(a == expected && b == expected, "the answers differ");
        // The throughput of clients that always have a job under way.
        let mut sessions = Vec::new();
        for _ in 0..CLIENTS {
            let client = Client::connect(&url, options()).await.unwrap();
            let described = client.describe(&model.config.name).await.unwrap();
            let context = client.context(&described).unwrap();
            let bundle = KeyBundle::generate(&context).unwrap();
            let mut session = client.session(described, context, bundle).unwrap();
            session.ensure_keys(&mut |_| {}).await.unwrap();
            sessions.push(session);
        }
        let begin = Instant::now();
        let clients = sessions.into_iter().map(|session| {
            let input = input.clone();
            tokio::spawn(async move {
                let encrypted = session.encrypt(&input).await.unwrap();
                for _ in 0..JOBS {
                    let job = session.submit(&encrypted).await.unwrap();
                    session.watch(job, &mut |_| {}).await.unwrap();
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        for client in clients {
            client.await.unwrap();
        }
        let rate = (CLIENTS * JOBS) as f64 / begin.elapsed().as_secs_f64();
        eprintln!("{} card(s): {rate:.1} inferences a second, {CLIENTS} clients", cards.len());
        server.shutdown();
    }
}
