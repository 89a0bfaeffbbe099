//! `cipherform keygen`: a secret key file that only its owner can read.

use crate::output::write_json;
use anyhow::Result;
use cipherform_ckks::{Context, Device, presets};
use cipherform_client::KeyBundle;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Parameter set of the models that the key is for.
    #[arg(long, default_value = "lev16_36")]
    set: String,
    /// File to create; an existing one is never overwritten.
    #[arg(long)]
    out: PathBuf,
    /// Write what was made as JSON (never the key).
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let params = presets::get(&args.set)?;
    let context = Context::new(params.clone(), &Device::cpu())?;
    KeyBundle::generate(&context)?.save(&args.out)?;
    println!(
        "secret key for {} ({} bits) written to {}, readable by its owner alone",
        params.name(),
        params.security_bits(),
        args.out.display()
    );
    println!("evaluation keys are derived from it when it first meets a server's plan");
    write_json(
        args.json.as_deref(),
        &json!({
            "schema": "cipherform.keygen/1",
            "parameter_set": params.name(),
            "security_bits": params.security_bits(),
            "file": args.out,
        }),
    )
}
