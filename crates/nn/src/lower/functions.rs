//! What both layouts do with numbers: powers, reciprocals, and the factors that keep values in range.

use super::{LayerSchedule, RefreshPoint};
use crate::approx::{InverseSqrt, Reciprocal};
use crate::config::{LayerConfig, ModelConfig};
use crate::error::{Error, Result};
use crate::program::{Builder, Register};
use cipherform_ckks::BootstrapKind;

/// Two factors whose product is `x^power`, at one level: the last product is the caller's.
pub(super) fn power_factors(b: &mut Builder, x: Register, power: u32) -> Result<[Register; 2]> {
    Ok(match power {
        2 => [x, x],
        4 => [b.mul(x, x)?; 2],
        6 => {
            let square = b.mul(x, x)?;
            let fourth = b.mul(square, square)?;
            [fourth, b.set_level(square, b.level(fourth), 1.0)?]
        }
        8 => {
            let square = b.mul(x, x)?;
            [b.mul(square, square)?; 2]
        }
        other => {
            let detail = format!("power {other} is not one of 2, 4, 6, 8");
            return Err(Error::Planner { op: "power", detail });
        }
    })
}

/// Relaxed Goldschmidt: the product of the reciprocal's factors without its `beta`, from the argument less
/// `first_shift`. What `first` makes of the first factor may take the level that this factor has to spare.
pub(super) fn reciprocal(
    b: &mut Builder,
    mut z: Register,
    r: &Reciprocal,
    first: impl FnOnce(&mut Builder, Register) -> Result<Register>,
) -> Result<Register> {
    let mut first = Some(first);
    let mut result = None;
    for (i, step) in r.steps.iter().enumerate() {
        let factor = b.add_number(z, step.offset);
        result = Some(match (result, first.take()) {
            (Some(w), _) => {
                let [w, factor] = b.align([w, factor])?;
                b.mul(w, factor)?
            }
            (None, Some(first)) => first(b, factor)?,
            (None, None) => factor,
        });
        if i + 1 < r.steps.len() {
            let square = b.tensor(z, z)?;
            let scaled = b.mul_integer(square, step.multiplier);
            let closed = b.close_product(scaled)?;
            z = b.add_number(closed, step.next);
        }
    }
    result.ok_or(Error::Planner { op: "reciprocal", detail: "no steps".into() })
}

/// What maps eps plus a number on the inverse root's interval onto [-1, 1], after a factor `2 / (high - low)`.
pub(super) fn root_shift(root: &InverseSqrt, eps: f64) -> f64 {
    (2.0 * eps - root.low - root.high) / (root.high - root.low)
}

/// The largest power of two that keeps every boosted power at or below 4: beyond that the normaliser, divided by
/// it, would sink towards the rounding in its turn.
pub(super) fn power_boost(layer: &LayerConfig, shift: &[f64], scale: &[f64], tokens: f64) -> i64 {
    let base = |h: usize, score: f64| match shift.get(h) {
        Some(c) => score / f64::from(layer.power) + c.abs(),
        None => score,
    };
    let largest = layer
        .heads
        .iter()
        .zip(scale)
        .zip(&layer.ranges.score_abs_max)
        .enumerate()
        .filter(|(_, ((kind, _), _))| kind.raises())
        .map(|(h, ((_, scale), &score))| {
            scale * base(h, score).powi(layer.power as i32) / (2.0 * tokens)
        })
        .fold(f64::MIN_POSITIVE, f64::max);
    (4.0 / largest).log2().floor().clamp(0.0, 10.0).exp2() as i64
}

/// Largest entry of the residual stream that the calibrated ranges allow.
pub(super) fn stream_bound(config: &ModelConfig) -> f64 {
    let largest = config.layers.iter().map(|l| l.ranges.residual_abs_max).fold(0.0, f64::max);
    largest * config.approximation.widen_top
}

/// What makes the first norm's values at most one: the square root of the width, or the largest value over the smallest
/// deviation, bounds them.
pub(super) fn normalized_factor(config: &ModelConfig, index: usize) -> f64 {
    let policy = config.approximation;
    let ranges = &config.layers[index].ranges;
    let smallest = ranges.norm1_variance.min / policy.widen_bottom + config.norm_eps;
    let largest = ranges.residual_abs_max * policy.widen_top / smallest.sqrt();
    (-largest.min((config.width as f64).sqrt()).log2().ceil()).exp2()
}

/// The projection that removes the mean over the features, applied to the columns of `row . W`.
pub(super) fn centered(row: &[f64]) -> Vec<f64> {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    row.iter().map(|v| v - mean).collect()
}

/// Refreshes registers whose slots are at most `bound` in each part if the schedule says so; `Complex` or `Real` slots.
pub(super) fn refresh_at(
    b: &mut Builder,
    registers: &mut [Register],
    kind: BootstrapKind,
    point: RefreshPoint,
    at: &LayerSchedule,
    bound: f64,
) -> Result<()> {
    let Some(landing) = at.landing(point) else { return Ok(()) };
    let gain = (1.0 / bound).log2().floor().clamp(0.0, 10.0).exp2() as i64;
    b.step(point.operator());
    for register in registers {
        *register = b.refresh(*register, kind, landing, gain)?;
    }
    Ok(())
}
