//! `cipherform profile`: the latency breakdown of one encrypted inference, and the difference of two.

use crate::output::{style, write_json};
use crate::verbs::session::Session;
use crate::verbs::{DEFAULT_MODEL, context, load_model, mode, text};
use anyhow::{Context as _, Result, bail};
use cipherform_ckks::{Ciphertext, Context, Parameters};
use cipherform_nn::data::{patches, samples};
use cipherform_nn::exec::{Monitor, Progress, Slots, execute};
use cipherform_nn::program::Register;
use cipherform_nn::{Complex64, HeModel, Matrix, Model, Plan, random_input};
use cipherform_profile::{
    Annotation, Diff, Header, PredictedOperator, Prediction, Report, chrome_trace, cpu_model,
    peak_rss_bytes, span_cost_ns,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Name or directory of the model.
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    /// `he`: encrypted.
    #[arg(long, default_value = "he")]
    backend: String,
    /// Device.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Parameter set; the cheapest that fits by default.
    #[arg(long)]
    set: Option<String>,
    /// Timed runs after one that warms up.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Decrypt after every operator and report its error: needs the secret key, which this process has.
    #[arg(long)]
    debug_secret_key: bool,
    /// Answer with the class alone: nobody learns the logits (needs a build with the feature `label-only`).
    #[arg(long)]
    label_only: bool,
    /// Write the report as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the report as a self-contained page.
    #[arg(long)]
    html: Option<PathBuf>,
    /// Write a trace for ui.perfetto.dev or chrome://tracing.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Write the operator table as CSV.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Write the report as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Compare two JSON reports operator by operator.
    Diff {
        /// The report to compare with.
        before: PathBuf,
        /// The report to compare.
        after: PathBuf,
    },
}

/// What is known of a run before it starts.
pub(crate) fn header(model: &Model, context: &Context, key_bytes: u64) -> Header {
    let params = context.params();
    Header {
        model: model.config.name.clone(),
        random_weights: model.config.random_weights,
        backend: "he".into(),
        tokens: model.config.tokens,
        batch: 1,
        parameter_set: params.name().to_owned(),
        security_bits: Some(f64::from(params.security_bits())),
        device: context.ring().device().to_string(),
        machine: format!(
            "{}; {}",
            cpu_model().unwrap_or_else(|| "unknown processor".into()),
            context.ring().device().description()
        ),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        runs: 0,
        key_bytes,
        peak_rss_bytes: peak_rss_bytes(),
        peak_vram_bytes: None,
        upload_bytes: 0,
        download_bytes: 0,
    }
}

/// The plan's promises in the profiler's terms; `vram` is what was planned of a card's memory.
pub(crate) fn prediction(plan: &Plan, params: &Parameters, vram: Option<u64>) -> Prediction {
    let sizes = plan.sizes(params);
    let priced = plan.predicted_ms() > 0.0;
    Prediction {
        operators: plan
            .steps()
            .iter()
            .map(|s| PredictedOperator {
                name: s.operator.clone(),
                layer: s.layer.clone(),
                cost: s.cost,
                ms: priced.then_some(s.predicted_ms),
            })
            .collect(),
        ms: priced.then(|| plan.predicted_ms()),
        key_bytes: Some(sizes.key_bytes),
        upload_bytes: Some(sizes.upload_bytes),
        download_bytes: Some(sizes.download_bytes),
        peak_rss_bytes: None,
        peak_vram_bytes: vram,
    }
}

/// What a model was planned to take of a card's memory; `None` on the CPU.
pub(crate) fn planned_vram(he: &HeModel) -> Option<u64> {
    he.context().ring().device().runs_behind().then(|| he.device_bytes().total())
}

/// An input of the model: the first shipped image or sentence, or a seeded one.
pub(crate) fn sample_input(model: &Model) -> Result<Matrix> {
    if model.config.dataset.as_deref() == Some("fashion-mnist") {
        let sample = samples()?.into_iter().next().context("no sample images are shipped")?;
        return Ok(patches(&model.config, &sample.image)?);
    }
    if model.tokenizer.is_some() {
        return Ok(text::tokenizer(model)?.encode(text::SAMPLES[0])?);
    }
    Ok(random_input(&model.config, 0, 0)?)
}

/// Keeps, for every operator, the slots that it left behind.
#[derive(Default)]
struct ClearSlots(BTreeMap<Register, Vec<Complex64>>);

impl Monitor<Vec<Complex64>> for ClearSlots {
    fn after(&mut self, _step: usize, written: &[(Register, &Vec<Complex64>)]) {
        for (register, slots) in written {
            self.0.insert(*register, (*slots).clone());
        }
    }
}

/// Decrypts what every operator left behind and compares it with the exact slots.
struct Shadow<'a> {
    session: &'a Session,
    exact: &'a BTreeMap<Register, Vec<Complex64>>,
    /// Largest error of each operator.
    errors: Vec<(usize, f64)>,
}

impl Monitor<Ciphertext> for Shadow<'_> {
    fn after(&mut self, step: usize, written: &[(Register, &Ciphertext)]) {
        let mut worst: f64 = 0.0;
        for (register, ciphertext) in written {
            let (Some(exact), Ok(got)) =
                (self.exact.get(register), self.session.decrypt(ciphertext))
            else {
                continue;
            };
            worst = exact.iter().zip(&got).map(|(a, b)| (a - b).norm()).fold(worst, f64::max);
        }
        self.errors.push((step, worst));
    }
}

/// log2 of the largest slot error of each operator, from one run beside exact slots.
fn shadow_run(session: &mut Session, input: &Matrix) -> Result<Vec<Annotation>> {
    let slots = session.model.description().encode(input)?;
    let mut exact = ClearSlots::default();
    let program = session.model.program_of(input.rows())?;
    execute(&program, &mut Slots::new(&program, slots), &[], &mut exact)?;
    let inputs = session.encrypt(input)?;
    let length = session.model.length(input.rows())?;
    let mut shadow = Shadow { session, exact: &exact.0, errors: Vec::new() };
    session.model.run(&session.keys, inputs, &length, &mut shadow)?;
    let steps = session.model.description().plan().steps();
    let note = |&(step, error): &(usize, f64)| Annotation {
        name: steps[step].operator.clone(),
        layer: steps[step].layer.clone(),
        error_bits: (error > 0.0).then(|| error.log2()),
        bytes: None,
        rounds: None,
    };
    Ok(shadow.errors.iter().map(note).collect())
}

fn write(path: Option<&Path>, text: impl FnOnce() -> Result<String>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, text()?).with_context(|| format!("cannot write {}", path.display()))
}

fn diff(before: &Path, after: &Path, json: Option<&Path>) -> Result<()> {
    let load = |path: &Path| -> Result<Report> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Report::from_json(&text)?)
    };
    let diff = Diff::new(&load(before)?, &load(after)?);
    println!("{}", diff.to_text(style()));
    write_json(json, &serde_json::to_value(&diff)?)
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(Action::Diff { before, after }) = &args.action {
        return diff(before, after, args.json.as_deref());
    }
    if args.backend != "he" {
        bail!("backend {}: this version profiles `he`", args.backend);
    }
    let model = load_model(&args.model)?;
    let mode = mode(args.label_only);
    let context = context(&model, args.set.as_deref(), &args.device, mode)?;
    let mut session = Session::new(&model, &context, mode)?;
    let input = sample_input(&model)?;
    let mut recordings = Vec::new();
    for run in 0..=args.runs.max(1) {
        let progress = crate::output::bar(100, "encrypted inference");
        let mut monitor = |p: &Progress| {
            progress.set_length(p.steps as u64);
            progress.set_position(p.step as u64);
            progress.set_message(p.operator.clone());
            ControlFlow::Continue(())
        };
        let (_, recording) = session.infer(&input, &mut monitor)?;
        progress.finish_and_clear();
        // The first run warms up caches and allocator.
        if run > 0 {
            recordings.push(recording);
        }
    }
    let sizes = session.model.description().plan().sizes(context.params());
    let mut head = header(&model, &context, sizes.key_bytes);
    head.upload_bytes = sizes.upload_bytes;
    head.download_bytes = sizes.download_bytes;
    let mut report = Report::new(head, &recordings)?
        .with_prediction(&prediction(
            session.model.description().plan(),
            context.params(),
            planned_vram(&session.model),
        ))
        .with_span_cost(span_cost_ns());
    if args.debug_secret_key {
        report = report.with_annotations(&shadow_run(&mut session, &input)?);
    }
    println!("{}", report.to_text(style()));
    write(args.json.as_deref(), || Ok(report.to_json()? + "\n"))?;
    write(args.html.as_deref(), || Ok(report.to_html()))?;
    write(args.csv.as_deref(), || Ok(report.to_csv()))?;
    write(args.markdown.as_deref(), || Ok(report.to_markdown()))?;
    write(args.trace.as_deref(), || Ok(chrome_trace(&model.config.name, &recordings)?))
}
