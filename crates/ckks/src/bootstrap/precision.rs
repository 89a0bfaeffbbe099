//! Predicted precision: the circuit run on values that carry, to first order, the effect of every rounding before them.

use super::eval_mod::{EvalMod, interval};
use super::failure::overflow_probability;
use super::Plan;
use crate::error::Result;
use crate::noise::NoiseModel;
use crate::params::Parameters;
use crate::paterson_stockmeyer::Arithmetic;
use num_complex::Complex64;
use std::f64::consts::TAU;

/// What a bootstrap leaves of its inputs' precision, in bits of absolute error of a slot's real or imaginary part.
///
/// `noise_*` are random errors, alike in every slot; `sine` is the error of the method for a slot at the bound,
/// deterministic and falling fast for smaller slots (with the third power, or the fifth or seventh when corrected).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BootstrapPrecision {
    /// -log2 of the standard deviation of the noise.
    pub noise_std: f64,
    /// -log2 of the largest noise expected in any slot of one bootstrap.
    pub noise_worst: f64,
    /// -log2 of the sine's error for a slot at the bound.
    pub sine: f64,
    /// -log2 of the largest total error expected, noise and sine together, slots at the bound included.
    pub worst: f64,
}

/// The prediction for a set and options.
pub(super) fn predict(plan: &Plan<'_>, eval_mod: &EvalMod) -> Result<BootstrapPrecision> {
    let model = NoiseModel::new(plan.params);
    let rounding = model.slot(model.rounding());
    // The input of the modular reduction: w + conj(w) doubles the real part of the last rounding of w, and the key
    // switch of the conjugation rounds once more.
    let input_level = plan.params.application_level() + super::EVAL_MOD_LEVELS;
    let scale = eval_mod.input_scale();
    let mut variance = 0.0;
    let bound = plan.set.overflow_bound;
    for overflow in 0..=bound {
        let weight = overflow_probability(plan.set.ephemeral_weight, overflow);
        let mut arithmetic = Linearised { params: plan.params, rounding, sources: 1 };
        let u = f64::from(overflow) / interval(plan.set);
        let own = Complex64::from(5f64.sqrt() * rounding / scale);
        let input = Value {
            level: input_level,
            scale,
            value: Complex64::from(u),
            effects: vec![own],
        };
        let e = eval_mod.apply(&mut arithmetic, &input)?;
        // exp(i theta) with a real error keeps to the circle: what shows is the part along i.
        let mut effects = e.effects.iter();
        let first = effects.next().copied().unwrap_or_default();
        let along = (first * (e.value * Complex64::I).conj()).re;
        let conjugation = rounding / e.scale / 2.0;
        let rest: f64 = effects.map(Complex64::norm_sqr).sum();
        variance += weight * (along * along + rest + conjugation * conjugation);
    }
    let ratio = plan.ratio();
    // E - conj(E) = 2 i Im E stands for z 4 pi / R.
    let reduction = variance.sqrt() * ratio / TAU;
    // As coefficients, z has been rounded by a rescaling and by the key switch to the ephemeral secret.
    let embedding = 2f64.sqrt() * model.rounding() / plan.coefficient_scale();
    let noise = reduction.hypot(embedding);
    let parts = 2.0 * f64::from(plan.log2_slots).exp2();
    // The largest of k normal values: sqrt(2 ln k) deviations, to within a tenth.
    let worst = noise * (2.0 * parts.ln()).sqrt();
    let sine = sine_error(plan);
    Ok(BootstrapPrecision {
        noise_std: -noise.log2(),
        noise_worst: -worst.log2(),
        sine: -sine.log2(),
        worst: -(worst + sine).log2(),
    })
}

/// Error of (R / 2 pi) sin(2 pi w / R) against z for a slot at the bound.
fn sine_error(plan: &Plan<'_>) -> f64 {
    let bound = f64::from(plan.options.log2_bound).exp2();
    // t = 2 pi z / R <= pi / 16; sin t = t - t^3/6 + .., and the first term of the arcsine's series that is left out.
    let t = TAU * bound / plan.ratio();
    let relative = match plan.correction_depth() {
        0 => t.powi(2) / 6.0,
        2 => t.powi(4) * 3.0 / 40.0,
        _ => t.powi(6) * 5.0 / 112.0,
    };
    bound * relative
}

/// A value and how much every rounding so far, at one deviation, moves it.
#[derive(Clone)]
struct Value {
    level: usize,
    scale: f64,
    value: Complex64,
    /// The input's own error first, which is real; then one a rounding, complex with independent equal parts.
    effects: Vec<Complex64>,
}

/// Values in the clear with the effects of rounding. All operations are holomorphic, so that a complex factor says how
/// an error travels.
struct Linearised<'a> {
    params: &'a Parameters,
    /// Deviation of a slot's part by one rounding, before division by the scale.
    rounding: f64,
    /// Roundings so far, the input's error included.
    sources: usize,
}

fn combine(
    a: &[Complex64],
    b: &[Complex64],
    f: impl Fn(Complex64, Complex64) -> Complex64,
) -> Vec<Complex64> {
    let at = |v: &[Complex64], i: usize| v.get(i).copied().unwrap_or_default();
    (0..a.len().max(b.len())).map(|i| f(at(a, i), at(b, i))).collect()
}

impl Arithmetic for Linearised<'_> {
    type Value = Value;

    fn level(&self, v: &Value) -> usize {
        v.level
    }
    fn scale(&self, v: &Value) -> f64 {
        v.scale
    }
    fn set_scale(&self, v: &mut Value, scale: f64) {
        v.scale = scale;
    }
    fn prime(&self, level: usize) -> f64 {
        self.params.modulus_at(level) as f64
    }
    fn mul(&mut self, a: &Value, b: &Value) -> Result<Value> {
        Ok(Value {
            level: a.level.min(b.level),
            scale: a.scale * b.scale,
            value: a.value * b.value,
            effects: combine(&a.effects, &b.effects, |x, y| x * b.value + y * a.value),
        })
    }
    fn deliver(&mut self, mut v: Value) -> Result<Value> {
        v.scale /= self.prime(v.level);
        v.level -= 1;
        // A new source: the next index that no value uses yet.
        v.effects.resize(self.sources, Complex64::ZERO);
        v.effects.push(Complex64::from(self.rounding / v.scale));
        self.sources += 1;
        Ok(v)
    }
    fn add(&mut self, acc: Value, v: &Value) -> Result<Value> {
        Ok(Value {
            value: acc.value + v.value,
            effects: combine(&acc.effects, &v.effects, |x, y| x + y),
            ..acc
        })
    }
    fn add_multiple(
        &mut self,
        acc: Option<Value>,
        v: &Value,
        factor: Complex64,
        level: usize,
        scale: f64,
    ) -> Result<Value> {
        let factor = factor * (v.scale / scale);
        let multiple = Value {
            level,
            scale,
            value: v.value * factor,
            effects: v.effects.iter().map(|x| x * factor).collect(),
        };
        match acc {
            None => Ok(multiple),
            Some(acc) => self.add(acc, &multiple),
        }
    }
    fn count_coefficient(&mut self) {}
    fn add_constant(&mut self, mut acc: Value, constant: Complex64) -> Result<Value> {
        acc.value += constant;
        Ok(acc)
    }
}
