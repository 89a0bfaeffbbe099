//! `cipherform estimate`: what an inference will take, without running it and without keys.

use crate::output::{bytes, time, write_json};
use crate::verbs::{DEFAULT_MODEL, context, load_model, machine_costs, mode};
use anyhow::Result;
use cipherform_exact::LabelParameters;
use cipherform_nn::estimate::{DeviceBytes, memory_bytes, precision_bits};
use cipherform_nn::{LogitRange, Plan};
use cipherform_profile::Counter;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or directory of the model.
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    /// Device.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Parameter set; the cheapest that fits by default.
    #[arg(long)]
    set: Option<String>,
    /// Answer with the class alone: nobody learns the logits (an estimate needs no feature).
    #[arg(long)]
    label_only: bool,
    /// Write the estimate as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = load_model(&args.model)?;
    let mode = mode(args.label_only);
    let context = context(&model, args.set.as_deref(), &args.device, mode)?;
    let params = context.params();
    let costs = machine_costs(&model, &context)?;
    let (mut plan, program) = Plan::for_machine(&model, params, &costs, mode)?;
    plan.price(params, &program, &costs)?;
    let top = plan.top_level();
    let sizes = plan.sizes(params);
    let memory = memory_bytes(params, &plan, &program)?;
    let planned = DeviceBytes::new(params, &plan, &program)?;
    let vram = context.ring().device().runs_behind().then(|| planned.total());
    let precision = precision_bits(&model, params, &plan, &program)?;
    let random = if model.config.random_weights { "  [RANDOM WEIGHTS]" } else { "" };
    println!(
        "{} on {}, {}{random}",
        model.config.name,
        args.device,
        context.ring().device().description()
    );
    println!(
        "set        {} ({} bits), {} levels of {}",
        params.name(),
        params.security_bits(),
        top,
        params.max_level()
    );
    println!(
        "time       {} an inference",
        time(Duration::from_secs_f64(plan.predicted_ms() / 1e3))
    );
    println!("memory     {} for both sides in one process on the CPU", bytes(memory));
    if let Some(vram) = vram {
        println!(
            "card       {}: keys {}, weights and constants {}, ciphertexts {}, one operation {}",
            bytes(vram),
            bytes(planned.keys),
            bytes(planned.constants),
            bytes(planned.ciphertexts),
            bytes(planned.operation)
        );
    }
    println!("keys       {} expanded, {} of them", bytes(sizes.key_bytes), plan.keys().len());
    println!(
        "up         {} keys and input, of which {} a further input",
        bytes(sizes.upload_bytes),
        bytes(sizes.input_bytes)
    );
    println!("down       {}", bytes(sizes.download_bytes));
    println!("precision  logits within 2^-{precision:.1} of the clear model's");
    let label = plan.label_step(params).zip(plan.logit_range());
    let label = label.map(|(step, range)| LabelEstimate::new(&plan, &step, range));
    if let Some(label) = &label {
        label.print();
    }
    let cost = plan.cost();
    for counter in Counter::ALL.into_iter().filter(|&c| cost.get(c) > 0) {
        println!("{:<18} {}", counter.name(), cost.get(counter));
    }
    write_json(
        args.json.as_deref(),
        &json!({
            "schema": "cipherform.estimate/1",
            "model": model.config.name,
            "random_weights": model.config.random_weights,
            "device": args.device,
            "machine": context.ring().device().description(),
            "parameter_set": params.name(),
            "security_bits": params.security_bits(),
            "ms": plan.predicted_ms(),
            "peak_rss_bytes": memory,
            "peak_vram_bytes": vram,
            "key_bytes": sizes.key_bytes,
            "upload_bytes": sizes.upload_bytes,
            "input_bytes": sizes.input_bytes,
            "download_bytes": sizes.download_bytes,
            "precision_bits": precision,
            "label": label,
            "counters": cost,
            "operators": plan.steps(),
        }),
    )
}

/// What is known of the exact step of a plan that answers with a label.
#[derive(Debug, serde::Serialize)]
struct LabelEstimate {
    classes: usize,
    /// Largest difference of logits that the plan allows.
    range: f64,
    range_proven: bool,
    /// Differences from here on are ordered rightly: six standard deviations.
    six_sigma: f64,
    log2_failure: f64,
    ms: f64,
    key_upload_bytes: usize,
    reply_bytes: usize,
}

impl LabelEstimate {
    fn new(plan: &Plan, step: &LabelParameters, range: LogitRange) -> Self {
        let noise = step.noise();
        let stages = plan.steps().iter().rev().take(step.stages().len());
        Self {
            classes: step.classes(),
            range: range.max,
            range_proven: range.proven,
            six_sigma: 6.0 * noise.difference_sigma(range.max),
            log2_failure: noise.log2_failure,
            ms: stages.map(|s| s.predicted_ms).sum(),
            key_upload_bytes: step.seeded_key_bytes(),
            reply_bytes: step.label_bytes(),
        }
    }

    fn print(&self) {
        println!(
            "label      {} of the time; logits up to {:.2} apart ({}), the larger of two wins from {:.3} on",
            time(Duration::from_secs_f64(self.ms / 1e3)),
            self.range,
            if self.range_proven { "proven" } else { "calibrated and widened" },
            self.six_sigma
        );
        println!(
            "           fails with probability 2^{:.1} a query; {} of the keys up",
            self.log2_failure,
            bytes(self.key_upload_bytes as u64)
        );
    }
}
