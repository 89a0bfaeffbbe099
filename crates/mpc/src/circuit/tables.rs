//! Piecewise polynomials with public coefficients: what the look-up gates evaluate.

use crate::error::{Error, Result};
use crate::fixed;
use std::f64::consts::PI;

/// A table with uniform knots: polynomials of degree at most 2 around 2^bits knots, for the gate that rounds its input to a knot
/// at random. Each polynomial is fitted on both intervals next to its knot, because either knot may be chosen.
#[derive(Clone, PartialEq, Eq)]
pub struct Table {
    /// Fraction bits of the input, after the gate has dropped its low bits.
    pub(crate) input_scale: u32,
    /// Bits of the input that are kept: `|x| < 2^(input_bits - 1 - input_scale)`, signed.
    pub(crate) input_bits: u32,
    /// log2 of the number of knots.
    pub(crate) index_bits: u32,
    /// Fraction bits of the result.
    pub(crate) output_scale: u32,
    /// log2 of a bound on the result.
    pub(crate) bound: i32,
    /// Coefficient of delta^k, by knot (two's complement order); delta at the input's scale.
    pub(crate) coefficients: Vec<Vec<u64>>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (i, o) = ((self.input_bits, self.input_scale), (self.index_bits, self.output_scale));
        write!(f, "Table {{ input {i:?}, index and output {o:?}, degree {} }}", self.degree())
    }
}

impl Table {
    /// Fits `f` on `[-2^(input_bits - 1 - input_scale), 2^(input_bits - 1 - input_scale))` by least squares at Chebyshev nodes of
    /// `[knot - h, knot + h]`, `h` the distance of two knots.
    ///
    /// The largest error over the range is the fit's error plus half an output unit a coefficient; tests state it for every table
    /// this crate uses.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a degree above 2, fewer than 2^4 or more than 2^14 knots, or fewer input than index bits.
    pub fn fit(
        f: impl Fn(f64) -> f64,
        input: (u32, u32),
        index_bits: u32,
        degree: usize,
        output_scale: u32,
    ) -> Result<Self> {
        let (input_bits, input_scale) = input;
        if degree > 2
            || !(4..=14).contains(&index_bits)
            || input_bits < index_bits
            || input_bits > 40
        {
            return Err(Error::Unsupported {
                op: "table",
                detail: format!(
                    "degree {degree}, {index_bits} index bits, {input_bits} input bits; the gate takes degree <= 2, 4 to 14 index bits and no fewer input bits"
                ),
            });
        }
        let h = ((input_bits - index_bits) as f64 - input_scale as f64).exp2();
        let nodes: Vec<f64> = (0..24).map(|i| ((i as f64 + 0.5) * PI / 24.0).cos() * h).collect();
        let count = 1usize << index_bits;
        let mut coefficients = vec![Vec::with_capacity(count); degree + 1];
        let mut largest = 0f64;
        for j in 0..count {
            let knot = if j >= count / 2 { j as f64 - count as f64 } else { j as f64 } * h;
            largest = largest.max(f(knot).abs());
            let values: Vec<f64> = nodes.iter().map(|d| f(knot + d)).collect();
            let fitted = least_squares(&nodes, &values, degree);
            for (k, (row, c)) in coefficients.iter_mut().zip(fitted).enumerate() {
                row.push(encode_signed(c, output_scale as i32 - (k as u32 * input_scale) as i32));
            }
        }
        let bound = largest.max(1e-9).log2().ceil() as i32 + 1;
        Ok(Self { input_scale, input_bits, index_bits, output_scale, bound, coefficients })
    }

    /// The same table with straight tails: the lines `[value at 0, slope]` at knots up to `core[0]` and from `core[1]` on. The gate does not look
    /// into stretches of 16 knots on one line, so narrow cores are fast. What the function differs from its tails is error.
    #[must_use]
    pub fn with_tails(mut self, core: [f64; 2], tails: [[f64; 2]; 2]) -> Self {
        let fine = self.input_bits - self.index_bits;
        let (count, unit) = (1i64 << self.index_bits, (self.input_scale as f64).exp2());
        for j in 0..count {
            let knot = if j >= count / 2 { j - count } else { j } << fine;
            let [value, slope] = match knot as f64 / unit {
                x if x <= core[0] => tails[0],
                x if x >= core[1] => tails[1],
                _ => continue,
            };
            let slope = encode_signed(slope, self.output_scale as i32 - self.input_scale as i32);
            let value = fixed::encode(value, self.output_scale);
            for (k, row) in self.coefficients.iter_mut().enumerate() {
                row[j as usize] = match k {
                    0 => value.wrapping_add(slope.wrapping_mul(knot as u64)),
                    1 => slope,
                    _ => 0,
                };
            }
        }
        self
    }

    /// The indicator of one integer of `bits` bits: 1 (scale 0) there, 0 elsewhere.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for fewer than 4 or more than 14 bits.
    pub fn equals(value: u64, bits: u32) -> Result<Self> {
        let mut table = Self::fit(|_| 0.0, (bits, 0), bits, 0, 0)?;
        if let Some(cell) = table.coefficients[0].get_mut(value as usize) {
            *cell = 1;
        }
        table.bound = 1;
        Ok(table)
    }

    pub(crate) fn degree(&self) -> usize {
        self.coefficients.len().saturating_sub(1)
    }
}

/// `x` at a scale that may be negative.
fn encode_signed(x: f64, scale: i32) -> u64 {
    (x * (scale as f64).exp2()).round() as i64 as u64
}

/// Coefficients of the least-squares polynomial of `degree <= 2` through (x, y), by the normal equations on x / max |x|.
fn least_squares(x: &[f64], y: &[f64], degree: usize) -> Vec<f64> {
    let unit = x.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let n = degree + 1;
    let mut a = vec![vec![0.0; n + 1]; n];
    for (x, y) in x.iter().zip(y) {
        let powers: Vec<f64> = (0..n).map(|k| (x / unit).powi(k as i32)).collect();
        for (row, p) in a.iter_mut().zip(&powers) {
            for (cell, q) in row.iter_mut().zip(powers.iter().chain([y])) {
                *cell += p * q;
            }
        }
    }
    for pivot in 0..n {
        let scale = a[pivot][pivot];
        a[pivot].iter_mut().for_each(|v| *v /= scale);
        let row = a[pivot].clone();
        for (other, target) in a.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
            let factor = target[pivot];
            debug_assert!(other < n);
            target.iter_mut().zip(&row).for_each(|(t, r)| *t -= factor * r);
        }
    }
    a.iter().enumerate().map(|(k, row)| row[n] / unit.powi(k as i32)).collect()
}

/// Straight lines between knots of any spacing, for wide ranges and few elements (`1/x`, `1/sqrt(x)`). Inputs are
/// not negative; outside the knots the outermost lines go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knots {
    pub(crate) input_scale: u32,
    pub(crate) input_bits: u32,
    pub(crate) output_scale: u32,
    pub(crate) bound: i32,
    /// Inner knots: where one line ends and the next begins.
    pub(crate) inner: Vec<u64>,
    /// Line `i` is `offset[i] + slope[i] x`, exact integers.
    pub(crate) offset: Vec<u64>,
    pub(crate) slope: Vec<u64>,
}

impl Knots {
    /// Fits `f` on `[low, high)` with `per_octave` knots an octave; each line has the smallest largest error on its interval.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the range is empty, does not fit the input bits, or a knot repeats at the input's scale.
    pub fn fit(
        f: impl Fn(f64) -> f64,
        range: (f64, f64),
        per_octave: usize,
        input: (u32, u32),
        output_scale: u32,
    ) -> Result<Self> {
        let (low, high) = range;
        let (input_bits, input_scale) = input;
        let unsupported = |detail: String| Err(Error::Unsupported { op: "knots", detail });
        if !(low > 0.0 && high > low)
            || high > ((input_bits - 1) as f64 - input_scale as f64).exp2()
        {
            return unsupported(format!(
                "range {low}..{high} with {input_bits} bits at scale {input_scale}"
            ));
        }
        let count = ((high / low).log2() * per_octave as f64).round() as usize;
        let at = |i: usize| low * (i as f64 / per_octave as f64).exp2();
        let knots: Vec<u64> = (0..=count).map(|i| fixed::encode(at(i), input_scale)).collect();
        if knots.windows(2).any(|w| w[0] >= w[1]) {
            return unsupported(format!(
                "{per_octave} knots an octave from {low} repeat at scale {input_scale}"
            ));
        }
        let unit = (input_scale as f64).exp2();
        let (mut offset, mut slope) = (Vec::new(), Vec::new());
        for pair in knots.windows(2) {
            let (x0, x1) = (pair[0] as f64 / unit, pair[1] as f64 / unit);
            let rise = (f(x1) - f(x0)) / (x1 - x0);
            let errors: Vec<f64> = (0..=32)
                .map(|i| x0 + (x1 - x0) * i as f64 / 32.0)
                .map(|x| f(x0) + rise * (x - x0) - f(x))
                .collect();
            let (min, max) = errors.iter().fold((0f64, 0f64), |(a, b), &e| (a.min(e), b.max(e)));
            let value = fixed::encode(f(x0) - f64::midpoint(min, max), output_scale);
            let rise = encode_signed(rise, output_scale as i32 - input_scale as i32);
            offset.push(value.wrapping_sub(rise.wrapping_mul(pair[0])));
            slope.push(rise);
        }
        let bound = f(low).abs().max(f(high).abs()).log2().ceil() as i32 + 1;
        let inner = knots[1..count].to_vec();
        Ok(Self { input_scale, input_bits, output_scale, bound, inner, offset, slope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_squares_recovers_a_parabola() {
        let x = [-2.0, -1.0, 0.5, 1.0, 3.0];
        let y: Vec<f64> = x.iter().map(|x| 0.5 - 2.0 * x + 0.25 * x * x).collect();
        let c = least_squares(&x, &y, 2);
        for (c, want) in c.iter().zip([0.5, -2.0, 0.25]) {
            assert!((c - want).abs() < 1e-12, "{c} {want}");
        }
    }

    #[test]
    fn sizes_are_checked() {
        assert!(Table::fit(|x| x, (21, 15), 9, 3, 38).is_err());
        assert!(Table::fit(|x| x, (8, 4), 9, 1, 38).is_err());
        assert!(Table::fit(|x| x, (8, 4), 3, 1, 38).is_err());
        assert!(Knots::fit(|x| x, (0.0, 1.0), 4, (20, 10), 30).is_err());
        assert!(Knots::fit(|x| 1.0 / x, (1e-3, 1.0), 64, (12, 10), 30).is_err());
    }
}
