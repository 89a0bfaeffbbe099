//! What is run between two parties: a trained model, or one with random weights.

use super::Shape;
use crate::verbs::load_model;
use crate::verbs::profile::sample_input;
use anyhow::{Result, bail};
use cipherform_mpc::model::{Architecture, Output, Ranges, Weights, clear, prepare};
use cipherform_mpc::{Circuit, ServerModel, WeightMask, decode_all, ops};
use cipherform_nn::exec::{ClearExecutor, MpcOutput, MpcPlan};
use cipherform_nn::{ClientWeights, Functions, Model};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

#[expect(clippy::large_enum_variant, reason = "one a process")]
pub(super) enum Job {
    Random { architecture: Architecture, circuit: Circuit, name: String, seed: u64 },
    Trained { model: Model, plan: MpcPlan },
}

/// The same function in the clear.
pub(super) struct Clear {
    /// Logits, or the last block's result.
    pub(super) values: Vec<f64>,
    /// Says which values left the ranges that the circuit assumes.
    pub(super) warning: Option<String>,
}

impl Job {
    pub(super) fn new(shape: &Shape) -> Result<Self> {
        let Some(name) = &shape.model else {
            let architecture = shape.architecture()?;
            let circuit = architecture.circuit()?;
            return Ok(Self::Random {
                architecture,
                circuit,
                name: shape.name(),
                seed: shape.seed,
            });
        };
        let model = load_model(name)?;
        let output = match shape.output.as_str() {
            "label" => MpcOutput::Label,
            "logits" => MpcOutput::Logits,
            other => bail!("no output is called {other}: label, logits"),
        };
        let plan = MpcPlan::new(&model.config, output)?;
        Ok(Self::Trained { model, plan })
    }

    pub(super) fn circuit(&self) -> &Circuit {
        match self {
            Self::Random { circuit, .. } => circuit,
            Self::Trained { plan, .. } => plan.circuit(),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Random { name, .. } => name,
            Self::Trained { model, .. } => &model.config.name,
        }
    }

    pub(super) fn random_weights(&self) -> bool {
        match self {
            Self::Random { .. } => true,
            Self::Trained { model, .. } => model.config.random_weights,
        }
    }

    pub(super) fn tokens(&self) -> usize {
        match self {
            Self::Random { architecture, .. } => architecture.shape.tokens,
            Self::Trained { model, .. } => model.config.tokens,
        }
    }

    /// Weights and embedded tokens of a random model.
    fn drawn(architecture: &Architecture, seed: u64) -> (Weights, Vec<f64>) {
        let weights = Weights::random(architecture, &mut ChaCha20Rng::seed_from_u64(seed));
        let tokens = architecture.random_tokens(&mut ChaCha20Rng::seed_from_u64(seed ^ 0x5EED));
        (weights, tokens)
    }

    pub(super) fn server(&self, mask: WeightMask) -> Result<ServerModel> {
        Ok(match self {
            Self::Random { architecture, circuit, seed, .. } => {
                let (weights, _) = Self::drawn(architecture, *seed);
                ServerModel::new(circuit, &prepare(architecture, &weights)?, mask)?
            }
            Self::Trained { model, plan } => plan.server(model, mask)?,
        })
    }

    pub(super) fn inputs(&self) -> Result<Vec<Vec<u64>>> {
        Ok(match self {
            Self::Random { architecture, seed, .. } => {
                architecture.encode(&Self::drawn(architecture, *seed).1)?
            }
            Self::Trained { model, plan } => {
                plan.encode(&ClientWeights::from_model(model)?, &sample_input(model)?)?
            }
        })
    }

    pub(super) fn clear(&self) -> Result<Clear> {
        Ok(match self {
            Self::Random { architecture, seed, .. } => {
                let (weights, tokens) = Self::drawn(architecture, *seed);
                let (values, ranges) = clear(architecture, &weights, &tokens)?;
                Clear { values, warning: outside(&ranges) }
            }
            Self::Trained { model, .. } => {
                let values =
                    ClearExecutor::new(model, Functions::Exact)?.run(&sample_input(model)?)?;
                Clear { values, warning: None }
            }
        })
    }

    /// What the client received, as numbers, and whether that is a label.
    fn decode(&self, words: &[u64]) -> (Vec<f64>, bool) {
        match self {
            Self::Random { architecture: a, .. } => match (a.classes, a.output) {
                (0, _) => (decode_all(words, ops::SCALE, 64), false),
                (_, Output::Label) => (decode_all(words, 0, 64), true),
                (_, Output::Logits) => (decode_all(words, a.logit_scale(), 64), false),
            },
            Self::Trained { plan, .. } => (plan.decode(words), plan.output() == MpcOutput::Label),
        }
    }

    /// What the client received beside the same function in f64.
    pub(super) fn judge(&self, words: &[u64], want: &[f64]) -> String {
        let (got, label) = self.decode(words);
        if label {
            let best = cipherform_nn::argmax(want);
            return format!(
                "label {:.0}, in the clear {best}",
                got.first().copied().unwrap_or(f64::NAN)
            );
        }
        let error = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        format!("largest error against f64 {error:.2e}")
    }
}

/// Ranges that a circuit assumes, as a warning when an input leaves them.
fn outside(ranges: &Ranges) -> Option<String> {
    let sums = ranges.row_sum.unwrap_or((1.0, 1.0));
    let broken = ranges.feature >= 32.0
        || ranges.score >= 16.0
        || ranges.stream >= 64.0
        || sums.0 < 2f64.powi(-6)
        || sums.1 >= 512.0;
    broken.then(|| format!("values left the ranges of the circuit: {ranges:?}"))
}
