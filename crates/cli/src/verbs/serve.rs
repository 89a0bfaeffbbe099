//! `cipherform serve`: a server for other processes.

use crate::output::write_json;
use crate::verbs::{DEFAULT_MODEL, context, load_model, priced};
use anyhow::{Context as _, Result};
use cipherform_server::{Config, Registry, Server};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// Device.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Parameter set; the cheapest that fits each model by default.
    #[arg(long)]
    set: Option<String>,
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
    for name in &args.models {
        let model = load_model(name)?;
        let context = context(&model, args.set.as_deref(), &args.device)?;
        let he = priced(&model, &context)?;
        println!(
            "{}: {} ({} bits), {} keys, {:.1} s an inference predicted",
            model.config.name,
            context.params().name(),
            context.params().security_bits(),
            he.description().plan().keys().len(),
            he.description().plan().predicted_ms() / 1e3
        );
        served.push(json!({
            "name": model.config.name,
            "parameter_set": context.params().name(),
            "security_bits": context.params().security_bits(),
        }));
        registry.add(he)?;
    }
    let handle = Server::start(&config, registry)?;
    write_json(
        args.json.as_deref(),
        &json!({"schema": "cipherform.serve/1", "url": handle.url(), "models": served}),
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
