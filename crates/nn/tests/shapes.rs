//! Plans at the shapes of the literature, with random weights: what they need, printed. Minutes and gigabytes, so asked for
//! by name: `cargo test --release -p cipherform-nn --test shapes -- --ignored --nocapture`. `CIPHERFORM_MODEL` names the
//! directory of a trained model for `plan_of_a_directory`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "figures are what these tests are for")]

use cipherform_ckks::{Parameters, presets};
use cipherform_nn::calibrate::MachineCosts;
use cipherform_nn::estimate::DeviceBytes;
use cipherform_nn::{Mode, Model, Plan, RandomModel};
use cipherform_profile::Counter;
use std::path::PathBuf;
use std::time::Instant;

const SETS: [&str; 3] = ["boot16", "boot16_deep", "boot16_hp"];

fn plan(model: &Model, params: &Parameters) {
    let costs = MachineCosts::nominal(params.log_n());
    let begin = Instant::now();
    let (mut plan, program) = match Plan::for_machine(model, params, &costs, Mode::Logits) {
        Ok(planned) => planned,
        Err(refusal) => {
            println!("{} on {}: refused: {refusal}", model.config.name, params.name());
            return;
        }
    };
    plan.price(params, &program, &costs).unwrap();
    let cost = plan.cost();
    let bytes = DeviceBytes::new(params, &plan, &program).unwrap();
    let gb = |bytes: u64| bytes as f64 / 1e9;
    println!(
        "{} on {}, {}: planned in {:.1} s; input level {}, predicted {:.1} s on the nominal core",
        model.config.name,
        params.name(),
        plan.layout().name(),
        begin.elapsed().as_secs_f64(),
        plan.top_level(),
        plan.predicted_ms() / 1e3
    );
    for counter in Counter::ALL.into_iter().filter(|&c| cost.get(c) > 0) {
        print!("{} {}, ", counter.name(), cost.get(counter));
    }
    println!(
        "keys {}: {:.2} GB, constants {:.2} GB, ciphertexts {:.2} GB, operation {:.2} GB",
        plan.keys().len(),
        gb(bytes.keys),
        gb(bytes.constants),
        gb(bytes.ciphertexts),
        gb(bytes.operation)
    );
    let mut layer = String::new();
    for step in plan.steps() {
        if step.layer != layer {
            layer.clone_from(&step.layer);
            print!("\n  {layer}:");
        }
        print!(
            " {} {}>{} {:.0} ms,",
            step.operator, step.level_in, step.level_out, step.predicted_ms
        );
    }
    println!();
}

fn literature(name: &str) {
    let model = RandomModel::literature(name).unwrap().generate().unwrap();
    println!("{name}, RANDOM WEIGHTS");
    for set in SETS {
        plan(&model, &presets::get(set).unwrap());
    }
}

#[test]
#[ignore = "a minute"]
fn mpcvit() {
    literature("mpcvit");
}

#[test]
#[ignore = "a minute"]
fn minilm() {
    literature("minilm-l6");
}

#[test]
#[ignore = "a minute"]
fn pythia() {
    literature("pythia-70m");
}

#[test]
#[ignore = "minutes and gigabytes"]
fn bert_base() {
    literature("bert-base");
}

#[test]
#[ignore = "needs a model"]
fn plan_of_a_directory() {
    let directory = PathBuf::from(std::env::var("CIPHERFORM_MODEL").unwrap());
    let model = Model::load(&directory).unwrap();
    for set in SETS {
        plan(&model, &presets::get(set).unwrap());
    }
}
