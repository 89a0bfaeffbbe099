//! `cipherform mpc operators`: what each operator of a two-party run costs, and how far it is from f64, at the sizes of MPCViT's CIFAR model.
//!
//! Inputs are the peers': standard normal, or positive where the function is. Times are of both parties in this process and end with the client
//! receiving the result, which the counted bytes and rounds leave out.

use super::pair::loopback;
use super::{entropy, no_dealer};
use crate::output::{bytes, time, write_json};
use anyhow::{Result, bail};
use cipherform_mpc::model::{Architecture, Weights, clear, prepare};
use cipherform_mpc::ops::{self, Activation, Attention, SCALE, formula};
use cipherform_mpc::{
    Builder, Circuit, Cost, Network, NoDealerCost, Role, ServerModel, Share, Tensors, WeightMask,
    decode_all, encode_all,
};
use cipherform_profile::cpu_model;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Timed runs of every row, after one that warms up.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// `dealer`: correlations made ahead; `no-dealer`: two parties alone, everything they send and the result's opening counted.
    #[arg(long, default_value = "dealer")]
    mode: Mode,
    /// Write the rows as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Mode {
    Dealer,
    NoDealer,
}

/// How rows are measured.
#[derive(Clone, Copy)]
struct Measure {
    runs: usize,
    mode: Mode,
}

/// Shape of the CIFAR model.
const TOKENS: usize = 65;
const WIDTH: usize = 256;
const HEADS: usize = 4;
const HIDDEN: usize = 512;
/// Added to the row sums of ReLU and powers.
const EPS: f64 = 0.125;
const NORM_EPS: f64 = 1e-5;

type Build = Box<dyn Fn(&mut Builder, &[Share]) -> cipherform_mpc::Result<Share>>;
type Exact = Box<dyn Fn(&[Vec<f64>]) -> Vec<f64>>;

/// One operator.
struct Case {
    name: String,
    /// Shape, scale, values.
    inputs: Vec<(Vec<usize>, u32, Vec<f64>)>,
    weights: Tensors,
    build: Build,
    exact: Exact,
    cost: Cost,
}

fn normal(rng: &mut ChaCha20Rng, n: usize) -> Vec<f64> {
    let mut unit = || ((rng.next_u64() >> 11) as f64 + 0.5) / 2f64.powi(53);
    let mut one = || (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
    (0..n).map(|_| one()).collect()
}

fn product(x: &[f64], y: &[f64], k: usize, n: usize) -> Vec<f64> {
    let mut out = vec![0.0; x.len() / k * n];
    for (out, row) in out.chunks_mut(n).zip(x.chunks(k)) {
        for (x, y) in row.iter().zip(y.chunks(n)) {
            out.iter_mut().zip(y).for_each(|(o, y)| *o += x * y);
        }
    }
    out
}

/// What `each` makes of every row of `tokens`.
fn by_row(x: &[f64], row: usize, each: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    x.chunks(row).flat_map(each).collect()
}

/// `f(s)` over its sum plus `eps`.
fn normalised(x: &[f64], eps: f64, f: impl Fn(f64) -> f64) -> Vec<f64> {
    by_row(x, TOKENS, |row| {
        let sum = row.iter().map(|s| f(*s)).sum::<f64>() + eps;
        row.iter().map(|s| f(*s) / sum).collect()
    })
}

fn attention(x: &[f64], kind: Attention) -> Vec<f64> {
    match kind {
        Attention::ReluSoftmax => normalised(x, EPS, |s| s.max(0.0)),
        Attention::Power(p) => normalised(x, EPS, |s| (s / 2.0).powi(p as i32)),
        _ => normalised(x, 0.0, f64::exp),
    }
}

fn layer_norm(row: &[f64]) -> Vec<f64> {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
    row.iter().map(|x| (x - mean) / (variance + NORM_EPS).sqrt()).collect()
}

/// One input and a function of every element.
fn element_wise(
    name: &str,
    (shape, scale, x): (&[usize], u32, Vec<f64>),
    cost: Cost,
    build: fn(&mut Builder, Share) -> cipherform_mpc::Result<Share>,
    exact: fn(f64) -> f64,
) -> Case {
    Case {
        name: name.into(),
        inputs: vec![(shape.to_vec(), scale, x)],
        weights: Tensors::new(),
        build: Box::new(move |b, x| build(b, x[0])),
        exact: Box::new(move |x| x[0].iter().map(|x| exact(*x)).collect()),
        cost,
    }
}

fn products(rng: &mut ChaCha20Rng) -> Vec<Case> {
    let n = 256;
    let (x, y) = (normal(rng, n * n), normal(rng, n * n));
    let y: Vec<f64> = y.iter().map(|y| y / 16.0).collect();
    let square = || vec![n, n];
    let exact = move |x: &[Vec<f64>]| product(&x[0], &x[1], n, n);
    let weight = y.clone();
    vec![
        Case {
            name: "matmul 256^3, both shared".into(),
            inputs: vec![(square(), SCALE, x.clone()), (square(), SCALE, y.clone())],
            weights: Tensors::new(),
            build: Box::new(|b, x| ops::matmul(b, x[0], x[1])),
            exact: Box::new(exact),
            cost: formula::matmul(n as u64, n as u64, n as u64),
        },
        Case {
            name: "matmul 256^3, matrix at the server".into(),
            inputs: vec![(square(), SCALE, x.clone())],
            weights: Tensors::from([("w".into(), y.clone())]),
            build: Box::new(move |b, x| {
                let w = b.weight("w", n, n, SCALE);
                ops::linear(b, x[0], w, 5.0)
            }),
            exact: Box::new(move |x| product(&x[0], &weight, n, n)),
            cost: formula::linear(n as u64, n as u64, n as u64),
        },
        Case {
            name: "multiply 65,536".into(),
            inputs: vec![(square(), SCALE, x), (square(), SCALE, y)],
            weights: Tensors::new(),
            build: Box::new(|b, x| ops::multiply(b, x[0], x[1])),
            exact: Box::new(|x| x[0].iter().zip(&x[1]).map(|(x, y)| x * y).collect()),
            cost: formula::multiply((n * n) as u64),
        },
    ]
}

fn elements(rng: &mut ChaCha20Rng) -> Vec<Case> {
    let (rows, n) = (HEADS * TOKENS, TOKENS * HIDDEN);
    let features = normal(rng, n);
    let scores = normal(rng, rows * TOKENS);
    let negative = scores.iter().map(|x| -x.abs()).collect();
    let [sums, variances] =
        [rows, TOKENS].map(|n| normal(rng, n).iter().map(|x| x.abs() + 1.0).collect::<Vec<_>>());
    let hidden = [TOKENS, HIDDEN];
    let gelu = formula::activation(n as u64, Activation::Gelu);
    let quadratic = formula::activation(n as u64, Activation::Square);
    vec![
        element_wise(
            "ReLU 65x512",
            (&hidden, SCALE, features.clone()),
            formula::relu(n as u64, 5),
            |b, x| ops::relu(b, x, 5),
            |x| x.max(0.0),
        ),
        element_wise(
            "GELU 65x512",
            (&hidden, SCALE, features.clone()),
            gelu,
            |b, x| ops::activation(b, x, Activation::Gelu),
            ops::gelu,
        ),
        element_wise(
            "quadratic 65x512",
            (&hidden, SCALE, features),
            quadratic,
            |b, x| ops::quadratic(b, x, [0.1, 0.5, 0.125]),
            |x| 0.1 + x * (0.5 + x * 0.125),
        ),
        element_wise(
            "exp 4x65x65",
            (&[rows, TOKENS], SCALE, negative),
            formula::exp((rows * TOKENS) as u64),
            ops::exp,
            f64::exp,
        ),
        element_wise(
            "1/x, 260",
            (&[rows], SCALE, sums),
            formula::reciprocal(rows as u64),
            ops::reciprocal,
            f64::recip,
        ),
        element_wise(
            "rsqrt, 65",
            (&[TOKENS], 24, variances),
            formula::rsqrt(TOKENS as u64),
            ops::rsqrt,
            |x| x.sqrt().recip(),
        ),
    ]
}

fn rows(rng: &mut ChaCha20Rng) -> Vec<Case> {
    let rows = HEADS * TOKENS;
    let scores = normal(rng, rows * TOKENS);
    let shape = vec![rows, TOKENS];
    // On the grid of 2^-11 that the maximum is taken on.
    let grid: Vec<f64> = scores.iter().map(|x| (x * 2048.0).round() / 2048.0).collect();
    let case =
        |name: &str, (shape, scale, x): (Vec<usize>, u32, Vec<f64>), cost, build, exact| Case {
            name: name.into(),
            inputs: vec![(shape, scale, x)],
            weights: Tensors::new(),
            build,
            exact,
            cost,
        };
    let kinds = [
        ("softmax, exact maximum", Attention::SoftmaxMax),
        ("softmax, centred", Attention::SoftmaxCentred),
        ("Power-softmax, p = 2", Attention::Power(2)),
        ("Power-softmax, p = 4", Attention::Power(4)),
        ("ReLU-softmax", Attention::ReluSoftmax),
    ];
    let mut out = vec![case(
        "row maximum 260x65",
        (shape.clone(), 11, grid),
        formula::row_max(rows as u64, TOKENS as u64),
        Box::new(|b, x| ops::row_max(b, x[0])),
        Box::new(|x| {
            by_row(&x[0], TOKENS, |row| vec![row.iter().copied().fold(f64::MIN, f64::max)])
        }),
    )];
    for (name, kind) in kinds {
        out.push(case(
            &format!("{name} 4x65x65"),
            (shape.clone(), SCALE, scores.clone()),
            formula::softmax(rows as u64, TOKENS as u64, kind),
            Box::new(move |b, x| ops::softmax(b, x[0], kind, EPS)),
            Box::new(move |x| attention(&x[0], kind)),
        ));
    }
    out.push(case(
        "LayerNorm 65x256",
        (vec![TOKENS, WIDTH], SCALE, normal(rng, TOKENS * WIDTH)),
        formula::layer_norm(TOKENS as u64, WIDTH as u64),
        Box::new(|b, x| ops::layer_norm(b, x[0], NORM_EPS)),
        Box::new(|x| by_row(&x[0], WIDTH, layer_norm)),
    ));
    out
}

/// One row of the table.
struct Row {
    name: String,
    cost: Cost,
    wall_ms: f64,
    cpu_ms: f64,
    /// Largest error against f64.
    error: f64,
    network_ms: [f64; 2],
}

fn timed(
    name: &str,
    circuit: &Circuit,
    server: &ServerModel,
    inputs: &[Vec<u64>],
    Measure { runs, mode }: Measure,
) -> Result<(Row, Vec<u64>)> {
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let (cost, wall, cpu, network, output) = match mode {
        Mode::Dealer => {
            let ran = loopback(circuit, server, inputs, runs)?;
            let network = [Network::LAN, Network::WAN].map(|n| circuit.network_time(n));
            (circuit.cost(), ran.wall, ran.cpu, network, ran.output)
        }
        Mode::NoDealer => {
            let ran = no_dealer::measure(circuit, server, inputs, runs)?;
            let NoDealerCost { server_sent, client_sent, rounds, .. } = ran.cost;
            let cost = Cost { server_sent, client_sent, rounds, ..Cost::default() };
            (cost, ran.wall, ran.cpu, ran.network, ran.output)
        }
    };
    let row = Row {
        name: name.into(),
        cost,
        wall_ms: ms(wall),
        cpu_ms: ms(cpu),
        error: 0.0,
        network_ms: network.map(ms),
    };
    Ok((row, output))
}

fn largest(got: &[f64], want: &[f64]) -> f64 {
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max)
}

fn operator(case: &Case, measure: Measure) -> Result<Row> {
    let mut b = Builder::new();
    let shares: Vec<Share> =
        case.inputs.iter().map(|(s, scale, _)| b.input(Role::Client, s, *scale, 9.0)).collect();
    let out = (case.build)(&mut b, &shares)?;
    let scale = b.scale(out);
    b.reveal(out, Role::Client);
    let circuit = b.build();
    let mask = WeightMask::random(&mut entropy()?);
    let server = ServerModel::new(&circuit, &case.weights, mask)?;
    let inputs: Vec<Vec<u64>> =
        case.inputs.iter().map(|(_, scale, x)| encode_all(x, *scale)).collect();
    let (row, output) = timed(&case.name, &circuit, &server, &inputs, measure)?;
    let values: Vec<Vec<f64>> = case.inputs.iter().map(|(_, _, x)| x.clone()).collect();
    let error = largest(&decode_all(&output, scale, 64), &(case.exact)(&values));
    // The opening of the result is no part of an operator.
    let cost = if measure.mode == Mode::Dealer { case.cost } else { row.cost };
    Ok(Row { cost, error, ..row })
}

/// Blocks whose last stream is revealed, and the whole model.
fn models(measure: Measure, wanted: impl Fn(&str) -> bool) -> Result<Vec<Row>> {
    use Attention::{Power, ReluSoftmax, Scale, SoftmaxCentred, SoftmaxMax};
    let mix = [ReluSoftmax, ReluSoftmax, Scale, Scale];
    let heads = [
        ("softmax, exact maximum", [SoftmaxMax; 4]),
        ("softmax, centred", [SoftmaxCentred; 4]),
        ("Power-softmax, p = 2", [Power(2); 4]),
        ("ReLU-softmax", [ReluSoftmax; 4]),
        ("mixed 2 + 2", mix),
        ("scaled", [Scale; 4]),
    ];
    let mut cases = Vec::new();
    for (name, heads) in heads {
        let mut a = Architecture::cifar(heads, Activation::Gelu);
        a.blocks.truncate(1);
        a.classes = 0;
        cases.push((format!("block, {name}"), a));
    }
    for (name, heads) in heads {
        let a = Architecture::cifar(heads, Activation::Gelu);
        cases.push((format!("7 blocks and head, {name}"), a));
    }
    let mut rows = Vec::new();
    for (name, a) in cases.into_iter().filter(|(name, _)| wanted(name)) {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let (weights, tokens) = (Weights::random(&a, &mut rng), a.random_tokens(&mut rng));
        let circuit = a.circuit()?;
        let mask = WeightMask::random(&mut entropy()?);
        let server = ServerModel::new(&circuit, &prepare(&a, &weights)?, mask)?;
        let (row, output) = timed(&name, &circuit, &server, &a.encode(&tokens)?, measure)?;
        let scale = if a.classes == 0 { SCALE } else { a.logit_scale() };
        let error = largest(&decode_all(&output, scale, 64), &clear(&a, &weights, &tokens)?.0);
        // The reveal of a block's stream is no part of a block; that of the logits is part of the model.
        let reveal = if a.classes == 0 && measure.mode == Mode::Dealer {
            (8 * output.len() as u64, 1)
        } else {
            (0, 0)
        };
        let mut cost = row.cost;
        cost.server_sent -= reveal.0;
        cost.rounds -= reveal.1;
        rows.push(Row { cost, error, ..row });
    }
    Ok(rows)
}

fn head() -> String {
    format!(
        "{:38}{:>12}{:>12}{:>7}{:>12}{:>12}{:>11}{:>11}{:>10}{:>10}{:>10}",
        "",
        "server",
        "client",
        "rounds",
        "offline s",
        "offline c",
        "wall",
        "cpu",
        "lan",
        "wan",
        "error"
    )
}

fn line(row: &Row) -> String {
    let ms = |ms: f64| time(Duration::from_secs_f64(ms / 1e3));
    format!(
        "{:38}{:>12}{:>12}{:>7}{:>12}{:>12}{:>11}{:>11}{:>10}{:>10}{:>10.1e}",
        row.name,
        bytes(row.cost.server_sent),
        bytes(row.cost.client_sent),
        row.cost.rounds,
        bytes(row.cost.offline.server),
        bytes(row.cost.offline.client),
        ms(row.wall_ms),
        ms(row.cpu_ms),
        ms(row.network_ms[0]),
        ms(row.network_ms[1]),
        row.error
    )
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut cases = products(&mut rng);
    cases.extend(elements(&mut rng));
    cases.extend(rows(&mut rng));
    let wanted = |name: &str| name.contains(&args.only);
    let measure = Measure { runs: args.runs.max(1), mode: args.mode };
    println!("{}", head());
    let mut rows = Vec::new();
    for case in cases.iter().filter(|case| wanted(&case.name)) {
        let row = operator(case, measure)?;
        println!("{}", line(&row));
        rows.push(row);
    }
    for row in models(measure, wanted)? {
        println!("{}", line(&row));
        rows.push(row);
    }
    if rows.is_empty() {
        bail!("no row is called {}", args.only);
    }
    println!(
        "sent online and received from the dealer, by party; wall: median, both parties here, no network; cpu: least, both; lan, wan: the"
    );
    println!(
        "network's own time by the virtual clock, without computation; error: largest, against f64"
    );
    let rows: Vec<Value> = rows.iter().map(as_json).collect();
    write_json(
        args.json.as_deref(),
        &json!({
            "schema": "cipherform.mpc.operators/1",
            "machine": cpu_model(),
            "threads": std::thread::available_parallelism().map_or(1, usize::from),
            "runs": args.runs,
            "dealer": args.mode == Mode::Dealer,
            "rows": rows,
        }),
    )
}

fn as_json(row: &Row) -> Value {
    json!({
        "name": row.name,
        "server_sent": row.cost.server_sent,
        "client_sent": row.cost.client_sent,
        "rounds": row.cost.rounds,
        "offline_server": row.cost.offline.server,
        "offline_client": row.cost.offline.client,
        "wall_ms": row.wall_ms,
        "cpu_ms": row.cpu_ms,
        "lan_ms": row.network_ms[0],
        "wan_ms": row.network_ms[1],
        "max_error": row.error,
    })
}
