//! Predicted noise: standard deviations of the *coefficients* of the error polynomial, operation by operation, and of
//! whole circuits.
//!
//! For a uniform ternary secret of expected weight h = 2n/3 and errors of deviation [`SIGMA`]. A slot's real or
//! imaginary part has the coefficient deviation times sqrt(n/2) ([`NoiseModel::slot`]), divided by the scale
//! ([`NoiseModel::bits`]). [`NoiseModel`] predicts single operations; [`NoiseEstimate`] mirrors the evaluator, so that
//! a planner walks any circuit with it before a key exists.
//!
//! **Deviations are over keys and errors.** For one key the deviation of a rounding differs from slot to slot: it is
//! sqrt((1 + |s_j|^2) n / 24) with s_j the secret at that slot, the same in every rounding. |s_j|^2 is distributed
//! exponentially with mean h, so the slots of a ciphertext together look Laplace, not Gaussian: the worst of many lies
//! further out ([`NoiseModel::worst`]).

mod estimate;
mod propagation;

pub(crate) use propagation::Propagation;

pub use estimate::{NoiseEstimate, NoiseMode};

use crate::params::Parameters;
use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

pub use cipherform_ring::sample::SIGMA;

/// Noise predictions for one parameter set.
#[derive(Clone, Debug)]
pub struct NoiseModel {
    params: Parameters,
}

impl NoiseModel {
    /// The model of a set.
    #[must_use]
    pub fn new(params: &Parameters) -> Self {
        Self { params: params.clone() }
    }

    /// Expected weight of the secret.
    fn weight(&self) -> f64 {
        2.0 * self.params.n() as f64 / 3.0
    }

    /// A fresh secret-key encryption, without the rounding of the encoding.
    #[must_use]
    pub fn fresh_secret_key(&self) -> f64 {
        SIGMA
    }

    /// A fresh public-key encryption: sigma sqrt(1 + 2h) divided by P, plus the rounding of that division.
    #[must_use]
    pub fn fresh_public_key(&self) -> f64 {
        let encrypted = SIGMA * (1.0 + 2.0 * self.weight()).sqrt();
        encrypted.hypot(self.rounding() * self.params.log2_p().exp2()) / self.params.log2_p().exp2()
    }

    /// Rounding the coefficients of an encoding to integers, relative to the plaintext's scale.
    #[must_use]
    pub fn encoding(&self) -> f64 {
        (1.0f64 / 12.0).sqrt()
    }

    /// The same for a vector of a period: only 2 x period coefficients of the polynomial are not zero, which is that
    /// much less in the slots. As the deviation that all n coefficients would need for it.
    #[must_use]
    pub fn encoding_periodic(&self, period: usize) -> f64 {
        self.encoding() * (2.0 * period as f64 / self.params.n() as f64).sqrt().min(1.0)
    }

    /// Rounding both polynomials of a ciphertext: rescaling and mod-down.
    #[must_use]
    pub fn rounding(&self) -> f64 {
        ((1.0 + self.weight()) / 12.0).sqrt()
    }

    /// Rounding the three polynomials of a product that is not relinearized yet: the third is multiplied by s^2, whose
    /// coefficients have 2 h^2 / n as mean square (terms s_i s_j and s_j s_i coincide).
    #[must_use]
    pub fn rounding_degree_2(&self) -> f64 {
        let h = self.weight();
        ((1.0 + h + 2.0 * h * h) / 12.0).sqrt()
    }

    /// A key switch at a level: sqrt(sum over digits of k n sigma^2 D^2 / (12 P^2)) and the rounding of mod-down.
    ///
    /// A digit of k primes is lifted to the sum of k uniform values of width D, centred, hence variance k D^2 / 12.
    #[must_use]
    pub fn key_switch(&self, level: usize) -> f64 {
        self.key_switch_errors(level).hypot(self.rounding())
    }

    /// The part of [`Self::key_switch`] that is there before the division by P, i.e. in sums that share the division.
    #[must_use]
    pub fn key_switch_errors(&self, level: usize) -> f64 {
        let n = self.params.n() as f64;
        let digits: f64 = self
            .params
            .digits_at(level)
            .into_iter()
            .map(|digit| {
                let k = digit.len() as f64;
                let primes = self.params.q().get(digit).unwrap_or_default();
                let log2_d: f64 = primes.iter().map(|&p| (p as f64).log2()).sum();
                k * n * SIGMA * SIGMA * (2.0 * (log2_d - self.params.log2_p())).exp2() / 12.0
            })
            .sum();
        digits.sqrt()
    }

    /// The deviation of a slot's real or imaginary part, before division by the scale.
    #[must_use]
    pub fn slot(&self, coefficient: f64) -> f64 {
        coefficient * (self.params.n() as f64 / 2.0).sqrt()
    }

    /// The largest of `parts` real or imaginary parts, in deviations of one of them: (ln k + gamma) / sqrt 2, the mean
    /// of the maximum of k independent Laplace variables.
    #[must_use]
    pub fn worst(&self, parts: usize) -> f64 {
        const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
        ((parts.max(1) as f64).ln() + EULER_GAMMA) * FRAC_1_SQRT_2
    }

    /// Deviations that a part exceeds with probability 2^`log2` only, in the Laplace model.
    #[must_use]
    pub fn quantile(&self, log2: f64) -> f64 {
        (-log2 * std::f64::consts::LN_2).max(0.0) / SQRT_2
    }

    /// Precision in bits: -log2 of the deviation of a slot's part for a coefficient deviation at a scale.
    #[must_use]
    pub fn bits(&self, coefficient: f64, scale: f64) -> f64 {
        -(self.slot(coefficient) / scale).log2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    #[test]
    fn the_designs_figures_come_out() {
        // Design, section 4: rescale slot noise 2^10.4 / 11.4 / 12.4 / 13.4 and bits at the set's scale.
        for (name, slot, bits) in [
            ("lev13", 10.4, 21.6),
            ("lev14", 11.4, 28.6),
            ("lev15", 12.4, 27.6),
            ("lev16_36", 13.4, 22.6),
        ] {
            let params = presets::get(name).unwrap();
            let model = NoiseModel::new(&params);
            assert!((model.slot(model.rounding()).log2() - slot).abs() < 0.1, "{name}");
            let got = model.bits(model.rounding(), params.scale_at(params.max_level()));
            assert!((got - bits).abs() < 0.1, "{name}: {got}");
        }
    }
}
