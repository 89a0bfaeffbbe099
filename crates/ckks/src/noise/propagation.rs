//! Errors through a polynomial, exactly to first order: forward differentiation over a grid of inputs.

use super::{NoiseEstimate, NoiseMode, NoiseModel};
use crate::error::Result;
use crate::paterson_stockmeyer::{Arithmetic, evaluate};
use crate::polynomial::Polynomial;
use num_complex::Complex64;
use std::collections::BTreeMap;
use std::f64::consts::PI;

/// Grid points for each degree.
const OVERSAMPLING: usize = 8;

/// Between grid points a polynomial of a `times` higher degree exceeds its grid maximum by less than 1 / cos(pi times / 16)
/// (Ehlich and Zeller): 2 % for values, 8 % for variances, which have twice the degree.
fn between_points(times: f64) -> f64 {
    1.0 / (PI * times / (2 * OVERSAMPLING) as f64).cos()
}

/// Size of the result and deviation of a part of a slot, both in values.
pub(super) fn polynomial(
    input: &NoiseEstimate,
    model: &NoiseModel,
    polynomial: &Polynomial,
    scale: f64,
) -> Result<(f64, f64)> {
    let radius = match input.mode() {
        NoiseMode::Typical => 3f64.sqrt() * input.message(),
        NoiseMode::Bound => input.message(),
    };
    let steps = OVERSAMPLING * (polynomial.degree() + 1);
    let angles: Vec<f64> = (0..=steps).map(|k| PI * k as f64 / steps as f64).collect();
    let values = angles.iter().map(|a| (radius * a.cos()).into()).collect();
    let mut propagation = Propagation::new(model, angles.len());
    let start = propagation.input(input.level(), input.scale(), values, input.slot_std());
    let coefficients = polynomial.complex_coefficients();
    let schedule = polynomial.schedule(&coefficients);
    let result = evaluate(&mut propagation, schedule, &start, scale)?;

    let variance = |k: usize| -> f64 {
        result.gains.values().filter_map(|g| g.get(k)).map(Complex64::norm_sqr).sum()
    };
    Ok(match input.mode() {
        NoiseMode::Bound => (
            between_points(1.0) * result.values.iter().fold(0.0, |max, v| v.norm().max(max)),
            (between_points(2.0) * (0..angles.len()).map(variance).fold(0.0, f64::max)).sqrt(),
        ),
        NoiseMode::Typical => {
            // The grid is dense at the ends like 1 / sin: that weight makes it uniform.
            let total: f64 = angles.iter().map(|a| a.sin()).sum();
            let mean = |f: &dyn Fn(usize) -> f64| {
                angles.iter().enumerate().map(|(k, a)| a.sin() * f(k)).sum::<f64>() / total
            };
            let square = |k: usize| result.values.get(k).map_or(0.0, Complex64::norm_sqr);
            (mean(&square).sqrt(), mean(&variance).sqrt())
        }
    })
}

/// Values in the clear that carry, to first order, the effect of every rounding. All operations are holomorphic, so that
/// a complex factor says how an error travels.
pub(crate) struct Propagation<'a> {
    model: &'a NoiseModel,
    /// Number of the latest source of errors; 0 is the input.
    sources: usize,
    points: usize,
}

/// A value at every point of a grid, and what each source of errors contributes to it there: the deviation of a part
/// of a slot, times the derivative.
#[derive(Clone)]
pub(crate) struct Propagated {
    level: usize,
    scale: f64,
    product: bool,
    pub(crate) values: Vec<Complex64>,
    pub(crate) gains: BTreeMap<usize, Vec<Complex64>>,
}

impl Propagated {
    /// `self += factor other`.
    fn add_scaled(&mut self, other: &Self, factor: Complex64) {
        let add = |to: &mut Vec<Complex64>, from: &[Complex64]| {
            for (a, b) in to.iter_mut().zip(from) {
                *a += factor * b;
            }
        };
        add(&mut self.values, &other.values);
        for (&source, gains) in &other.gains {
            let zeros = || vec![Complex64::ZERO; gains.len()];
            add(self.gains.entry(source).or_insert_with(zeros), gains);
        }
        self.product |= other.product;
    }
}

impl<'a> Propagation<'a> {
    /// For values at this many points.
    pub(crate) fn new(model: &'a NoiseModel, points: usize) -> Self {
        Self { model, sources: 0, points }
    }

    /// An input with its values and the deviation of its error, source 0.
    pub(crate) fn input(
        &self,
        level: usize,
        scale: f64,
        values: Vec<Complex64>,
        deviation: f64,
    ) -> Propagated {
        let gains = BTreeMap::from([(0, vec![deviation.into(); self.points])]);
        Propagated { level, scale, product: false, values, gains }
    }

    /// One more error of a coefficient deviation.
    fn fresh_error(&mut self, v: &mut Propagated, coefficient: f64) {
        self.sources += 1;
        let deviation = Complex64::from(self.model.slot(coefficient) / v.scale);
        v.gains.insert(self.sources, vec![deviation; self.points]);
    }
}

impl Arithmetic for Propagation<'_> {
    type Value = Propagated;

    fn level(&self, v: &Propagated) -> usize {
        v.level
    }
    fn scale(&self, v: &Propagated) -> f64 {
        v.scale
    }
    fn set_scale(&self, v: &mut Propagated, scale: f64) {
        v.scale = scale;
    }
    fn prime(&self, level: usize) -> f64 {
        self.model.params.modulus_at(level) as f64
    }
    fn mul(&mut self, a: &Propagated, b: &Propagated) -> Result<Propagated> {
        let times = |x: &[Complex64], y: &[Complex64]| -> Vec<Complex64> {
            x.iter().zip(y).map(|(x, y)| x * y).collect()
        };
        let scaled = |v: &Propagated, by: &[Complex64]| Propagated {
            level: a.level.min(b.level),
            scale: a.scale * b.scale,
            product: true,
            values: vec![Complex64::ZERO; self.points],
            gains: v.gains.iter().map(|(&source, g)| (source, times(g, by))).collect(),
        };
        let mut out = scaled(a, &b.values);
        out.add_scaled(&scaled(b, &a.values), Complex64::ONE);
        out.values = times(&a.values, &b.values);
        Ok(out)
    }
    fn deliver(&mut self, mut v: Propagated) -> Result<Propagated> {
        // One division by P and the primes of the level: the key switch itself is divided by them and does not show.
        let switched =
            if v.product { self.model.key_switch(v.level) / self.prime(v.level) } else { 0.0 };
        v.scale /= self.prime(v.level);
        v.level = v.level.saturating_sub(1);
        v.product = false;
        self.fresh_error(&mut v, self.model.rounding().hypot(switched));
        Ok(v)
    }
    fn add(&mut self, mut acc: Propagated, v: &Propagated) -> Result<Propagated> {
        acc.add_scaled(v, Complex64::ONE);
        Ok(acc)
    }
    fn add_multiples(
        &mut self,
        acc: Option<Propagated>,
        terms: &[(&Propagated, f64)],
        level: usize,
        scale: f64,
    ) -> Result<Propagated> {
        let mut out = acc.unwrap_or_else(|| Propagated {
            level,
            scale,
            product: false,
            values: vec![Complex64::ZERO; self.points],
            gains: BTreeMap::new(),
        });
        for (v, factor) in terms {
            out.add_scaled(v, (factor * v.scale / scale).into());
        }
        Ok(out)
    }
    fn double(&mut self, v: Propagated) -> Result<Propagated> {
        let once = v.clone();
        self.add(v, &once)
    }
    fn mul_i(&mut self, v: &Propagated) -> Result<Propagated> {
        let mut out = v.clone();
        for x in out.values.iter_mut().chain(out.gains.values_mut().flatten()) {
            *x *= Complex64::I;
        }
        Ok(out)
    }
    fn count_coefficient(&mut self, _: &Propagated) {}
    fn add_constant(&mut self, mut acc: Propagated, constant: Complex64) -> Result<Propagated> {
        acc.values.iter_mut().for_each(|v| *v += constant);
        Ok(acc)
    }
}
