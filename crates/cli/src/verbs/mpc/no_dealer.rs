//! `cipherform mpc run --mode no-dealer`.

use super::job::Job;
use super::pair::median;
use super::run::{Args, channel};
use super::{entropy, network, number, seconds};
use crate::output::{bytes, time, write_json};
use crate::verbs::bench::cpu_ms;
use anyhow::{Result, bail};
use cipherform_mpc::{
    Channel, Circuit, Link, Network, NoDealerCost, NoDealerPlan, Pairing, Role, ServerModel,
    Traffic, WeightMask, run_without_dealer, simulate,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// One party's runs over one connection.
struct Ran {
    /// Making the pairing.
    setup: Duration,
    setup_sent: u64,
    traffic: Vec<Traffic>,
    output: Vec<u64>,
}

fn party(
    plan: &NoDealerPlan<'_>,
    model: Option<&ServerModel>,
    inputs: &[Vec<u64>],
    runs: usize,
    link: &mut Link,
) -> cipherform_mpc::Result<Ran> {
    let start = Instant::now();
    let mut rng = entropy().map_err(|source| cipherform_mpc::Error::Malformed {
        what: "entropy of the operating system",
        detail: source.to_string(),
    })?;
    let mut pairing = Pairing::new(link, &mut rng)?;
    let (setup, setup_sent) = (start.elapsed(), link.traffic().sent);
    let (mut traffic, mut output) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let out = run_without_dealer(plan, &mut pairing, model, inputs, link)?;
        output = out.into_iter().next().unwrap_or_default();
        traffic.push(link.traffic());
    }
    Ok(Ran { setup, setup_sent, traffic, output })
}

/// The server's integers; the mask of dealer mode is not used.
fn server(job: &Job) -> Result<ServerModel> {
    job.server(WeightMask::random(&mut entropy()?))
}

/// Both parties' runs over one connection in this process.
struct Both {
    parties: [Ran; 2],
    /// Processor time of a run, both parties.
    cpu: Duration,
}

/// How the two are connected.
#[derive(Clone, Copy)]
struct Connection {
    network: Option<Network>,
    /// Whether messages are delayed, or only the virtual clock runs.
    shaped: bool,
    deadline: Duration,
}

/// `runs` of both parties, after one that warms up.
fn pair(
    plan: &NoDealerPlan<'_>,
    model: &ServerModel,
    inputs: &[Vec<u64>],
    runs: usize,
    Connection { network, shaped, deadline }: Connection,
) -> Result<Both> {
    let channels = Channel::pair();
    let [a, b] = match network {
        Some(network) if shaped => channels.map(|c| c.shaped(network)),
        _ => channels,
    };
    let link = |channel, role| {
        let link = Link::new(channel, role, deadline);
        match network {
            Some(network) => link.with_virtual_network(network),
            None => link,
        }
    };
    let runs = runs + 1;
    let before = cpu_ms();
    let (server, client) = simulate(
        || party(plan, Some(model), &[], runs, &mut link(a, Role::Server)),
        || party(plan, None, inputs, runs, &mut link(b, Role::Client)),
    )?;
    let cpu = Duration::from_secs_f64((cpu_ms() - before).max(0.0) / 1e3) / runs as u32;
    Ok(Both { parties: [server, client], cpu })
}

/// One circuit, measured.
pub(super) struct Measured {
    pub(super) cost: NoDealerCost,
    /// Median of the wall times of a run.
    pub(super) wall: Duration,
    /// Processor time of a run, both parties.
    pub(super) cpu: Duration,
    /// Time of the network alone, LAN and WAN.
    pub(super) network: [Duration; 2],
    /// What the client received.
    pub(super) output: Vec<u64>,
}

/// `runs` without a network, then one for each clock.
pub(super) fn measure(
    circuit: &Circuit,
    model: &ServerModel,
    inputs: &[Vec<u64>],
    runs: usize,
) -> Result<Measured> {
    let plan = NoDealerPlan::new(circuit)?;
    let connection = Connection { network: None, shaped: false, deadline: Duration::from_mins(2) };
    let Both { parties: [_, client], cpu } = pair(&plan, model, inputs, runs, connection)?;
    let clock = |network| -> Result<Duration> {
        let connection = Connection { network: Some(network), ..connection };
        let both = pair(&plan, model, inputs, 0, connection)?;
        let last = |ran: &Ran| ran.traffic.last().map_or(Duration::ZERO, |t| t.network);
        Ok(both.parties.iter().map(last).max().unwrap_or_default())
    };
    Ok(Measured {
        cost: plan.cost(),
        wall: median(client.traffic[1..].iter().map(|t| t.online).collect()),
        cpu,
        network: [clock(Network::LAN)?, clock(Network::WAN)?],
        output: client.output,
    })
}

pub(super) fn both(args: &Args, job: &Job) -> Result<()> {
    let plan = NoDealerPlan::new(job.circuit())?;
    let (model, inputs, clear) = (server(job)?, job.inputs()?, job.clear()?);
    let network = network(&args.network)?;
    let connection = Connection { network, shaped: true, deadline: args.security.deadline() };
    let Both { parties: [s, c], cpu } = pair(&plan, &model, &inputs, args.runs.max(1), connection)?;
    let result = job.judge(&c.output, &clear.values);
    let rows =
        [(Role::Server, &s), (Role::Client, &c)].map(|(role, ran)| summary(&plan, role, ran));
    print(&rows, &result);
    println!("{:34}{:>14}", "processor time of a run, both", time(cpu));
    if let Some(warning) = clear.warning {
        println!("{warning}");
    }
    let [server, client] = rows;
    let value = json!({
        "schema": "cipherform.mpc.run/1", "mode": "no-dealer", "model": job.name(), "network": args.network,
        "runs": args.runs, "cpu_s": cpu.as_secs_f64(), "server": server, "client": client, "result": result,
    });
    write_json(args.json.as_deref(), &value)
}

pub(super) fn alone(args: &Args, job: &Job, role: Role) -> Result<()> {
    if args.correlations.is_some() || args.dealer.is_some() {
        bail!("mode no-dealer takes neither --correlations nor --dealer");
    }
    let plan = NoDealerPlan::new(job.circuit())?;
    let model = (role == Role::Server).then(|| server(job)).transpose()?;
    let inputs = if role == Role::Client { job.inputs()? } else { Vec::new() };
    let listener = args.listen.map(|at| super::connect::listen("", at)).transpose()?;
    let mut link = Link::new(channel(args, listener.as_ref())?, role, args.security.deadline());
    let ran = party(&plan, model.as_ref(), &inputs, args.runs.max(1), &mut link)?;
    let result = if role == Role::Client {
        job.judge(&ran.output, &job.clear()?.values)
    } else {
        String::new()
    };
    let row = summary(&plan, role, &ran);
    println!("{role}: {} sent in {}", bytes(number(&row, "sent")), seconds(&row, "run_s"));
    if !result.is_empty() {
        println!("{result}");
    }
    let value = json!({ "schema": "cipherform.mpc.run/1", "mode": "no-dealer", "party": row });
    write_json(args.json.as_deref(), &value)
}

/// One party's numbers, theoretical beside measured; the last run's bytes, the median of times.
fn summary(plan: &NoDealerPlan<'_>, role: Role, ran: &Ran) -> Value {
    let cost = plan.cost();
    // The first run warms up, if there are more.
    let timed = if ran.traffic.len() > 1 { &ran.traffic[1..] } else { &ran.traffic[..] };
    let of = |f: fn(&Traffic) -> Duration| median(timed.iter().map(f).collect()).as_secs_f64();
    let last = timed.last().copied().unwrap_or_default();
    json!({
        "setup_sent": ran.setup_sent,
        "setup_sent_predicted": NoDealerCost::setup_sent(),
        "setup_s": ran.setup.as_secs_f64(),
        "sent": last.sent,
        "sent_predicted": cost.sent(role),
        "transfers_sent": cost.silent[role.index()],
        "transfers": cost.transfers[role.index()],
        "frames_sent": last.frames_sent,
        "rounds": last.rounds,
        "rounds_predicted": cost.rounds,
        "weights_told_log2": plan.told_by_replies().log2(),
        "run_s": of(|t| t.online),
        "wait_s": of(|t| t.wait),
        "network_s": of(|t| t.network),
    })
}

fn print(rows: &[Value; 2], result: &str) {
    println!("{:34}{:>14}{:>14}", "", "server", "client");
    let row = |label: &str, key: &str, show: &dyn Fn(&Value, &str) -> String| {
        println!("{label:34}{:>14}{:>14}", show(&rows[0], key), show(&rows[1], key));
    };
    let size = |row: &Value, key: &str| bytes(number(row, key));
    row("sent, everything of a run", "sent", &size);
    row("  by the formulas", "sent_predicted", &size);
    row("  of it to make transfers", "transfers_sent", &size);
    row("sent once a connection", "setup_sent", &size);
    row("transfers sent", "transfers", &|row, key| number(row, key).to_string());
    row("frames sent", "frames_sent", &|row, key| number(row, key).to_string());
    row("rounds", "rounds", &|row, key| number(row, key).to_string());
    row("  by the plan", "rounds_predicted", &|row, key| number(row, key).to_string());
    row("wall time of a run", "run_s", &seconds);
    row("  waiting for the peer", "wait_s", &seconds);
    row("  network alone, virtual clock", "network_s", &seconds);
    row("wall time, once a connection", "setup_s", &seconds);
    let told = rows[0]["weights_told_log2"].as_f64().unwrap_or_default();
    println!("what replies of a run tell of the weights: statistical distance at most 2^{told:.1}");
    println!("{result}");
}
