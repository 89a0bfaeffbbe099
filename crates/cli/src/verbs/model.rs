//! `cipherform model`: list, show, generate.

use crate::output::write_json;
use crate::verbs::{load_model, model_dir};
use anyhow::{Context as _, Result};
use cipherform_nn::calibrate::CostTable;
use cipherform_nn::{HeadKind, Model, Plan, RandomModel};
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
    match Plan::choose_parameters(&model, &CostTable::nominal()) {
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
            format!("no shape {name}: bert-tiny, minilm-l6, pythia-70m, bert-base")
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
