//! What each side holds: the client a [`ModelDescription`], the server an [`HeModel`].

use crate::calibrate::MachineCosts;
use crate::config::ModelConfig;
use crate::embedding::{ClientWeights, client_embedding};
use crate::error::{Error, Result};
use crate::estimate::DeviceBytes;
use crate::exec::{Encoded, Encrypted, Monitor, Progress, execute};
use crate::label::Mode;
use crate::lengths::{Length, Lengths, kept};
use crate::matrix::Matrix;
use crate::plan::Plan;
use crate::program::Program;
use crate::weights::{Model, TOKENIZER_LIMIT, tokenizer};
use cipherform_ckks::{Ciphertext, Context, EvaluationKeys, Parameters};
use cipherform_exact::{EncryptedLabel, LabelKeys, Stage, evaluate};
use cipherform_profile::follow;
use num_complex::Complex64;
use std::borrow::Cow;
use std::time::{Duration, Instant};

const MAGIC: &[u8; 4] = b"CFMD";
const VERSION: u16 = 2;

/// All that a client may know of a model: config with calibrated ranges, the embedding and the first norm, the tokenizer, the
/// plan.
/// The other weights stay with the server.
#[derive(Clone, Debug)]
pub struct ModelDescription {
    config: ModelConfig,
    client: ClientWeights,
    tokenizer: Option<String>,
    plan: Plan,
    fingerprint: [u8; 32],
}

impl ModelDescription {
    /// Describes `model` under `plan`.
    ///
    /// # Errors
    /// When the model's tensors do not fit its config.
    pub fn new(model: &Model, plan: Plan) -> Result<Self> {
        Ok(Self {
            config: model.config.clone(),
            client: ClientWeights::from_model(model)?,
            tokenizer: model.tokenizer.clone(),
            plan,
            fingerprint: model.fingerprint()?,
        })
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The model's config.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How the model cuts text into word pieces: JSON of the `tokenizers` library, unchecked.
    #[must_use]
    pub fn tokenizer(&self) -> Option<&str> {
        self.tokenizer.as_deref()
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Checks a description that came from outside against the parameter set its plan names.
    ///
    /// # Errors
    /// As [`Plan::validate`].
    pub fn validate(&self, params: &Parameters) -> Result<()> {
        self.plan.validate(&self.config, params)
    }

    /// Hash of the whole model, weights included.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The slot vectors of one input (tokens by features), one for each input ciphertext of the plan. The embedding is
    /// computed here, in the clear, and checked against the calibrated range.
    ///
    /// # Errors
    /// `ShapeMismatch`, `NotFinite`, or `OutOfRange` for an input that would leave the range the model was fitted on.
    pub fn encode(&self, input: &Matrix) -> Result<Vec<Vec<Complex64>>> {
        let embedded = client_embedding(&self.config, &self.client, input)?;
        embedded.check_ranges(&self.config)?;
        let layout = self.plan.layout();
        Ok(self.plan.inputs().iter().map(|i| layout.pack(i, &embedded)).collect())
    }

    /// Refuses ciphertexts that are not the plan's inputs.
    pub(crate) fn check_inputs(&self, params: &Parameters, inputs: &[Ciphertext]) -> Result<()> {
        let specs = self.plan.inputs();
        if specs.len() != inputs.len() {
            return Err(Error::WrongInputs {
                detail: format!("the plan takes {} ciphertexts, got {}", specs.len(), inputs.len()),
            });
        }
        for (spec, ciphertext) in specs.iter().zip(inputs) {
            let scale = params.scale_at(spec.level);
            let relative = (ciphertext.scale() / scale - 1.0).abs();
            if ciphertext.level() != spec.level || relative > 1e-12 || ciphertext.degree() != 1 {
                return Err(Error::WrongInputs {
                    detail: format!(
                        "{} enters at level {} with scale 2^{:.3} and degree 1, got level {}, 2^{:.3}, {}",
                        spec.name,
                        spec.level,
                        scale.log2(),
                        ciphertext.level(),
                        ciphertext.scale().log2(),
                        ciphertext.degree()
                    ),
                });
            }
        }
        Ok(())
    }

    /// The logits from the decrypted slots of the result; one row a token of a model that classifies every token.
    ///
    /// # Errors
    /// `WrongAnswer` for a plan that answers with a label; `Malformed` when the slots are too few or not finite.
    pub fn decode(&self, slots: &[Complex64]) -> Result<Vec<f64>> {
        if self.plan.mode() != Mode::Logits {
            return Err(Error::WrongAnswer { has: "labels", asked: "logits" });
        }
        let logits = self.plan.layout().logits(&self.config, slots);
        logits
            .into_iter()
            .map(|logit| {
                logit.filter(|v| v.is_finite()).ok_or_else(|| Error::Malformed {
                    what: "result",
                    detail: "a logit is missing or not finite".into(),
                })
            })
            .collect()
    }

    /// Serialises the description.
    ///
    /// # Errors
    /// When a number is not representable.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend(self.fingerprint);
        let plan = serde_json::to_vec(&self.plan)
            .map_err(|e| Error::Malformed { what: "plan", detail: e.to_string() })?;
        // None is written as nothing: an empty file is no tokenizer.
        let tokenizer = self.tokenizer.clone().unwrap_or_default().into_bytes();
        let config = self.config.to_json()?.into_bytes();
        for part in [config, self.client.to_bytes()?, plan, tokenizer] {
            out.extend((part.len() as u64).to_le_bytes());
            out.extend(part);
        }
        Ok(out)
    }

    /// Reads a description that came from outside; every part is checked, lengths before use.
    ///
    /// # Errors
    /// `Malformed` and the errors of the parts.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let fail =
            |detail: &str| Error::Malformed { what: "model description", detail: detail.into() };
        let mut rest = bytes;
        let mut take = |n: usize| -> Result<&[u8]> {
            let (head, tail) = rest.split_at_checked(n).ok_or_else(|| fail("truncated"))?;
            rest = tail;
            Ok(head)
        };
        if take(4)? != MAGIC {
            return Err(fail("not a model description"));
        }
        if take(2)? != VERSION.to_le_bytes() {
            return Err(fail("written by another version"));
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(take(32)?);
        let mut part = || -> Result<&[u8]> {
            let mut length = [0; 8];
            length.copy_from_slice(take(8)?);
            take(usize::try_from(u64::from_le_bytes(length)).map_err(|_| fail("truncated"))?)
        };
        let config = ModelConfig::from_json(part()?)?;
        let client = ClientWeights::from_bytes(&config, part()?)?;
        let plan: Plan = serde_json::from_slice(part()?)
            .map_err(|e| Error::Malformed { what: "plan", detail: e.to_string() })?;
        let text = part()?;
        if text.len() as u64 > TOKENIZER_LIMIT {
            return Err(fail("a tokenizer beyond the limit"));
        }
        let tokenizer = if text.is_empty() { None } else { Some(tokenizer(text.to_vec())?) };
        if !rest.is_empty() {
            return Err(fail("trailing bytes"));
        }
        Ok(Self { config, client, tokenizer, plan, fingerprint })
    }
}

/// A model ready to run on ciphertexts: the plan's program with its constants encoded.
#[derive(Debug)]
pub struct HeModel {
    description: ModelDescription,
    context: Context,
    program: Program,
    encoded: Encoded,
    bytes: DeviceBytes,
    lengths: Lengths,
}

impl HeModel {
    /// Plans `model` for the context's parameter set and encodes its weights.
    ///
    /// # Errors
    /// As [`Plan::build`]; `InsufficientMemory`, before anything is encoded, if weights, ciphertexts, one operation and its
    /// key do not fit the device; encoding errors.
    pub fn new(model: &Model, context: &Context) -> Result<Self> {
        let costs = MachineCosts::nominal(context.params().log_n());
        Self::for_machine(model, context, &costs, Mode::Logits)
    }

    /// As [`HeModel::new`], with a plan for a machine of these costs, which are also the plan's predicted times, and an answer.
    ///
    /// # Errors
    /// As [`HeModel::new`] and [`Plan::for_machine`].
    pub fn for_machine(
        model: &Model,
        context: &Context,
        costs: &MachineCosts,
        mode: Mode,
    ) -> Result<Self> {
        let (mut plan, program, scheduled) =
            Plan::searched(model, context.params(), costs, mode, None)?;
        plan.price(context.params(), &program, costs)?;
        let bytes = DeviceBytes::new(context.params(), &plan, &program)?;
        bytes.check(context.ring().device())?;
        let encoded = Encoded::new(&program, context)?;
        let (kept, _) = kept(context.params(), &program);
        let lengths = Lengths::new(model, plan.layout(), scheduled, kept);
        let description = ModelDescription::new(model, plan)?;
        Ok(Self { description, context: context.clone(), program, encoded, bytes, lengths })
    }

    /// What the client may know.
    #[must_use]
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// The parameter set.
    #[must_use]
    pub fn params(&self) -> &Parameters {
        self.context.params()
    }

    /// The context.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What inferences take of the device's memory, as planned.
    #[must_use]
    pub fn device_bytes(&self) -> DeviceBytes {
        self.bytes
    }

    /// Bytes of the encoded constants.
    #[must_use]
    pub fn plaintext_bytes(&self) -> u64 {
        self.encoded.bytes()
    }

    /// The constants of an input of `tokens` tokens: at once for the longest input and for a length used not long ago,
    /// otherwise encoded here. Outside recordings, whose counts are the plan's.
    ///
    /// # Errors
    /// `InputLength` beyond the model's tokens and for none; `FixedLength` where inputs all have as many.
    ///
    /// # Security
    /// The number of tokens is not hidden from the server.
    pub fn length(&self, tokens: usize) -> Result<Length> {
        self.lengths.get(tokens, &self.program, &self.context)
    }

    /// The program of an input of `tokens` tokens: [`HeModel::program`] with other constants.
    ///
    /// # Errors
    /// As [`HeModel::length`].
    pub fn program_of(&self, tokens: usize) -> Result<Cow<'_, Program>> {
        Ok(self.lengths.program(tokens)?.map_or(Cow::Borrowed(&self.program), Cow::Owned))
    }

    /// Evaluates the model on one encrypted input of a length. A recording around it has the device's times where the device has a clock.
    ///
    /// # Errors
    /// `WrongAnswer` for a plan that answers with a label; `WrongInputs` when count, level or scale of the ciphertexts differ from
    /// the plan; `Cancelled`; the evaluator's errors, such as a missing key.
    pub fn run(
        &self,
        keys: &EvaluationKeys,
        inputs: Vec<Ciphertext>,
        length: &Length,
        monitor: &mut dyn Monitor<Ciphertext>,
    ) -> Result<Vec<Ciphertext>> {
        if self.description.plan.mode() != Mode::Logits {
            return Err(Error::WrongAnswer { has: "labels", asked: "logits" });
        }
        self.execute(keys, inputs, length, monitor)
    }

    /// As [`HeModel::run`], for a plan that answers with a label: logits stay in here, encrypted.
    ///
    /// # Errors
    /// `WrongAnswer` for a plan that answers with logits; as [`HeModel::run`]; the exact step's, such as keys of another secret.
    pub fn run_label(
        &self,
        keys: &EvaluationKeys,
        label_keys: &LabelKeys,
        inputs: Vec<Ciphertext>,
        length: &Length,
        monitor: &mut dyn Monitor<Ciphertext>,
    ) -> Result<EncryptedLabel> {
        let plan = &self.description.plan;
        let step = plan.label_step(self.params());
        let step = step.ok_or(Error::WrongAnswer { has: "logits", asked: "labels" })?;
        let begin = Instant::now();
        let logits = self.execute(keys, inputs, length, monitor)?;
        let mut next = self.program.steps().len();
        let mut before = |stage: Stage| {
            let left: f64 = plan.steps().iter().skip(next).map(|s| s.predicted_ms).sum();
            let progress = Progress {
                step: next,
                steps: plan.steps().len(),
                operator: stage.name().to_owned(),
                layer: String::new(),
                level: 0,
                elapsed: begin.elapsed(),
                eta: Duration::from_secs_f64(left.max(0.0) / 1e3),
            };
            next += 1;
            monitor.before(&progress)
        };
        let evaluator = self.encoded.evaluator();
        match evaluate(&step, evaluator, keys, label_keys, &logits, &mut before) {
            Err(cipherform_exact::Error::Cancelled { stage }) => {
                Err(Error::Cancelled { operator: stage.to_owned() })
            }
            other => Ok(other?),
        }
    }

    fn execute(
        &self,
        keys: &EvaluationKeys,
        inputs: Vec<Ciphertext>,
        length: &Length,
        monitor: &mut dyn Monitor<Ciphertext>,
    ) -> Result<Vec<Ciphertext>> {
        self.description.check_inputs(self.params(), &inputs)?;
        let steps = self.description.plan.steps();
        let weights: Vec<f64> = steps
            .iter()
            .map(|s| {
                // Without measured prices, transforms are the best stand-in for time.
                let counted = s.cost.get(cipherform_profile::Counter::LimbNtts) as f64;
                if s.predicted_ms > 0.0 { s.predicted_ms } else { counted }
            })
            .collect();
        follow(|| self.context.ring().timeline());
        let mut machine = Encrypted::new(&self.encoded, keys, inputs).with(length.replaced());
        execute(&self.program, &mut machine, &weights, monitor)
    }
}

/// Index of the largest value, the first of equals; 0 of none. A NaN is never the largest.
#[must_use]
pub fn argmax(values: &[f64]) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, &value) in values.iter().enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::argmax;

    #[test]
    fn argmax_takes_the_first_largest() {
        assert_eq!(argmax(&[0.0, 3.0, -1.0, 3.0]), 1);
        assert_eq!(argmax(&[f64::NAN, -2.0]), 1);
        assert_eq!(argmax(&[]), 0);
    }
}
