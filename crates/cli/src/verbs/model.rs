//! `cipherform model`: list, show, generate.

use crate::output::{bar, write_json};
use crate::verbs::{load_model, model_dir};
use anyhow::{Context as _, Result, bail};
use cipherform_nn::calibrate::CostTable;
use cipherform_nn::data::{FashionMnist, Split, patches};
use cipherform_nn::exec::{ClearExecutor, RangeObserver};
use cipherform_nn::{Functions, HeadKind, Mode, Model, Plan, RandomModel};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Write the result as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// The models below models/ of the working directory.
    List,
    /// Architecture, ranges and accuracy of one model.
    Show {
        /// Name or directory.
        name: String,
    },
    /// Measure how far apart the logits of a model are on its training data, which answers that are a label need, and write it
    /// into its config.
    Logits {
        /// Name or directory.
        name: String,
        /// At most this many training inputs; all by default.
        #[arg(long)]
        limit: Option<usize>,
        /// Directory of the data set.
        #[arg(long)]
        data: Option<PathBuf>,
    },
    /// A model of any shape with random weights, labelled as such.
    Random(RandomArgs),
}

#[derive(Debug, clap::Args)]
struct RandomArgs {
    /// Tokens.
    #[arg(long, default_value_t = 49)]
    tokens: usize,
    /// Features of a token.
    #[arg(long, default_value_t = 64)]
    width: usize,
    /// Heads of every layer.
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Encoder layers.
    #[arg(long, default_value_t = 1)]
    layers: usize,
    /// Hidden features of the feed-forward block.
    #[arg(long, default_value_t = 128)]
    ffn: usize,
    /// The even power of Power-Softmax heads.
    #[arg(long, default_value_t = 2)]
    power: u32,
    /// Heads that are scaled instead: comma-separated indices.
    #[arg(long, value_delimiter = ',')]
    scaled_heads: Vec<usize>,
    /// Classes.
    #[arg(long, default_value_t = 10)]
    classes: usize,
    /// Heads raise `s / p + c` with a random c.
    #[arg(long)]
    shifted: bool,
    /// Heads that raise do not divide.
    #[arg(long)]
    undivided: bool,
    /// Inputs may be shorter than the tokens.
    #[arg(long)]
    variable: bool,
    /// The shape of a publication: bert-tiny, minilm-l6, pythia-70m or bert-base. Only seed, power, shifted and undivided count
    /// beside it.
    #[arg(long)]
    like: Option<String>,
    /// Seed of the weights and of the calibration inputs.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Directory to write.
    #[arg(long)]
    out: PathBuf,
}

fn summary(model: &Model) -> serde_json::Value {
    let c = &model.config;
    let scaled = c.layers.iter().flat_map(|l| &l.heads).filter(|&&k| k == HeadKind::Scaled).count();
    json!({
        "name": c.name,
        "random_weights": c.random_weights,
        "tokens": c.tokens,
        "width": c.width,
        "ffn": c.ffn,
        "layers": c.layers.len(),
        "heads": c.layers.iter().map(|l| l.heads.len()).collect::<Vec<_>>(),
        "scaled_heads": scaled,
        "structure": c.structure,
        "power": c.layers.iter().map(|l| l.power).collect::<Vec<_>>(),
        "classes": c.classes,
    })
}

fn line(model: &Model) -> String {
    let c = &model.config;
    format!(
        "{:<28} {} layer(s), {} tokens, width {}, ffn {}, {} classes{}",
        c.name,
        c.layers.len(),
        c.tokens,
        c.width,
        c.ffn,
        c.classes.len(),
        if c.random_weights { "  [RANDOM WEIGHTS]" } else { "" }
    )
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let value = match &args.action {
        Action::List => list()?,
        Action::Show { name } => show(name)?,
        Action::Logits { name, limit, data } => logits(name, *limit, data.as_deref())?,
        Action::Random(random) => generate(random)?,
    };
    write_json(args.json.as_deref(), &value)
}

fn list() -> Result<serde_json::Value> {
    let mut models = Vec::new();
    let dir = Path::new(super::MODELS);
    let entries = std::fs::read_dir(dir).with_context(|| "no directory models/ here")?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths.iter().filter(|p| p.join("config.json").is_file()) {
        let model = Model::load(path)?;
        println!("{}", line(&model));
        models.push(summary(&model));
    }
    Ok(json!({"schema": "cipherform.model/1", "models": models}))
}

fn show(name: &str) -> Result<serde_json::Value> {
    let model = load_model(name)?;
    println!("{}\n", line(&model));
    println!("{:?}", cipherform_nn::Graph::from_config(&model.config)?);
    match Plan::choose_parameters(&model, &CostTable::nominal(), Mode::Logits) {
        Ok(params) => {
            let (plan, _) = Plan::build(&model, &params)?;
            let level = plan.top_level();
            println!("parameter set {}: {level} levels of {}", params.name(), params.max_level());
        }
        Err(refusal) => println!("no parameter set: {refusal}"),
    }
    let card = model_dir(name)?.join("card.json");
    let card = std::fs::read_to_string(card)
        .ok()
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    if let Some(accuracy) = card.as_ref().and_then(|c| c.get("accuracy")) {
        println!("accuracy (from its card): {accuracy}");
    }
    Ok(json!({"schema": "cipherform.model/1", "models": [summary(&model)], "card": card}))
}

fn generate(args: &RandomArgs) -> Result<serde_json::Value> {
    let shape = match &args.like {
        Some(name) => RandomModel::literature(name).with_context(|| {
            format!("no shape {name}: bert-tiny, minilm-l6, pythia-70m, bert-base, mpcvit")
        })?,
        None => RandomModel {
            tokens: args.tokens,
            width: args.width,
            heads: args.heads,
            layers: args.layers,
            ffn: args.ffn,
            scaled_heads: args.scaled_heads.clone(),
            classes: args.classes,
            variable: args.variable,
            ..RandomModel::default()
        },
    };
    let RandomArgs { power, shifted, undivided, seed, .. } = *args;
    let model = RandomModel { power, shifted, undivided, seed, ..shape }.generate()?;
    model.save(&args.out)?;
    println!("{}\nwritten to {}", line(&model), args.out.display());
    Ok(json!({"schema": "cipherform.model/1", "models": [summary(&model)]}))
}

/// Inputs that are held at once.
const BATCH: usize = 1000;

fn logits(name: &str, limit: Option<usize>, data: Option<&Path>) -> Result<serde_json::Value> {
    let directory = model_dir(name)?;
    let mut model = Model::load(&directory)?;
    let config = &model.config;
    if config.dataset.as_deref() != Some("fashion-mnist") {
        let dataset = config.dataset.as_deref().unwrap_or("none");
        bail!(
            "no loader for the training data of {name} ({dataset}): set logit_difference_max in its config.json"
        );
    }
    let data = FashionMnist::load(data, Split::Train)?;
    let count = limit.unwrap_or(data.len()).min(data.len());
    let executor = ClearExecutor::new(&model, Functions::Polynomial)?;
    let progress = bar(count as u64, "training inputs");
    let mut ranges = RangeObserver::new(config);
    for start in (0..count).step_by(BATCH) {
        let batch = (start..count.min(start + BATCH))
            .map(|index| Ok(patches(config, &data.get(index)?.0)?))
            .collect::<Result<Vec<_>>>()?;
        ranges.logits(executor.run_batch(&batch)?.iter().map(Vec::as_slice));
        progress.inc(batch.len() as u64);
    }
    progress.finish_and_clear();
    let mut config = model.config.clone();
    ranges.apply_logit_difference(&mut config);
    let difference = config.logit_difference_max;
    let path = directory.join("config.json");
    std::fs::write(&path, config.to_json()?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    model.config = config;
    let shown = difference.unwrap_or_default();
    println!(
        "{name}: logits of {count} training inputs are up to {shown:.4} apart; written to {}",
        path.display()
    );
    Ok(json!({
        "schema": "cipherform.model/1", "models": [summary(&model)], "inputs": count,
        "logit_difference_max": difference,
    }))
}
