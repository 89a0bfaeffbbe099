//! Plans that answer with a label: how far apart logits may be, and what follows from it.
//!
//! Logits are compared on a torus, where a difference beyond the promised range wraps: the loser wins, or nobody does and
//! the label is 0. So the range is a contract of the model, of one of two kinds:
//!
//! * **proven**: the classifier reads one token after a norm, `u * gain + bias` with |u| <= sqrt(d) (1 + t), t the tolerance of the
//!   inverse root's polynomial. By Cauchy-Schwarz `|z_i - z_j| <= sqrt(d) (1 + t) |gain (W_i - W_j)| + |bias . (W_i - W_j) +
//!   b_i - b_j|`, for every input whose variances stay in their calibrated interval. Only post-norm models have such a classifier, and
//!   layout P-tile, the one that answers with labels so far, does not run them. Used where it is within [`TIGHT`] times the
//!   calibrated one, or where there is no other.
//! * **calibrated**: the largest difference that calibration met (`logit_difference_max` of the config), widened like every other
//!   range of the model. An input beyond it gets a wrong label, and nobody is told.

use crate::config::{NormOrder, Pooling};
use crate::error::{Error, Result};
use crate::weights::Model;
use cipherform_ckks::Parameters;
use cipherform_exact::{LabelParameters, scale_for};
use serde::{Deserialize, Serialize};

/// A proven range is used up to this many times the calibrated one: beyond that it costs a bit of resolution.
pub const TIGHT: f64 = 2.0;

/// What a plan answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All logits, encrypted.
    #[default]
    Logits,
    /// The class of the largest logit, encrypted, and nothing else.
    Label,
}

/// How far apart two logits of one input may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogitRange {
    /// The largest difference.
    pub max: f64,
    /// Whether it holds for every input, or for what calibration met, widened.
    pub proven: bool,
}

/// The range of a model's differences of logits.
///
/// # Errors
/// `NotCalibrated` for a model without either kind; `Unsupported` for one that classifies every token.
pub fn logit_range(model: &Model) -> Result<LogitRange> {
    let config = &model.config;
    if config.structure.pooling == Pooling::Tokens {
        let hint = "serve this model with logits";
        return Err(Error::Unsupported { what: "a label for every token", hint });
    }
    let widened = config.logit_difference_max.map(|d| d * config.approximation.widen_top);
    let proven = proven_range(model);
    match (proven, widened) {
        (Some(max), widened) if widened.is_none_or(|w| max <= TIGHT * w) => {
            Ok(LogitRange { max, proven: true })
        }
        (_, Some(max)) => Ok(LogitRange { max, proven: false }),
        (_, None) => Err(Error::NotCalibrated { model: config.name.clone() }),
    }
}

/// The bound by Cauchy-Schwarz, where the classifier reads a normalised token or a mean of such.
fn proven_range(model: &Model) -> Option<f64> {
    let (config, weights) = (&model.config, &model.weights);
    if config.structure.norm != NormOrder::Post {
        return None;
    }
    let norm = &weights.layers.last()?.norm2;
    let (head, classes) = (&weights.head, config.classes.len());
    let radius = (config.width as f64).sqrt() * (1.0 + config.approximation.tolerance);
    let mut largest = 0f64;
    for i in 0..classes {
        for j in 0..i {
            let (mut square, mut constant) = (0.0, head.bias.get(i)? - head.bias.get(j)?);
            for d in 0..config.width {
                let w = head.weight.at(d, i) - head.weight.at(d, j);
                square += (w * norm.gain.get(d)?).powi(2);
                constant += w * norm.bias.get(d)?;
            }
            largest = largest.max(radius * square.sqrt() + constant.abs());
        }
    }
    (largest > 0.0).then_some(largest)
}

/// The exact step behind a plan of this model, and the factor between a logit and the slots' mean at level 0.
pub(crate) fn step(
    classes: usize,
    params: &Parameters,
    range: LogitRange,
) -> Result<(LabelParameters, f64)> {
    let step = LabelParameters::new(params, classes)?;
    let factor = scale_for(&step, range.max)? / params.scale_at(0);
    Ok((step, factor))
}
