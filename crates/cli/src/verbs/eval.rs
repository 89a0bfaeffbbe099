//! `cipherform eval`: accuracy on the model's data set.

use crate::output::{bar, write_json};
use crate::verbs::mpc;
use crate::verbs::profile::{header, planned_vram, prediction};
use crate::verbs::session::{Answer, Session};
use crate::verbs::text::Sst2;
use crate::verbs::{DEFAULT_MODEL, context, load_model, mode};
use anyhow::{Context as _, Result, bail};
use cipherform_ckks::Context;
use cipherform_mpc::WeightMask;
use cipherform_nn::data::{FashionMnist, ImageFolder, Split, patches};
use cipherform_nn::estimate::precision_bits_of;
use cipherform_nn::exec::{ClearExecutor, MpcOutput, MpcPlan, Progress};
use cipherform_nn::{
    ClientWeights, Functions, InputKind, Matrix, Mode, Model, argmax, random_input,
};
use cipherform_profile::Report;
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or directory of the model.
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    /// Where the model runs: `clear` (f64, polynomials), `exact` (f64, exact functions), `he` (encrypted) or `mpc` (shared
    /// between two parties in this process).
    #[arg(long, value_enum, default_value_t = Backend::Clear)]
    backend: Backend,
    /// At most this many inputs; all of the test split by default.
    #[arg(long)]
    limit: Option<usize>,
    /// Inputs to skip.
    #[arg(long, default_value_t = 0)]
    offset: usize,
    /// The same in one: rows FIRST-LAST of the test split, both included, counted from 0.
    #[arg(long, conflicts_with_all = ["limit", "offset"], value_parser = rows)]
    rows: Option<(usize, usize)>,
    /// Directory of the data set.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Parameter set of the encrypted run; the cheapest that fits by default.
    #[arg(long)]
    set: Option<String>,
    /// Device of the encrypted run.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Answer with the class alone: nobody learns the logits (needs a build with the feature `label-only`).
    #[arg(long)]
    label_only: bool,
    /// Write labels and logits as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the latency breakdown of an encrypted run as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// The offset and the count of `FIRST-LAST`.
fn rows(text: &str) -> Result<(usize, usize), String> {
    let ends = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match ends {
        Some((first, last)) if first <= last && last < SEEDED_LIMIT => {
            Ok((first, last - first + 1))
        }
        _ => Err(format!("FIRST-LAST expected, such as 0-199, both below {SEEDED_LIMIT}")),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Backend {
    Clear,
    Exact,
    He,
    Mpc,
}

/// Seeded inputs that are held at once.
const SEEDED_LIMIT: usize = 100_000;

/// Inputs with their true labels, where there are any.
struct Inputs {
    dataset: String,
    /// Row of the first.
    offset: usize,
    matrices: Vec<Matrix>,
    labels: Option<Vec<usize>>,
}

fn inputs(model: &Model, args: &Args) -> Result<Inputs> {
    let config = &model.config;
    let (offset, limit) =
        args.rows.map_or((args.offset, args.limit), |(offset, count)| (offset, Some(count)));
    match config.dataset.as_deref() {
        Some("fashion-mnist") => {
            let data = FashionMnist::load(args.data.as_deref(), Split::Test)?;
            let available = data.len().saturating_sub(offset);
            let count = limit.unwrap_or(available).min(available);
            let mut matrices = Vec::with_capacity(count);
            let mut labels = Vec::with_capacity(count);
            for index in offset..offset + count {
                let (image, label) = data.get(index)?;
                matrices.push(patches(config, &image)?);
                labels.push(usize::from(label));
            }
            Ok(Inputs { dataset: "fashion-mnist".into(), offset, matrices, labels: Some(labels) })
        }
        Some("sst2") => {
            let Sst2 { sentences, labels } = Sst2::load(model, args.data.as_ref(), offset, limit)?;
            Ok(Inputs { dataset: "sst2".into(), offset, matrices: sentences, labels: Some(labels) })
        }
        Some("cifar10-jpeg") => {
            let Some(dir) = args.data.as_deref() else {
                bail!("pass --data FOLDER with test/CLASS/NAME.jpg: CIFAR-10 is in no package");
            };
            let InputKind::Image { height, .. } = config.input else {
                bail!("the model {} does not take images", config.name);
            };
            let data = ImageFolder::open(dir, Split::Test, &config.classes, height)?;
            let available = data.len().saturating_sub(offset);
            let count = limit.unwrap_or(available).min(available);
            let (mut matrices, mut labels) = (Vec::new(), Vec::new());
            for index in offset..offset + count {
                let (image, label) = data.get(index)?;
                matrices.push(patches(config, &image)?);
                labels.push(label);
            }
            Ok(Inputs { dataset: "cifar10-jpeg".into(), offset, matrices, labels: Some(labels) })
        }
        Some(other) => bail!("no loader for the data set {other} of this model"),
        None => {
            let count = limit.unwrap_or(20);
            if count > SEEDED_LIMIT {
                bail!("--limit {count}: at most {SEEDED_LIMIT} seeded inputs at a time");
            }
            let range = offset as u64..(offset as u64).saturating_add(count as u64);
            let matrices = range.map(|i| random_input(config, 0, i)).collect::<Result<_, _>>()?;
            Ok(Inputs { dataset: "seeded random inputs".into(), offset, matrices, labels: None })
        }
    }
}

/// What encrypted runs gave.
struct Encrypted {
    answers: Vec<Answer>,
    /// Of each input: encryption, run and decryption, and the constants of a length not seen before.
    seconds: Vec<f64>,
    /// Largest logit error that the noise model predicts for the shortest and the longest input.
    predicted_error: f64,
    /// Margin from which on labels cannot differ: twice that error, or of a plan that answers with a label six standard
    /// deviations of a difference.
    margin: f64,
    report: Report,
}

/// Recordings that a report is made of, at most: each holds every span of a run.
const RECORDINGS: usize = 16;

fn encrypted(model: &Model, context: &Context, mode: Mode, inputs: &[Matrix]) -> Result<Encrypted> {
    let mut session = Session::new(model, context, mode)?;
    let plan = session.model.description().plan().clone();
    let lengths = || inputs.iter().map(Matrix::rows);
    let mut predicted_error: f64 = 0.0;
    for length in [lengths().min(), lengths().max()] {
        let Some(input) = inputs.iter().find(|input| Some(input.rows()) == length) else {
            continue;
        };
        let program = session.model.program_of(input.rows())?;
        let bits = precision_bits_of(model, context.params(), &plan, &program, input)?;
        predicted_error = predicted_error.max((-bits).exp2());
    }
    let step = plan.label_step(context.params()).zip(plan.logit_range());
    let margin = step.map_or(2.0 * predicted_error, |(step, range)| {
        let scheme = 2f64.sqrt() * predicted_error;
        6.0 * step.noise().difference_sigma(range.max).hypot(scheme)
    });
    let progress = bar(inputs.len() as u64, "encrypted inference");
    let (mut answers, mut seconds, mut recordings) = (Vec::new(), Vec::new(), Vec::new());
    for input in inputs {
        let mut observer = |p: &Progress| {
            progress.set_message(p.operator.clone());
            ControlFlow::Continue(())
        };
        let begin = Instant::now();
        let (result, recording) = session.infer(input, &mut observer)?;
        seconds.push(begin.elapsed().as_secs_f64());
        plan.cost().check(&recording.total()).context("counts differ from the plan's")?;
        answers.push(result);
        if recordings.len() < RECORDINGS {
            recordings.push(recording);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let mut head = header(model, context, plan.sizes(context.params()).key_bytes);
    let sizes = plan.sizes(context.params());
    (head.upload_bytes, head.download_bytes) = (sizes.upload_bytes, sizes.download_bytes);
    let vram = planned_vram(&session.model);
    let report =
        Report::new(head, &recordings)?.with_prediction(&prediction(&plan, context.params(), vram));
    Ok(Encrypted { answers, seconds, predicted_error, margin, report })
}

/// The share of labels that are the true ones.
fn share(labels: impl Iterator<Item = usize>, truth: &[usize]) -> f64 {
    labels.zip(truth).filter(|(a, b)| a == *b).count() as f64 / truth.len() as f64
}

/// Between two parties in this process, with a dealer's correlations made on the way.
fn shared(model: &Model, inputs: &[Matrix]) -> Result<Vec<Vec<f64>>> {
    let plan = MpcPlan::new(&model.config, MpcOutput::Logits)?;
    let mut rng = mpc::entropy()?;
    let server = plan.server(model, WeightMask::random(&mut rng))?;
    let client = server.masked(plan.circuit());
    let weights = ClientWeights::from_model(model)?;
    let progress = bar(inputs.len() as u64, "inference on shares");
    let mut all = Vec::new();
    for input in inputs {
        let encoded = plan.encode(&weights, input)?;
        let words = mpc::infer(plan.circuit(), (&server, &client), &encoded, &mut rng)?;
        all.push(plan.decode(&words));
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(all)
}

/// Beside the clear executor.
struct Compared {
    /// Labels that are the same.
    equal: usize,
    /// Largest difference of two logits, where logits came out.
    difference: Option<f64>,
    /// Rows whose labels differ, and by how much the clear logit of the clear label exceeds that of the other.
    disagreements: Vec<(usize, f64)>,
    /// Of the clear executor.
    accuracy: Option<f64>,
}

impl Compared {
    /// With what the backend should have computed: what it takes approximations for differs.
    fn new(
        model: &Model,
        backend: Backend,
        inputs: &Inputs,
        answers: &[Answer],
    ) -> Result<Option<Self>> {
        let functions = match backend {
            Backend::He => Functions::Polynomial,
            Backend::Mpc => Functions::Exact,
            Backend::Clear | Backend::Exact => return Ok(None),
        };
        let clear = ClearExecutor::new(model, functions)?.run_batch(&inputs.matrices)?;
        let logits: Option<Vec<&[f64]>> = answers.iter().map(Answer::logits).collect();
        let difference = logits.map(|logits| {
            let pairs = clear.iter().flatten().zip(logits.into_iter().flatten());
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        });
        let disagreements: Vec<_> = (inputs.offset..)
            .zip(clear.iter().zip(answers))
            .filter(|(_, (clear, answer))| argmax(clear) != answer.label())
            .map(|(row, (clear, answer))| {
                let of = |label: usize| clear.get(label).copied().unwrap_or_default();
                (row, of(argmax(clear)) - of(answer.label()))
            })
            .collect();
        let equal = answers.len() - disagreements.len();
        let labels = clear.iter().map(|logits| argmax(logits));
        let accuracy = inputs.labels.as_ref().map(|truth| share(labels, truth));
        Ok(Some(Self { equal, difference, disagreements, accuracy }))
    }

    fn print(&self, count: usize) {
        let apart = match self.difference {
            Some(difference) => format!("logits within {difference:.1e}"),
            None => "no logits".to_owned(),
        };
        println!("{} of {count} labels as in the clear, {apart}", self.equal);
        for (row, margin) in &self.disagreements {
            println!("row {row} differs; its margin in the clear is {margin:.1e}");
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = load_model(&args.model)?;
    let inputs = inputs(&model, args)?;
    if inputs.matrices.is_empty() {
        bail!("no inputs: --limit is 0, or --offset lies beyond the data set");
    }
    if args.label_only && args.backend != Backend::He {
        bail!("--label-only is of the encrypted run: add --backend he");
    }
    let begin = Instant::now();
    let mut he: Option<Encrypted> = None;
    let logits_of = |all: Vec<Vec<f64>>| all.into_iter().map(Answer::Logits).collect();
    let answers: Vec<Answer> = match args.backend {
        Backend::Clear | Backend::Exact => {
            let functions = match args.backend {
                Backend::Exact => Functions::Exact,
                _ => Functions::Polynomial,
            };
            logits_of(ClearExecutor::new(&model, functions)?.run_batch(&inputs.matrices)?)
        }
        Backend::He => {
            let mode = mode(args.label_only);
            let context = context(&model, args.set.as_deref(), &args.device, mode)?;
            let mut run = encrypted(&model, &context, mode, &inputs.matrices)?;
            let answers = std::mem::take(&mut run.answers);
            he = Some(run);
            answers
        }
        Backend::Mpc => logits_of(shared(&model, &inputs.matrices)?),
    };
    // Without keys and weights where they are made once.
    let seconds = he.as_ref().map(|run| run.seconds.iter().sum());
    let seconds = seconds.unwrap_or_else(|| begin.elapsed().as_secs_f64()) / answers.len() as f64;
    let labels: Vec<usize> = answers.iter().map(Answer::label).collect();
    let logits: Option<Vec<&[f64]>> = answers.iter().map(Answer::logits).collect();
    let compared = Compared::new(&model, args.backend, &inputs, &answers)?;
    let accuracy = inputs.labels.as_ref().map(|truth| share(labels.iter().copied(), truth));
    let what = if model.config.random_weights { " [RANDOM WEIGHTS]" } else { "" };
    println!(
        "{}{what} on {} {}, backend {:?}",
        args.model,
        labels.len(),
        inputs.dataset,
        args.backend
    );
    match accuracy {
        Some(accuracy) => println!("accuracy {:.2} %", accuracy * 100.0),
        None => println!("labels {labels:?}"),
    }
    if let Some(compared) = &compared {
        compared.print(labels.len());
    }
    if let (Some(run), Some(compared)) = (&he, &compared) {
        let (error, margin) = (run.predicted_error, run.margin);
        let far = |(_, of): &&(usize, f64)| *of > margin;
        let beyond = compared.disagreements.iter().filter(far).count();
        if args.label_only {
            let clear = compared
                .accuracy
                .map_or(String::new(), |a| format!("; accuracy in the clear {:.2} %", a * 100.0));
            println!("6 sigma is a margin of {margin:.3}; {beyond} labels differ beyond it{clear}");
        } else {
            println!("predicted error {error:.1e}; {beyond} labels differ beyond twice of it");
        }
        if let Some(path) = &args.report {
            std::fs::write(path, run.report.to_json()? + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    println!("{seconds:.6} s an input");
    write_json(
        args.json.as_deref(),
        &json!({
            "schema": "cipherform.eval/1",
            "model": model.config.name,
            "random_weights": model.config.random_weights,
            "backend": format!("{:?}", args.backend).to_lowercase(),
            "dataset": inputs.dataset,
            "split": "test",
            "offset": inputs.offset,
            "tokens": inputs.matrices.iter().map(Matrix::rows).collect::<Vec<_>>(),
            "count": labels.len(),
            "accuracy": accuracy,
            "equal_to_clear": compared.as_ref().map(|c| c.equal),
            "accuracy_clear": compared.as_ref().and_then(|c| c.accuracy),
            "largest_logit_difference": compared.as_ref().and_then(|c| c.difference),
            "predicted_logit_error": he.as_ref().map(|run| run.predicted_error),
            "disagreements": compared.as_ref().map_or(&[][..], |c| &c.disagreements)
                .iter()
                .map(|(row, margin)| json!({"row": row, "margin": margin}))
                .collect::<Vec<_>>(),
            "margin_that_decides": he.as_ref().map(|run| run.margin),
            "seconds": he.as_ref().map(|run| run.seconds.clone()),
            "labels": labels,
            "true_labels": inputs.labels,
            "logits": logits,
            "seconds_per_input": seconds,
        }),
    )
}
