//! Polynomials that replace division and the inverse square root, with interval, depth and measured error.
//!
//! [`layer_approximations`] is the one place where calibrated ranges become intervals. The planner takes levels and
//! constants from it, the clear executor evaluates the same objects, and so the two agree by construction.

mod inverse_sqrt;
mod reciprocal;

pub use inverse_sqrt::InverseSqrt;
pub use reciprocal::{Reciprocal, ReciprocalStep};

use crate::config::{ApproximationConfig, HeadKind, ModelConfig, NormOrder, Range, Ranges};
use crate::error::{Error, Result};

/// The scalar functions of one encoder layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerApproximations {
    /// `(mean x² + norm_eps)^-1/2` before or after attention; absent in layer 0 before it, where the client computes it exactly.
    pub norm1: Option<InverseSqrt>,
    /// The reciprocal of the denominators; absent when no head divides.
    pub denominator: Option<DenominatorReciprocal>,
    /// `(mean x² + norm_eps)^-1/2` before or after the feed-forward block.
    pub norm2: InverseSqrt,
}

/// One reciprocal polynomial shared by all heads of a layer, whose denominators are first scaled to a common interval.
#[derive(Clone, Debug, PartialEq)]
pub struct DenominatorReciprocal {
    /// `1/b` on `[e, 1]`.
    pub reciprocal: Reciprocal,
    /// Per head `1 / (2 top_h)`, with `top_h` the widened largest denominator: `b = scale · den` stays at or below
    /// 1/2 for a true denominator, and at or below 1 for a slot that holds partial sums of two tokens.
    pub scale: Vec<f64>,
}

impl DenominatorReciprocal {
    /// Approximates `1 / denominator` as the encrypted run does for head `head`; `None` for a head that does not exist.
    #[must_use]
    pub fn evaluate(&self, head: usize, denominator: f64) -> Option<f64> {
        let scale = self.scale.get(head)?;
        Some(scale * self.reciprocal.evaluate(scale * denominator))
    }
}

/// Points at which an inverse root is checked below its interval.
const GRID: u32 = 64;

/// Fits the scalar functions of layer `layer` to its calibrated ranges, widened as the config says: upper ends times
/// `widen_top`, lower ends divided by `widen_bottom`.
///
/// The reciprocal's interval is `[e, 1]` with `e = min_h bottom_h / (2 top_h)` over the power heads; the scaled heads
/// only have to stay at or below 1, where the recurrence is bounded.
///
/// # Errors
/// `IndexOutOfBounds` for a layer that does not exist; `Unsupported` for heads and activations without a polynomial; `Approximation` when a
/// range is too wide for the tolerance.
pub fn layer_approximations(config: &ModelConfig, layer: usize) -> Result<LayerApproximations> {
    let count = config.layers.len();
    let what = "layers";
    let out_of_bounds = Error::IndexOutOfBounds { what, index: layer, count };
    let settings = config.layers.get(layer).ok_or(out_of_bounds)?;
    if settings.activation.degree().is_none()
        || settings.heads.iter().any(|h| matches!(h, HeadKind::Relu | HeadKind::Softmax))
    {
        return Err(Error::Unsupported {
            what: "softmax, ReLU-softmax, GELU and no activation as polynomials",
            hint: "run this model in the clear with exact functions or between two parties",
        });
    }
    let policy = config.approximation;
    let norm = |variance: Range| {
        let low = variance.min / policy.widen_bottom + config.norm_eps;
        let high = variance.max * policy.widen_top + config.norm_eps;
        let root = InverseSqrt::fit(low, high, policy.tolerance)?;
        // Padding tokens and slots beyond the copies hold less than any calibrated variance. Their results meet zeros, so
        // they need not be right, but a large one would carry its noise along.
        let at =
            |i: u32| config.norm_eps + (low - config.norm_eps) * f64::from(i) / f64::from(GRID);
        let largest = (0..=GRID).map(|i| root.evaluate(at(i)).abs()).fold(0.0, f64::max);
        if largest > 64.0 / low.sqrt() {
            let (function, tolerance) =
                ("inverse square root below its interval", policy.tolerance);
            return Err(Error::Approximation {
                function,
                low,
                high,
                tolerance,
                levels: root.levels,
            });
        }
        Ok(root)
    };
    let ranges = &settings.ranges;
    let scale = denominator_scale(ranges, policy);
    let lower = settings
        .heads
        .iter()
        .zip(&ranges.denominator)
        .zip(&scale)
        .filter(|((kind, _), _)| **kind == HeadKind::Power)
        .map(|((_, range), scale)| range.min / policy.widen_bottom * scale)
        .reduce(f64::min);
    let denominator = match lower {
        Some(lower) => {
            let reciprocal = Reciprocal::fit(lower, policy.tolerance)?;
            Some(DenominatorReciprocal { reciprocal, scale })
        }
        None => None,
    };
    let clients = layer == 0 && config.structure.norm == NormOrder::Pre;
    let norm1 = if clients { None } else { Some(norm(ranges.norm1_variance)?) };
    Ok(LayerApproximations { norm1, denominator, norm2: norm(ranges.norm2_variance)? })
}

/// Per head `1 / (2 top_h)`: what brings its denominators, and partial sums of two of them, to at most 1.
pub(crate) fn denominator_scale(ranges: &Ranges, policy: ApproximationConfig) -> Vec<f64> {
    ranges.denominator.iter().map(|r| 1.0 / (2.0 * r.max * policy.widen_top)).collect()
}

/// Largest relative error `|approximate(x) · exact⁻¹(x) - 1|` over a grid that is dense in both the linear and the
/// logarithmic sense; `inverse(x)` is what the approximation is multiplied with to give 1.
fn measure(low: f64, high: f64, f: impl Fn(f64) -> f64, inverse: impl Fn(f64) -> f64) -> f64 {
    const POINTS: usize = 10_000;
    let ratio = (high / low).ln();
    (0..=POINTS)
        .flat_map(|i| {
            let at = i as f64 / POINTS as f64;
            [low + at * (high - low), (low * (at * ratio).exp()).clamp(low, high)]
        })
        .map(|x| (f(x) * inverse(x) - 1.0).abs())
        .fold(0.0, f64::max)
}
