//! Both parties in this process, on two threads.

use super::entropy;
use crate::verbs::bench::cpu_ms;
use anyhow::{Context as _, Result};
use cipherform_mpc::{
    Channel, Circuit, ClientModel, Correlations, Link, Model, Network, Prepared, Role, ServerModel,
    Traffic, deal, run, simulate,
};
use cipherform_profile::{Recording, record};
use rand_core::CryptoRng;
use std::time::{Duration, Instant};

/// One party's timed run.
pub(super) struct Ran {
    pub(super) outputs: Vec<Vec<u64>>,
    pub(super) traffic: Traffic,
    pub(super) recording: Recording,
}

/// Records what one party does over its link.
pub(super) fn recorded(
    link: &mut Link,
    run: impl FnOnce(&mut Link) -> cipherform_mpc::Result<Vec<Vec<u64>>>,
) -> cipherform_mpc::Result<Ran> {
    let (outputs, recording) = record(|| run(link));
    Ok(Ran { outputs: outputs?, traffic: link.traffic(), recording })
}

/// How the two are connected.
#[derive(Clone, Copy)]
pub(super) struct Options {
    pub(super) network: Option<Network>,
    pub(super) deadline: Duration,
}

const NO_NETWORK: Options = Options { network: None, deadline: Duration::from_mins(1) };

/// A run of both.
pub(super) struct Both {
    pub(super) server: Ran,
    pub(super) client: Ran,
    /// What needs no input, before the run.
    pub(super) prepare: Duration,
    /// Processor time of the run, both parties.
    pub(super) cpu: Duration,
}

/// One run.
pub(super) fn pair(
    Options { network, deadline }: Options,
    circuit: &Circuit,
    (server, client): (&ServerModel, &ClientModel),
    halves: [Correlations; 2],
    inputs: &[Vec<u64>],
) -> Result<Both> {
    let [for_server, for_client] = halves;
    let (server, client) = (Model::Server(server), Model::Client(client));
    let start = Instant::now();
    let for_server = Prepared::new(circuit, &server, for_server)?;
    let for_client = Prepared::new(circuit, &client, for_client)?;
    let prepare = start.elapsed();
    let channels = Channel::pair();
    let [a, b] = match network {
        Some(network) => channels.map(|c| c.shaped(network)),
        None => channels,
    };
    let link = |channel, role| {
        let link = Link::new(channel, role, deadline);
        // The network's share of the time, without any computation.
        match network {
            Some(network) => link.with_virtual_network(network),
            None => link,
        }
    };
    let before = cpu_ms();
    let (server, client) = simulate(
        || recorded(&mut link(a, Role::Server), |l| run(circuit, &server, for_server, &[], l)),
        || recorded(&mut link(b, Role::Client), |l| run(circuit, &client, for_client, inputs, l)),
    )?;
    let cpu = Duration::from_secs_f64((cpu_ms() - before).max(0.0) / 1e3);
    Ok(Both { server, client, prepare, cpu })
}

/// One input without a network: what the client received.
pub(crate) fn infer(
    circuit: &Circuit,
    models: (&ServerModel, &ClientModel),
    inputs: &[Vec<u64>],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u64>> {
    let halves = deal(circuit, models.0.mask(), rng)?;
    let ran = pair(NO_NETWORK, circuit, models, halves, inputs)?;
    ran.client.outputs.into_iter().next().context("nothing was revealed to the client")
}

/// Runs without a network.
pub(super) struct Loopback {
    /// Median of the wall times.
    pub(super) wall: Duration,
    /// Smallest processor time, both parties.
    pub(super) cpu: Duration,
    /// What the client received in the last.
    pub(super) output: Vec<u64>,
}

/// `runs` of them, after one that warms up.
pub(super) fn loopback(
    circuit: &Circuit,
    server: &ServerModel,
    inputs: &[Vec<u64>],
    runs: usize,
) -> Result<Loopback> {
    let client = server.masked(circuit);
    let mut rng = entropy()?;
    let (mut walls, mut cpu, mut output) = (Vec::new(), Duration::MAX, Vec::new());
    for turn in 0..=runs {
        let halves = deal(circuit, server.mask(), &mut rng)?;
        let ran = pair(NO_NETWORK, circuit, (server, &client), halves, inputs)?;
        if turn > 0 {
            walls.push(ran.client.traffic.online);
            cpu = cpu.min(ran.cpu);
        }
        output = ran.client.outputs.into_iter().next().unwrap_or_default();
    }
    Ok(Loopback { wall: median(walls), cpu, output })
}

pub(super) fn median(mut x: Vec<Duration>) -> Duration {
    x.sort();
    x.get(x.len() / 2).copied().unwrap_or_default()
}
