//! `cipherform serve`: a server for other processes.

use crate::output::{time, write_json};
use crate::verbs::{DEFAULT_MODEL, context, load_model, mode, priced};
use anyhow::{Context as _, Result};
use cipherform_nn::Mode;
use cipherform_server::{Config, Registry, Server};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Settings as JSON: address, quotas, expiries.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Address to listen on; overrides the settings.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Models to serve: names or directories, repeatable.
    #[arg(long = "model", default_value = DEFAULT_MODEL)]
    models: Vec<String>,
    /// Device, or several of them (cuda:0,cuda:1): each holds the models and serves its own clients.
    #[arg(long = "device", default_value = "cpu", value_delimiter = ',')]
    devices: Vec<String>,
    /// Parameter set; the cheapest that fits each model by default.
    #[arg(long)]
    set: Option<String>,
    /// Answer with the class alone: clients get no logits (needs a build with the feature `label-only`).
    #[arg(long)]
    label_only: bool,
    /// Write address and models as JSON once the server accepts connections.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Serve toy parameter sets, which protect nothing.
    #[arg(long)]
    allow_insecure: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut config = match &args.config {
        None => Config::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_str(&text)
                .with_context(|| format!("{} is not a valid configuration", path.display()))?
        }
    };
    if let Some(listen) = args.listen {
        config.listen = listen;
    } else if args.config.is_none() {
        config.listen = SocketAddr::from(([127, 0, 0, 1], 50051));
    }
    config.allow_insecure |= args.allow_insecure;
    let mut registry = Registry::new();
    let mut served = Vec::new();
    let mode = mode(args.label_only);
    if mode == Mode::Label {
        cipherform_exact::check_built()?;
    }
    for name in &args.models {
        let model = load_model(name)?;
        let replica = |name: &String| {
            priced(&model, &context(&model, args.set.as_deref(), name, mode)?, mode)
        };
        let replicas = args.devices.iter().map(replica).collect::<Result<Vec<_>>>()?;
        for he in &replicas {
            println!(
                "{}: {} ({} bits), {} keys, {} an inference on {} predicted",
                model.config.name,
                he.params().name(),
                he.params().security_bits(),
                he.description().plan().keys().len(),
                time(Duration::from_secs_f64(he.description().plan().predicted_ms() / 1e3)),
                he.context().ring().device().description(),
            );
        }
        served.extend(replicas.first().map(|he| {
            json!({
                "name": model.config.name,
                "parameter_set": he.params().name(),
                "security_bits": he.params().security_bits(),
                "label_only": args.label_only,
            })
        }));
        registry.add_replicas(replicas)?;
    }
    let handle = Server::start(&config, registry)?;
    write_json(
        args.json.as_deref(),
        &json!({
            "schema": "cipherform.serve/1", "url": handle.url(), "models": served,
            "devices": args.devices,
        }),
    )?;
    println!("serving on {}; Ctrl-C stops", handle.url());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    runtime.block_on(tokio::signal::ctrl_c()).context("cannot wait for Ctrl-C")?;
    println!("stopping");
    handle.shutdown();
    Ok(())
}
