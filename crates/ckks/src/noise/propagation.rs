//! Errors through a polynomial, exactly to first order: forward differentiation over a grid of inputs.

use super::{NoiseEstimate, NoiseMode, NoiseModel};
use crate::error::Result;
use crate::paterson_stockmeyer::{Arithmetic, evaluate};
use crate::polynomial::Polynomial;
use std::collections::BTreeMap;
use std::f64::consts::PI;

/// Grid points for each degree: between two of them a polynomial exceeds its grid maximum by less than
/// 1 / cos(pi / 16), 2 % (Ehlich and Zeller).
const OVERSAMPLING: usize = 8;

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
    let start = Propagated {
        level: input.level(),
        scale: input.scale(),
        product: false,
        values: angles.iter().map(|a| radius * a.cos()).collect(),
        gains: BTreeMap::from([(0, vec![input.slot_std(); angles.len()])]),
    };
    let mut propagation = Propagation { model, sources: 0, points: angles.len() };
    let leaf = polynomial.leaf_degree();
    let result = evaluate(&mut propagation, polynomial, &start, leaf, scale)?;

    let variance =
        |k: usize| -> f64 { result.gains.values().filter_map(|g| g.get(k)).map(|g| g * g).sum() };
    Ok(match input.mode() {
        NoiseMode::Bound => (
            result.values.iter().fold(0.0, |max, v| max.max(v.abs())),
            (0..angles.len()).map(variance).fold(0.0, f64::max).sqrt(),
        ),
        NoiseMode::Typical => {
            // The grid is dense at the ends like 1 / sin: that weight makes it uniform.
            let total: f64 = angles.iter().map(|a| a.sin()).sum();
            let mean = |f: &dyn Fn(usize) -> f64| {
                angles.iter().enumerate().map(|(k, a)| a.sin() * f(k)).sum::<f64>() / total
            };
            let square = |k: usize| result.values.get(k).map_or(0.0, |v| v * v);
            (mean(&square).sqrt(), mean(&variance).sqrt())
        }
    })
}

struct Propagation<'a> {
    model: &'a NoiseModel,
    /// Number of the latest source of errors; 0 is the input.
    sources: usize,
    points: usize,
}

/// A value at every point of the grid, and what each source of errors contributes to it there: the deviation of a part
/// of a slot, with the sign of the derivative.
#[derive(Clone)]
struct Propagated {
    level: usize,
    scale: f64,
    product: bool,
    values: Vec<f64>,
    gains: BTreeMap<usize, Vec<f64>>,
}

impl Propagated {
    /// `self += factor other`.
    fn add_scaled(&mut self, other: &Self, factor: f64) {
        let add = |to: &mut Vec<f64>, from: &[f64]| {
            for (a, b) in to.iter_mut().zip(from) {
                *a += factor * b;
            }
        };
        add(&mut self.values, &other.values);
        for (&source, gains) in &other.gains {
            add(self.gains.entry(source).or_insert_with(|| vec![0.0; gains.len()]), gains);
        }
        self.product |= other.product;
    }
}

impl Propagation<'_> {
    /// One more error of a coefficient deviation.
    fn fresh_error(&mut self, v: &mut Propagated, coefficient: f64) {
        self.sources += 1;
        v.gains.insert(self.sources, vec![self.model.slot(coefficient) / v.scale; self.points]);
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
        let times = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).collect::<Vec<_>>();
        let scaled = |v: &Propagated, by: &[f64]| Propagated {
            level: a.level.min(b.level),
            scale: a.scale * b.scale,
            product: true,
            values: vec![0.0; self.points],
            gains: v.gains.iter().map(|(&source, g)| (source, times(g, by))).collect(),
        };
        let mut out = scaled(a, &b.values);
        out.add_scaled(&scaled(b, &a.values), 1.0);
        out.values = times(&a.values, &b.values);
        Ok(out)
    }
    fn relinearize(&mut self, mut v: Propagated) -> Result<Propagated> {
        if v.product {
            let noise = self.model.key_switch(v.level);
            self.fresh_error(&mut v, noise);
            v.product = false;
        }
        Ok(v)
    }
    fn rescale(&mut self, mut v: Propagated) -> Result<Propagated> {
        v.scale /= self.prime(v.level);
        v.level = v.level.saturating_sub(1);
        let noise = if v.product { self.model.rounding_degree_2() } else { self.model.rounding() };
        self.fresh_error(&mut v, noise);
        Ok(v)
    }
    fn add(&mut self, mut acc: Propagated, v: &Propagated) -> Result<Propagated> {
        acc.add_scaled(v, 1.0);
        Ok(acc)
    }
    fn add_multiple(
        &mut self,
        acc: Option<Propagated>,
        v: &Propagated,
        factor: f64,
        level: usize,
        scale: f64,
    ) -> Result<Propagated> {
        let mut out = acc.unwrap_or_else(|| Propagated {
            level,
            scale,
            product: false,
            values: vec![0.0; self.points],
            gains: BTreeMap::new(),
        });
        out.add_scaled(v, factor * v.scale / scale);
        Ok(out)
    }
    fn count_coefficient(&mut self) {}
    fn add_constant(&mut self, mut acc: Propagated, constant: f64) -> Result<Propagated> {
        acc.values.iter_mut().for_each(|v| *v += constant);
        Ok(acc)
    }
}
