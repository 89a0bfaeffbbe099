//! `cipherform mpc deal`.

use super::Shape;
use super::job::Job;
use crate::output::{bytes, time, write_json};
use anyhow::Result;
use cipherform_mpc::{Role, Store, WeightMask, deal};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    shape: Shape,
    /// Runs to prepare.
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// Directory for `server/` and `client/`; give each party its own, and keep neither.
    #[arg(long)]
    out: PathBuf,
    /// Write what was made as JSON (never the correlations).
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let job = Job::new(&args.shape)?;
    let circuit = job.circuit();
    let mut rng = super::entropy()?;
    let stores = Role::BOTH.map(|role| Store::open(&args.out.join(role.to_string())));
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
    let start = Instant::now();
    for _ in 0..args.count {
        let [for_server, for_client] = deal(circuit, &mask, &mut rng)?;
        server.put(&for_server)?;
        client.put(&for_client)?;
    }
    let offline = circuit.cost().offline;
    println!(
        "{} runs in {}: {} for the server, {} for the client, a run; {} and {} runs are ready in {}",
        args.count,
        time(start.elapsed()),
        bytes(offline.server),
        bytes(offline.client),
        server.remaining()?,
        client.remaining()?,
        args.out.display()
    );
    write_json(
        args.json.as_deref(),
        &json!({
            "schema": "cipherform.mpc.deal/1",
            "runs": args.count,
            "seconds": start.elapsed().as_secs_f64(),
            "server_bytes": offline.server,
            "client_bytes": offline.client,
        }),
    )
}
