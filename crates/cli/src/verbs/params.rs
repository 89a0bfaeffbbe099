//! `cipherform params`: every set with its security, levels and sizes.

use crate::output::{bytes, write_json};
use anyhow::Result;
use cipherform_ckks::noise::NoiseModel;
use cipherform_ckks::{KeySpec, Parameters, SecurityTable, SwitchingKey, presets};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this set.
    set: Option<String>,
    /// Write the sets as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Largest log2 QP that the security table allows for the set's secret.
fn limit(params: &Parameters) -> Option<f64> {
    SecurityTable::max_log_qp(params.n(), params.literal().secret).ok()
}

/// Bits below one that a rescale leaves intact in a slot, one standard deviation.
fn precision(params: &Parameters) -> f64 {
    let noise = NoiseModel::new(params);
    noise.bits(noise.rounding(), params.scale_at(params.max_level()))
}

fn row(params: &Parameters) -> serde_json::Value {
    let key = SwitchingKey::expanded_bytes(params, KeySpec::relinearization(params.max_level()));
    json!({
        "name": params.name(),
        "log_n": params.log_n(),
        "log_qp": params.log_qp(),
        "log_qp_limit": limit(params),
        "security_bits": params.security_bits(),
        "levels": params.max_level(),
        "log2_scale": params.scale_at(params.max_level()).log2(),
        "failure_log2": serde_json::Value::Null,
        "precision_bits": precision(params),
        "key_bytes": key,
        "digits": params.digit_sizes(),
    })
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let names: Vec<String> = match &args.set {
        Some(name) => vec![name.clone()],
        None => presets::names().iter().map(|&n| n.to_owned()).collect(),
    };
    println!(
        "{:<12} {:>5} {:>8} {:>8} {:>9} {:>6} {:>6} {:>10} {:>9}",
        "set", "log N", "log QP", "limit", "security", "levels", "scale", "precision", "key"
    );
    let mut sets = Vec::new();
    for name in names {
        let params = presets::get(&name)?;
        let security = match params.security_bits() {
            0 => "INSECURE".to_owned(),
            bits => format!("{bits} bits"),
        };
        println!(
            "{:<12} {:>5} {:>8.1} {:>8} {:>9} {:>6} {:>6.1} {:>5.1} bits {:>9}",
            params.name(),
            params.log_n(),
            params.log_qp(),
            limit(&params).map_or("-".to_owned(), |l| format!("{l:.0}")),
            security,
            params.max_level(),
            params.scale_at(params.max_level()).log2(),
            precision(&params),
            bytes(SwitchingKey::expanded_bytes(
                &params,
                KeySpec::relinearization(params.max_level())
            )),
        );
        sets.push(row(&params));
    }
    println!(
        "\nsecurity: classical bits for a uniform ternary secret, table of ePrint 2024/463; precision: bits left of a\n\
         value of 1 after one rescale, standard deviation over the slots; key: one key at the top level, expanded"
    );
    write_json(args.json.as_deref(), &json!({"schema": "cipherform.params/1", "sets": sets}))
}
