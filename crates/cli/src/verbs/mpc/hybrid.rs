//! `cipherform mpc run --mode hybrid`: products under encryption, functions on shares.

use super::pair::median;
use super::run::{Args, channel};
use super::{entropy, network, number, seconds};
use crate::output::{bytes, style, write_json};
use crate::verbs::profile::{header, sample_input};
use crate::verbs::{calibrated, load_model};
use anyhow::{Context as _, Result, bail};
use cipherform_ckks::{Context, Device, presets};
use cipherform_mpc::{Channel, Link, NoDealerCost, Pairing, Role, Traffic, simulate};
use cipherform_nn::calibrate::MachineCosts;
use cipherform_nn::exec::ClearExecutor;
use cipherform_nn::hybrid::{HybridClient, HybridCost, HybridPlan, HybridServer, Passage};
use cipherform_nn::{Functions, Matrix, Model, argmax};
use cipherform_profile::{Recording, Report, record, span_cost_ns};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// One party's runs over one connection.
struct Ran {
    /// Pairing, plan and keys.
    setup: Duration,
    setup_sent: u64,
    traffic: Vec<Traffic>,
    recordings: Vec<Recording>,
    cost: HybridCost,
    /// The client's last result.
    logits: Vec<f64>,
}

/// The link's end of a party: pairing first, its bytes among those of the set-up.
fn paired(link: &mut Link) -> Result<(Pairing, u64, Instant)> {
    let start = Instant::now();
    let pairing = Pairing::new(link, &mut entropy()?)?;
    Ok((pairing, link.traffic().sent, start))
}

fn serve(server: &HybridServer, context: &Context, link: &mut Link, runs: usize) -> Result<Ran> {
    let (mut pairing, sent, start) = paired(link)?;
    let session = server.setup(link, &mut pairing)?;
    let (setup, setup_sent) = (start.elapsed(), sent + link.traffic().sent);
    let mut rng = entropy()?;
    let (mut traffic, mut recordings) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (done, recording) = record(|| server.infer(&session, link, &mut pairing, &mut rng));
        done?;
        traffic.push(link.traffic());
        recordings.push(recording);
    }
    let cost = server.plan().cost(context.params())?;
    Ok(Ran { setup, setup_sent, traffic, recordings, cost, logits: Vec::new() })
}

fn ask(context: &Context, input: &Matrix, link: &mut Link, runs: usize) -> Result<Ran> {
    let (mut pairing, sent, start) = paired(link)?;
    let mut rng = entropy()?;
    let client = HybridClient::setup(context, link, &mut pairing, &mut rng)?;
    let (setup, setup_sent) = (start.elapsed(), sent + link.traffic().sent);
    let (mut traffic, mut recordings, mut logits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let (got, recording) = record(|| client.infer(input, link, &mut pairing, &mut rng));
        logits = got?;
        traffic.push(link.traffic());
        recordings.push(recording);
    }
    let cost = client.plan().cost(context.params())?;
    Ok(Ran { setup, setup_sent, traffic, recordings, cost, logits })
}

/// The set of the plan and what this machine takes for it.
fn prepare(args: &Args) -> Result<(Context, MachineCosts)> {
    if args.shape.output != "logits" {
        bail!("mode hybrid gives the client the logits: pass --output logits");
    }
    let context = Context::new(presets::get(&args.set)?, &Device::cpu())?;
    let params = context.params();
    if args.role.is_some() && params.is_toy() {
        bail!(
            "set {} protects nothing: over a network name one of 128 bits, e.g. --set lev15",
            args.set
        );
    }
    let table = calibrated("cpu")?.filter(|t| t.has(params.log_n()));
    let costs = match table {
        Some(table) => table.of(params),
        None => MachineCosts::measure(&context, params.max_level())?,
    };
    Ok((context, costs))
}

fn server(
    args: &Args,
    model: &Model,
    context: &Context,
    costs: &MachineCosts,
) -> Result<HybridServer> {
    Ok(HybridServer::new(model, context, costs, network(&args.network)?)?)
}

pub(super) fn run(args: &Args, role: Option<&str>) -> Result<()> {
    let name = args.shape.model.as_deref();
    let model = load_model(name.context("mode hybrid runs a trained model: pass --model")?)?;
    match role {
        None => both(args, &model),
        Some("server") => alone(args, &model, Role::Server),
        Some("client") => alone(args, &model, Role::Client),
        Some(other) => bail!("no role is called {other}: server, client"),
    }
}

fn both(args: &Args, model: &Model) -> Result<()> {
    let (context, costs) = prepare(args)?;
    let server = server(args, model, &context, &costs)?;
    print_plan(server.plan());
    let input = sample_input(model)?;
    let network = network(&args.network)?;
    let channels = Channel::pair();
    let [a, b] = match network {
        Some(network) => channels.map(|c| c.shaped(network)),
        None => channels,
    };
    let link = |channel, role| {
        let link = Link::new(channel, role, args.security.deadline());
        match network {
            Some(network) => link.with_virtual_network(network),
            None => link,
        }
    };
    let runs = args.runs.max(1);
    let (served, asked) = simulate(
        || Ok(serve(&server, &context, &mut link(a, Role::Server), runs)),
        || Ok(ask(&context, &input, &mut link(b, Role::Client), runs)),
    )?;
    // A party that ends early leaves the other without an answer: its own error says more.
    let (served, asked) = match (served, asked) {
        (Ok(served), Ok(asked)) => (served, asked),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
        (Err(server), Err(client)) => bail!("server: {server:#}; client: {client:#}"),
    };
    let rows = [(Role::Server, &served), (Role::Client, &asked)];
    let rows = rows.map(|(role, ran)| summary(role, ran));
    let report = report(model, &context, &served)?;
    println!("{}", report.to_text(style()));
    print(&rows);
    let result = judge(model, &input, &asked.logits)?;
    println!("{result}");
    let [server, client] = rows;
    let report = serde_json::from_str::<Value>(&report.to_json()?)?;
    write_json(
        args.json.as_deref(),
        &json!({
            "schema": "cipherform.mpc.run/1", "mode": "hybrid", "model": model.config.name, "set": args.set,
            "network": args.network, "runs": runs, "server": server, "client": client, "result": result,
            "report": report,
        }),
    )
}

fn alone(args: &Args, model: &Model, role: Role) -> Result<()> {
    let (context, costs) = prepare(args)?;
    let runs = args.runs.max(1);
    let ran = match role {
        Role::Server => {
            let server = server(args, model, &context, &costs)?;
            print_plan(server.plan());
            serve(&server, &context, &mut connected(args, role)?, runs)?
        }
        Role::Client => {
            let input = sample_input(model)?;
            let ran = ask(&context, &input, &mut connected(args, role)?, runs)?;
            println!("{}", judge(model, &input, &ran.logits)?);
            ran
        }
    };
    let report = report(model, &context, &ran)?;
    println!("{}", report.to_text(style()));
    let row = summary(role, &ran);
    println!("{role}: {} sent in {}", bytes(number(&row, "sent")), seconds(&row, "run_s"));
    let report = serde_json::from_str::<Value>(&report.to_json()?)?;
    let value = json!({
        "schema": "cipherform.mpc.run/1", "mode": "hybrid", "party": row, "report": report,
    });
    write_json(args.json.as_deref(), &value)
}

fn connected(args: &Args, role: Role) -> Result<Link> {
    let listener = args.listen.map(|at| super::connect::listen("", at)).transpose()?;
    Ok(Link::new(channel(args, listener.as_ref())?, role, args.security.deadline()))
}

fn report(model: &Model, context: &Context, ran: &Ran) -> Result<Report> {
    let mut header = header(model, context, 0);
    header.backend = "hybrid".into();
    header.upload_bytes = ran.cost.sent(Role::Client);
    header.download_bytes = ran.cost.sent(Role::Server);
    Ok(Report::new(header, &ran.recordings)?.with_span_cost(span_cost_ns()))
}

/// Logits beside those in the clear.
fn judge(model: &Model, input: &Matrix, logits: &[f64]) -> Result<String> {
    let want = ClearExecutor::new(model, Functions::Exact)?.run(input)?;
    let error = logits.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
    let labels = (argmax(logits), argmax(&want));
    Ok(format!(
        "label {}, in the clear {}; largest error of a logit against f64 {error:.2e}",
        labels.0, labels.1
    ))
}

fn print_plan(plan: &HybridPlan) {
    let names: Vec<&str> = plan.passages().iter().map(Passage::name).collect();
    let input = plan.description().plan().top_level();
    println!("inputs at level {input}; crossings: {}", names.join(", "));
}

/// One party's numbers, theoretical beside measured; the last run's bytes, the median of times.
fn summary(role: Role, ran: &Ran) -> Value {
    let of =
        |f: fn(&Traffic) -> Duration| median(ran.traffic.iter().map(f).collect()).as_secs_f64();
    let last = ran.traffic.last().copied().unwrap_or_default();
    json!({
        "setup_sent": ran.setup_sent,
        "setup_sent_predicted": NoDealerCost::setup_sent() + ran.cost.setup[role.index()],
        "setup_s": ran.setup.as_secs_f64(),
        "sent": last.sent,
        "sent_predicted": ran.cost.sent(role),
        "frames_sent": last.frames_sent,
        "rounds": last.rounds,
        "rounds_predicted": ran.cost.rounds,
        "run_s": of(|t| t.online),
        "wait_s": of(|t| t.wait),
        "network_s": of(|t| t.network),
    })
}

fn print(rows: &[Value; 2]) {
    println!("{:34}{:>14}{:>14}", "", "server", "client");
    let row = |label: &str, key: &str, show: &dyn Fn(&Value, &str) -> String| {
        println!("{label:34}{:>14}{:>14}", show(&rows[0], key), show(&rows[1], key));
    };
    let size = |row: &Value, key: &str| bytes(number(row, key));
    let count = |row: &Value, key: &str| number(row, key).to_string();
    row("sent in a run", "sent", &size);
    row("  by the formulas", "sent_predicted", &size);
    row("sent once a connection, keys", "setup_sent", &size);
    row("  by the formulas", "setup_sent_predicted", &size);
    row("frames sent", "frames_sent", &count);
    row("rounds", "rounds", &count);
    row("  by the plan", "rounds_predicted", &count);
    row("wall time of a run", "run_s", &seconds);
    row("  waiting for the peer", "wait_s", &seconds);
    row("  network alone, virtual clock", "network_s", &seconds);
    row("wall time, once a connection", "setup_s", &seconds);
}
