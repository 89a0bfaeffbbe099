//! One file a verb, and what several of them need.

pub(crate) mod bench;
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

use anyhow::{Context as _, Result, bail};
use cipherform_ckks::{Context, Device, Parameters, presets};
use cipherform_nn::calibrate::MachineCosts;
use cipherform_nn::{HeModel, Model, Plan};
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

/// The parameter set named, or the cheapest that fits.
pub(crate) fn parameters(model: &Model, set: Option<&str>) -> Result<Parameters> {
    Ok(match set {
        Some(name) => presets::get(name)?,
        None => Plan::choose_parameters(model)?,
    })
}

/// A model ready to run, with the times that this machine is expected to need.
pub(crate) fn priced(model: &Model, context: &Context) -> Result<HeModel> {
    let mut he = HeModel::new(model, context)?;
    let costs = MachineCosts::measure(context, he.description().plan().top_level())?;
    let prices = costs.steps_ms(context, he.program())?;
    he.price(&prices);
    Ok(he)
}

/// Context of a model's parameter set on a device.
pub(crate) fn context(model: &Model, set: Option<&str>, device_name: &str) -> Result<Context> {
    Ok(Context::new(parameters(model, set)?, &device(device_name)?)?)
}
