//! Honest clients over gRPC on loopback.
//!
//! | test | shows |
//! | --- | --- |
//! | `an_encrypted_inference_end_to_end` | logits as in the clear, progress, counts as planned, bytes as planned |
//! | `keys_are_found_again_and_completed` | a second process with the key file sends nothing, an interrupted set is completed |
//! | `two_clients_do_not_see_each_other` | foreign = absent for key sets and jobs |
//! | `an_input_out_of_range_is_never_encrypted` | NaN, infinities, huge values, wrong shapes |
//! | `a_job_is_cancelled_between_operators` | cancel while running and the server goes on |
//! | `a_full_queue_says_busy` | typed refusal, inputs not lost, success later |
//! | `a_server_that_stops_mid_job_is_noticed` | a typed error within a bounded time |
//! | `a_server_that_falls_silent_is_noticed` | keepalive: no hang on a dead line |
//! | `an_upload_resumes_where_it_stopped` | another connection sends what is missing, and only that |
//! | `key_memory_is_bounded` | too large, busy, and the longest unused makes room |
//! | `a_foreign_key_gives_a_typed_error` | evaluation keys of another secret key: refused before the job waits |
//! | `what_came_out_changes_no_call` | the same calls whether the result decrypts or not |
//! | `an_unreachable_server_is_a_typed_error` | refused and silent ports |
//! | `toy_parameters_are_refused_unless_allowed` | by the server and by the client |

use crate::hostile::{Maker, SECRET, plan};
use crate::support::{
    Raw, assert_logits, config, context, input, key_header, model, open, open_with_keys, options,
    registry, serve,
};
use bytes::Bytes;
use cipherform_ckks::{SecretKey, SwitchingKey};
use cipherform_client::{Client, Error, Fault, JobState, KeyBundle, Options};
use cipherform_nn::Matrix;
use cipherform_proto::{BlobHeader, CHUNK_BYTES, Chunked, Missing, SessionToken, wire};
use cipherform_server::{Limits, Server};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_inference_end_to_end() -> Result<()> {
    let server = serve(&config());
    let mut session = open(&server.url()).await;
    let mut progress = Vec::new();
    let keys = session.ensure_keys(&mut |p| progress.push(p)).await?;
    let plan = session.description().plan().clone();
    assert_eq!((keys.present as usize, keys.missing.len()), (plan.keys().len(), 0));
    let last = progress.last().ok_or("no progress")?;
    assert_eq!((last.keys, last.bytes), (last.total_keys, last.total_bytes));

    let mut events = Vec::new();
    let prediction = session.infer(&input(0), &mut |e| events.push(e.clone())).await?;
    assert_logits(prediction.logits(), 0);
    // What was predicted before any key existed is what happened, on the wire and in the evaluator.
    let sizes = plan.sizes(session.parameters());
    assert_eq!(last.bytes + prediction.uploaded_bytes, sizes.upload_bytes);
    assert_eq!(prediction.downloaded_bytes, sizes.download_bytes);
    assert_eq!(keys.bytes, sizes.key_bytes);
    plan.cost().check(&prediction.recording.total())?;
    assert_eq!(events.last().map(|e| e.state), Some(JobState::Done));
    let steps: Vec<_> =
        events.iter().filter(|e| e.state == JobState::Running).map(|e| e.step).collect();
    assert!(steps.is_sorted(), "{steps:?}");
    assert!(
        events.iter().any(|e| !e.operator.is_empty() && e.steps as usize == plan.steps().len())
    );
    server.shutdown();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_found_again_and_completed() -> Result<()> {
    let server = serve(&config());
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("key");
    let first = open_with_keys(&server.url()).await;
    first.bundle().save(&path)?;
    let before = first.key_sets().await?;
    drop(first);

    // Another process with the same key file.
    let client = Client::connect(&server.url(), options()).await?;
    let described = client.describe(&model().config.name).await?;
    let bundle = KeyBundle::load(&path, &context())?;
    let mut second = client.session(described, context(), bundle)?;
    let mut sent = 0;
    second.ensure_keys(&mut |p| sent = p.bytes).await?;
    assert_eq!((sent, second.key_sets().await?), (0, before.clone()));
    second.infer(&input(1), &mut |_| {}).await?;

    // A set that was deleted is made anew; one that was interrupted is completed.
    second.delete_keys(before[0].id).await?;
    let refused = second.submit(&second.encrypt(&input(1)).await?).await;
    assert!(matches!(refused, Err(Error::Refused(Fault::KeyMissing { .. }))));
    let mut interrupted = Box::pin(async {
        let mut seen = 0;
        let mut on_progress = |p: cipherform_client::KeyProgress| seen = p.keys;
        second.ensure_keys(&mut on_progress).await
    });
    let _ = tokio::time::timeout(Duration::from_millis(30), &mut interrupted).await;
    drop(interrupted);
    let partial = second.key_sets().await?;
    let info = second.ensure_keys(&mut |_| {}).await?;
    if let [set] = partial.as_slice() {
        assert_eq!(info.id, set.id);
    }
    second.infer(&input(1), &mut |_| {}).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_do_not_see_each_other() -> Result<()> {
    let server = serve(&config());
    let (mut a, mut b) = (open_with_keys(&server.url()).await, open_with_keys(&server.url()).await);
    let (of_a, of_b) = (a.key_sets().await?, b.key_sets().await?);
    assert_eq!((of_a.len(), of_b.len()), (1, 1));
    assert_ne!(of_a[0].id, of_b[0].id);
    let job = a.submit(&a.encrypt(&input(0)).await?).await?;
    let not_found =
        |r: Result<(), Error>| assert!(matches!(r, Err(Error::Refused(Fault::NotFound { .. })),));
    not_found(b.delete_keys(of_a[0].id).await);
    not_found(b.watch(job, &mut |_| {}).await.map(drop));
    not_found(b.result(job).await.map(drop));
    not_found(b.recording(job).await.map(drop));
    not_found(b.cancel(job).await.map(drop));
    a.watch(job, &mut |_| {}).await?;
    assert_logits(&a.decrypt(a.result(job).await?).await?, 0);
    not_found(a.delete_keys(of_b[0].id).await);
    b.infer(&input(0), &mut |_| {}).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_out_of_range_is_never_encrypted() -> Result<()> {
    let server = serve(&config());
    let session = open(&server.url()).await;
    let good = input(0);
    for (at, value) in [(0, f64::NAN), (3, f64::INFINITY), (5, 1e9), (7, -1e9)] {
        let mut bad = good.clone();
        bad.data_mut()[at] = value;
        let refused = session.encrypt(&bad).await;
        assert!(matches!(refused, Err(Error::Model(_))), "{value}: {refused:?}");
    }
    let short = Matrix::from_vec(1, good.columns(), good.row(0).to_vec())?;
    assert!(matches!(session.encrypt(&short).await, Err(Error::Model(_))));
    session.encrypt(&good).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_between_operators() -> Result<()> {
    let server = serve(&config());
    let session = open_with_keys(&server.url()).await;
    let encrypted = session.encrypt(&input(0)).await?;
    let job = session.submit(&encrypted).await?;
    session.cancel(job).await?;
    let outcome = session.watch(job, &mut |_| {}).await;
    assert!(matches!(outcome, Err(Error::Refused(Fault::Cancelled))), "{outcome:?}");
    let result = session.result(job).await;
    assert!(matches!(result, Err(Error::Refused(Fault::Cancelled))), "{result:?}");
    session.infer(&input(0), &mut |_| {}).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_busy() -> Result<()> {
    let mut config = config();
    config.limits = Limits { queue_length: 1, ..Limits::default() };
    let server = serve(&config);
    let session = open_with_keys(&server.url()).await;
    let encrypted = session.encrypt(&input(0)).await?;
    let mut jobs = Vec::new();
    let refusal = loop {
        match session.submit(&encrypted).await {
            Ok(job) => jobs.push(job),
            Err(error) => break error,
        }
        assert!(jobs.len() < 20, "the queue of one takes {} jobs", jobs.len());
    };
    assert!(matches!(refusal, Error::Refused(Fault::Busy { limit: 1, .. })), "{refusal}");
    for job in &jobs {
        session.watch(*job, &mut |_| {}).await?;
    }
    session.infer(&input(0), &mut |_| {}).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_mid_job_is_noticed() -> Result<()> {
    let server = serve(&config());
    let url = server.url();
    let session = open_with_keys(&url).await;
    let job = session.submit(&session.encrypt(&input(0)).await?).await?;
    let began = Instant::now();
    let stopper = tokio::task::spawn_blocking(move || server.shutdown());
    let outcome = session.watch(job, &mut |_| {}).await;
    let told = matches!(outcome, Err(Error::Refused(Fault::ShuttingDown)));
    let noticed = matches!(outcome, Err(Error::Disconnected { .. }));
    assert!(told || noticed, "{outcome:?}");
    stopper.await?;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    // The next call and the next connection fail with a type, too.
    assert!(matches!(session.key_sets().await, Err(Error::Disconnected { .. })));
    let again = Client::connect(&url, options()).await;
    assert!(matches!(again, Err(Error::Unreachable { .. })), "{again:?}");
    Ok(())
}

/// Forwards to `target` until told to go silent; then it keeps the connections open and swallows everything.
async fn tunnel(target: std::net::SocketAddr) -> Result<(String, Arc<AtomicBool>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let silent = Arc::new(AtomicBool::new(false));
    let swallow = silent.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = tokio::net::TcpStream::connect(target).await.unwrap();
            let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                (near.into_split(), far.into_split());
            let there = swallow.clone();
            tokio::spawn(async move { pump(&mut near_in, &mut far_out, &there).await });
            let back = swallow.clone();
            tokio::spawn(async move { pump(&mut far_in, &mut near_out, &back).await });
        }
    });
    Ok((url, silent))
}

async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, silent: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            return;
        }
        if !silent.load(Ordering::Relaxed) && to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_is_noticed() -> Result<()> {
    let server = serve(&config());
    let (url, silent) = tunnel(server.local_addr()).await?;
    let options = Options { liveness: Duration::from_secs(3), ..options() };
    let client = Client::connect(&url, options).await?;
    client.models().await?;
    silent.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let outcome = client.models().await;
    assert!(matches!(outcome, Err(Error::Disconnected { .. })), "{outcome:?}");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    Client::connect(&server.url(), self::options()).await?.models().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_resumes_where_it_stopped() -> Result<()> {
    let server = serve(&config());
    let token = cipherform_proto::SessionToken::random()?.to_header()?;
    let mut first = Raw::with_token(&server.url(), Some(token.clone())).await;
    let maker = Maker::new(context());
    // The longest key of the plan, so that it takes several chunks.
    let keys = plan().0.iter().enumerate();
    let (index, spec) = keys.max_by_key(|(_, spec)| spec.level).ok_or("no keys")?;
    let blob = Chunked::new(Bytes::from(maker.key(*spec)));
    let chunks: Vec<_> = blob.chunks().collect();
    assert!(chunks.len() > 1);
    let header =
        BlobHeader { bytes: blob.len(), digest: blob.digest(), ..key_header(index as u32) };
    let id = first.begin(header).await?;
    first.put(id, chunks[1].clone()).await?;
    drop(first);

    let mut second = Raw::with_token(&server.url(), Some(token)).await;
    let status = second.uploads.status(wire::upload_id(id)).await?.into_inner();
    let missing = Missing::from(status);
    assert_eq!(missing.received, chunks[1].data.len() as u64);
    for chunk in chunks {
        let wanted = missing.ranges.iter().any(|range| range.contains(&chunk.offset));
        assert_eq!(wanted, chunk.offset != CHUNK_BYTES);
        if wanted {
            second.put(id, chunk).await?;
        }
    }
    assert_eq!(second.commit(id, None).await?.present, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn key_memory_is_bounded() -> Result<()> {
    let mut config = config();
    config.limits.key_bytes = 1;
    let server = serve(&config);
    let refused = open(&server.url()).await.ensure_keys(&mut |_| {}).await;
    assert!(matches!(refused, Err(Error::Refused(Fault::TooLarge { limit: 1, .. }))));

    let one_set = open_with_keys(&serve(&self::config()).url()).await;
    let params = one_set.parameters();
    let keys = one_set.description().plan().keys().iter();
    config.limits.key_bytes = keys.map(|k| SwitchingKey::expanded_bytes(params, *k)).sum();
    let server = serve(&config);
    let first = open_with_keys(&server.url()).await;
    let refused = open(&server.url()).await.ensure_keys(&mut |_| {}).await;
    assert!(matches!(refused, Err(Error::Refused(Fault::Busy { .. }))), "{refused:?}");
    first.infer(&input(0), &mut |_| {}).await?;

    // Without a time of grace the longest unused set makes room.
    config.limits.key_hold_s = 0;
    let server = serve(&config);
    let first = open_with_keys(&server.url()).await;
    let second = open_with_keys(&server.url()).await;
    assert_eq!(first.key_sets().await?, []);
    second.infer(&input(0), &mut |_| {}).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_gives_a_typed_error() -> Result<()> {
    let server = serve(&config());
    let session = open_with_keys(&server.url()).await;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("key");
    session.bundle().save(&path)?;
    // The same session token beside another secret key.
    let mut bytes = std::fs::read(&path)?;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes)?;
    let client = Client::connect(&server.url(), options()).await?;
    let described = client.describe(&model().config.name).await?;
    let bundle = KeyBundle::load(&path, &context())?;
    let mut foreign = client.session(described, context(), bundle)?;
    foreign.ensure_keys(&mut |_| {}).await?;
    let outcome = foreign.infer(&input(0), &mut |_| {}).await;
    let Err(Error::Refused(fault)) = outcome else { panic!("{outcome:?}") };
    assert!(fault.to_string().contains("another secret"), "{fault}");
    let prediction = session.infer(&input(0), &mut |_| {}).await?;
    assert_logits(prediction.logits(), 0);
    Ok(())
}

/// Forwards one connection to `target` and keeps what the client says.
async fn listen_in(target: std::net::SocketAddr) -> Result<(String, Arc<Mutex<Vec<u8>>>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = heard.clone();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = tokio::net::TcpStream::connect(target).await.unwrap();
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
            (near.into_split(), far.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut far_in, &mut near_out).await });
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = near_in.read(&mut buffer).await {
            ear.lock().unwrap().extend_from_slice(&buffer[..n]);
            far_out.write_all(&buffer[..n]).await.unwrap();
        }
    });
    Ok((url, heard))
}

/// Calls in what an HTTP/2 client says: each opens with one frame of type 1 (headers). A frame is 3 bytes of length, one
/// of type, 5 of flags and stream, and the payload; before the first one stand 24 bytes of preface.
fn calls(said: &[u8]) -> usize {
    let mut rest = said.get(24..).unwrap_or_default();
    let mut calls = 0;
    while let [a, b, c, kind, ..] = rest {
        calls += usize::from(*kind == 1);
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    calls
}

/// Otherwise the server learns from a call that stays away whether its result decrypted to something.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_out_changes_no_call() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("key");
    KeyBundle::generate(&context())?.save(&path)?;
    // The file ends with the session token and the secret key.
    let file = std::fs::read(&path)?;
    let (rest, secret) = file.split_last_chunk::<32>().ok_or("no bytes")?;
    let (_, token) = rest.split_last_chunk::<32>().ok_or("no bytes")?;
    let token = SessionToken::from_bytes(*token).to_header()?;
    let own = Maker::with_secret(context(), SecretKey::from_stored_bytes(&context(), secret)?);
    let name = own.key(plan().0[0])[SECRET].to_vec();
    let mut counts = Vec::new();
    for honest in [true, false] {
        let server = serve(&config());
        // Keys of another secret under the name of this one: the result decrypts to noise.
        let maker = if honest { &own } else { &Maker::new(context()) };
        let mut raw = Raw::with_token(&server.url(), Some(token.clone())).await;
        let mut set = None;
        for (i, spec) in plan().0.iter().enumerate() {
            let mut key = maker.key(*spec);
            key[SECRET].copy_from_slice(&name);
            let upload = raw.upload(&key_header(i as u32), &key).await?;
            set = Some(raw.commit(upload, set).await?.id);
        }
        let (url, heard) = listen_in(server.local_addr()).await?;
        let client = Client::connect(&url, options()).await?;
        let described = client.describe(&model().config.name).await?;
        let bundle = KeyBundle::load(&path, &context())?;
        let mut session = client.session(described, context(), bundle)?;
        session.ensure_keys(&mut |_| {}).await?;
        let outcome = session.infer(&input(0), &mut |_| {}).await;
        let noise = matches!(outcome, Err(Error::Implausible { .. }));
        assert!(if honest { outcome.is_ok() } else { noise }, "{outcome:?}");
        counts.push(calls(&heard.lock().unwrap()));
    }
    // Negotiate, describe, list, begin and chunks of each input, submit, watch, result, profile.
    assert_eq!(counts, [7 + 2 * plan().1.len(); 2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_is_a_typed_error() -> Result<()> {
    let fast = Options { connect_timeout: Duration::from_millis(500), ..options() };
    // A port on which nobody listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let error = Client::connect(&format!("http://{closed}"), fast.clone()).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    // One on which somebody listens and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", silent.local_addr()?);
    let began = Instant::now();
    let error = Client::connect(&url, fast.clone()).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(3));
    for url in ["", "no url", "http://", "ftp:/x", "127.0.0.1:1"] {
        let error = Client::connect(url, fast.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Url { .. } | Error::Unreachable { .. }), "{url}: {error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn toy_parameters_are_refused_unless_allowed() -> Result<()> {
    let mut strict = config();
    strict.allow_insecure = false;
    let refused = Server::start(&strict, registry());
    assert!(matches!(refused, Err(cipherform_server::Error::Insecure { .. })));

    let server = serve(&config());
    let options = Options { allow_insecure: false, ..options() };
    let client = Client::connect(&server.url(), options).await?;
    let refused = client.describe(&model().config.name).await;
    assert!(matches!(refused, Err(Error::Insecure { .. })));
    Ok(())
}
