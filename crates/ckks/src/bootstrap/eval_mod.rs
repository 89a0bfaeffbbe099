//! The approximate modular reduction: x = I + z / R to sin(2 pi x), which is 2 pi z / R for small z / R.
//!
//! E_0(u) = exp(2 pi i x / 8) for u = x / L, L = K + 0.02, as a Chebyshev series of degree 31 whose coefficients are Bessel
//! functions (no interpolation, no fit); three squarings give exp(2 pi i x), whose imaginary part is the sine. An
//! exponential loses less than the usual cosine, whose even polynomial is stationary where I = 0, the most frequent value.
//!
//! Scales fall from level to level: S_8 is what the result needs, S_(j-1) = sqrt(S_j q_j). With the steps of the sets that
//! is 2^50 for the squarings and 2^53, 2^56, 2^53 at depths 0, 1 and 2, where the noise of T_1, T_2, T_4 is amplified most.

use super::EVAL_MOD_LEVELS;
use super::bessel::exponential;
use crate::error::Result;
use crate::params::{BootstrappingLiteral, Parameters};
use crate::paterson_stockmeyer::{Arithmetic, Schedule, evaluate};
use crate::polynomial::Basis;
use num_complex::Complex64;
use std::f64::consts::TAU;

/// Squarings after the polynomial.
const SQUARINGS: usize = 3;

/// Degree of the polynomial: what the levels before the squarings allow.
const DEGREE: usize = (1 << (EVAL_MOD_LEVELS - SQUARINGS)) - 1;

/// L - K: room for the message around the outermost multiple.
pub(super) const MARGIN: f64 = 0.02;

/// The modular reduction of a set, for one scale of the result.
#[derive(Clone, Debug)]
pub(crate) struct EvalMod {
    coefficients: Vec<Complex64>,
    /// By depth: S_0 of the input u to S_8 of exp(2 pi i x).
    scales: [f64; EVAL_MOD_LEVELS + 1],
}

impl EvalMod {
    /// For exp(2 pi i x) at [`Parameters::application_level`] and a scale.
    pub(crate) fn new(params: &Parameters, set: &BootstrappingLiteral, scale: f64) -> Self {
        let mut scales = [scale; EVAL_MOD_LEVELS + 1];
        let mut here = scale;
        for (removed, slot) in scales.iter_mut().rev().skip(1).enumerate() {
            here =
                (here * params.modulus_at(params.application_level() + 1 + removed) as f64).sqrt();
            *slot = here;
        }
        let squarings = (1u32 << SQUARINGS) as f64;
        Self { coefficients: exponential(DEGREE, TAU * interval(set) / squarings), scales }
    }

    /// Scale of the input u = x / L, which has real slots.
    pub(crate) fn input_scale(&self) -> f64 {
        self.scales.first().copied().unwrap_or(1.0)
    }

    /// exp(2 pi i L u): eight levels lower, at the scale that was asked for.
    pub(crate) fn apply<A: Arithmetic>(
        &self,
        arithmetic: &mut A,
        u: &A::Value,
    ) -> Result<A::Value> {
        let schedule = Schedule {
            basis: Basis::Chebyshev,
            coefficients: &self.coefficients,
            leaf: 3,
            tapered: true,
        };
        let (polynomial, squared) = self.scales.split_at(EVAL_MOD_LEVELS - SQUARINGS + 1);
        let scale = polynomial.last().copied().unwrap_or(1.0);
        let mut e = evaluate(arithmetic, schedule, u, scale)?;
        for &scale in squared {
            let square = arithmetic.mul(&e, &e)?;
            e = arithmetic.deliver(square)?;
            arithmetic.set_scale(&mut e, scale);
        }
        Ok(e)
    }
}

/// L: u = x / L lies in [-1, 1].
pub(crate) fn interval(set: &BootstrappingLiteral) -> f64 {
    f64::from(set.overflow_bound) + MARGIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    #[test]
    fn scales_taper_as_in_the_design() {
        let log2 = |name: &str, ratio: f64| {
            let params = presets::get(name).unwrap();
            let scale = params.scale_at(params.application_level()) * ratio / (2.0 * TAU);
            let set = params.bootstrapping().unwrap();
            EvalMod::new(&params, set, scale).scales.map(f64::log2)
        };
        let rows = [
            ("boot16", 2048.0, [53.0, 56.0, 53.0, 50.0, 50.0, 50.0, 50.0, 50.0, 50.0]),
            ("toy10_boot", 2048.0, [53.0, 56.0, 53.0, 50.0, 50.0, 50.0, 50.0, 50.0, 50.0]),
            ("boot15", 2048.0, [51.2, 54.1, 51.2, 48.3, 48.3, 48.3, 48.3, 48.3, 48.3]),
            ("boot16_hp", 256.0, [58.0, 58.0, 58.0, 58.0, 58.0, 58.0, 58.0, 58.0, 50.0]),
        ];
        for (name, ratio, want) in rows {
            for (got, want) in log2(name, ratio).into_iter().zip(want) {
                assert!((got - want).abs() < 0.06, "{name}: {got}");
            }
        }
    }
}
