//! `cipherform mpc`: two-party inference on secret shares.

mod connect;
mod deal;
mod hybrid;
mod identity;
mod job;
mod no_dealer;
mod operators;
mod pair;
mod pareto;
mod picture;
mod run;

use crate::output::time;
use anyhow::{Result, bail};
use cipherform_mpc::Network;
use cipherform_mpc::model::{Architecture, Output};
use cipherform_mpc::ops::{Activation, Attention, BlockKind, BlockShape};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use serde_json::Value;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Run a model between two parties: both in this process, or one of them.
    #[command(
        after_help = "Examples:\n  cipherform mpc run --heads relu,relu,scale,scale --network wan\n  cipherform mpc run --model fashion-mnist-vit --mode hybrid --output logits\n  cipherform mpc run --role server --listen 0.0.0.0:7000 --correlations server/ --identity server.id --peer-key KEY"
    )]
    Run(Box<run::Args>),
    /// Generate correlations for both parties: ahead, in files that are used once, or as a third process that stays.
    #[command(
        after_help = "Examples:\n  cipherform mpc deal --heads scale --count 10 --out dealt/\n  cipherform mpc deal --heads scale --for-server 0.0.0.0:7001 --for-client 0.0.0.0:7002 --identity dealer.id --server-key KEY --client-key KEY"
    )]
    Deal(Box<deal::Args>),
    /// Accuracy against latency of searched models: a table, and a picture for each data set.
    #[command(after_help = "Example:\n  cipherform mpc pareto --models models --html pareto.html")]
    Pareto(pareto::Args),
    /// Operators, blocks and a model of the CIFAR shape, one by one: bytes, rounds, time, error.
    #[command(after_help = "Example:\n  cipherform mpc operators --runs 5 --json operators.json")]
    Operators(operators::Args),
    /// Make an identity for TLS and print its public key.
    #[command(after_help = "Example:\n  cipherform mpc identity --out server.id")]
    Identity(identity::Args),
}

pub(crate) use pair::infer;

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.action {
        Action::Run(args) => run::run(args),
        Action::Deal(args) => deal::run(args),
        Action::Pareto(args) => pareto::run(args),
        Action::Operators(args) => operators::run(args),
        Action::Identity(args) => identity::run(args),
    }
}

/// What is computed: a trained model, or a shape with random weights, whose times, bytes and errors are real and labels mean nothing.
#[derive(Debug, clap::Args)]
struct Shape {
    /// Name or directory of a trained model; the options of the shape are ignored then.
    #[arg(long)]
    model: Option<String>,
    /// Kind of every head, or one kind for all: softmax, centred, relu, power2, power4, power6, power8, scale.
    #[arg(long, default_value = "relu,relu,scale,scale")]
    heads: String,
    /// gelu, relu, square (a learned quadratic) or none (the products around it are one).
    #[arg(long, default_value = "gelu")]
    activation: String,
    /// Blocks.
    #[arg(long, default_value_t = 7)]
    blocks: usize,
    /// Tokens.
    #[arg(long, default_value_t = 65)]
    tokens: usize,
    /// Features.
    #[arg(long, default_value_t = 256)]
    width: usize,
    /// Heads of a block, when one kind stands for all.
    #[arg(long, default_value_t = 4)]
    head_count: usize,
    /// Features of the feed-forward layer.
    #[arg(long, default_value_t = 512)]
    hidden: usize,
    /// Classes; 0 reveals the last block's result instead.
    #[arg(long, default_value_t = 10)]
    classes: usize,
    /// Added to the row sums of ReLU and powers.
    #[arg(long, default_value_t = 0.125)]
    eps: f64,
    /// What the client learns: `label`, or `logits` with their rounding.
    #[arg(long, default_value = "label")]
    output: String,
    /// Seed of the random weights and input.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn head(name: &str) -> Result<Attention> {
    Ok(match name.trim() {
        "softmax" => Attention::SoftmaxMax,
        "centred" => Attention::SoftmaxCentred,
        "relu" => Attention::ReluSoftmax,
        "power2" => Attention::Power(2),
        "power4" => Attention::Power(4),
        "power6" => Attention::Power(6),
        "power8" => Attention::Power(8),
        "scale" => Attention::Scale,
        other => bail!(
            "no head is called {other}: softmax, centred, relu, power2, power4, power6, power8, scale"
        ),
    })
}

fn activation(name: &str) -> Result<Activation> {
    Ok(match name {
        "gelu" => Activation::Gelu,
        "relu" => Activation::Relu,
        "square" => Activation::Square,
        "none" => Activation::Identity,
        other => bail!("no activation is called {other}: gelu, relu, square, none"),
    })
}

impl Shape {
    fn architecture(&self) -> Result<Architecture> {
        let mut heads = self.heads.split(',').map(head).collect::<Result<Vec<_>>>()?;
        if let [one] = heads[..] {
            heads = vec![one; self.head_count];
        }
        let activation = activation(&self.activation)?;
        let output = match self.output.as_str() {
            "label" => Output::Label,
            "logits" => Output::Logits,
            other => bail!("no output is called {other}: label, logits"),
        };
        let shape = BlockShape {
            tokens: self.tokens,
            width: self.width,
            heads: heads.len(),
            hidden: self.hidden,
        };
        let kind = BlockKind {
            heads,
            activation,
            eps: self.eps,
            score: 4,
            scores_first: false,
            norm_eps: 1e-5,
        };
        Ok(Architecture { shape, blocks: vec![kind; self.blocks], classes: self.classes, output })
    }

    fn name(&self) -> String {
        format!("{} blocks, heads {}, {}", self.blocks, self.heads, self.activation)
    }
}

/// The operating system's entropy, expanded.
pub(crate) fn entropy() -> Result<ChaCha20Rng> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(ChaCha20Rng::from_seed(seed))
}

/// `loopback` is no network at all.
fn network(name: &str) -> Result<Option<Network>> {
    if name == "loopback" { Ok(None) } else { Ok(Some(name.parse()?)) }
}

/// A count of a party's row in a report.
fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_default()
}

/// A time of a party's row, for people.
fn seconds(row: &Value, key: &str) -> String {
    time(Duration::from_secs_f64(row[key].as_f64().unwrap_or_default()))
}
