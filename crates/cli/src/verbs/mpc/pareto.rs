//! `cipherform mpc pareto`: accuracy against latency of the models that a search has found.
//!
//! Reads `card.json` of every folder. A card's `points` say what every head and activation is and how accurate the trained model was; bytes, rounds
//! and the network's time follow from the circuit that `run --model` and `eval` lower the same architecture to; the time to compute is
//! measured here, with random weights: it does not depend on them.

use super::entropy;
use super::pair::loopback;
use super::picture::{Panel, Point as Dot, draw, page};
use crate::output::{bar, bytes, write_json};
use anyhow::{Context as _, Result, bail};
use cipherform_mpc::{Cost, Network, WeightMask};
use cipherform_nn::exec::{MpcOutput, MpcPlan};
use cipherform_nn::{
    Activation, ClientWeights, HeadKind, ModelConfig, RandomModel, draw as draw_model, random_input,
};
use cipherform_profile::cpu_model;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of model folders, or one of them.
    #[arg(long, default_value = "models")]
    models: PathBuf,
    /// Networks, separated by semicolons: lan, wan, or RTT,BANDWIDTH in ms and MB/s.
    #[arg(long, default_value = "lan;wan")]
    networks: String,
    /// Timed runs of every model, after one that warms up; the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Write the pictures and the table as a page.
    #[arg(long)]
    html: Option<PathBuf>,
    /// Write the pictures alone.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Write the table as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The part of a card that this verb reads.
#[derive(Deserialize)]
struct Card {
    name: String,
    dataset: Dataset,
    shape: Shape,
    points: Vec<Point>,
}

#[derive(Deserialize)]
struct Dataset {
    name: String,
}

#[derive(Deserialize)]
struct Shape {
    tokens: usize,
    width: usize,
    ffn: usize,
    heads: usize,
    layers: usize,
    norm_eps: f64,
    #[serde(default = "ten")]
    classes: usize,
}

fn ten() -> usize {
    10
}

#[derive(Deserialize)]
struct Point {
    name: String,
    kind: String,
    /// By layer, by head.
    heads: Vec<Vec<String>>,
    activations: Vec<String>,
    #[serde(default)]
    eps_row_sum: f64,
    accuracy_percent: Accuracy,
}

#[derive(Deserialize)]
struct Accuracy {
    test: f64,
}

/// Kind of a head and, where it raises its scores, the power.
fn head(name: &str) -> Result<(HeadKind, Option<u32>)> {
    Ok(match name {
        "scale" => (HeadKind::Scaled, None),
        "relu" => (HeadKind::Relu, None),
        "softmax" => (HeadKind::Softmax, None),
        other => {
            let power = other.strip_prefix("power").and_then(|p| p.parse().ok());
            let power = power.with_context(|| format!("no head is called {other}"))?;
            (HeadKind::Power, Some(power))
        }
    })
}

fn activation(name: &str) -> Result<Activation> {
    Ok(match name {
        "gelu" => Activation::Gelu,
        "square" => Activation::Quadratic,
        "none" => Activation::None,
        other => bail!("no searched model has the activation {other}: gelu, square, none"),
    })
}

impl Point {
    /// The model's config; ranges come with the weights that are drawn for it.
    fn config(&self, shape: &Shape) -> Result<ModelConfig> {
        let layers = (self.heads.len(), self.activations.len());
        if layers != (shape.layers, shape.layers) {
            bail!("{}: heads and activations of {layers:?} layers of {}", self.name, shape.layers);
        }
        let Shape { tokens, width, ffn, heads, classes, .. } = *shape;
        let plain =
            RandomModel { tokens, width, ffn, heads, classes, layers: 1, ..RandomModel::default() };
        let mut config = plain.generate()?.config;
        let layer = config.layers.remove(0);
        config.norm_eps = shape.norm_eps;
        for (names, act) in self.heads.iter().zip(&self.activations) {
            let kinds = names.iter().map(|name| head(name)).collect::<Result<Vec<_>>>()?;
            let mut layer = layer.clone();
            layer.power = kinds.iter().find_map(|(_, power)| *power).unwrap_or(layer.power);
            layer.heads = kinds.into_iter().map(|(kind, _)| kind).collect();
            layer.activation = activation(act)?;
            layer.eps = (self.eps_row_sum / tokens as f64).max(1e-6);
            config.layers.push(layer);
        }
        Ok(config)
    }
}

/// One model, measured.
struct Row {
    data: String,
    name: String,
    kind: String,
    accuracy: f64,
    cost: Cost,
    /// Wall time of a run without a network, both parties on this machine, in seconds.
    compute: f64,
    /// By network: `compute` and the network's own time, in seconds.
    latency: Vec<f64>,
}

/// The cards with points below `folder`; the names of those without.
fn cards(folder: &Path) -> Result<(Vec<Card>, Vec<String>)> {
    let mut paths = vec![folder.join("card.json")];
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    paths.extend(entries.filter_map(|e| e.ok().map(|e| e.path().join("card.json"))));
    paths.sort();
    let (mut cards, mut without) = (Vec::new(), Vec::new());
    for path in paths.iter().filter(|p| p.is_file()) {
        let text = std::fs::read_to_string(path)?;
        let card: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is not JSON", path.display()))?;
        if card["points"].is_array() {
            let card = serde_json::from_value(card)
                .with_context(|| format!("{} is not a card of a search", path.display()))?;
            cards.push(card);
        } else {
            without.push(path.display().to_string());
        }
    }
    Ok((cards, without))
}

fn measure(card: &Card, point: &Point, networks: &[(String, Network)], runs: usize) -> Result<Row> {
    let config = point.config(&card.shape).with_context(|| point.name.clone())?;
    let model = draw_model(config, 0).with_context(|| point.name.clone())?;
    let plan = MpcPlan::new(&model.config, MpcOutput::Label).with_context(|| point.name.clone())?;
    let circuit = plan.circuit();
    let input = random_input(&model.config, 0, 0)?;
    let inputs = plan.encode(&ClientWeights::from_model(&model)?, &input)?;
    let server = plan.server(&model, WeightMask::random(&mut entropy()?))?;
    let compute = loopback(circuit, &server, &inputs, runs)?.wall.as_secs_f64();
    let on = |network: &Network| compute + circuit.network_time(*network).as_secs_f64();
    Ok(Row {
        data: card.dataset.name.clone(),
        name: point.name.clone(),
        kind: point.kind.clone(),
        accuracy: point.accuracy_percent.test,
        cost: circuit.cost(),
        compute,
        latency: networks.iter().map(|(_, network)| on(network)).collect(),
    })
}

/// Whether no other row of its data set is at least as accurate and as fast, and better in one.
fn on_front(row: &Row, rows: &[Row], network: usize) -> bool {
    !rows.iter().filter(|other| other.data == row.data).any(|other| {
        let (a, b) = (other.accuracy - row.accuracy, row.latency[network] - other.latency[network]);
        a >= 0.0 && b >= 0.0 && (a > 0.0 || b > 0.0)
    })
}

pub(super) fn run(args: &Args) -> Result<()> {
    let networks: Vec<(String, Network)> = args
        .networks
        .split(';')
        .map(|name| Ok((name.trim().to_owned(), name.trim().parse()?)))
        .collect::<Result<_>>()?;
    let (cards, without) = cards(&args.models)?;
    for path in without {
        println!("{path}: no points of a search, skipped");
    }
    let points = || cards.iter().flat_map(|card| card.points.iter().map(move |p| (card, p)));
    if points().next().is_none() {
        bail!("no card with points below {}; training/ makes them", args.models.display());
    }
    let progress = bar(points().count() as u64, "models");
    let mut rows = Vec::new();
    for (card, point) in points() {
        progress.set_message(format!("{} {}", card.name, point.name));
        rows.push(measure(card, point, &networks, args.runs.max(1))?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    rows.sort_by(|a, b| {
        let first = |row: &Row| row.latency.last().copied().unwrap_or_default();
        a.data.cmp(&b.data).then(first(a).total_cmp(&first(b)))
    });
    print(&rows, &networks);

    let mut data: Vec<&str> = rows.iter().map(|row| row.data.as_str()).collect();
    data.dedup();
    let panel = |data: &str, n: usize| Panel {
        title: format!("{data}, {}", networks[n].0),
        x: "seconds an image".into(),
        y: "test accuracy, %".into(),
        points: rows
            .iter()
            .filter(|row| row.data == data)
            .map(|row| Dot {
                x: row.latency[n],
                y: row.accuracy,
                name: row.name.clone(),
                group: row.kind.clone(),
                marked: on_front(row, &rows, n),
            })
            .collect(),
    };
    let places = data.iter().flat_map(|data| (0..networks.len()).map(move |n| (data, n)));
    let panels: Vec<Panel> = places.map(|(data, n)| panel(data, n)).collect();
    let picture = draw(&panels, networks.len());
    if let Some(path) = &args.svg {
        std::fs::write(path, &picture).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.html {
        let (titles, cells) = table(&rows, &networks);
        let note = format!(
            "Latency: wall time without a network, both parties on this machine ({}), and the network's own time by the plan. Dealer's bytes \
             are sent ahead and are not in the latency.",
            cpu_model().unwrap_or_else(|| "unknown processor".into())
        );
        let page = page(
            "Accuracy against latency of two-party inference",
            &note,
            &picture,
            &titles,
            &cells,
        );
        std::fs::write(path, page).with_context(|| path.display().to_string())?;
    }
    write_json(args.json.as_deref(), &as_json(&rows, &networks))
}

fn table(rows: &[Row], networks: &[(String, Network)]) -> (Vec<String>, Vec<Vec<String>>) {
    let titles = ["data", "model", "kind", "accuracy", "server sends", "client sends", "rounds"];
    let titles = titles.into_iter().chain(["dealer", "compute"]).map(str::to_owned);
    let titles = titles.chain(networks.iter().map(|(name, _)| name.clone())).collect();
    let cells = rows.iter().map(|row| {
        let dealt = row.cost.offline.server + row.cost.offline.client;
        let cells = [
            row.data.clone(),
            row.name.clone(),
            row.kind.clone(),
            format!("{:.2} %", row.accuracy),
            bytes(row.cost.server_sent),
            bytes(row.cost.client_sent),
            row.cost.rounds.to_string(),
            bytes(dealt),
            format!("{:.2} s", row.compute),
        ];
        let latency = row.latency.iter().enumerate().map(|(n, seconds)| {
            format!("{seconds:.2} s{}", if on_front(row, rows, n) { " *" } else { "" })
        });
        cells.into_iter().chain(latency).collect()
    });
    (titles, cells.collect())
}

fn print(rows: &[Row], networks: &[(String, Network)]) {
    let (titles, cells) = table(rows, networks);
    let all = || std::iter::once(&titles).chain(&cells);
    let widths: Vec<usize> = (0..titles.len())
        .map(|i| all().map(|row| row[i].chars().count()).max().unwrap_or(0))
        .collect();
    for row in all() {
        let padded = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| {
            if i < 3 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
    println!("* no other model of its data set is as accurate and as fast");
}

fn as_json(rows: &[Row], networks: &[(String, Network)]) -> Value {
    let rows = rows.iter().map(|row| {
        let latency: serde_json::Map<String, Value> = networks
            .iter()
            .zip(&row.latency)
            .map(|((name, _), seconds)| (name.clone(), json!(seconds)))
            .collect();
        json!({
            "dataset": row.data,
            "name": row.name,
            "kind": row.kind,
            "accuracy_percent": row.accuracy,
            "server_sent": row.cost.server_sent,
            "client_sent": row.cost.client_sent,
            "rounds": row.cost.rounds,
            "offline_server": row.cost.offline.server,
            "offline_client": row.cost.offline.client,
            "compute_s": row.compute,
            "latency_s": latency,
        })
    });
    json!({ "schema": "cipherform.mpc.pareto/1", "rows": rows.collect::<Vec<_>>() })
}
