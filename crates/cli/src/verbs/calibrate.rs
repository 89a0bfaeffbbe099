//! `cipherform calibrate`: what primitives and bootstraps take on this machine, kept for the planner.

use crate::output::time;
use crate::verbs::{calibrated, cost_file, device};
use anyhow::{Context as _, Result};
use cipherform_ckks::{Context, presets};
use cipherform_nn::calibrate::{CostTable, MachineCosts};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Device.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Sets to measure with, one a ring dimension; other dimensions follow in proportion.
    #[arg(long = "set", default_values_t = ["boot16".to_owned()])]
    sets: Vec<String>,
    /// Leave bootstraps out: they need keys of gigabytes (`cipherform params SET` says how many).
    #[arg(long)]
    no_bootstrap: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let device = device(&args.device)?;
    let name = device.to_string();
    let description = device.description();
    let mut table =
        calibrated(&name).ok().flatten().unwrap_or_else(|| CostTable::new(&name, &description));
    for set in &args.sets {
        let params = presets::get(set)?;
        let log_n = params.log_n();
        let context = Context::new(params.clone(), &device)?;
        let start = Instant::now();
        eprintln!("{set}: primitives");
        let mut costs = MachineCosts::measure(&context, params.application_level())?;
        if params.bootstrapping().is_some() && !args.no_bootstrap {
            eprintln!("{set}: keys and a bootstrap, up to a minute");
            let bootstrap = costs.measure_bootstrap(&context)?;
            println!("{set}  bootstrap {}", time(Duration::from_secs_f64(bootstrap / 1e3)));
        }
        table.insert(log_n, costs);
        println!("{set}  N = 2^{log_n} measured in {}", time(start.elapsed()));
    }
    let path = cost_file(&name)?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    table.save(&path)?;
    println!("{description}: kept in {}", path.display());
    Ok(())
}
