//! Softmax between two parties who see nothing of each other, and what its replacements save.
//!
//! `cargo run --release --example 05_two_party_softmax`
#![expect(clippy::print_stdout, reason = "an example narrates")]

use anyhow::Result;
use cipherform_mpc::ops::{Attention, SCALE, softmax};
use cipherform_mpc::{
    Builder, Channel, Circuit, Link, Model, Network, Prepared, Role, ServerModel, Tensors, Traffic,
    WeightMask, deal, decode_all, encode_all, run, simulate,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::time::Duration;

/// Rows of scores: 4 heads of 65 tokens.
const ROWS: usize = 260;
const TOKENS: usize = 65;

/// What is computed, in which rounds, at which cost: public, and known before anything runs.
fn circuit(kind: Attention) -> Result<Circuit> {
    let mut b = Builder::new();
    let scores = b.input(Role::Client, &[ROWS, TOKENS], SCALE, 4.0);
    let weights = softmax(&mut b, scores, kind, 0.125)?;
    b.reveal(weights, Role::Client);
    Ok(b.build())
}

/// A dealer prepares, two threads compute over an emulated wide network; only the client learns the result.
fn between_two(
    circuit: &Circuit,
    scores: &[f64],
    rng: &mut ChaCha20Rng,
) -> Result<(Vec<f64>, Traffic)> {
    let server = ServerModel::new(circuit, &Tensors::new(), WeightMask::random(rng))?;
    let client = server.masked(circuit);
    let [for_server, for_client] = deal(circuit, server.mask(), rng)?;
    let [a, b] = Channel::pair();
    let inputs = [encode_all(scores, SCALE)];
    let party = |channel, model: Model<'_>, correlations, inputs: &[Vec<u64>], role| {
        let mut link =
            Link::new(channel, role, Duration::from_secs(30)).with_virtual_network(Network::WAN);
        let prepared = Prepared::new(circuit, &model, correlations)?;
        let out = run(circuit, &model, prepared, inputs, &mut link)?;
        Ok((out, link.traffic()))
    };
    let (_, (mut out, traffic)) = simulate(
        || party(a, Model::Server(&server), for_server, &[], Role::Server),
        || party(b, Model::Client(&client), for_client, &inputs, Role::Client),
    )?;
    Ok((decode_all(&out.remove(0), SCALE, 64), traffic))
}

/// The same function in f64.
fn exact(row: &[f64], kind: Attention) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::MIN, f64::max);
    let weight = |s: &f64| match kind {
        Attention::ReluSoftmax => s.max(0.0),
        Attention::Power(_) => (s / 2.0).powi(2),
        _ => (s - max).exp(),
    };
    let weights: Vec<f64> = row.iter().map(weight).collect();
    let eps =
        if matches!(kind, Attention::ReluSoftmax | Attention::Power(_)) { 0.125 } else { 0.0 };
    let sum = weights.iter().sum::<f64>() + eps;
    weights.iter().map(|w| w / sum).collect()
}

fn main() -> Result<()> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let mut rng = ChaCha20Rng::from_seed(seed);
    // Sums of uniform numbers: scores of standard deviation 1.
    let mut score = || (0..12).map(|_| rng.next_u32() as f64 / 2f64.powi(32)).sum::<f64>() - 6.0;
    let scores: Vec<f64> = (0..ROWS * TOKENS).map(|_| score()).collect();

    println!(
        "{ROWS} rows of {TOKENS} scores. Each party's bytes; network time at 44 MB/s and 40 ms, computed from the frames."
    );
    println!(
        "{:20}{:>10}{:>8}{:>14}{:>12}{:>12}",
        "", "MB sent", "rounds", "MB offline", "network s", "error"
    );
    let kinds = [
        ("softmax", Attention::SoftmaxMax),
        ("softmax, centred", Attention::SoftmaxCentred),
        ("power 2", Attention::Power(2)),
        ("ReLU-softmax", Attention::ReluSoftmax),
    ];
    for (name, kind) in kinds {
        let circuit = circuit(kind)?;
        let cost = circuit.cost();
        let (got, traffic) = between_two(&circuit, &scores, &mut rng)?;
        // Predicted is observed: to the byte, and to the round.
        assert_eq!((traffic.sent, traffic.received), (cost.client_sent, cost.server_sent));
        assert_eq!(traffic.rounds, cost.rounds);
        let want = scores.chunks(TOKENS).flat_map(|row| exact(row, kind));
        let error = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        println!(
            "{name:20}{:>10.2}{:>8}{:>14.1}{:>12.2}{:>12.1e}",
            traffic.sent as f64 / 1e6,
            traffic.rounds,
            cost.offline.client as f64 / 1e6,
            traffic.network.as_secs_f64(),
            error
        );
        assert!(error < 8e-3, "{name}: {error}");
    }
    println!("The rounds include one that hands the result to the client.");
    Ok(())
}
