//! Predicted precision: the modular reduction run on values that carry the effect of every rounding, to first order.

use super::eval_mod::{EvalMod, interval};
use super::failure::overflow_probability;
use super::plan::Plan;
use crate::error::Result;
use crate::noise::{NoiseModel, Propagation};
use num_complex::Complex64;
use std::f64::consts::TAU;

/// What a bootstrap leaves of its inputs' precision, in bits of absolute error of a slot's real or imaginary part.
///
/// `noise_*` are random errors, alike in every slot; `sine` is the error of the method, a function of the slot alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BootstrapPrecision {
    /// -log2 of the standard deviation of the noise.
    pub noise_std: f64,
    /// -log2 of the largest noise expected in any slot of one bootstrap.
    pub noise_worst: f64,
    /// -log2 of the sine's largest error over slots within the bound.
    pub sine: f64,
    /// -log2 of the largest total error expected, noise and sine together.
    pub worst: f64,
}

/// The prediction for a set and options.
pub(super) fn predict(plan: &Plan<'_>, eval_mod: &EvalMod) -> Result<BootstrapPrecision> {
    let model = NoiseModel::new(plan.params);
    let rounding = model.slot(model.rounding());
    // The input of the modular reduction: w + conj(w) doubles the real part of the last rounding of w, and the key
    // switch of the conjugation rounds once more. Points: every multiple that raising the modulus may have added, and in
    // between a slot of half the bound.
    let level = plan.params.application_level() + super::EVAL_MOD_LEVELS;
    let bound = plan.set.overflow_bound as i32;
    let half = 0.5 / plan.ratio();
    let points: Vec<f64> = (-bound..=bound).map(|i| f64::from(i) + half).collect();
    let values = points.iter().map(|x| (x / interval(plan.set)).into()).collect();
    let mut propagation = Propagation::new(&model, points.len());
    let scale = eval_mod.input_scale();
    let input = propagation.input(level, scale, values, 5f64.sqrt() * rounding / scale);
    let e = eval_mod.apply(&mut propagation, &input)?;
    let conjugation = rounding / plan.exponential_scale()? / 2.0;
    let mut variance = 0.0;
    for (k, (x, value)) in points.iter().zip(&e.values).enumerate() {
        let gain = |source: &Vec<Complex64>| source.get(k).copied().unwrap_or_default();
        // Of the input's error, which is real, only the part along i times the value shows in the sine.
        let real: f64 =
            e.gains.get(&0).map_or(0.0, |g| (gain(g) * (value * Complex64::I).conj()).re);
        let others: f64 = e.gains.iter().skip(1).map(|(_, g)| gain(g).norm_sqr()).sum();
        let approximation = value.im - (TAU * x).sin();
        let weight = overflow_probability(plan.set.ephemeral_weight, x.round().abs() as u32)
            / if x.round() == 0.0 { 1.0 } else { 2.0 };
        variance += weight
            * (real * real + others + conjugation * conjugation + approximation * approximation);
    }
    // E - conj(E) = 2 i Im E stands for x 4 pi / R.
    let reduction = variance.sqrt() * plan.ratio() / TAU;
    // As coefficients, x has been rounded by a rescaling and by the key switch to the ephemeral secret.
    let embedding = 2f64.sqrt() * model.rounding() / plan.coefficient_scale();
    let noise = reduction.hypot(embedding) * plan.bound();
    let worst = noise * model.worst(2 << plan.log2_slots);
    let sine = sine_error(plan);
    Ok(BootstrapPrecision {
        noise_std: -noise.log2(),
        noise_worst: -worst.log2(),
        sine: -sine.log2(),
        worst: -(worst + sine).log2(),
    })
}

/// Largest error of the corrected sine over all slots within the bound.
///
/// With t = 2 pi / R, arcsin(t x) / t = x + t^2 x^3 / 6 + 3 t^4 x^5 / 40 + 5 t^6 x^7 / 112 + ..; the interpolation of degree d
/// leaves the next term, x^(d + 2), up to a monic Chebyshev polynomial of size 2^-(d + 1).
fn sine_error(plan: &Plan<'_>) -> f64 {
    let t = TAU / plan.ratio();
    let relative = match plan.correction_degree() {
        1 => t.powi(2) / 6.0 / 4.0,
        3 => t.powi(4) * 3.0 / 40.0 / 16.0,
        _ => t.powi(6) * 5.0 / 112.0 / 64.0,
    };
    plan.bound() * relative
}
