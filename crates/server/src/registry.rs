//! The models being served, and what their plans say about sizes.

use crate::convert;
use crate::error::{Error, Result};
use bytes::Bytes;
use cipherform_ckks::{Ciphertext, Device, KeySpec, Parameters, SeededKey};
use cipherform_exact::LabelParameters;
use cipherform_nn::{HeModel, Length, Plan};
use cipherform_proto::wire::{ModelSummary, is_name};
use cipherform_proto::{BlobHeader, BlobKind, Chunked, Fault};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One model, with everything that is the same for every request.
pub(crate) struct Served {
    /// The model on each device, in the order of the workers; never empty.
    replicas: Vec<HeModel>,
    pub(crate) summary: ModelSummary,
    description: Chunked,
    /// The exact step of a plan that answers with a label.
    label: Option<LabelParameters>,
    /// Bytes in memory of a complete key set.
    pub(crate) key_bytes: u64,
}

/// The models of a server, by name, all on the same devices.
#[derive(Default)]
pub struct Registry {
    models: BTreeMap<String, Arc<Served>>,
    /// One worker each; those of the first model.
    devices: Vec<Device>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.models.keys()).finish()
    }
}

impl Registry {
    /// No models.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a model on one device.
    ///
    /// # Errors
    /// As [`Registry::add_replicas`].
    pub fn add(&mut self, model: HeModel) -> Result<()> {
        self.add_replicas(vec![model])
    }

    /// Adds a model on several devices: the same model under the same parameter set, once a device. Requests are spread
    /// over them by key set: the device that holds a client's keys runs its jobs. What clients are told, predicted times
    /// included, is the first one's.
    ///
    /// # Errors
    /// [`Error::Replicas`] for none, for two models in one, and for other devices than those of the models before;
    /// [`Error::DuplicateModel`]; [`Error::UnspeakableName`]; an error of the model when it cannot be described.
    pub fn add_replicas(&mut self, replicas: Vec<HeModel>) -> Result<()> {
        let Some(model) = replicas.first() else {
            return Err(Error::Replicas { detail: "a model without a device".into() });
        };
        let identity = |m: &HeModel| (m.description().fingerprint(), m.params().fingerprint());
        if replicas.iter().any(|replica| identity(replica) != identity(model)) {
            let detail = format!("{} is not the same on all devices", model.description().name());
            return Err(Error::Replicas { detail });
        }
        let devices: Vec<Device> = replicas.iter().map(|m| *m.context().ring().device()).collect();
        if !self.models.is_empty() && self.devices != devices {
            let names =
                |d: &[Device]| d.iter().map(Device::to_string).collect::<Vec<_>>().join(",");
            let (here, before) = (names(&devices), names(&self.devices));
            let detail = format!("{} is on {here}, others on {before}", model.description().name());
            return Err(Error::Replicas { detail });
        }
        let params = model.context().params();
        let name = model.description().name().to_owned();
        if !is_name(&name) {
            return Err(Error::UnspeakableName(name));
        }
        let description = Chunked::new(Bytes::from(model.description().to_bytes()?));
        let summary = ModelSummary {
            name: name.clone(),
            parameter_set: params.name().to_owned(),
            parameters: params.fingerprint(),
            description: description.digest(),
        };
        let plan = model.description().plan();
        // A server that could not serve it does not start.
        let label = plan.label_step(params);
        if label.is_some() {
            cipherform_exact::check_built()?;
        }
        let key_bytes = plan.sizes(params).key_bytes;
        if self.models.contains_key(&name) {
            return Err(Error::DuplicateModel(name));
        }
        let served = Served { replicas, summary, description, label, key_bytes };
        self.models.insert(name, Arc::new(served));
        self.devices = devices;
        Ok(())
    }

    /// The devices, one worker each.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Names of the models.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<Served>, Fault> {
        self.models.get(name).cloned().ok_or_else(|| Fault::not_found("model", name))
    }

    pub(crate) fn summaries(&self) -> Vec<ModelSummary> {
        self.models.values().map(|served| served.summary.clone()).collect()
    }

    /// Limits the keys in the memory of each device: to `limit`, or on a card to what models, ciphertexts and operations
    /// leave. Models on one device have equal shares; one that is less than a job holds at once is refused.
    pub(crate) fn limit_keys(&self, limit: Option<u64>) -> Result<()> {
        for (i, device) in self.devices.iter().enumerate() {
            let here = || self.models.values().filter_map(|served| served.replicas.get(i));
            let left = || {
                let bytes = here().map(HeModel::device_bytes);
                let working = bytes.map(|b| b.ciphertexts + b.operation).max().unwrap_or(0);
                // Reserved by each model, and allocated when an input of a length comes: not yet.
                let lengths: u64 = here().map(|model| model.device_bytes().lengths).sum();
                let left = device.available_memory()?.saturating_sub(working + lengths);
                // A tenth for the inputs of waiting jobs, and for what is lost between pieces of different sizes.
                device.runs_behind().then_some(left / 10 * 9)
            };
            let Some(bytes) = limit.or_else(left) else { continue };
            let share = bytes / here().count().max(1) as u64;
            for (name, served) in &self.models {
                let Some(model) = served.replicas.get(i) else { continue };
                let needed = model.device_bytes().held_keys;
                if share < needed {
                    let (model, device) = (name.clone(), device.to_string());
                    return Err(Error::KeyMemory { model, device, needed, share });
                }
                let limited = model.context().limit_keys(Some(share));
                limited.map_err(cipherform_nn::Error::from)?;
            }
        }
        Ok(())
    }

    /// Refuses toy parameter sets.
    pub(crate) fn check_secure(&self) -> Result<()> {
        for served in self.models.values() {
            let params = served.params();
            if params.is_toy() {
                let (model, set) = (served.summary.name.clone(), params.name().to_owned());
                return Err(Error::Insecure { model, set });
            }
        }
        Ok(())
    }
}

impl Served {
    /// The model on a device.
    pub(crate) fn on(&self, device: usize) -> Result<&HeModel, Fault> {
        self.replicas.get(device).ok_or(Fault::Internal)
    }

    /// On how many devices it is.
    pub(crate) fn devices(&self) -> usize {
        self.replicas.len()
    }

    pub(crate) fn plan(&self) -> &Plan {
        self.replicas[0].description().plan()
    }

    pub(crate) fn params(&self) -> &Parameters {
        self.replicas[0].params()
    }

    /// The exact step of a plan that answers with a label.
    pub(crate) fn label(&self) -> Option<&LabelParameters> {
        self.label.as_ref()
    }

    /// Keys of a complete set: those of the plan, and one more object for its exact step.
    pub(crate) fn key_count(&self) -> usize {
        self.plan().keys().len() + usize::from(self.label.is_some())
    }

    /// The exact step whose keys have this index.
    pub(crate) fn label_keys(&self, index: u32) -> Result<&LabelParameters, Fault> {
        let step = self.label().filter(|_| index as usize == self.plan().keys().len());
        step.ok_or_else(|| Fault::not_found("label keys of the plan", index.to_string()))
    }

    /// The key at `index` of the plan.
    pub(crate) fn key(&self, index: u32) -> Result<KeySpec, Fault> {
        let keys = self.plan().keys();
        keys.get(index as usize).copied().ok_or_else(|| {
            Fault::not_found("key of the plan", format!("{index}, it has {}", keys.len()))
        })
    }

    /// The exact size of the blob that `header` announces, worked out from the plan alone.
    pub(crate) fn exact_bytes(&self, header: &BlobHeader) -> Result<u64, Fault> {
        let params = self.params();
        if header.parameters != params.fingerprint() {
            let (expected, got) = (params.fingerprint(), header.parameters);
            return Err(Fault::ParameterMismatch { expected, got });
        }
        match header.kind {
            BlobKind::EvaluationKey => {
                Ok(SeededKey::serialized_len(params, self.key(header.index)?) as u64)
            }
            BlobKind::LabelKeys => Ok(self.label_keys(header.index)?.seeded_key_bytes() as u64),
            BlobKind::Ciphertext => {
                let inputs = self.plan().inputs();
                let input = inputs.get(header.index as usize).ok_or_else(|| {
                    let name = format!("{}, it has {}", header.index, inputs.len());
                    Fault::not_found("input of the plan", name)
                })?;
                Ok(Ciphertext::serialized_len(params, input.level, 1, true) as u64)
            }
            _ => Err(Fault::malformed("blob kind", "only keys and ciphertexts are uploaded")),
        }
    }

    /// A ciphertext for input `index` on a device, checked against the plan.
    pub(crate) fn input(
        &self,
        device: usize,
        index: usize,
        bytes: &[u8],
    ) -> Result<Ciphertext, Fault> {
        let inputs = self.plan().inputs();
        let level = inputs.get(index).map(|input| input.level).ok_or(Fault::Internal)?;
        let ciphertext = Ciphertext::from_bytes(self.on(device)?.context(), bytes)
            .map_err(|error| convert::bytes(self.params(), bytes, &error))?;
        if ciphertext.level() != level {
            return Err(Fault::LevelMismatch {
                what: format!("input {index}"),
                expected: level as u32,
                got: ciphertext.level() as u32,
            });
        }
        let scale = self.params().scale_at(level);
        if ciphertext.degree() != 1 {
            let detail = format!("degree {} where the plan needs 1", ciphertext.degree());
            return Err(Fault::malformed(format!("input {index}"), detail));
        }
        // Both sides compute the scale from the same table with the same operations, so it is equal to the last bit.
        if ciphertext.scale().to_bits() != scale.to_bits() {
            let detail = format!("scale {} where the plan needs {scale}", ciphertext.scale());
            return Err(Fault::malformed(format!("input {index}"), detail));
        }
        Ok(ciphertext)
    }

    /// What depends on the length of an input on a device.
    pub(crate) fn length(&self, device: usize, tokens: u32) -> Result<Length, Fault> {
        use cipherform_nn::Error::{FixedLength, InputLength};
        self.on(device)?.length(tokens as usize).map_err(|error| match error {
            InputLength { .. } | FixedLength { .. } => {
                Fault::malformed("number of tokens", error.to_string())
            }
            error => convert::nn(&error),
        })
    }

    /// The model's description as a blob.
    pub(crate) fn description_blob(&self) -> (BlobHeader, Chunked) {
        let (name, parameters) = (&self.summary.name, self.summary.parameters);
        let header = self.description.header(BlobKind::ModelDescription, parameters, name, 0);
        (header, self.description.clone())
    }
}
