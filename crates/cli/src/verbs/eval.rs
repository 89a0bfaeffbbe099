//! `cipherform eval`: accuracy on the model's data set.

use crate::output::{bar, write_json};
use crate::verbs::mpc;
use crate::verbs::session::Session;
use crate::verbs::{DEFAULT_MODEL, context, load_model};
use anyhow::{Result, bail};
use cipherform_mpc::WeightMask;
use cipherform_nn::data::{FashionMnist, Split, patches};
use cipherform_nn::exec::{ClearExecutor, MpcOutput, MpcPlan, Progress};
use cipherform_nn::{ClientWeights, Functions, Matrix, Model, argmax, random_input};
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
    /// Directory of the data set.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Parameter set of the encrypted run; the cheapest that fits by default.
    #[arg(long)]
    set: Option<String>,
    /// Device of the encrypted run.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Write labels and logits as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
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
    matrices: Vec<Matrix>,
    labels: Option<Vec<usize>>,
}

fn inputs(model: &Model, args: &Args) -> Result<Inputs> {
    let config = &model.config;
    match config.dataset.as_deref() {
        Some("fashion-mnist") => {
            let data = FashionMnist::load(args.data.as_deref(), Split::Test)?;
            let available = data.len().saturating_sub(args.offset);
            let count = args.limit.unwrap_or(available).min(available);
            let mut matrices = Vec::with_capacity(count);
            let mut labels = Vec::with_capacity(count);
            for index in args.offset..args.offset + count {
                let (image, label) = data.get(index)?;
                matrices.push(patches(config, &image)?);
                labels.push(usize::from(label));
            }
            Ok(Inputs { dataset: "fashion-mnist".into(), matrices, labels: Some(labels) })
        }
        Some(other) => bail!("no loader for the data set {other} of this model"),
        None => {
            let count = args.limit.unwrap_or(20);
            if count > SEEDED_LIMIT {
                bail!("--limit {count}: at most {SEEDED_LIMIT} seeded inputs at a time");
            }
            let range = args.offset as u64..(args.offset as u64).saturating_add(count as u64);
            let matrices = range.map(|i| random_input(config, 0, i)).collect::<Result<_, _>>()?;
            Ok(Inputs { dataset: "seeded random inputs".into(), matrices, labels: None })
        }
    }
}

fn encrypted(mut session: Session, inputs: &[Matrix]) -> Result<Vec<Vec<f64>>> {
    let progress = bar(inputs.len() as u64, "encrypted inference");
    let mut all = Vec::new();
    for input in inputs {
        let mut observer = |p: &Progress| {
            progress.set_message(p.operator.clone());
            ControlFlow::Continue(())
        };
        all.push(session.infer(input, &mut observer)?.0);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(all)
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

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = load_model(&args.model)?;
    let inputs = inputs(&model, args)?;
    if inputs.matrices.is_empty() {
        bail!("no inputs: --limit is 0, or --offset lies beyond the data set");
    }
    let mut begin = Instant::now();
    let logits: Vec<Vec<f64>> = match args.backend {
        Backend::Clear | Backend::Exact => {
            let functions = match args.backend {
                Backend::Exact => Functions::Exact,
                _ => Functions::Polynomial,
            };
            ClearExecutor::new(&model, functions)?.run_batch(&inputs.matrices)?
        }
        Backend::He => {
            let context = context(&model, args.set.as_deref(), &args.device)?;
            let session = Session::new(&model, &context)?;
            begin = Instant::now();
            encrypted(session, &inputs.matrices)?
        }
        Backend::Mpc => shared(&model, &inputs.matrices)?,
    };
    let seconds = begin.elapsed().as_secs_f64() / logits.len() as f64;
    let labels: Vec<usize> = logits.iter().map(|l| argmax(l)).collect();
    // What the backend should have computed: what it takes approximations for differs.
    let functions = match args.backend {
        Backend::He => Some(Functions::Polynomial),
        Backend::Mpc => Some(Functions::Exact),
        Backend::Clear | Backend::Exact => None,
    };
    let clear = functions
        .map(|f| ClearExecutor::new(&model, f)?.run_batch(&inputs.matrices))
        .transpose()?;
    let equal = clear
        .as_ref()
        .map(|clear| clear.iter().zip(&labels).filter(|(c, l)| argmax(c) == **l).count());
    let difference = clear.as_ref().map(|clear| {
        let pairs = clear.iter().flatten().zip(logits.iter().flatten());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    });
    let accuracy = inputs.labels.as_ref().map(|truth| {
        let right = labels.iter().zip(truth).filter(|(a, b)| a == b).count();
        right as f64 / labels.len() as f64
    });
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
    if let (Some(equal), Some(difference)) = (equal, difference) {
        let count = labels.len();
        println!("{equal} of {count} labels as in the clear, logits within {difference:.1e}");
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
            "offset": args.offset,
            "count": labels.len(),
            "accuracy": accuracy,
            "equal_to_clear": equal,
            "largest_logit_difference": difference,
            "labels": labels,
            "true_labels": inputs.labels,
            "logits": logits,
            "seconds_per_input": seconds,
        }),
    )
}
