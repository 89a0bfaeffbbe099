//! Noise of the step and the probability that it fails, as fractions of the torus.
//!
//! | source | standard deviation | for `lev15` |
//! |---|---|---|
//! | hand-over: key switch modulo q_0 and its rounding | sqrt(n s² r² / 12 + d / 18) / q_0, s = 3.2, r = q_0 / p | 2^-46 |
//! | bridge 4096 -> 918 | sqrt(d l (B² + 2) / 12) sigma + sqrt(d 2/3 / 12) B^-l | 2^-10.5 |
//! | rounding to 2^12 values, mean of the key taken off | sqrt((1 + 918 / 4) / 12) 2^-12 | 2^-9.9 |
//! | **one logit** | all together | **2^-9.6** |
//!
//! d is the hand-over dimension, B = 2^4 the base and l = 4 the number of digits; the secrets are uniform ternary (variance
//! 2/3) before the bridge and uniform binary after it. Noise is taken to be independent from source to source, which is
//! what everybody does and nobody proves.

use crate::error::{Error, Result};
use crate::params::{
    BOOTSTRAP_BASE, BOOTSTRAP_DIGITS, GRID_BITS, LARGE_DIMENSION, LARGE_NOISE, LabelParameters,
    SMALL_DIMENSION, SMALL_NOISE, SWITCH_BASE, SWITCH_DIGITS, VALUE_ROUNDS,
};
use cipherform_profile::Counter;

/// log2 of the largest failure probability of one query, which tests hold every set and number of classes to.
pub const LOG2_FAILURE_LIMIT: f64 = -110.0;

/// Standard deviations kept free between the largest promised difference and half a turn.
const GUARD: f64 = 13.0;

/// Standard deviation of the errors of the ring's keys.
const RING_SIGMA: f64 = 3.2;

/// Bits of a mantissa in the transforms of a blind rotation.
const MANTISSA: f64 = 53.0;

/// Predicted standard deviations, in fractions of the torus, and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Key switch out of the ring.
    pub hand_over: f64,
    /// Key switch to the small dimension.
    pub bridge: f64,
    /// Rounding to what a blind rotation resolves.
    pub rounding: f64,
    /// One rounded logit: these three, and nothing of CKKS.
    pub logit: f64,
    /// Turns of the torus that the promised range takes.
    pub span: f64,
    /// What comes out of a programmable bootstrap.
    pub bootstrap: f64,
    /// A sum of wins as the selecting bootstrap sees it.
    pub wins: f64,
    /// The sum that is the label.
    pub label: f64,
    /// log2 of the probability that one query, within the promised range, has a wrapped difference, a wrong selection or an
    /// unreadable label: a union bound. Near-ties, which
    /// noise decides, are no failures.
    pub log2_failure: f64,
}

/// Standard deviation of uniform noise on -2^b ..= 2^b with its ends at half weight, as a fraction of 2^64.
fn uniform(b: u32) -> f64 {
    let width = f64::from(b).exp2();
    ((2.0 * width * width + 1.0) / 6.0).sqrt() / 64f64.exp2()
}

/// Variance that a switch of scalar samples adds: fresh noise of the key times digits, and what the digits leave out.
fn switch(dimension: usize, key_variance: f64) -> f64 {
    let (base, digits) = ((SWITCH_BASE as f64).exp2(), SWITCH_DIGITS as f64);
    let fresh =
        dimension as f64 * digits * (base * base + 2.0) / 12.0 * uniform(SMALL_NOISE).powi(2);
    let left_out = dimension as f64 * key_variance * base.powf(-2.0 * digits) / 12.0;
    fresh + left_out
}

/// Variance of a programmable bootstrap: the external products of a blind rotation, their digits, and the rounding of
/// the transforms, whose constants the makers of `tfhe` fitted; a test compares with the crate's own formula.
fn bootstrap() -> f64 {
    let (n, degree) = (SMALL_DIMENSION as f64, LARGE_DIMENSION as f64);
    let (base, digits) = ((BOOTSTRAP_BASE as f64).exp2(), BOOTSTRAP_DIGITS as f64);
    let transforms = 0.007_05
        * (2.0 * (64.0 - MANTISSA)).exp2()
        * (base / 64f64.exp2()).powi(2)
        * digits.powf(1.018_27)
        * degree.powf(2.220_03)
        * 2f64.powf(1.018_27);
    let products =
        digits * degree * uniform(LARGE_NOISE).powi(2) * (base * base + 2.0) / 12.0 * 2.0;
    let left_out = base.powf(-2.0 * digits) / 24.0 * (1.0 + degree / 2.0);
    n * (transforms + products + left_out)
}

/// log2 of P(|x| > t) for a normal variable of standard deviation 1, from above: phi(t) / t on both sides.
fn log2_tail(t: f64) -> f64 {
    (2.0 / (t * std::f64::consts::TAU.sqrt())).log2() - t * t / 2.0 * std::f64::consts::LOG2_E
}

impl Noise {
    pub(crate) fn new(step: &LabelParameters) -> Self {
        let params = step.params();
        let (n, d) = (params.n() as f64, params.hand_over_dimension() as f64);
        let first = |primes: &[u64]| primes.first().map_or(1.0, |&p| p as f64);
        let (base, special) = (first(params.q()), first(params.special()));
        // One digit below q_0/2 in absolute value: variance q_0² / 12 a coefficient; then rounding by 1/12 a coefficient.
        let key = n / 12.0 * (RING_SIGMA * base / special).powi(2);
        let hand_over = (key + d / 18.0 + 1.0 / 12.0).sqrt() / base;
        let bridge = switch(params.hand_over_dimension(), 2.0 / 3.0).sqrt();
        let grid = f64::from(GRID_BITS).exp2();
        let rounding = ((1.0 + SMALL_DIMENSION as f64 / 4.0) / 12.0).sqrt() / grid;
        // Comparing digit by digit leaves out the last bits of half a turn.
        let dropped = if step.is_paired() {
            0.0
        } else {
            (0.5 / (VALUE_ROUNDS as f64).exp2()).powi(2) / 12.0
        };
        let logit = (hand_over.powi(2) + bridge.powi(2) + rounding.powi(2) + dropped).sqrt();
        let variance = bootstrap();
        let (c, messages) = (step.classes() as f64, step.messages() as f64);
        // Bootstraps that read a sum, and the most results of others in one: wins; in the rounds of an elimination all
        // products and unions before.
        let (readers, terms) = if step.is_paired() {
            (c, c - 1.0)
        } else {
            let rounds = VALUE_ROUNDS + step.label_bits();
            let last =
                step.stages().last().map_or(0, |s| s.cost.get(Counter::ProgrammableBootstraps));
            (last as f64, (2 * rounds) as f64)
        };
        let wins = (terms * variance + switch(LARGE_DIMENSION, 0.5) + rounding.powi(2)).sqrt();
        // Labels 0 .. c - 1 are the weights; two classes: one sample; digits of four bits: powers of two, doubled.
        let weights = match step.classes() {
            2 => 1.0,
            _ if step.is_paired() => (c - 1.0) * c * (2.0 * c - 1.0) / 6.0,
            _ => 4.0 * (1.0 + 4.0 + 16.0 + 64.0),
        };
        let label = (weights * variance).sqrt();
        // Sums are half a turn over the messages apart, labels a turn: half of that is the margin.
        let reading = (step.reply_samples() as f64).log2() + log2_tail(0.5 / messages / label);
        let selecting = readers.log2() + log2_tail(0.25 / messages / wins);
        // At the end of the promised range a difference, or a logit less the mean, that noise carries round the torus.
        let ends = if step.is_paired() { c * (c - 1.0) / 2.0 } else { c };
        let wrapping = ends.log2() + log2_tail(GUARD);
        let selecting = if step.classes() == 2 { 0.0 } else { selecting.exp2() };
        let log2_failure = (reading.exp2() + wrapping.exp2() + selecting).log2();
        // Pairs: differences up to half a turn. Digits: the logits less their mean, on both sides of zero, in half a turn.
        let span = if step.is_paired() {
            0.5 - GUARD * std::f64::consts::SQRT_2 * logit
        } else {
            0.25 - GUARD * logit
        };
        Self {
            span,
            hand_over,
            bridge,
            rounding,
            logit,
            bootstrap: variance.sqrt(),
            wins,
            label,
            log2_failure,
        }
    }

    /// Standard deviation of the difference of two logits, in logits, beside that of CKKS, when differences up to `range`
    /// are promised. Two logits that differ by six times this and more are ordered rightly.
    #[must_use]
    pub fn difference_sigma(&self, range: f64) -> f64 {
        std::f64::consts::SQRT_2 * self.logit * range / self.span
    }
}

/// The CKKS scale at level 0 that places a difference of `range` just below half a turn: the noise has thirteen
/// standard deviations of room, 2^-125 for a difference of exactly `range`. Of more than [`crate::params::MAX_PAIRED_CLASSES`] classes it places
/// `range` just below a quarter of a turn, and logits come less their mean, which `range` then bounds as well.
///
/// # Errors
/// [`Error::Range`] unless `range` is finite and positive.
pub fn scale_for(step: &LabelParameters, range: f64) -> Result<f64> {
    if !(range.is_finite() && range > 0.0) {
        return Err(Error::Range { range });
    }
    let base = step.params().q().first().map_or(0.0, |&q| q as f64);
    Ok(step.noise().span / range * base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipherform_ckks::presets;

    /// design/label-only.md, section 3, computed there by an independent script.
    #[test]
    fn figures_of_the_design() {
        let params = presets::get("boot16").unwrap();
        let noise = LabelParameters::new(&params, 10).unwrap().noise();
        let near = |got: f64, log2: f64| {
            assert!((got.log2() - log2).abs() < 0.06, "{} for {log2}", got.log2());
        };
        near(uniform(LARGE_NOISE), -47.8);
        near(uniform(SMALL_NOISE), -19.8);
        near(noise.bridge, -10.5);
        near(noise.rounding, -9.9);
        near(switch(LARGE_DIMENSION, 0.5).sqrt(), -11.0);
        assert!((noise.logit.log2() + 9.65).abs() < 0.06, "{}", noise.logit.log2());
        assert!(noise.hand_over < 2f64.powi(-37), "{}", noise.hand_over.log2());
        // Differences up to 24: 0.087 logits there, without a guard.
        let sigma = noise.difference_sigma(24.0);
        assert!((0.083..0.092).contains(&sigma), "{sigma}");
    }

    /// Exact enough tails: P(|x| > 6) = 1.973e-9; and every number of classes is within the limit in every set.
    #[test]
    fn failures_are_rarer_than_promised() {
        assert!((log2_tail(6.0) - 1.973_175e-9f64.log2()).abs() < 0.05);
        for set in ["lev13", "lev14", "lev15", "lev16_36", "boot16"] {
            let params = presets::get(set).unwrap();
            for classes in 2..=crate::MAX_CLASSES {
                let noise = LabelParameters::new(&params, classes).unwrap().noise();
                assert!(noise.log2_failure < LOG2_FAILURE_LIMIT, "{set} {classes} {noise:?}");
            }
            // The published set: 2^-129.6 for sums of 2-norm 5, one bootstrap; here sqrt(15) and 16 of them, and 120 pairs
            // at the end of the range: 13 standard deviations, 2^-125.9 each.
            let noise = LabelParameters::new(&params, 16).unwrap().noise();
            assert!((-120.0..-118.0).contains(&noise.log2_failure), "{set} {}", noise.log2_failure);
        }
    }

    #[test]
    fn a_range_is_a_positive_number() {
        let step = LabelParameters::new(&presets::get("lev15").unwrap(), 10).unwrap();
        let scale = scale_for(&step, 24.0).unwrap();
        let turns = 24.0 * scale / step.params().q()[0] as f64;
        assert!((0.47..0.49).contains(&turns), "{turns}");
        for range in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(scale_for(&step, range), Err(Error::Range { .. })));
        }
    }
}
