//! Polynomials of slots, in the Chebyshev or the power basis.

use crate::error::{Error, Result};
use crate::params::Parameters;
use crate::paterson_stockmeyer::{Schedule, Symbolic, evaluate};
use crate::rlwe::KeySpec;
use cipherform_profile::Cost;
use num_complex::Complex64;
use serde::{Deserialize, Serialize};

/// Coefficients below this fraction of the largest are taken as zero, so that an even function stays even.
const NEGLIGIBLE: f64 = 1.0 / (1u64 << 50) as f64;

/// What the coefficients multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// T_0, T_1, .. of the first kind: for values in [-1, 1]. Numerically calm at any degree.
    Chebyshev,
    /// 1, x, x^2, ..
    Monomial,
}

/// A real polynomial, evaluated on ciphertexts by [`crate::Evaluator::polynomial`].
///
/// Multiplicative depth is exactly ceil(log2(degree + 1)); zero coefficients cost nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Polynomial {
    basis: Basis,
    coefficients: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct Raw {
    basis: Basis,
    coefficients: Vec<f64>,
}

impl TryFrom<Raw> for Polynomial {
    type Error = Error;
    fn try_from(raw: Raw) -> Result<Self> {
        Self::new(raw.basis, raw.coefficients)
    }
}

impl From<Polynomial> for Raw {
    fn from(p: Polynomial) -> Self {
        Self { basis: p.basis, coefficients: p.coefficients }
    }
}

impl Polynomial {
    /// A polynomial from its coefficients, constant first. Coefficients below 2^-50 of the largest become zero and
    /// trailing zeros are cut.
    ///
    /// # Errors
    /// [`Error::NonFinite`]; [`Error::InvalidArgument`] without coefficients or above degree 2^16.
    pub fn new(basis: Basis, mut coefficients: Vec<f64>) -> Result<Self> {
        if let Some(index) = coefficients.iter().position(|c| !c.is_finite()) {
            return Err(Error::NonFinite { index });
        }
        if coefficients.is_empty() || coefficients.len() > 1 << 16 {
            let detail = format!("{} coefficients are not in 1..=65536", coefficients.len());
            return Err(Error::InvalidArgument { op: "polynomial", detail });
        }
        let largest = coefficients.iter().fold(0f64, |max, c| max.max(c.abs()));
        for c in &mut coefficients {
            if c.abs() <= NEGLIGIBLE * largest {
                *c = 0.0;
            }
        }
        while coefficients.len() > 1 && coefficients.last() == Some(&0.0) {
            coefficients.pop();
        }
        Ok(Self { basis, coefficients })
    }

    /// Interpolates `f` on [-1, 1] at the Chebyshev nodes, in the Chebyshev basis: within a small factor of the best
    /// approximation of that degree (Trefethen, Approximation Theory and Approximation Practice, chapter 15).
    ///
    /// # Errors
    /// As [`Self::new`], e.g. if `f` is not finite somewhere.
    pub fn interpolate(degree: usize, f: impl Fn(f64) -> f64) -> Result<Self> {
        let m = degree + 1;
        let angle = |j: usize| std::f64::consts::PI * (j as f64 + 0.5) / m as f64;
        let values: Vec<f64> = (0..m).map(|j| f(angle(j).cos())).collect();
        let mut coefficients: Vec<f64> = (0..m)
            .map(|k| {
                let sum: f64 =
                    values.iter().enumerate().map(|(j, v)| v * (k as f64 * angle(j)).cos()).sum();
                sum * if k == 0 { 1.0 } else { 2.0 } / m as f64
            })
            .collect();
        // The sums carry rounding noise; without it an even function keeps its parity.
        let largest = coefficients.iter().fold(0f64, |max, c| max.max(c.abs()));
        coefficients
            .iter_mut()
            .filter(|c| c.abs() < 2f64.powi(-46) * largest)
            .for_each(|c| *c = 0.0);
        Self::new(Basis::Chebyshev, coefficients)
    }

    /// The basis.
    #[must_use]
    pub fn basis(&self) -> Basis {
        self.basis
    }

    /// The coefficients, constant first.
    #[must_use]
    pub fn coefficients(&self) -> &[f64] {
        &self.coefficients
    }

    /// The degree.
    #[must_use]
    pub fn degree(&self) -> usize {
        self.coefficients.len() - 1
    }

    /// Levels that an evaluation takes: ceil(log2(degree + 1)).
    #[must_use]
    pub fn depth(&self) -> usize {
        ceil_log2(self.degree() + 1)
    }

    /// The value at a point, in f64: Clenshaw's recurrence or Horner's scheme.
    #[must_use]
    pub fn evaluate_f64(&self, x: f64) -> f64 {
        match self.basis {
            Basis::Monomial => self.coefficients.iter().rev().fold(0.0, |acc, c| acc * x + c),
            Basis::Chebyshev => {
                let (mut above, mut two_above) = (0.0, 0.0);
                for &c in self.coefficients.iter().skip(1).rev() {
                    let here = c + 2.0 * x * above - two_above;
                    (above, two_above) = (here, above);
                }
                self.coefficients.first().copied().unwrap_or(0.0) + x * above - two_above
            }
        }
    }

    /// The keys that an evaluation from a level needs.
    #[must_use]
    pub fn keys(&self, level: usize) -> Vec<KeySpec> {
        if self.degree() < 2 { Vec::new() } else { vec![KeySpec::relinearization(level)] }
    }

    /// What an evaluation from a level counts, number-theoretic transforms aside (those are in [`Self::cost_at`]).
    /// Nothing if the level is below the depth.
    #[must_use]
    pub fn cost(&self, level: usize) -> Cost {
        self.symbolic(None, level)
    }

    /// What an evaluation from a level counts under a parameter set, transforms included. Nothing if the level is
    /// below the depth.
    #[must_use]
    pub fn cost_at(&self, params: &Parameters, level: usize) -> Cost {
        self.symbolic(Some(params), level)
    }

    fn symbolic(&self, params: Option<&Parameters>, level: usize) -> Cost {
        let mut model = Symbolic::new(params, 1);
        let input = Symbolic::input(level, 1.0);
        let coefficients = self.complex_coefficients();
        match evaluate(&mut model, self.schedule(&coefficients), &input, 1.0) {
            Ok(_) => model.cost(),
            Err(_) => Cost::default(),
        }
    }

    pub(crate) fn complex_coefficients(&self) -> Vec<Complex64> {
        self.coefficients.iter().map(|&c| c.into()).collect()
    }

    /// The cheapest way to evaluate.
    ///
    /// Larger leaves mean fewer products of halves but more powers; trying all sensible ones on the cost model takes
    /// microseconds.
    pub(crate) fn schedule<'a>(&self, coefficients: &'a [Complex64]) -> Schedule<'a> {
        let depth = self.depth();
        let limit = self.degree().min(2 << depth.div_ceil(2)).max(1);
        let with_leaf = |leaf| Schedule { basis: self.basis, coefficients, leaf, tapered: false };
        let weight = |&leaf: &usize| {
            let mut model = Symbolic::new(None, 1);
            let input = Symbolic::input(depth, 1.0);
            match evaluate(&mut model, with_leaf(leaf), &input, 1.0) {
                Ok(_) => model.weight(),
                Err(_) => u64::MAX,
            }
        };
        with_leaf((1..=limit).min_by_key(weight).unwrap_or(1))
    }
}

/// The smallest k with 2^k >= n.
pub(crate) fn ceil_log2(n: usize) -> usize {
    n.next_power_of_two().trailing_zeros() as usize
}

/// Splits at m, a power of two with m <= degree < 2m: p = q * (basis function m) + r, deg q < m, deg r < m.
///
/// Chebyshev: T_i = 2 T_m T_(i-m) - T_(2m-i) for i > m.
pub(crate) fn divide(
    basis: Basis,
    coefficients: &[Complex64],
    m: usize,
) -> (Vec<Complex64>, Vec<Complex64>) {
    let (low, high) = coefficients.split_at(m.min(coefficients.len()));
    let (mut r, mut q) = (low.to_vec(), high.to_vec());
    if basis == Basis::Chebyshev {
        for (i, c) in q.iter_mut().enumerate().skip(1) {
            if let Some(mirror) = r.get_mut(m - i) {
                *mirror -= *c;
            }
            *c *= 2.0;
        }
    }
    for part in [&mut q, &mut r] {
        while part.last() == Some(&Complex64::ZERO) {
            part.pop();
        }
    }
    (q, r)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clenshaw_and_horner_agree_with_the_definitions() {
        let coefficients = vec![0.25, -1.0, 0.5, 0.125, -0.75];
        let chebyshev = Polynomial::new(Basis::Chebyshev, coefficients.clone()).unwrap();
        let monomial = Polynomial::new(Basis::Monomial, coefficients.clone()).unwrap();
        for i in 0..=20 {
            let x = i as f64 / 10.0 - 1.0;
            let t = |k: usize| (k as f64 * x.acos()).cos();
            let want: f64 = coefficients.iter().enumerate().map(|(k, c)| c * t(k)).sum();
            assert!((chebyshev.evaluate_f64(x) - want).abs() < 1e-14);
            let want: f64 =
                coefficients.iter().enumerate().map(|(k, c)| c * x.powi(k as i32)).sum();
            assert!((monomial.evaluate_f64(x) - want).abs() < 1e-14);
        }
    }

    #[test]
    fn interpolation_converges_and_keeps_parity() {
        let p = Polynomial::interpolate(31, |x| 1.0 / (1.5 + x)).unwrap();
        // Poles at -1.5: error about (1.5 + sqrt(1.25))^-31 = 2^-43.
        for i in 0..=100 {
            let x = i as f64 / 50.0 - 1.0;
            assert!((p.evaluate_f64(x) - 1.0 / (1.5 + x)).abs() < 1e-11);
        }
        let even = Polynomial::interpolate(8, |x| x * x * (1.0 - x * x)).unwrap();
        assert_eq!(even.degree(), 4);
    }

    #[test]
    fn division_reconstructs() {
        let coefficients: Vec<Complex64> = (0..15).map(|i| (i as f64 * 1.3).sin().into()).collect();
        let real = |c: &[Complex64]| c.iter().map(|c| c.re).collect();
        for basis in [Basis::Chebyshev, Basis::Monomial] {
            let (q, r) = divide(basis, &coefficients, 8);
            assert!(q.len() == 7 && r.len() == 8);
            let mut t8 = vec![Complex64::ZERO; 9];
            t8[8] = Complex64::ONE;
            let value =
                |c: &[Complex64], x| Polynomial::new(basis, real(c)).unwrap().evaluate_f64(x);
            for x in [-0.9, -0.3, 0.0, 0.7] {
                let got = value(&q, x) * value(&t8, x) + value(&r, x);
                assert!((got - value(&coefficients, x)).abs() < 1e-13);
            }
        }
    }

    #[test]
    fn bad_coefficients_are_refused() {
        assert!(Polynomial::new(Basis::Monomial, vec![]).is_err());
        assert!(matches!(
            Polynomial::new(Basis::Monomial, vec![1.0, f64::NAN]),
            Err(Error::NonFinite { index: 1 })
        ));
        assert!(
            serde_json::from_str::<Polynomial>("{\"basis\":\"chebyshev\",\"coefficients\":[]}")
                .is_err()
        );
        let p = Polynomial::new(Basis::Chebyshev, vec![1.0, 2.0, 0.0]).unwrap();
        assert_eq!((p.degree(), p.depth()), (1, 1));
        let back: Polynomial = serde_json::from_str(&serde_json::to_string(&p).unwrap()).unwrap();
        assert_eq!(back, p);
    }
}
