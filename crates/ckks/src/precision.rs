//! How close two slot vectors are, in bits.

use num_complex::Complex64;
use std::fmt;

/// Statistics of -log2 |error| over real and imaginary parts, and the largest and mean-square absolute errors.
///
/// Precision is absolute, per part: an error of 2^-20 in the real part of one slot is 20 bits there. Exact agreement
/// counts as 60 bits, the resolution of the comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionStats {
    /// Bits of the worst part.
    pub min: f64,
    /// Mean of the bits.
    pub mean: f64,
    /// Median of the bits.
    pub median: f64,
    /// Bits of the best part.
    pub max: f64,
    /// -log2 of the root mean square of the real parts' errors.
    pub std_real: f64,
    /// -log2 of the root mean square of the imaginary parts' errors.
    pub std_imaginary: f64,
    /// Largest absolute error of a part.
    pub max_error: f64,
    /// Number of slots compared.
    pub slots: usize,
}

const EXACT_BITS: f64 = 60.0;

fn bits(error: f64) -> f64 {
    if error.is_nan() { f64::NEG_INFINITY } else { (-error.log2()).min(EXACT_BITS) }
}

impl PrecisionStats {
    /// Compares slot by slot, up to the shorter length. A NaN on either side is an infinite error.
    #[must_use]
    pub fn compare(want: &[Complex64], got: &[Complex64]) -> Self {
        let slots = want.len().min(got.len());
        let count = slots.max(1) as f64;
        let mut all = Vec::with_capacity(2 * slots);
        let (mut square_re, mut square_im, mut max_error) = (0.0, 0.0, 0f64);
        for (w, g) in want.iter().zip(got) {
            let error = w - g;
            for part in [error.re, error.im] {
                let size = if part.is_nan() { f64::INFINITY } else { part.abs() };
                max_error = max_error.max(size);
                all.push(bits(size));
            }
            square_re += error.re * error.re;
            square_im += error.im * error.im;
        }
        all.sort_by(f64::total_cmp);
        Self {
            min: all.first().copied().unwrap_or(EXACT_BITS),
            mean: all.iter().sum::<f64>() / (2.0 * count),
            median: all.get(all.len() / 2).copied().unwrap_or(EXACT_BITS),
            max: all.last().copied().unwrap_or(EXACT_BITS),
            std_real: bits((square_re / count).sqrt()),
            std_imaginary: bits((square_im / count).sqrt()),
            max_error,
            slots,
        }
    }
}

impl fmt::Display for PrecisionStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "precision in bits over {} slots: worst {:.1}, median {:.1}, mean {:.1}, best {:.1}; std {:.1} real, {:.1} \
             imaginary",
            self.slots,
            self.min,
            self.median,
            self.mean,
            self.max,
            self.std_real,
            self.std_imaginary
        )
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "exact by construction")]

    use super::*;

    fn vector(re: f64, im: f64, n: usize) -> Vec<Complex64> {
        vec![Complex64::new(re, im); n]
    }

    #[test]
    fn real_and_imaginary_errors_are_told_apart() {
        let want = vector(0.5, 0.25, 8);
        let real = PrecisionStats::compare(&want, &vector(0.5 + 2f64.powi(-10), 0.25, 8));
        assert!((real.std_real - 10.0).abs() < 1e-6 && real.std_imaginary == 60.0, "{real}");
        assert!((real.min - 10.0).abs() < 1e-6 && real.max == 60.0, "{real}");
        let imaginary = PrecisionStats::compare(&want, &vector(0.5, 0.25 - 2f64.powi(-12), 8));
        assert!(imaginary.std_real == 60.0 && (imaginary.std_imaginary - 12.0).abs() < 1e-6);
        assert!((imaginary.mean - 36.0).abs() < 1e-6);
    }

    #[test]
    fn one_bad_slot_shows_in_the_minimum_only() {
        let want = vector(0.0, 0.0, 1024);
        let mut got = vector(2f64.powi(-30), 2f64.powi(-30), 1024);
        got[17].im = 0.25;
        let stats = PrecisionStats::compare(&want, &got);
        assert_eq!((stats.min, stats.median, stats.max_error), (2.0, 30.0, 0.25));
        assert_eq!(stats.std_real, 30.0);
    }

    #[test]
    fn nan_is_an_infinite_error() {
        let stats = PrecisionStats::compare(&vector(0.0, 0.0, 2), &vector(f64::NAN, 0.0, 2));
        assert_eq!((stats.min, stats.max_error), (f64::NEG_INFINITY, f64::INFINITY));
    }

    #[test]
    fn empty_input_is_exact() {
        assert_eq!(PrecisionStats::compare(&[], &[]).slots, 0);
    }
}
