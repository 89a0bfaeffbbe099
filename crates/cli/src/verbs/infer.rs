//! `cipherform infer`: the client.

use crate::output::{bar, bytes, time, write_json};
use crate::verbs::answer::answer;
use crate::verbs::text::lines;
use anyhow::{Context as _, Result, bail};
use cipherform_client::{Client, JobEvent, KeyBundle, KeyProgress, Options, Tokenizer};
use cipherform_nn::data::{Idx, Image, decode_image, patches};
use cipherform_nn::{InputKind, Matrix, Mode, ModelConfig, ModelDescription};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// URL of the server.
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    server: String,
    /// Name of the model on the server.
    #[arg(long, default_value = super::DEFAULT_MODEL)]
    model: String,
    /// Secret key file; a fresh key that is forgotten afterwards by default.
    #[arg(long)]
    key: Option<PathBuf>,
    /// At most this many images of an IDX file.
    #[arg(long, default_value_t = 1)]
    limit: usize,
    /// Images of an IDX file to skip.
    #[arg(long, default_value_t = 0)]
    offset: usize,
    /// Ask for the class alone: the server has to answer with labels (`serve --label-only`).
    #[arg(long)]
    label_only: bool,
    /// Write the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Sentences for a model that reads text, repeatable.
    #[arg(long)]
    text: Vec<String>,
    /// A file of UTF-8 text, one sentence a line.
    #[arg(long)]
    text_file: Option<PathBuf>,
    /// PNG, JPEG or IDX files (also gzipped).
    #[arg(required_unless_present_any = ["text", "text_file"])]
    inputs: Vec<PathBuf>,
}

/// Largest image file that is read.
const FILE_LIMIT: u64 = 64 << 20;

fn images(config: &ModelConfig, path: &Path, args: &Args) -> Result<Vec<(String, Image)>> {
    let InputKind::Image { height, width, mean, .. } = config.input else {
        bail!("the model {} does not take images", config.name);
    };
    let name = path.display().to_string();
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {name}"))?.len();
    if size > FILE_LIMIT {
        bail!("{name} has {size} bytes; images up to {FILE_LIMIT} are read");
    }
    let content = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    // PNG and JPEG announce themselves in their first bytes; whatever does not is read as IDX, gzipped or not.
    let is_picture = content.starts_with(b"\x89PNG") || content.starts_with(b"\xff\xd8");
    if !is_picture {
        let all = Idx::parse(&content).with_context(|| format!("{name} is not an IDX file"))?;
        let all = all.images().with_context(|| format!("{name} holds no images"))?;
        let chosen = all.into_iter().enumerate().skip(args.offset).take(args.limit);
        return Ok(chosen.map(|(i, image)| (format!("{name}[{i}]"), image)).collect());
    }
    let colour = mean.channels().len() > 1;
    let image = decode_image(&content, height, width, colour).with_context(|| name.clone())?;
    Ok(vec![(name, image)])
}

/// Everything to classify, by name. What cannot be used is found before any key is made.
fn inputs(description: &ModelDescription, args: &Args) -> Result<Vec<(String, Matrix)>> {
    let config = description.config();
    let mut inputs = Vec::new();
    for path in &args.inputs {
        for (name, image) in images(config, path, args)? {
            let input = patches(config, &image)?;
            inputs.push((name, input));
        }
    }
    let mut texts = args.text.clone();
    if let Some(path) = &args.text_file {
        texts.extend(lines(path)?);
    }
    if !texts.is_empty() {
        let tokenizer = Tokenizer::new(description)?;
        for text in texts {
            let input = tokenizer.encode(&text).with_context(|| format!("{text:?}"))?;
            inputs.push((text, input));
        }
    }
    for (name, input) in &inputs {
        description.encode(input).with_context(|| name.clone())?;
    }
    if inputs.is_empty() {
        bail!("nothing to classify: --offset or --limit leaves no image, or the file has no line");
    }
    Ok(inputs)
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(infer(args))
}

async fn infer(args: &Args) -> Result<()> {
    let client = Client::connect(&args.server, Options::default()).await?;
    let described = client.describe(&args.model).await?;
    let config = described.description.config().clone();
    let inputs = inputs(&described.description, args)?;
    let mode = described.description.plan().mode();
    if args.label_only && mode != Mode::Label {
        bail!(
            "the server answers with logits for {}; have it served with `serve --label-only`",
            args.model
        );
    }
    if mode == Mode::Label {
        cipherform_exact::check_built()?;
    }
    let context = client.context(&described)?;
    let bundle = match &args.key {
        Some(path) => KeyBundle::load(path, &context)?,
        None => KeyBundle::generate(&context)?,
    };
    let mut session = client.session(described, context, bundle)?;
    let progress = bar(100, "keys: make and upload");
    let mut on_keys = |p: KeyProgress| {
        progress.set_length(p.total_bytes.max(1));
        progress.set_position(p.bytes);
        progress.set_message(format!("{} of {}", p.keys, p.total_keys));
    };
    session.ensure_keys(&mut on_keys).await?;
    progress.finish_and_clear();
    let mut rows = Vec::new();
    let mut failed = 0;
    for (name, input) in &inputs {
        let progress = bar(100, "encrypted inference");
        let mut on_event = |e: &JobEvent| {
            progress.set_length(u64::from(e.steps).max(1));
            progress.set_position(u64::from(e.step));
            progress.set_message(e.operator.clone());
        };
        // One bad answer does not stop the others: the server must not learn from it what came out.
        let outcome = answer(&session, input, &mut on_event).await;
        progress.finish_and_clear();
        let p = match outcome {
            Ok(p) => p,
            Err(error) => {
                eprintln!("{name}: {error}");
                failed += 1;
                continue;
            }
        };
        let class = config.classes.get(p.label).cloned().unwrap_or_default();
        println!(
            "{name}: {class}  (server {}, round trip {}, {} up, {} down)",
            time(p.timings.run),
            time(p.timings.total),
            bytes(p.uploaded_bytes),
            bytes(p.downloaded_bytes)
        );
        let ms = |t: std::time::Duration| t.as_secs_f64() * 1e3;
        rows.push(json!({
            "input": name,
            "encrypted_label": p.label,
            "class": class,
            "logits": p.logits,
            "job_id": p.job.to_string(),
            "timings": {
                "encrypt_ms": ms(p.timings.encrypt),
                "submit_ms": ms(p.timings.submit),
                "wait_ms": ms(p.timings.wait),
                "run_ms": ms(p.timings.run),
                "download_ms": ms(p.timings.download),
                "decrypt_ms": ms(p.timings.decrypt),
                "total_ms": ms(p.timings.total),
            },
        }));
    }
    let value = json!({"schema": "cipherform.infer/1", "model": args.model, "inputs": rows});
    write_json(args.json.as_deref(), &value)?;
    if failed > 0 {
        bail!("{failed} of {} inputs could not be classified", inputs.len());
    }
    Ok(())
}
