//! Hostile bytes over gRPC: every refusal is typed, and the server serves the next honest client. All tests attack one
//! server at the same time.
//!
//! | test | sends |
//! | --- | --- |
//! | `declared_sizes_reserve_nothing` | headers of 2^40 bytes and one byte too few or many |
//! | `headers_for_nothing_are_refused` | unknown models, indices, kinds; foreign parameter sets |
//! | `chunks_out_of_place_are_refused` | beyond the end, wrong hash, wrong length, unknown and foreign uploads |
//! | `damaged_keys_are_refused` | truncated, extended, bit-flipped, of another kind or level, of another set |
//! | `damaged_inputs_are_refused` | the same for ciphertexts, and wrong counts |
//! | `keys_must_be_complete` | a job with a key missing, with a foreign or unknown key set |
//! | `strangers_are_refused` | no token, half a token, unknown format versions |
//! | `oversized_messages_are_refused` | messages above the decode limit |
//! | `random_bytes_are_refused` | noise in every blob |

use crate::support::{Raw, context, fault, input_header, key_header, model, shared, still_serves};
use bytes::Bytes;
use cipherform_ckks::{
    Ciphertext, Context, Encoder, Encryptor, KeyGenerator, KeyKind, KeySpec, SecretKey, presets,
};
use cipherform_nn::HeModel;
use cipherform_proto::wire::{self, JobRequest};
use cipherform_proto::{BlobHeader, BlobKind, CHUNK_BYTES, Chunk, Chunked, Fault, Id, pb};
use cipherform_ring::Device;
use num_complex::Complex64;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::sync::OnceLock;

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(41)
}

/// The plan's keys and the levels of its inputs.
pub(crate) fn plan() -> &'static (Vec<KeySpec>, Vec<usize>) {
    static PLAN: OnceLock<(Vec<KeySpec>, Vec<usize>)> = OnceLock::new();
    PLAN.get_or_init(|| {
        let served = HeModel::new(model(), &context()).unwrap();
        let plan = served.description().plan();
        (plan.keys().to_vec(), plan.inputs().iter().map(|input| input.level).collect())
    })
}

/// A client's own secrets, to make bytes that are right but for one thing.
pub(crate) struct Maker {
    context: Context,
    secret: SecretKey,
}

impl Maker {
    pub(crate) fn new(context: Context) -> Self {
        let secret = KeyGenerator::new(&context).secret_key(&mut rng()).unwrap();
        Self::with_secret(context, secret)
    }

    /// As [`Self::new`], which always gives the same one, with another secret.
    fn stranger() -> Self {
        let secret = SecretKey::from_stored_bytes(&context(), &[7; 32]).unwrap();
        Self::with_secret(context(), secret)
    }

    pub(crate) fn with_secret(context: Context, secret: SecretKey) -> Self {
        Self { context, secret }
    }

    pub(crate) fn key(&self, spec: KeySpec) -> Vec<u8> {
        let generator = KeyGenerator::new(&self.context);
        generator.evaluation_key(&self.secret, spec, &mut rng()).unwrap().to_bytes().unwrap()
    }

    pub(crate) fn ciphertext(&self, level: usize, scale: f64) -> Vec<u8> {
        let values = [Complex64::new(0.25, 0.0)];
        let plain = Encoder::new(&self.context).encode(&values, level, scale).unwrap();
        let encryptor = Encryptor::with_secret_key(&self.context, &self.secret).unwrap();
        encryptor.encrypt(&plain, &mut rng()).unwrap().to_bytes().unwrap()
    }

    fn input(&self, index: usize) -> Vec<u8> {
        let level = plan().1[index];
        self.ciphertext(level, self.context.params().scale_at(level))
    }

    /// Uploads and commits every key of the plan but `without`.
    async fn keys(&self, raw: &mut Raw, without: Option<usize>) -> Id {
        let mut set = None;
        for (i, spec) in plan().0.iter().enumerate().filter(|(i, _)| Some(*i) != without) {
            let upload = raw.upload(&key_header(i as u32), &self.key(*spec)).await.unwrap();
            set = Some(raw.commit(upload, set).await.unwrap().id);
        }
        set.unwrap()
    }

    async fn inputs(&self, raw: &mut Raw) -> Vec<Id> {
        let mut uploads = Vec::new();
        for index in 0..plan().1.len() {
            let header = input_header(index as u32);
            uploads.push(raw.upload(&header, &self.input(index)).await.unwrap());
        }
        uploads
    }
}

fn job(key_set: Id, uploads: Vec<Id>) -> JobRequest {
    let idempotency_key = *Id::random().unwrap().as_bytes();
    let (model, tokens) = (model().config.name.clone(), model().config.tokens as u32);
    JobRequest { model, key_set, uploads, idempotency_key, tokens }
}

/// Where a serialised object names its secret.
pub(crate) const SECRET: std::ops::Range<usize> = 40..72;

/// Bytes damaged in the ways that storage, networks and enemies have.
fn damaged(good: &[u8]) -> Vec<Vec<u8>> {
    let n = good.len();
    let mut all = vec![Vec::new(), good[..1].to_vec(), good[..40.min(n)].to_vec()];
    all.push(good[..n - 1].to_vec());
    all.push([good, &[0]].concat());
    // Magic, version, kind, flags, fingerprint, the secret's name and fields (level and scale, or kind, amount and level)
    // are 83 bytes. A flipped bit in any of them must be noticed, the name's where another object has one. Behind them it
    // gives another seed or residue, or one that is too large.
    for at in (0..83.min(n)).filter(|at| !SECRET.contains(at)) {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x10;
        all.push(bytes);
    }
    let mut high = good.to_vec();
    high[n - 64..].fill(0xff);
    all.push(high);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_sizes_reserve_nothing() {
    let url = shared().await;
    let mut raw = Raw::connect(&url).await;
    let exact = Maker::new(context()).key(plan().0[0]).len() as u64;
    for bytes in [1 << 40, u64::MAX, u64::MAX / 2, exact + 1] {
        let refused = raw.begin(BlobHeader { bytes, ..key_header(0) }).await;
        assert_eq!(refused, Err(Fault::TooLarge { what: "blob".into(), limit: exact, got: bytes }));
    }
    for bytes in [0, 1, exact - 1] {
        let refused = raw.begin(BlobHeader { bytes, ..key_header(0) }).await;
        assert!(matches!(refused, Err(Fault::Malformed { .. })), "{refused:?}");
    }
    still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_for_nothing_are_refused() {
    let url = shared().await;
    let mut raw = Raw::connect(&url).await;
    let not_found = [
        BlobHeader { model: "another".into(), ..key_header(0) },
        key_header(plan().0.len() as u32),
        key_header(u32::MAX),
        input_header(plan().1.len() as u32),
    ];
    for header in not_found {
        let refused = raw.begin(header).await;
        assert!(matches!(refused, Err(Fault::NotFound { .. })), "{refused:?}");
    }
    for kind in [BlobKind::ModelDescription, BlobKind::Recording] {
        let refused = raw.begin(BlobHeader { kind, ..key_header(0) }).await;
        assert!(matches!(refused, Err(Fault::Malformed { .. })), "{refused:?}");
    }
    let (expected, got) = (key_header(0).parameters, [9; 32]);
    let refused = raw.begin(BlobHeader { parameters: got, ..key_header(0) }).await;
    assert_eq!(refused, Err(Fault::ParameterMismatch { expected, got }));
    let refused = raw.models.describe(wire::model_name("another")).await.map(drop).map_err(fault);
    assert!(matches!(refused, Err(Fault::NotFound { .. })));
    still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_out_of_place_are_refused() {
    let url = shared().await;
    let mut raw = Raw::connect(&url).await;
    let blob = Chunked::new(Bytes::from(Maker::new(context()).key(plan().0[0])));
    let header = BlobHeader { bytes: blob.len(), digest: blob.digest(), ..key_header(0) };
    let id = raw.begin(header.clone()).await.unwrap();
    let good = blob.chunks().next().unwrap();
    let beyond = blob.len().next_multiple_of(CHUNK_BYTES);
    let bad = [
        Chunk { offset: beyond, ..good.clone() },
        Chunk { offset: 1 << 40, ..good.clone() },
        Chunk { offset: 3, ..good.clone() },
        Chunk { hash: [0; 32], ..good.clone() },
        Chunk { data: good.data.slice(1..), ..good.clone() },
    ];
    for chunk in bad {
        let refused = raw.put(id, chunk.clone()).await;
        assert!(matches!(refused, Err(Fault::Malformed { .. })), "{chunk:?}: {refused:?}");
        // The same in a stream.
        let stream = tokio_stream::iter([wire::upload_chunk(id, chunk)]);
        let refused = raw.uploads.put_chunks(stream).await.map_err(fault).unwrap_err();
        assert!(matches!(refused, Fault::Malformed { .. }), "{refused}");
    }
    let nothing = raw.uploads.put_chunks(tokio_stream::iter(Vec::new())).await.map_err(fault);
    assert!(matches!(nothing, Err(Fault::Malformed { .. })));
    let unknown = Id::random().unwrap();
    assert!(matches!(raw.put(unknown, good.clone()).await, Err(Fault::NotFound { .. })));
    let mut foreign = Raw::connect(&url).await;
    assert!(matches!(foreign.put(id, good).await, Err(Fault::NotFound { .. })));
    assert!(matches!(foreign.commit(id, None).await, Err(Fault::NotFound { .. })));
    let status = foreign.uploads.status(wire::upload_id(id)).await.map_err(fault);
    assert!(matches!(status, Err(Fault::NotFound { .. })));
    // An upload is not used before it is complete, and completes in spite of all that.
    let (received, total) = (0, blob.len());
    assert_eq!(raw.commit(id, None).await, Err(Fault::Incomplete { received, total }));
    for chunk in blob.chunks() {
        raw.put(id, chunk).await.unwrap();
    }
    assert_eq!(raw.commit(id, None).await.unwrap().present, 1);
    // A wrong digest is noticed when the last chunk is there.
    let id = raw.begin(BlobHeader { digest: [0; 32], ..header }).await.unwrap();
    for chunk in blob.chunks() {
        raw.put(id, chunk).await.unwrap();
    }
    assert!(matches!(raw.commit(id, None).await, Err(Fault::Malformed { .. })));
    still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_keys_are_refused() {
    let url = shared().await;
    let mut raw = Raw::connect(&url).await;
    let maker = Maker::new(context());
    let good = maker.key(plan().0[0]);
    let mut set = None;
    for bytes in damaged(&good) {
        let refused = match raw.upload(&key_header(0), &bytes).await {
            Ok(upload) => raw.commit(upload, set).await.map(|info| info.id),
            Err(fault) => Err(fault),
        };
        let fault = refused.expect_err("a damaged key was taken");
        let typed = matches!(
            fault,
            Fault::Malformed { .. }
                | Fault::TooLarge { .. }
                | Fault::ParameterMismatch { .. }
                | Fault::LevelMismatch { .. }
                | Fault::FormatVersion { .. }
        );
        assert!(typed, "{fault}");
    }
    // A right key in another's place: of the same length, so that only its content tells.
    let (relinearization, rotation) = (KeyKind::Relinearization, KeyKind::Rotation(1));
    let spec = plan().0[0];
    let other = if spec.kind == relinearization { rotation } else { relinearization };
    let swapped = maker.key(KeySpec { kind: other, level: spec.level });
    let upload = raw.upload(&key_header(0), &swapped).await.unwrap();
    assert!(matches!(raw.commit(upload, None).await, Err(Fault::Malformed { .. })));
    // A key of another set does not even have the right length, or not the right fingerprint.
    let foreign = Context::new(presets::get("toy11_lev").unwrap(), &Device::cpu()).unwrap();
    let bytes = Maker::new(foreign).key(KeySpec { kind: spec.kind, level: 1 });
    let mut padded = bytes.clone();
    padded.resize(good.len(), 0);
    for bytes in [bytes, padded] {
        let refused = match raw.upload(&key_header(0), &bytes).await {
            Ok(upload) => raw.commit(upload, None).await.map(|info| info.id),
            Err(fault) => Err(fault),
        };
        assert!(refused.is_err());
    }
    // An upload that is no key is not taken for one.
    let upload = raw.upload(&input_header(0), &maker.input(0)).await.unwrap();
    assert!(matches!(raw.commit(upload, None).await, Err(Fault::Malformed { .. })));
    // And a right one is.
    let upload = raw.upload(&key_header(0), &good).await.unwrap();
    set = Some(raw.commit(upload, set).await.unwrap().id);
    // Keys of two secrets do not make a set.
    let strange = Maker::stranger().key(plan().0[1]);
    let upload = raw.upload(&key_header(1), &strange).await.unwrap();
    let refused = raw.commit(upload, set).await.expect_err("a key of another secret was taken");
    assert!(refused.to_string().contains("secret keys differ"), "{refused}");
    // Into a foreign or unknown set, nothing goes.
    let upload = raw.upload(&key_header(0), &good).await.unwrap();
    let unknown = Some(Id::random().unwrap());
    assert!(matches!(raw.commit(upload, unknown).await, Err(Fault::NotFound { .. })));
    // An upload that was refused for its set alone can go into another; one that was taken is used up.
    assert_eq!(raw.commit(upload, set).await.unwrap().present, 1);
    assert!(matches!(raw.commit(upload, set).await, Err(Fault::NotFound { .. })));
    // No set was left behind for all the keys that were none.
    let sets = raw.keys.list(pb::ListKeysRequest {}).await.unwrap().into_inner();
    assert_eq!(wire::key_set_list(sets).unwrap().len(), 1);
    let mut foreign = Raw::connect(&url).await;
    let upload = foreign.upload(&key_header(0), &good).await.unwrap();
    assert!(matches!(foreign.commit(upload, set).await, Err(Fault::NotFound { .. })));
    still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_inputs_are_refused() {
    let url = shared().await;
    let mut raw = Raw::connect(&url).await;
    let maker = Maker::new(context());
    let set = maker.keys(&mut raw, None).await;
    let rest = maker.inputs(&mut raw).await;
    let with_first = |first: Id| job(set, [&[first], &rest[1..]].concat());
    let good = maker.input(0);
    for bytes in damaged(&good) {
        let refused = match raw.upload(&input_header(0), &bytes).await {
            Ok(upload) => {
                let refused = raw.submit(with_first(upload)).await;
                raw.uploads.discard(wire::upload_id(upload)).await.unwrap();
                refused
            }
            Err(fault) => Err(fault),
        };
        let fault = refused.expect_err("a damaged ciphertext was taken");
        let typed = matches!(
            fault,
            Fault::Malformed { .. }
                | Fault::TooLarge { .. }
                | Fault::ParameterMismatch { .. }
                | Fault::LevelMismatch { .. }
                | Fault::FormatVersion { .. }
        );
        assert!(typed, "{fault}");
    }
    // At another level the length differs, and the header is refused.
    let level = plan().1[0];
    let low = maker.ciphertext(level - 1, context().params().scale_at(level - 1));
    assert!(raw.upload(&input_header(0), &low).await.is_err());
    // At another scale the length is right, and the job is refused.
    let loud = maker.ciphertext(level, context().params().scale_at(level) * 2.0);
    let upload = raw.upload(&input_header(0), &loud).await.unwrap();
    let refused = raw.submit(with_first(upload)).await;
    assert!(matches!(refused, Err(Fault::Malformed { .. })), "{refused:?}");
    // Under another secret than the keys.
    let strange = Maker::stranger().input(0);
    let upload = raw.upload(&input_header(0), &strange).await.unwrap();
    let refused = raw.submit(with_first(upload)).await.expect_err("a foreign input was taken");
    assert!(refused.to_string().contains("another secret"), "{refused}");
    // Too few, too many, unknown, and keys in the place of ciphertexts.
    let name = |r: &Result<Id, Fault>| matches!(r, Err(Fault::Malformed { .. }));
    assert!(name(&raw.submit(job(set, Vec::new())).await));
    assert!(name(&raw.submit(job(set, [rest.clone(), rest.clone()].concat())).await));
    let unknown = raw.submit(with_first(Id::random().unwrap())).await;
    assert!(matches!(unknown, Err(Fault::NotFound { .. })), "{unknown:?}");
    let key = raw.upload(&key_header(0), &maker.key(plan().0[0])).await.unwrap();
    assert!(name(&raw.submit(with_first(key)).await));
    let other = JobRequest { model: "another".into(), ..job(set, rest.clone()) };
    assert!(matches!(raw.submit(other).await, Err(Fault::NotFound { .. })));
    // Another length than the model's, which does not vary.
    for tokens in [0, 1, u32::MAX] {
        let refused = raw.submit(JobRequest { tokens, ..job(set, rest.clone()) }).await;
        let Err(Fault::Malformed { what, .. }) = &refused else { panic!("{tokens}: {refused:?}") };
        assert!(what.contains("tokens"), "{what}");
    }
    // After all that the same uploads still make a job.
    raw.submit(job(set, rest)).await.unwrap();
    still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_must_be_complete() {
    let url = shared().await;
    let mut raw = Raw::connect(&url).await;
    let maker = Maker::new(context());
    let without = plan().0.len() / 2;
    let set = maker.keys(&mut raw, Some(without)).await;
    let uploads = maker.inputs(&mut raw).await;
    let refused = raw.submit(job(set, uploads.clone())).await;
    let missing = vec![plan().0[without]];
    assert_eq!(refused, Err(Fault::KeyMissing { keys: missing, count: 1 }));
    let unknown = raw.submit(job(Id::random().unwrap(), uploads.clone())).await;
    assert!(matches!(unknown, Err(Fault::NotFound { .. })));
    let mut foreign = Raw::connect(&url).await;
    let refused = foreign.submit(job(set, uploads.clone())).await;
    assert!(matches!(refused, Err(Fault::NotFound { .. })));
    // The one that was missing completes the set.
    let upload = raw.upload(&key_header(without as u32), &maker.key(plan().0[without])).await;
    raw.commit(upload.unwrap(), Some(set)).await.unwrap();
    let request = job(set, uploads);
    let first = raw.submit(request.clone()).await.unwrap();
    // The same submission again is the same job.
    assert_eq!(raw.submit(request).await, Ok(first));
    still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let url = shared().await;
    for token in [None, Some("Bearer 00".parse().unwrap()), Some("Basic eA==".parse().unwrap())] {
        let mut raw = Raw::with_token(&url, token).await;
        assert_eq!(raw.begin(key_header(0)).await, Err(Fault::Unauthenticated));
        let id = Id::random().unwrap();
        assert_eq!(raw.submit(job(id, Vec::new())).await, Err(Fault::Unauthenticated));
        let refused = raw.keys.list(pb::ListKeysRequest {}).await.map_err(fault).unwrap_err();
        assert_eq!(refused, Fault::Unauthenticated);
        // Models are public.
        raw.models.list(pb::ListModelsRequest {}).await.unwrap();
    }
    let mut raw = Raw::connect(&url).await;
    let newer = pb::ClientInfo { client: "x".into(), format_min: 9, format_max: 9 };
    let refused = raw.admin.negotiate(newer).await.map_err(fault).unwrap_err();
    assert!(matches!(refused, Fault::FormatVersion { got: 9, .. }));
    still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_messages_are_refused() {
    let url = shared().await;
    let mut raw = Raw::connect(&url).await;
    let data = Bytes::from(vec![0; 9 << 20]);
    let chunk = pb::Chunk { offset: 0, hash: Bytes::from_static(&[0; 32]), data };
    let id = Bytes::copy_from_slice(Id::random().unwrap().as_bytes());
    let message = pb::UploadChunk { upload_id: id, chunk: Some(chunk) };
    let status = raw.uploads.put_chunk(message).await.unwrap_err();
    // Refused by the transport, before any handler sees it.
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");
    still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_are_refused() {
    let url = shared().await;
    let mut raw = Raw::connect(&url).await;
    let maker = Maker::new(context());
    let (key, input) = (maker.key(plan().0[0]).len(), maker.input(0).len());
    let mut rng = rng();
    for _ in 0..8 {
        let mut noise = vec![0; key.max(input)];
        rng.fill_bytes(&mut noise);
        let upload = raw.upload(&key_header(0), &noise[..key]).await.unwrap();
        let refused = raw.commit(upload, None).await;
        assert!(matches!(refused, Err(Fault::Malformed { .. })), "{refused:?}");
        assert!(Ciphertext::from_bytes(&maker.context, &noise[..input]).is_err());
    }
    still_serves().await;
}
