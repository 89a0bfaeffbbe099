//! Plans that answer with a label, through the service, and what is sent to it that it does not take.
//!
//! | test | what it shows |
//! | --- | --- |
//! | `a_label_and_nothing_else` | labels as in the clear, sizes as predicted, keys found again; no call gives logits |
//! | `damaged_label_keys_are_refused` | truncated, oversized, of another set, version and secret; a job without them; the server lives |

use crate::hostile::Maker;
use crate::support::{
    Raw, clear, config, context, fault, input, input_header, key_header, model, options,
};
use bytes::Bytes;
use cipherform_ckks::{KeyGenerator, KeySpec, SecretKey, presets};
use cipherform_client::{Client, Error, KeyBundle, Session};
use cipherform_exact::{LabelParameters, LabelSecret};
use cipherform_nn::calibrate::MachineCosts;
use cipherform_nn::{HeModel, Mode, Plan, argmax};
use cipherform_proto::wire::{JobRequest, result_request};
use cipherform_proto::{BlobHeader, BlobKind, Fault, Id, SessionToken};
use cipherform_server::{Registry, Server, ServerHandle};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

fn he() -> HeModel {
    let context = context();
    let costs = MachineCosts::nominal(context.params().log_n());
    HeModel::for_machine(model(), &context, &costs, Mode::Label).unwrap()
}

fn start() -> ServerHandle {
    let mut registry = Registry::new();
    registry.add(he()).unwrap();
    Server::start(&config(), registry).unwrap()
}

async fn open(url: &str, bundle: KeyBundle) -> Session {
    let client = Client::connect(url, options()).await.unwrap();
    let described = client.describe(&model().config.name).await.unwrap();
    client.session(described, context(), bundle).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_and_nothing_else() {
    let server = start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let bundle = KeyBundle::generate(&context()).unwrap();
    bundle.save(&path).unwrap();
    let mut session = open(&server.url(), bundle).await;
    let mut sent = 0;
    let keys = session.ensure_keys(&mut |p| sent = p.bytes).await.unwrap();
    let plan = session.description().plan().clone();
    let step = plan.label_step(session.parameters()).unwrap();
    assert_eq!(keys.required as usize, plan.keys().len() + 1);
    let sizes = plan.sizes(session.parameters());
    assert_eq!(keys.bytes, sizes.key_bytes);
    let limit =
        6.0 * step.noise().difference_sigma(plan.logit_range().unwrap().max) + 2f64.powi(-8);
    for index in 0..3 {
        let prediction = session.infer_label(&input(index), &mut |_| {}).await.unwrap();
        let logits = clear(index);
        let best = argmax(&logits);
        let margin = logits[best] - logits[prediction.label()];
        assert!(margin < limit, "{margin} {limit}");
        assert_eq!(sent + prediction.uploaded_bytes, sizes.upload_bytes);
        assert_eq!(prediction.downloaded_bytes, sizes.download_bytes);
        plan.cost().check(&prediction.recording.total()).unwrap();
    }
    // There are no logits to ask for, however the client goes about it.
    let refused = session.infer(&input(0), &mut |_| {}).await.unwrap_err();
    assert!(matches!(refused, Error::WrongAnswer { .. }), "{refused}");
    let job = session.submit(&session.encrypt(&input(0)).await.unwrap()).await.unwrap();
    let done = session.watch(job, &mut |_| {}).await.unwrap();
    assert_eq!(done.outputs, 1);
    let reply = session.result(job).await.unwrap();
    assert_eq!(reply.len(), step.label_bytes());
    let refused = session.decrypt(reply.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::WrongAnswer { .. }), "{refused}");
    // The session's own token: magic and version (6 bytes) and the set's fingerprint (32) stand before it in the key file.
    let token: [u8; 32] = std::fs::read(&path).unwrap()[38..70].try_into().unwrap();
    let token = SessionToken::from_bytes(token).to_header().unwrap();
    let mut raw = Raw::with_token(&server.url(), Some(token)).await;
    raw.infer.result(result_request(job, 0)).await.unwrap();
    let refused = fault(raw.infer.result(result_request(job, 1)).await.unwrap_err());
    assert!(matches!(refused, Fault::NotFound { .. }), "{refused}");
    // A reply that was tampered with is an error or another label, and never a panic.
    for at in [0, 4, 6, 37, 38, 70, reply.len() - 8] {
        let mut bytes = reply.to_vec();
        bytes[at] ^= 0x80;
        let got = session.decrypt_label(Bytes::from(bytes)).await;
        match at {
            // Kind, version, and fingerprint at both ends.
            0 | 4 | 6 | 37 => assert!(matches!(got, Err(Error::Exact(_))), "{at} {got:?}"),
            // A panic would be `Error::Thread`.
            _ => assert!(!matches!(got, Err(Error::Thread)), "{at}"),
        }
    }
    let short = session.decrypt_label(reply.slice(1..)).await.unwrap_err();
    assert!(matches!(short, Error::Exact(_)), "{short}");
    // Another process with the same key file sends no key again.
    let bundle = KeyBundle::load(&path, &context()).unwrap();
    let mut again = open(&server.url(), bundle).await;
    again.ensure_keys(&mut |p| assert_eq!(p.bytes, 0)).await.unwrap();
    again.infer_label(&input(1), &mut |_| {}).await.unwrap();
    server.shutdown();
}

/// Bytes of label keys under a secret.
fn label_keys(secret: &SecretKey, step: &LabelParameters) -> Vec<u8> {
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    LabelSecret::new(secret).unwrap().keys(step, &mut rng).unwrap().to_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_label_keys_are_refused() {
    let server = start();
    let he = he();
    let plan: &Plan = he.description().plan();
    let step = plan.label_step(he.params()).unwrap();
    let specs: Vec<KeySpec> = plan.keys().to_vec();
    let context = context();
    let mut rng = ChaCha20Rng::from_seed([8; 32]);
    let secret = KeyGenerator::new(&context).secret_key(&mut rng).unwrap();
    let stranger = SecretKey::from_stored_bytes(&context, &[7; 32]).unwrap();
    let index = specs.len() as u32;
    let header = BlobHeader { kind: BlobKind::LabelKeys, ..key_header(index) };
    let good = label_keys(&secret, &step);
    let mut raw = Raw::connect(&server.url()).await;
    // Sizes are the plan's, whatever a header says, and kinds have their places.
    for length in [0, good.len() - 1] {
        let refused = raw.upload(&header, &good[..length]).await.unwrap_err();
        assert!(matches!(refused, Fault::Malformed { .. }), "{refused}");
    }
    let long = [good.as_slice(), &[0]].concat();
    let refused = raw.upload(&header, &long).await.unwrap_err();
    assert!(matches!(refused, Fault::TooLarge { .. }), "{refused}");
    let misplaced = BlobHeader { index: 0, ..header.clone() };
    let refused = raw.upload(&misplaced, &good).await.unwrap_err();
    assert!(matches!(refused, Fault::NotFound { .. }), "{refused}");
    let refused = raw.upload(&key_header(index), &good).await.unwrap_err();
    assert!(matches!(refused, Fault::NotFound { .. }), "{refused}");
    // Another kind of object, another version, another parameter set inside.
    for (at, of_set) in [(0, false), (4, false), (6, true), (37, true)] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let upload = raw.upload(&header, &bytes).await.unwrap();
        let refused = raw.commit(upload, None).await.unwrap_err();
        let expected = match refused {
            Fault::ParameterMismatch { .. } => of_set,
            Fault::Malformed { .. } => !of_set,
            _ => false,
        };
        assert!(expected, "{refused}");
    }
    let foreign = presets::get("lev14").unwrap();
    let other = BlobHeader { parameters: foreign.fingerprint(), ..header.clone() };
    let refused = raw.upload(&other, &good).await.unwrap_err();
    assert!(matches!(refused, Fault::ParameterMismatch { .. }), "{refused}");
    // All keys but these; then these of a stranger.
    let maker = Maker::with_secret(context.clone(), secret);
    let mut set = None;
    for (i, spec) in specs.iter().enumerate() {
        let upload = raw.upload(&key_header(i as u32), &maker.key(*spec)).await.unwrap();
        set = Some(raw.commit(upload, set).await.unwrap().id);
    }
    let set = set.unwrap();
    let submit = async |raw: &mut Raw| {
        let mut uploads = Vec::new();
        for (i, spec) in plan.inputs().iter().enumerate() {
            let scale = he.params().scale_at(spec.level);
            let bytes = maker.ciphertext(spec.level, scale);
            uploads.push(raw.upload(&input_header(i as u32), &bytes).await.unwrap());
        }
        let idempotency_key = *Id::random().unwrap().as_bytes();
        let model = model().config.name.clone();
        let tokens = super::support::model().config.tokens as u32;
        raw.submit(JobRequest { model, key_set: set, uploads, idempotency_key, tokens }).await
    };
    let refused = submit(&mut raw).await.unwrap_err();
    assert!(matches!(refused, Fault::KeyMissing { count: 1, .. }), "{refused}");
    let upload = raw.upload(&header, &label_keys(&stranger, &step)).await.unwrap();
    raw.commit(upload, Some(set)).await.unwrap();
    let refused = submit(&mut raw).await.unwrap_err();
    assert!(matches!(refused, Fault::Malformed { .. }), "{refused}");
    // The next honest client is served.
    let mut session = open(&server.url(), KeyBundle::generate(&context).unwrap()).await;
    session.ensure_keys(&mut |_| {}).await.unwrap();
    session.infer_label(&input(0), &mut |_| {}).await.unwrap();
    server.shutdown();
}
