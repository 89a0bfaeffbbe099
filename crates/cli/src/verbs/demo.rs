//! `cipherform demo`: server and client in one process, three images or sentences through gRPC on loopback.

use crate::output::{bar, bytes, style, time, write_json};
use crate::verbs::answer::{Answered, answer};
use crate::verbs::profile::{header, planned_vram, prediction};
use crate::verbs::{DEFAULT_MODEL, context, load_model, mode, priced, text};
use anyhow::{Context as _, Result};
use cipherform_ckks::Context;
use cipherform_client::{Client, KeyBundle, KeyProgress, Options};
use cipherform_nn::data::{Image, patches, samples};
use cipherform_nn::estimate::memory_bytes;
use cipherform_nn::exec::ClearExecutor;
use cipherform_nn::{Functions, HeModel, Matrix, Mode, Model, Plan, argmax, random_input};
use cipherform_profile::{Counter, Phase, Report, peak_rss_bytes};
use cipherform_server::{Config, Registry, Server};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or directory of the model.
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    /// Sentences for a model that reads text, repeatable; three samples by default.
    #[arg(long)]
    text: Vec<String>,
    /// Device of the server.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Parameter set; the cheapest that fits by default.
    #[arg(long)]
    set: Option<String>,
    /// Answer with the class alone: nobody learns the logits (needs a build with the feature `label-only`).
    #[arg(long)]
    label_only: bool,
    /// Write the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the latency breakdown as a self-contained page.
    #[arg(long)]
    html: Option<PathBuf>,
}

/// One input of the demo with what is known of it.
struct Case {
    title: String,
    picture: Option<Image>,
    input: Matrix,
    truth: Option<usize>,
}

fn cases(model: &Model, texts: &[String]) -> Result<Vec<Case>> {
    if model.tokenizer.is_some() || !texts.is_empty() {
        let tokenizer = text::tokenizer(model)?;
        let samples: Vec<String> = text::SAMPLES.map(str::to_owned).into();
        let texts = if texts.is_empty() { &samples } else { texts };
        let case = |text: &String| -> Result<Case> {
            let input = tokenizer.encode(text)?;
            let title = format!("\"{text}\" ({} word pieces)", input.rows());
            Ok(Case { title, picture: None, input, truth: None })
        };
        return texts.iter().map(case).collect();
    }
    if model.config.dataset.as_deref() == Some("fashion-mnist") {
        let case = |s: cipherform_nn::data::Sample| -> Result<Case> {
            Ok(Case {
                title: format!("Fashion-MNIST test image {}", s.index),
                input: patches(&model.config, &s.image)?,
                picture: Some(s.image),
                truth: Some(usize::from(s.label)),
            })
        };
        return samples()?.into_iter().take(3).map(case).collect();
    }
    (0..3)
        .map(|i| {
            Ok(Case {
                title: format!("seeded random input {i}"),
                picture: None,
                input: random_input(&model.config, 0, i)?,
                truth: None,
            })
        })
        .collect()
}

/// The image in text: two pixels a character cell, darker is brighter.
fn draw(image: &Image) -> String {
    const SHADES: &[u8] = b" .:-=+*#%@";
    let mut out = String::new();
    for row in (0..image.height).step_by(2) {
        out.push_str("    ");
        for column in 0..image.width {
            let pixel = |r: usize| {
                image.pixels.get(r * image.width + column).map_or(0, |&p| usize::from(p))
            };
            let mean = usize::midpoint(pixel(row), pixel((row + 1).min(image.height - 1)));
            out.push(char::from(SHADES[mean * (SHADES.len() - 1) / 255]));
        }
        out.push('\n');
    }
    out
}

struct Outcome {
    plan: Plan,
    predictions: Vec<Answered>,
    keys: Duration,
    key_upload: u64,
}

/// The client's side: everything it learns of the model comes from the server.
async fn client(url: &str, name: &str, cases: &[Case]) -> Result<Outcome> {
    let client = Client::connect(url, Options::default()).await?;
    let described = client.describe(name).await?;
    let context = client.context(&described)?;
    let bundle = KeyBundle::generate(&context)?;
    let mut session = client.session(described, context, bundle)?;
    let begin = Instant::now();
    let progress = bar(100, "keys: make and upload");
    let mut uploaded = 0;
    let mut on_keys = |p: KeyProgress| {
        uploaded = p.bytes;
        progress.set_length(p.total_bytes.max(1));
        progress.set_position(p.bytes);
        progress.set_message(format!("{} of {}", p.keys, p.total_keys));
    };
    session.ensure_keys(&mut on_keys).await?;
    progress.finish_and_clear();
    let keys = begin.elapsed();
    let plan = session.description().plan().clone();
    println!(
        "keys      {} keys made, {} uploaded in {}",
        plan.keys().len() + usize::from(plan.mode() == Mode::Label),
        bytes(uploaded),
        time(keys)
    );
    let mut predictions = Vec::new();
    for case in cases {
        let progress = bar(100, "encrypted inference");
        let mut on_event = |e: &cipherform_client::JobEvent| {
            progress.set_length(u64::from(e.steps).max(1));
            progress.set_position(u64::from(e.step));
            progress.set_message(e.operator.clone());
        };
        predictions.push(answer(&session, &case.input, &mut on_event).await?);
        progress.finish_and_clear();
    }
    Ok(Outcome { plan, predictions, keys, key_upload: uploaded })
}

/// What is known before any key exists.
fn announce(model: &Model, he: &HeModel) {
    let (params, plan) = (he.params(), he.description().plan());
    let config = &model.config;
    println!(
        "model     {}: {} layer(s), {} tokens, width {}{}",
        config.name,
        config.layers.len(),
        config.tokens,
        config.width,
        if config.random_weights { "  [RANDOM WEIGHTS]" } else { "" }
    );
    println!(
        "security  {}: N = 2^{}, log QP = {:.1}, {} bits for every one of {} keys",
        params.name(),
        params.log_n(),
        params.log_qp(),
        params.security_bits(),
        plan.keys().len()
    );
    println!(
        "predicted {} an inference, {} key switches, before any key exists",
        time(Duration::from_secs_f64(plan.predicted_ms() / 1e3)),
        plan.cost().get(Counter::KeySwitches)
    );
}

/// Shows one input beside the clear model's answer, and returns the row of the JSON.
fn show(model: &Model, case: &Case, p: &Answered) -> Result<serde_json::Value> {
    let want = ClearExecutor::new(model, Functions::Polynomial)?.run(&case.input)?;
    let label = argmax(&want);
    let error = p
        .logits
        .as_ref()
        .map(|logits| want.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max));
    let (low, high) = want.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    let class = |k: usize| model.config.classes.get(k).cloned().unwrap_or_default();
    println!("\n{}", case.title);
    if let Some(picture) = &case.picture {
        print!("{}", draw(picture));
    }
    println!(
        "    encrypted: {:<14} in the clear: {:<14} truth: {}",
        class(p.label),
        class(label),
        case.truth.map_or("unknown".to_owned(), class)
    );
    let error_shown = error.map_or("no logits came back".to_owned(), |e| {
        format!("largest logit error {e:.1e} = 2^{:.1} of their range", (e / (high - low)).log2())
    });
    println!(
        "    {error_shown}; server {}, round trip {}",
        time(p.timings.run),
        time(p.timings.total)
    );
    Ok(json!({
        "true_label": case.truth,
        "clear_label": label,
        "encrypted_label": p.label,
        "max_abs_logit_error": error,
        "logit_range": high - low,
    }))
}

/// The latency breakdown of all inferences, with the work around them.
fn breakdown(
    model: &Model,
    context: &Context,
    outcome: &Outcome,
    vram: Option<u64>,
) -> Result<Report> {
    let params = context.params();
    let first = outcome.predictions.first().context("no inputs")?;
    let recordings: Vec<_> = outcome.predictions.iter().map(|p| p.recording.clone()).collect();
    let mut head = header(model, context, outcome.plan.sizes(params).key_bytes);
    head.upload_bytes = outcome.key_upload + first.uploaded_bytes;
    head.download_bytes = first.downloaded_bytes;
    let phase = |name: &str, t: Duration, bytes: Option<u64>| Phase {
        name: name.into(),
        ms: t.as_secs_f64() * 1e3,
        bytes,
    };
    Ok(Report::new(head, &recordings)?
        .with_prediction(&prediction(&outcome.plan, params, vram))
        .with_phases(vec![
            phase("keys: make, upload, validate", outcome.keys, Some(outcome.key_upload)),
            phase("input: embed, encrypt", first.timings.encrypt, None),
            phase("input: upload", first.timings.submit, Some(first.uploaded_bytes)),
            phase("result: download", first.timings.download, Some(first.downloaded_bytes)),
            phase("result: decrypt", first.timings.decrypt, None),
        ]))
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    let model = load_model(&args.model)?;
    let mode = mode(args.label_only);
    if mode == Mode::Label {
        cipherform_exact::check_built()?;
    }
    let cases = cases(&model, &args.text)?;
    let context = context(&model, args.set.as_deref(), &args.device, mode)?;
    let machine = context.ring().device().description();
    let he = priced(&model, &context, mode)?;
    let memory = memory_bytes(he.params(), he.description().plan(), he.program())?;
    let vram = planned_vram(&he);
    announce(&model, &he);
    let mut registry = Registry::new();
    registry.add(he)?;
    let handle = Server::start(&Config::default(), registry)?;
    println!("server    {} on {}, {machine}", handle.url(), args.device);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the client's runtime")?;
    let outcome = runtime.block_on(client(&handle.url(), &model.config.name, &cases))?;
    handle.shutdown();

    let rows = cases
        .iter()
        .zip(&outcome.predictions)
        .map(|(case, p)| show(&model, case, p))
        .collect::<Result<Vec<_>>>()?;
    let report = breakdown(&model, &context, &outcome, vram)?;
    println!("\n{}", report.to_text(style()));
    let wall = begin.elapsed();
    let peak = peak_rss_bytes();
    println!(
        "everything took {}, peak memory {}",
        time(wall),
        peak.map_or("unknown".to_owned(), bytes)
    );
    if let Some(path) = &args.html {
        std::fs::write(path, report.to_html())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let seconds: Vec<f64> =
        outcome.predictions.iter().map(|p| p.timings.run.as_secs_f64()).collect();
    let sizes = outcome.plan.sizes(context.params());
    write_json(
        args.json.as_deref(),
        &json!({
            "schema": "cipherform.demo/1",
            "model": model.config.name,
            "random_weights": model.config.random_weights,
            "label_only": args.label_only,
            "device": args.device,
            "machine": machine,
            "parameter_set": context.params().name(),
            "security_bits": context.params().security_bits(),
            "inputs": rows,
            "wall_s": wall.as_secs_f64(),
            "inference_s": seconds.iter().sum::<f64>() / seconds.len() as f64,
            "inferences_s": seconds,
            "predicted_s": outcome.plan.predicted_ms() / 1e3,
            "peak_rss_bytes": peak,
            "predicted_peak_rss_bytes": memory,
            "peak_vram_bytes": report.observed.peak_vram_bytes,
            "predicted_peak_vram_bytes": vram,
            "key_bytes": sizes.key_bytes,
            "upload_bytes": report.header.upload_bytes,
            "download_bytes": report.header.download_bytes,
            "predicted_upload_bytes": sizes.upload_bytes,
            "predicted_download_bytes": sizes.download_bytes,
            "attributed_fraction": report.attributed_fraction,
            "predicted": outcome.plan.cost(),
            "observed": outcome.predictions.first().map(|p| p.recording.total()),
        }),
    )
}
