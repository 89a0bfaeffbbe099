//! Model lists.

use super::{hash, name};
use crate::{Fault, Result, pb};
use bytes::Bytes;

/// A model in the server's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSummary {
    /// Its name.
    pub name: String,
    /// Name of its parameter set.
    pub parameter_set: String,
    /// Fingerprint of its parameter set.
    pub parameters: [u8; 32],
    /// Fingerprint of its description.
    pub description: [u8; 32],
}

/// The message that names a model.
#[must_use]
pub fn model_name(name: &str) -> pb::ModelName {
    pb::ModelName { name: name.to_owned() }
}

/// The model named.
///
/// # Errors
/// [`Fault::Malformed`] when it is no name.
pub fn model_name_text(message: pb::ModelName) -> Result<String> {
    name("model name", message.name)
}

impl From<ModelSummary> for pb::ModelSummary {
    fn from(model: ModelSummary) -> Self {
        Self {
            name: model.name,
            parameter_set: model.parameter_set,
            parameters: Bytes::copy_from_slice(&model.parameters),
            description: Bytes::copy_from_slice(&model.description),
        }
    }
}

impl TryFrom<pb::ModelSummary> for ModelSummary {
    type Error = Fault;
    fn try_from(model: pb::ModelSummary) -> Result<Self> {
        Ok(Self {
            name: name("model name", model.name)?,
            parameter_set: name("parameter set", model.parameter_set)?,
            parameters: hash("parameter fingerprint", &model.parameters)?,
            description: hash("description fingerprint", &model.description)?,
        })
    }
}

/// A list of models.
#[must_use]
pub fn models(models: Vec<ModelSummary>) -> pb::ModelList {
    pb::ModelList { models: models.into_iter().map(Into::into).collect() }
}

/// The models in a list.
///
/// # Errors
/// [`Fault::Malformed`].
pub fn model_list(list: pb::ModelList) -> Result<Vec<ModelSummary>> {
    list.models.into_iter().map(TryInto::try_into).collect()
}
