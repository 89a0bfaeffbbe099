//! Predicted precision: the modular reduction run on values that carry the effect of every rounding, to first order.

use super::BootstrapOptions;
use super::eval_mod::{EvalMod, interval};
use super::failure::overflow_probability;
use super::plan::Plan;
use crate::alignment::{check_levels, check_scales};
use crate::error::{Error, Result};
use crate::noise::{NoiseEstimate, NoiseMode, NoiseModel, Propagation};
use num_complex::Complex64;
use std::cmp::Ordering;
use std::f64::consts::{SQRT_2, TAU};

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
    /// -log2 of the largest total error expected, noise and sine together, of slots spread over the whole bound.
    pub worst: f64,
}

/// Errors of the modular reduction at one point x, as parts of exp(2 pi i x).
struct Reduced {
    x: f64,
    /// Of the roundings.
    variance: f64,
    /// Of the approximation of the exponential.
    approximation: f64,
}

/// The reduction at I + z / R for every multiple I that raising the modulus may have added and these z, if its input has a
/// deviation in units of the rounding of a coefficient.
fn reduce(
    plan: &Plan<'_>,
    eval_mod: &EvalMod,
    deviation: f64,
    slots: &[f64],
) -> Result<Vec<Reduced>> {
    let model = NoiseModel::new(plan.params);
    let rounding = model.slot(model.rounding());
    let level = plan.params.application_level() + super::EVAL_MOD_LEVELS;
    let bound = plan.set.overflow_bound as i32;
    let around = |i| slots.iter().map(move |z| f64::from(i) + z / plan.ratio());
    let points: Vec<f64> = (-bound..=bound).flat_map(around).collect();
    let values = points.iter().map(|x| (x / interval(plan.set)).into()).collect();
    let mut propagation = Propagation::new(&model, points.len());
    let scale = eval_mod.input_scale();
    let input = propagation.input(level, scale, values, deviation * rounding / scale);
    let e = eval_mod.apply(&mut propagation, &input)?;
    let conjugation = rounding / plan.exponential_scale()? / 2.0;
    let reduced = |(k, (&x, value)): (usize, (&f64, &Complex64))| {
        let gain = |source: &Vec<Complex64>| source.get(k).copied().unwrap_or_default();
        // Of the input's error, which is real, only the part along i times the value shows in the sine.
        let real: f64 =
            e.gains.get(&0).map_or(0.0, |g| (gain(g) * (value * Complex64::I).conj()).re);
        let others: f64 = e.gains.iter().skip(1).map(|(_, g)| gain(g).norm_sqr()).sum();
        Reduced {
            x,
            variance: real * real + others + conjugation * conjugation,
            approximation: value.im - (TAU * x).sin(),
        }
    };
    Ok(points.iter().zip(&e.values).enumerate().map(reduced).collect())
}

/// The prediction for a set and options.
pub(super) fn predict(plan: &Plan<'_>, eval_mod: &EvalMod) -> Result<BootstrapPrecision> {
    let model = NoiseModel::new(plan.params);
    // The input of the modular reduction: w + conj(w) doubles the real part of the last rounding of w, and the key
    // switch of the conjugation rounds once more. As slot, half the bound.
    let points = reduce(plan, eval_mod, 5f64.sqrt(), &[0.5])?;
    let weighted = |point: &Reduced| {
        let multiple = point.x.round().abs();
        let weight = overflow_probability(plan.set.ephemeral_weight, multiple as u32)
            / if multiple == 0.0 { 1.0 } else { 2.0 };
        weight * (point.variance + point.approximation * point.approximation)
    };
    // E - conj(E) = 2 i Im E stands for x 4 pi / R.
    let reduction = points.iter().map(weighted).sum::<f64>().sqrt() * plan.ratio() / TAU;
    // As coefficients, x has been rounded by a rescaling and by the key switch to the ephemeral secret.
    let embedding = 2f64.sqrt() * model.rounding() / plan.coefficient_scale();
    let noise = reduction.hypot(embedding) * plan.bound();
    let worst = noise * model.worst(2 << plan.log2_slots);
    let sine = sine_error(plan);
    Ok(BootstrapPrecision {
        noise_std: -noise.log2(),
        noise_worst: -worst.log2(),
        sine: -sine.log2(),
        worst: -(worst + noise * added_by_sine(sine / noise)).log2(),
    })
}

/// What the sine's error adds to the largest noise, in deviations, if its own largest value is `sine` deviations.
///
/// A Laplace variable of deviation 1 exceeds t with probability proportional to exp(-t sqrt 2), so an independent error s
/// moves that threshold by ln E[exp(s sqrt 2)] / sqrt 2. The remainder of an interpolation in Chebyshev points is nearly
/// `sine` times the cosine of a uniform phase: E is the mean over phases, a Bessel function I0.
fn added_by_sine(sine: f64) -> f64 {
    const PHASES: u32 = 1 << 10;
    let x = sine * SQRT_2;
    let relative =
        |phase: u32| (x * ((TAU * f64::from(phase) / f64::from(PHASES)).cos() - 1.0)).exp();
    let mean = (0..PHASES).map(relative).sum::<f64>() / f64::from(PHASES);
    (x + mean.ln()) / SQRT_2
}

/// What no slot's deviation exceeds, and the largest error of the method, both relative to the slots' bound.
fn bounds(plan: &Plan<'_>, eval_mod: &EvalMod) -> Result<(f64, f64)> {
    let model = NoiseModel::new(plan.params);
    // Every error since the modulus was raised, as if none were averaged away by the stages after it; this is also more
    // than the encodings of the diagonals cost. A key switch is a rounding and what P leaves of its keys' errors.
    let switched = model.key_switch(plan.params.max_level()) / model.rounding();
    let raised = plan.raised_errors() as f64 * plan.raised_gain(eval_mod).powi(2);
    let deviation = switched * (5.0 + 4.0 * raised).sqrt();
    let slots: Vec<f64> = (-4..=4).map(|i| f64::from(i) / 4.0).collect();
    let points = reduce(plan, eval_mod, deviation, &slots)?;
    let largest = |f: &dyn Fn(&Reduced) -> f64| points.iter().map(f).fold(0.0, f64::max);
    let of_slot = plan.ratio() / TAU;
    let reduction = largest(&|p| p.variance).sqrt() * of_slot;
    let approximation = largest(&|p| p.approximation.abs()) * of_slot;
    // The roundings between the stages of slots-to-coefficients, each of which has unit weights and makes the slots
    // as much larger as the remaining ones will average.
    let embedding: f64 = plan
        .embedding_scales()
        .into_iter()
        .map(|(scale, layers)| {
            let left = f64::from(plan.log2_slots.saturating_sub(layers)).exp2();
            left * (model.rounding() / scale).powi(2)
        })
        .sum();
    let embedding = embedding.sqrt().hypot(model.rounding() / plan.coefficient_scale());
    let sine = (-256..=256).try_fold(0.0f64, |max, i| -> Result<f64> {
        let x = f64::from(i) / 256.0;
        Ok(max.max((plan.corrected_sine(x)? - x).abs()))
    })?;
    Ok((reduction.hypot(embedding), sine + approximation))
}

impl NoiseEstimate {
    /// A bootstrap with the options of [`crate::Bootstrapper::new`], whose memory limit is not looked at.
    ///
    /// [`NoiseMode::Typical`] takes the predicted noise and the sine's error as a root mean square over slots uniform
    /// within the bound. [`NoiseMode::Bound`] takes the noise of the worst multiple that raising the modulus may add and of
    /// the worst slot, the errors of all stages before, and adds the sine's largest error: it holds unless the bootstrap
    /// fails, see [`crate::BootstrapEstimate::failure_log2`].
    ///
    /// # Errors
    /// Those of [`crate::BootstrapEstimate::new`] and [`crate::Bootstrapper::bootstrap`] but for keys;
    /// [`Error::InvalidArgument`] for a bound of the slots above 2^`log2_bound` (say so with [`Self::with_message`] if it is
    /// the parts that are below).
    pub fn bootstrap(&self, options: BootstrapOptions) -> Result<Self> {
        const OP: &str = "bootstrap";
        let params = self.params();
        let plan = Plan::new(params, BootstrapOptions { memory_limit: Some(u64::MAX), ..options })?;
        let eval_mod = plan.eval_mod()?;
        if self.degree() != 1 {
            return Err(Error::DegreeMismatch { op: OP, degree: self.degree(), needed: 1 });
        }
        check_levels(OP, self.level(), plan.input_level())?;
        check_scales(OP, self.scale(), params.scale_at(plan.input_level()))?;
        let bound = plan.bound();
        if self.mode() == NoiseMode::Bound
            && self.message().partial_cmp(&bound).is_none_or(Ordering::is_gt)
        {
            let detail = format!("slots up to {}; the options promise {bound}", self.message());
            return Err(Error::InvalidArgument { op: OP, detail });
        }
        // In units of the bound from here on.
        let input = match plan.correction()? {
            None => self.slot_std() / bound * plan.slope()?,
            Some(polynomial) => {
                // A conjugation parts real and imaginary slots.
                let parts = self.rotate()?.over(bound)?;
                let scale = plan.embedded_scale();
                parts.polynomial_to_scale(&polynomial, scale)?.slot_std()
            }
        };
        let (std, method) = match self.mode() {
            NoiseMode::Typical => {
                let precision = predict(&plan, &eval_mod)?;
                let sine = (-precision.sine).exp2() / bound / 2f64.sqrt();
                (input.hypot((-precision.noise_std).exp2() / bound).hypot(sine), 0.0)
            }
            NoiseMode::Bound => {
                let (noise, method) = bounds(&plan, &eval_mod)?;
                (input.hypot(noise) + method, method)
            }
        };
        let level = params.application_level();
        let scale = params.scale_at(level);
        let model = NoiseModel::new(params);
        let message = self.message() + 2f64.sqrt() * method * bound;
        model.estimate(self.mode(), level, scale, message, std * bound * scale / model.slot(1.0))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sine_adds_the_logarithm_of_a_bessel_function() {
        // I0(x): Abramowitz and Stegun, table 9.8, and for large x their 9.7.1, exp(x) / sqrt(2 pi x) (1 + 1 / 8x + ..).
        let large = 700.0 - (TAU * 700.0).ln() / 2.0 + 1.0 / 5600.0;
        for (x, ln_i0) in
            [(0.0, 0.0), (1.0, 1.266_065_878f64.ln()), (5.0, 27.239_871_8f64.ln()), (700.0, large)]
        {
            let got = added_by_sine(x / SQRT_2) * SQRT_2;
            assert!((got - ln_i0).abs() < 1e-6, "{x}: {got}, not {ln_i0}");
        }
    }
}
