//! One file a verb, and what several of them need.

pub(crate) mod answer;
pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod demo;
pub(crate) mod estimate;
pub(crate) mod eval;
pub(crate) mod infer;
pub(crate) mod keygen;
pub(crate) mod model;
pub(crate) mod mpc;
pub(crate) mod params;
pub(crate) mod profile;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod text;

use anyhow::{Context as _, Result, bail};
use cipherform_ckks::{Context, Device, Parameters, presets};
use cipherform_nn::calibrate::{CostTable, MachineCosts};
use cipherform_nn::{HeModel, Mode, Model, Plan};
use std::path::{Path, PathBuf};

/// Directory of the shipped models; the demo's default lies in it.
const MODELS: &str = "models";

/// The model that verbs use when none is named.
pub(crate) const DEFAULT_MODEL: &str = "fashion-mnist-vit";

/// Loads a model by directory, or by the name of a shipped one.
pub(crate) fn load_model(name: &str) -> Result<Model> {
    Model::load(&model_dir(name)?).with_context(|| format!("cannot load the model {name}"))
}

/// Where a model lies: the path itself, `models/NAME` below the working directory, or below the source tree.
pub(crate) fn model_dir(name: &str) -> Result<PathBuf> {
    let source_tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(MODELS);
    let candidates = [PathBuf::from(name), Path::new(MODELS).join(name), source_tree.join(name)];
    for candidate in &candidates {
        if candidate.join("config.json").is_file() {
            return Ok(candidate.clone());
        }
    }
    bail!("no model {name}: neither a directory with config.json nor a name below {MODELS}/")
}

/// The device a verb was asked for; one that is absent is an error.
pub(crate) fn device(name: &str) -> Result<Device> {
    Ok(name.parse::<Device>()?)
}

/// The parameter set named, or the one that is fastest on a machine of these costs.
pub(crate) fn parameters(
    model: &Model,
    set: Option<&str>,
    costs: &CostTable,
    mode: Mode,
) -> Result<Parameters> {
    Ok(match set {
        Some(name) => presets::get(name)?,
        None => Plan::choose_parameters(model, costs, mode)?,
    })
}

/// A model planned for this machine and ready to run.
pub(crate) fn priced(model: &Model, context: &Context, mode: Mode) -> Result<HeModel> {
    Ok(HeModel::for_machine(model, context, &machine_costs(model, context)?, mode)?)
}

/// Context of a model's parameter set on a device.
pub(crate) fn context(
    model: &Model,
    set: Option<&str>,
    device_name: &str,
    mode: Mode,
) -> Result<Context> {
    let costs = calibrated(device_name)?.unwrap_or_else(CostTable::nominal);
    Ok(Context::new(parameters(model, set, &costs, mode)?, &device(device_name)?)?)
}

/// What `--label-only` asks for.
pub(crate) fn mode(label_only: bool) -> Mode {
    if label_only { Mode::Label } else { Mode::Logits }
}

/// What the device costs: from the table of `cipherform calibrate` if there is one, measured otherwise.
pub(crate) fn machine_costs(model: &Model, context: &Context) -> Result<MachineCosts> {
    let params = context.params();
    let table = calibrated(&context.ring().device().to_string())?;
    if let Some(table) = table.filter(|t| t.has(params.log_n())) {
        return Ok(table.of(params));
    }
    // Lines are best between the levels they went through.
    let (plan, _) = Plan::build(model, params)?;
    Ok(MachineCosts::measure(context, plan.top_level())?)
}

/// The table that `cipherform calibrate` left for a device.
pub(crate) fn calibrated(device: &str) -> Result<Option<CostTable>> {
    let path = cost_file(device)?;
    if !path.is_file() {
        return Ok(None);
    }
    let table = CostTable::load(&path)
        .with_context(|| format!("{}: run `cipherform calibrate` again", path.display()))?;
    Ok(Some(table))
}

/// Where the cost table of a device is kept: below the user's cache directory, or where `CIPHERFORM_COSTS` says.
pub(crate) fn cost_file(device: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("CIPHERFORM_COSTS") {
        Some(directory) => PathBuf::from(directory),
        None => std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .context(
                "neither CIPHERFORM_COSTS nor XDG_CACHE_HOME nor HOME says where cost tables are",
            )?
            .join("cipherform"),
    };
    Ok(directory.join(format!("costs-{}.json", device.replace(':', "-"))))
}
