//! `cipherform mpc run`.

use super::connect::{Address, Security, Waiting, listen};
use super::job::Job;
use super::pair::{Options, Ran, median, pair, recorded};
use super::{Shape, entropy, hybrid, network, no_dealer};
use crate::output::{bytes, style, time, write_json};
use anyhow::{Context as _, Result, bail};
use cipherform_mpc::{
    Channel, Circuit, Correlations, Link, LiveDealer, Model, Prepared, PublicKey, Role, Store,
    Traffic, WeightMask, announce, announced, deal, receive_model, send_model,
};
use cipherform_profile::{
    Header, Phase, Recording, Report, cpu_model, peak_rss_bytes, span_cost_ns,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) shape: Shape,
    /// loopback, lan (384 MB/s, 0.3 ms), wan (44 MB/s, 40 ms), or RTT,BANDWIDTH in ms and MB/s.
    #[arg(long, default_value = "loopback")]
    pub(super) network: String,
    /// `dealer`: correlations made ahead; `no-dealer`: two parties alone; `hybrid`: the same, with products under encryption; `clear`: no protection, the result to compare with.
    #[arg(long, default_value = "dealer")]
    mode: String,
    /// Parameter set of mode hybrid.
    #[arg(long, default_value = "lev14")]
    pub(super) set: String,
    /// Timed runs, after one that warms up when both parties are here.
    #[arg(long, default_value_t = 1)]
    pub(super) runs: usize,
    /// Run one party only: server or client.
    #[arg(long)]
    pub(super) role: Option<String>,
    /// The peer's address: connect to it. IP:PORT for TLS, grpc://IP:PORT for a gRPC stream.
    #[arg(long, requires = "role", conflicts_with = "listen")]
    peer: Option<Address>,
    /// Wait for the peer on this address.
    #[arg(long, requires = "role")]
    pub(super) listen: Option<Address>,
    /// This party's directory made by `deal`.
    #[arg(long, group = "source")]
    pub(super) correlations: Option<PathBuf>,
    /// A dealer that stays: its address for this party.
    #[arg(long, group = "source")]
    pub(super) dealer: Option<Address>,
    /// The peer's public key.
    #[arg(long)]
    peer_key: Option<PublicKey>,
    /// The dealer's public key.
    #[arg(long, requires = "dealer")]
    dealer_key: Option<PublicKey>,
    #[command(flatten)]
    pub(super) security: Security,
    /// Write summary and reports as JSON.
    #[arg(long)]
    pub(super) json: Option<PathBuf>,
    /// Write this party's report (the client's when both are here) as a page.
    #[arg(long)]
    html: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.mode == "hybrid" {
        return hybrid::run(args, args.role.as_deref());
    }
    let job = Job::new(&args.shape)?;
    match (args.mode.as_str(), args.role.as_deref()) {
        ("clear", None) => in_the_clear(args, &job),
        ("dealer", None) => both(args, &job),
        ("dealer", Some("server")) => alone(args, &job, Role::Server),
        ("dealer", Some("client")) => alone(args, &job, Role::Client),
        ("no-dealer", None) => no_dealer::both(args, &job),
        ("no-dealer", Some("server")) => no_dealer::alone(args, &job, Role::Server),
        ("no-dealer", Some("client")) => no_dealer::alone(args, &job, Role::Client),
        ("dealer" | "no-dealer", Some(other)) => {
            bail!("no role is called {other}: server, client")
        }
        ("clear", Some(_)) => bail!("mode clear has one party"),
        (other, _) => bail!("no mode is called {other}: dealer, no-dealer, hybrid, clear"),
    }
}

fn in_the_clear(args: &Args, job: &Job) -> Result<()> {
    let start = Instant::now();
    let clear = job.clear()?;
    println!("clear, f64, {}: {}", job.name(), time(start.elapsed()));
    if let Some(warning) = clear.warning {
        println!("{warning}");
    }
    let shown = clear.values.iter().take(16).map(|x| format!("{x:.4}")).collect::<Vec<_>>();
    println!("result {}", shown.join(" "));
    write_json(
        args.json.as_deref(),
        &json!({ "schema": "cipherform.mpc.run/1", "mode": "clear", "result": clear.values }),
    )
}

fn header(args: &Args, job: &Job, role: Role) -> Header {
    let cost = job.circuit().cost();
    Header {
        model: job.name().to_owned(),
        random_weights: job.random_weights(),
        backend: "mpc".into(),
        tokens: job.tokens(),
        batch: 1,
        parameter_set: format!("dealer mode, ring 2^64, {role}, network {}", args.network),
        device: "cpu".into(),
        machine: cpu_model().unwrap_or_else(|| "unknown processor".into()),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        peak_rss_bytes: peak_rss_bytes(),
        upload_bytes: cost.client_sent,
        download_bytes: cost.server_sent,
        ..Header::default()
    }
}

fn report(
    args: &Args,
    job: &Job,
    role: Role,
    recordings: &[Recording],
    phases: Vec<Phase>,
) -> Result<Report> {
    Ok(Report::new(header(args, job, role), recordings)?
        .with_prediction(&job.circuit().prediction(role))
        .with_phases(phases)
        .with_span_cost(span_cost_ns()))
}

fn phase(name: &str, took: Duration, bytes: Option<u64>) -> Phase {
    Phase { name: name.into(), ms: took.as_secs_f64() * 1e3, bytes }
}

fn both(args: &Args, job: &Job) -> Result<()> {
    let network = network(&args.network)?;
    let circuit = job.circuit();
    let mut rng = entropy()?;
    let server = job.server(WeightMask::random(&mut rng))?;
    let client = server.masked(circuit);
    let clear = job.clear()?;
    let inputs = job.inputs()?;
    let options = Options { network, deadline: args.security.deadline() };
    let mut rans: [Vec<Ran>; 2] = [Vec::new(), Vec::new()];
    let (mut dealt, mut prepared, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=args.runs.max(1) {
        let start = Instant::now();
        let halves = deal(circuit, server.mask(), &mut rng)?;
        dealt.push(start.elapsed());
        let ran = pair(options, circuit, (&server, &client), halves, &inputs)?;
        prepared.push(ran.prepare);
        // The first run warms up caches and allocator.
        if run > 0 {
            rans[0].push(ran.server);
            rans[1].push(ran.client);
            cpu.push(ran.cpu);
        }
    }
    let phases = |role: Role| {
        let offline = circuit.cost().offline;
        let received = if role == Role::Server { offline.server } else { offline.client };
        vec![
            phase("deal", median(dealt.clone()), Some(received)),
            phase("prepare", median(prepared.clone()), None),
            phase("setup, once a model", Duration::ZERO, Some(circuit.setup_bytes())),
        ]
    };
    let mut reports = Vec::new();
    for (role, rans) in Role::BOTH.into_iter().zip(&rans) {
        let recordings: Vec<Recording> = rans.iter().map(|r| r.recording.clone()).collect();
        reports.push(report(args, job, role, &recordings, phases(role))?);
    }
    let words = rans[1].first().and_then(|r| r.outputs.first()).cloned().unwrap_or_default();
    let summary = summary(args, job, &rans, (&dealt, &cpu), &job.judge(&words, &clear.values));
    if let Some(report) = reports.get(1) {
        println!("{}", report.to_text(style()));
    }
    print_summary(&summary);
    if let Some(warning) = clear.warning {
        println!("{warning}");
    }
    let [server_report, client_report] = &reports[..] else { bail!("a party has no report") };
    finish(
        args,
        client_report,
        &json!({
            "schema": "cipherform.mpc.run/1",
            "summary": summary,
            "server": serde_json::from_str::<Value>(&server_report.to_json()?)?,
            "client": serde_json::from_str::<Value>(&client_report.to_json()?)?,
        }),
    )
}

fn finish(args: &Args, report: &Report, value: &Value) -> Result<()> {
    if let Some(path) = &args.html {
        std::fs::write(path, report.to_html())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    write_json(args.json.as_deref(), value)
}

/// Totals of both parties, theoretical beside measured.
fn summary(
    args: &Args,
    job: &Job,
    rans: &[Vec<Ran>; 2],
    (dealt, cpu): (&[Duration], &[Duration]),
    result: &str,
) -> Value {
    let circuit = job.circuit();
    let cost = circuit.cost();
    let party = |role: Role| {
        let rans = &rans[role.index()];
        let seconds = |f: fn(&Traffic) -> Duration| {
            median(rans.iter().map(|r| f(&r.traffic)).collect()).as_secs_f64()
        };
        let traffic = rans.first().map(|r| r.traffic).unwrap_or_default();
        let offline = if role == Role::Server { cost.offline.server } else { cost.offline.client };
        json!({
            "sent": traffic.sent,
            "sent_predicted": cost.sent(role),
            "frames_sent": traffic.frames_sent,
            "rounds": traffic.rounds,
            "rounds_predicted": cost.rounds,
            "offline_received": offline,
            "online_s": seconds(|t| t.online),
            "compute_s": seconds(|t| t.online.saturating_sub(t.wait)),
            "wait_s": seconds(|t| t.wait),
            "network_s": seconds(|t| t.network),
        })
    };
    json!({
        "model": job.name(),
        "network": args.network,
        "runs": args.runs,
        "setup_bytes": circuit.setup_bytes(),
        "deal_s": median(dealt.to_vec()).as_secs_f64(),
        "cpu_s": cpu.iter().min().copied().unwrap_or_default().as_secs_f64(),
        "server": party(Role::Server),
        "client": party(Role::Client),
        "result": result,
    })
}

fn print_summary(s: &Value) {
    let number = |role: &str, key: &str| s[role][key].as_u64().unwrap_or_default();
    let seconds = |role: &str, key: &str| {
        time(Duration::from_secs_f64(s[role][key].as_f64().unwrap_or_default()))
    };
    println!("{:34}{:>14}{:>14}", "", "server", "client");
    let bytes_row = |label: &str, key: &str| {
        println!(
            "{label:34}{:>14}{:>14}",
            bytes(number("server", key)),
            bytes(number("client", key))
        );
    };
    bytes_row("sent online", "sent");
    bytes_row("  by the formulas", "sent_predicted");
    bytes_row("received from the dealer", "offline_received");
    for (label, key) in [
        ("frames sent", "frames_sent"),
        ("rounds", "rounds"),
        ("  by the plan", "rounds_predicted"),
    ] {
        println!("{label:34}{:>14}{:>14}", number("server", key), number("client", key));
    }
    let times = [
        ("online, wall time", "online_s"),
        ("  computing", "compute_s"),
        ("  waiting for the peer", "wait_s"),
        ("  network alone, virtual clock", "network_s"),
    ];
    for (label, key) in times {
        println!("{label:34}{:>14}{:>14}", seconds("server", key), seconds("client", key));
    }
    println!(
        "{:34}{:>14}",
        "processor time, both",
        time(Duration::from_secs_f64(s["cpu_s"].as_f64().unwrap_or_default()))
    );
    println!(
        "{:34}{:>14}",
        "masked weights, once a model",
        bytes(s["setup_bytes"].as_u64().unwrap_or_default())
    );
    println!(
        "{:34}{:>14}",
        "correlations made in",
        time(Duration::from_secs_f64(s["deal_s"].as_f64().unwrap_or_default()))
    );
    println!("{}", s["result"].as_str().unwrap_or_default());
}

/// Where one party's correlations come from.
enum Source {
    Files(Store),
    Live(LiveDealer),
}

impl Source {
    /// The source, and the mask of the weights if it is the server's.
    fn open(args: &Args, circuit: &Circuit, role: Role) -> Result<(Self, Option<WeightMask>)> {
        match (&args.correlations, args.dealer) {
            (Some(directory), _) => {
                let store = Store::open(directory)?;
                let mask = (role == Role::Server).then(|| store.mask()).transpose()?;
                Ok((Self::Files(store), mask))
            }
            (None, Some(dealer)) => {
                let channel = args.security.connect(dealer, args.dealer_key.as_ref())?;
                let link = Link::new(channel, role, args.security.deadline());
                let (dealer, mask) = LiveDealer::connect(circuit, link)?;
                Ok((Self::Live(dealer), mask))
            }
            (None, None) => bail!("pass --correlations or --dealer"),
        }
    }

    /// The correlations of the next run, the same one at both parties.
    fn take(&mut self, circuit: &Circuit, link: &mut Link) -> Result<Correlations> {
        Ok(match (self, link.role()) {
            (Self::Files(store), Role::Server) => {
                store.take_named(&announced(link)?, circuit, Role::Server)?
            }
            (Self::Files(store), Role::Client) => {
                let correlations = store.take(circuit, Role::Client)?;
                announce(&correlations, link)?;
                correlations
            }
            (Self::Live(dealer), _) => dealer.next(circuit)?,
        })
    }

    /// What is left, in words.
    fn left(&self) -> Result<String> {
        Ok(match self {
            Self::Files(store) => format!("{} runs left", store.remaining()?),
            Self::Live(_) => "the dealer makes more".into(),
        })
    }
}

/// The connection to the peer, delayed as the network says.
pub(super) fn channel(args: &Args, listener: Option<&Waiting>) -> Result<Channel> {
    let key = args.peer_key.as_ref();
    let channel = match (listener, args.peer) {
        (Some(listener), _) => args.security.accept(listener, key)?,
        (None, Some(peer)) => args.security.connect(peer, key)?,
        (None, None) => bail!("pass --peer or --listen"),
    };
    Ok(match network(&args.network)? {
        Some(network) => channel.shaped(network),
        None => channel,
    })
}

/// One party: set-up, then the runs.
fn alone(args: &Args, job: &Job, role: Role) -> Result<()> {
    let circuit = job.circuit();
    let listener = args.listen.map(|address| listen("", address)).transpose()?;
    let (mut source, mask) = Source::open(args, circuit, role)?;
    let channel = channel(args, listener.as_ref())?;
    let mut link = Link::new(channel, role, args.security.deadline());
    let start = Instant::now();
    let server = mask.map(|mask| job.server(mask)).transpose()?;
    let client = match &server {
        Some(server) => {
            if let Source::Files(store) = &source {
                store.bind_mask(server)?;
            }
            send_model(circuit, server, &mut link)?;
            None
        }
        None => Some(receive_model(circuit, &mut link)?),
    };
    let setup = phase("setup, once a model", start.elapsed(), Some(circuit.setup_bytes()));
    let model = match (&server, &client) {
        (Some(server), _) => Model::Server(server),
        (None, Some(client)) => Model::Client(client),
        (None, None) => bail!("no model for this role"),
    };
    let inputs = if role == Role::Client { job.inputs()? } else { Vec::new() };
    let mut rans: Vec<Ran> = Vec::new();
    for _ in 0..args.runs.max(1) {
        let correlations = source.take(circuit, &mut link)?;
        let prepared = Prepared::new(circuit, &model, correlations)?;
        rans.push(recorded(&mut link, |link| {
            cipherform_mpc::run(circuit, &model, prepared, &inputs, link)
        })?);
    }
    let recordings: Vec<Recording> = rans.iter().map(|r| r.recording.clone()).collect();
    let report = report(args, job, role, &recordings, vec![setup])?;
    println!("{}", report.to_text(style()));
    if let Some(out) = rans.last().and_then(|r| r.outputs.first()) {
        println!("{}", job.judge(out, &job.clear()?.values));
    }
    let online = median(rans.iter().map(|r| r.traffic.online).collect());
    println!("online {}, {}", time(online), source.left()?);
    let json = serde_json::from_str::<Value>(&report.to_json()?)?;
    finish(args, &report, &json!({ "schema": "cipherform.mpc.run/1", "party": json }))
}
