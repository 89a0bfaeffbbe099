//! Which gates a layer's calibrated ranges fit, and how the layer is scaled to fit them.

use crate::config::{Activation, HeadKind, LayerConfig, ModelConfig};
use crate::error::{Error, Result};
use cipherform_mpc::ops::{self, Attention, BlockKind};
use std::collections::BTreeSet;

/// log2 of bounds: features, the stream, logits.
pub(super) const FEATURE: f64 = 6.0;
pub(super) const STREAM: f64 = 6.5;
pub(super) const LOGIT: f64 = 5.0;
/// Input range of the square gate.
pub(super) const ACTIVATION_LIMIT: f64 = 32.0;
/// log2 of bounds on scores: of ReLU-softmax, of softmax, of the others at most.
const RELU_SCORE: f64 = 5.0;
const SOFTMAX_SCORE: f64 = 4.0;
const SCORE: f64 = 6.0;
/// Range of the reciprocal of row sums.
const ROW_SUM: (f64, f64) = (1.0 / 64.0, 512.0);

pub(super) fn unsupported(what: &str, hint: &str) -> Error {
    let detail = format!("{what}; {hint}");
    Error::Mpc(cipherform_mpc::Error::Unsupported { op: "two-party plan", detail })
}

fn kind(head: HeadKind, power: u32) -> Attention {
    match head {
        HeadKind::Power | HeadKind::Undivided => Attention::Power(power),
        HeadKind::Scaled => Attention::Scale,
        HeadKind::Relu => Attention::ReluSoftmax,
        HeadKind::Softmax => Attention::SoftmaxMax,
    }
}

/// log2 of what the scores of ReLU-softmax heads of a layer are divided by: scores stay below 2^5 and row sums in the range of the
/// reciprocal.
pub(super) fn relu_shift(config: &ModelConfig, layer: &LayerConfig) -> u32 {
    let (tokens, widen) = (config.tokens as f64, config.approximation.widen_top);
    let heads = layer.heads.iter().zip(&layer.ranges.score_abs_max).zip(&layer.ranges.denominator);
    let needed =
        heads.filter(|((kind, _), _)| **kind == HeadKind::Relu).map(|((_, score), sum)| {
            let excess =
                (score * widen / RELU_SCORE.exp2()).max(sum.max * widen * tokens / ROW_SUM.1);
            // The range is open.
            if excess < 1.0 { 0 } else { excess.log2().floor() as u32 + 1 }
        });
    needed.max().unwrap_or(0)
}

/// Kinds in the model's order, and the order of the circuit.
pub(super) fn heads(layer: &LayerConfig) -> (Vec<Attention>, Vec<usize>) {
    let kinds: Vec<Attention> = layer.heads.iter().map(|&h| kind(h, layer.power)).collect();
    let order = ops::head_order(&kinds);
    (kinds, order)
}

/// log2 of what powers of scores are divided by before they are summed: `(s / 2)^p`, or `(s / 4)^p` for p above 4.
fn power_shift(power: u32) -> u32 {
    if power > 4 { 2 } else { 1 }
}

/// How the attention of one layer is computed; refuses ranges the gates do not have.
pub(super) fn block_kind(
    config: &ModelConfig,
    index: usize,
    layer: &LayerConfig,
) -> Result<BlockKind> {
    let at = |what: &str| format!("layer {index}: {what}");
    let widen = config.approximation.widen_top;
    let (kinds, order) = heads(layer);
    let relu = kinds.contains(&Attention::ReluSoftmax);
    // What stands in the circuit is the mean times its number of keys, over what its summands were divided by.
    let divided =
        if relu { relu_shift(config, layer) } else { power_shift(layer.power) * layer.power };
    let unit = 2f64.powi(divided as i32) / config.tokens as f64;
    let dividing: BTreeSet<Attention> =
        kinds.iter().copied().filter(|k| *k != Attention::Scale).collect();
    if dividing.len() > 1 {
        return Err(unsupported(&at("heads that divide in two ways"), "use one of them a layer"));
    }
    let mut score = 3;
    for (h, kind) in kinds.iter().enumerate() {
        let largest = layer.ranges.score_abs_max.get(h).copied().unwrap_or(0.0);
        let (largest, limit) = match kind {
            Attention::ReluSoftmax => (largest * widen / f64::from(divided).exp2(), RELU_SCORE),
            Attention::SoftmaxMax => (largest * widen.sqrt(), SOFTMAX_SCORE),
            _ => (largest * widen.sqrt(), SCORE),
        };
        if largest > limit.exp2() {
            let hint = format!("train with scores below {:.0}", limit.exp2());
            return Err(unsupported(&at(&format!("scores up to {largest:.0}")), &hint));
        }
        if *kind == Attention::Scale {
            continue;
        }
        score = score.max(largest.max(1.0).log2().ceil() as u32);
        if *kind == Attention::SoftmaxMax {
            if config.tokens as f64 >= ROW_SUM.1 {
                return Err(unsupported(&at("softmax over 512 keys or more"), "use fewer tokens"));
            }
            continue; // sums of exp(s - max) are between 1 and the number of keys
        }
        let range = layer.ranges.denominator.get(h).map_or((1.0, 1.0), |r| (r.min, r.max));
        let (low, high) =
            (range.0 / unit / config.approximation.widen_bottom, range.1 / unit * widen);
        if low < ROW_SUM.0 || high >= ROW_SUM.1 {
            return Err(unsupported(
                &at(&format!("row sums between {low:.1e} and {high:.1e}")),
                "train with a larger eps or smaller scores",
            ));
        }
    }
    for (what, largest, log2) in [
        ("values", layer.ranges.value_abs_max, FEATURE),
        ("a stream", layer.ranges.residual_abs_max, STREAM),
    ] {
        if largest * widen >= log2.exp2() {
            let hint = format!("scale them below {:.0}", log2.exp2() / widen);
            return Err(unsupported(&at(&format!("{what} up to {largest:.0}")), &hint));
        }
    }
    let activation = match layer.activation {
        Activation::Quadratic => ops::Activation::Square,
        Activation::Gelu => ops::Activation::Gelu,
        Activation::None => ops::Activation::Identity,
        Activation::Cubic | Activation::Quartic => {
            let hint = "quadratics, GELU and none run on shares";
            return Err(unsupported(&at("an activation of degree above 2"), hint));
        }
    };
    if layer.ranges.activation_abs_max * widen >= ACTIVATION_LIMIT {
        let largest = layer.ranges.activation_abs_max;
        return Err(unsupported(
            &at(&format!("pre-activations up to {largest:.0}")),
            "scale them below 16",
        ));
    }
    Ok(BlockKind {
        heads: order.iter().map(|&h| kinds[h]).collect(),
        activation,
        eps: layer.eps / unit,
        score,
        scores_first: true,
        norm_eps: config.norm_eps,
    })
}
