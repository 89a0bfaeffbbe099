//! `cipherform mpc deal`.

use super::Shape;
use super::connect::{Address, Security, listen};
use super::job::Job;
use crate::output::{bytes, time, write_json};
use anyhow::{Result, bail};
use cipherform_mpc::{Link, PublicKey, Role, Store, WeightMask, deal, serve};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    shape: Shape,
    /// Runs to prepare in files.
    #[arg(long, default_value_t = 1, conflicts_with = "for_server")]
    count: usize,
    /// Directory for `server/` and `client/`; give each party its own, and keep neither.
    #[arg(long, required_unless_present = "for_server", conflicts_with = "for_server")]
    out: Option<PathBuf>,
    /// Stay, and send correlations as they are needed: wait for the server on this address.
    #[arg(long, requires = "for_client")]
    for_server: Option<Address>,
    /// Wait for the client on this address.
    #[arg(long, requires = "for_server")]
    for_client: Option<Address>,
    /// The server's public key.
    #[arg(long, requires = "for_server")]
    server_key: Option<PublicKey>,
    /// The client's public key.
    #[arg(long, requires = "for_client")]
    client_key: Option<PublicKey>,
    /// Longest time, in seconds, that a party may take for a run and until it asks for the next.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    idle: u64,
    #[command(flatten)]
    security: Security,
    /// Write what was made as JSON (never the correlations).
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let job = Job::new(&args.shape)?;
    let start = Instant::now();
    let runs = match (&args.out, args.for_server, args.for_client) {
        (Some(out), ..) => in_files(args, &job, out)?,
        (None, Some(server), Some(client)) => live(args, &job, server, client)?,
        _ => bail!("pass --out, or --for-server and --for-client"),
    };
    let offline = job.circuit().cost().offline;
    println!(
        "{runs} runs in {}: {} for the server, {} for the client, a run",
        time(start.elapsed()),
        bytes(offline.server),
        bytes(offline.client),
    );
    write_json(
        args.json.as_deref(),
        &json!({
            "schema": "cipherform.mpc.deal/1",
            "runs": runs,
            "seconds": start.elapsed().as_secs_f64(),
            "server_bytes": offline.server,
            "client_bytes": offline.client,
        }),
    )
}

fn in_files(args: &Args, job: &Job, out: &Path) -> Result<usize> {
    let mut rng = super::entropy()?;
    let stores = Role::BOTH.map(|role| Store::open(&out.join(role.to_string())));
    let [server, client] = stores;
    let (server, client) = (server?, client?);
    // One mask for the server's weights as long as they do not change.
    let mask = if let Ok(mask) = server.mask() {
        mask
    } else {
        let mask = WeightMask::random(&mut rng);
        server.put_mask(&mask)?;
        mask
    };
    for _ in 0..args.count {
        let [for_server, for_client] = deal(job.circuit(), &mask, &mut rng)?;
        server.put(&for_server)?;
        client.put(&for_client)?;
    }
    let ready = (server.remaining()?, client.remaining()?);
    println!("{} and {} runs are ready in {}", ready.0, ready.1, out.display());
    Ok(args.count)
}

/// Until a party leaves.
fn live(args: &Args, job: &Job, server: Address, client: Address) -> Result<usize> {
    let for_server = listen("server: ", server)?;
    let for_client = listen("client: ", client)?;
    let mut rng = super::entropy()?;
    let mask = WeightMask::random(&mut rng);
    let (server, client) = std::thread::scope(|scope| {
        let server = scope.spawn(|| args.security.accept(&for_server, args.server_key.as_ref()));
        let client = args.security.accept(&for_client, args.client_key.as_ref());
        (server.join(), client)
    });
    let Ok(server) = server else { bail!("waiting for the server failed") };
    let links = [(server?, Role::Server), (client?, Role::Client)]
        .map(|(channel, role)| Link::new(channel, role, args.security.deadline()));
    Ok(serve(job.circuit(), &mask, links, Duration::from_secs(args.idle), &mut rng)?)
}
