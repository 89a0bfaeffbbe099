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
    /// Bits that all but one part in a hundred reach.
    pub percentile_1: f64,
    /// Mean of the bits.
    pub mean: f64,
    /// Median of the bits.
    pub median: f64,
    /// Bits of the best part.
    pub max: f64,
    /// -log2 of the root mean square of the real parts' errors: their mean counts as error too.
    pub std_real: f64,
    /// -log2 of the root mean square of the imaginary parts' errors.
    pub std_imaginary: f64,
    /// Largest absolute error of a part.
    pub max_error: f64,
    /// Number of slots of the longer vector.
    pub slots: usize,
}

const EXACT_BITS: f64 = 60.0;

fn bits(error: f64) -> f64 {
    if error.is_nan() { f64::NEG_INFINITY } else { (-error.log2()).min(EXACT_BITS) }
}

impl PrecisionStats {
    /// Compares slot by slot. A NaN on either side is an infinite error, and so is a slot that one side does not have.
    #[must_use]
    pub fn compare(want: &[Complex64], got: &[Complex64]) -> Self {
        let slots = want.len().max(got.len());
        let count = slots.max(1) as f64;
        let missing = Complex64::new(f64::NAN, f64::NAN);
        let mut all = Vec::with_capacity(2 * slots);
        let (mut square_re, mut square_im, mut max_error) = (0.0, 0.0, 0f64);
        for j in 0..slots {
            let side = |v: &[Complex64]| v.get(j).copied().unwrap_or(missing);
            let error = side(want) - side(got);
            for part in [error.re, error.im] {
                let size = if part.is_nan() { f64::INFINITY } else { part.abs() };
                max_error = max_error.max(size);
                all.push(bits(size));
            }
            square_re += error.re * error.re;
            square_im += error.im * error.im;
        }
        all.sort_by(f64::total_cmp);
        let rank = |part: usize, of: usize| all.get(all.len() * part / of).copied();
        Self {
            min: rank(0, 1).unwrap_or(EXACT_BITS),
            percentile_1: rank(1, 100).unwrap_or(EXACT_BITS),
            mean: if all.is_empty() { EXACT_BITS } else { all.iter().sum::<f64>() / (2.0 * count) },
            median: rank(1, 2).unwrap_or(EXACT_BITS),
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
            "precision in bits over {} slots: worst {:.1}, 99 % reach {:.1}, median {:.1}, mean {:.1}, best {:.1}; std \
             {:.1} real, {:.1} imaginary",
            self.slots,
            self.min,
            self.percentile_1,
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
    fn every_statistic_of_known_errors() {
        // 200 slots: 2^-(10 + k) in the real part of slot k for k < 4, 2^-20 in its other parts; nothing anywhere else.
        let want = vector(0.25, -0.5, 200);
        let mut got = want.clone();
        for (k, v) in got.iter_mut().enumerate() {
            v.re += 2f64.powi(if k < 4 { -10 - k as i32 } else { -20 });
            v.im -= 2f64.powi(-20);
        }
        let stats = PrecisionStats::compare(&want, &got);
        assert_eq!((stats.min, stats.max, stats.median), (10.0, 20.0, 20.0));
        assert_eq!((stats.max_error, stats.slots), (2f64.powi(-10), 200));
        // Four of 400 parts are below 20 bits: the fifth smallest is the first that 99 % reach.
        assert_eq!(stats.percentile_1, 20.0);
        assert!((stats.mean - (396.0 * 20.0 + 10.0 + 11.0 + 12.0 + 13.0) / 400.0).abs() < 1e-12);
        // Mean square of the real parts: (4^-10 + 4^-11 + 4^-12 + 4^-13 + 196 4^-20) / 200.
        let square =
            (4f64.powi(-10) * (1.0 + 0.25 + 0.0625 + 0.015_625) + 196.0 * 4f64.powi(-20)) / 200.0;
        assert!((stats.std_real + square.log2() / 2.0).abs() < 1e-9);
        assert!((stats.std_imaginary - 20.0).abs() < 1e-9);
        got[9].im = -0.5 - 2f64.powi(-14);
        assert_eq!(PrecisionStats::compare(&want, &got).percentile_1, 14.0);
    }

    #[test]
    fn a_common_offset_is_an_error_like_any_other() {
        let stats = PrecisionStats::compare(&vector(0.0, 0.0, 64), &vector(2f64.powi(-9), 0.0, 64));
        assert_eq!((stats.std_real, stats.min), (9.0, 9.0));
    }

    #[test]
    fn errors_above_one_have_negative_bits() {
        let stats = PrecisionStats::compare(&vector(0.0, 0.0, 4), &vector(8.0, 0.0, 4));
        assert_eq!((stats.min, stats.std_real, stats.max_error), (-3.0, -3.0, 8.0));
    }

    #[test]
    fn a_missing_slot_is_an_infinite_error() {
        for (want, got) in [(8, 7), (7, 8), (0, 1)] {
            let stats = PrecisionStats::compare(&vector(0.5, 0.5, want), &vector(0.5, 0.5, got));
            assert_eq!((stats.slots, stats.min), (want.max(got), f64::NEG_INFINITY));
            assert_eq!(stats.max_error, f64::INFINITY);
            assert_eq!(
                (stats.std_real, stats.std_imaginary),
                (f64::NEG_INFINITY, f64::NEG_INFINITY)
            );
        }
    }

    #[test]
    fn infinities_are_errors_even_when_equal() {
        // inf - inf is not a number: nobody can say how close the two are.
        let stats =
            PrecisionStats::compare(&vector(f64::INFINITY, 0.0, 2), &vector(f64::INFINITY, 0.0, 2));
        assert_eq!((stats.min, stats.max_error), (f64::NEG_INFINITY, f64::INFINITY));
    }

    #[test]
    fn nan_is_an_infinite_error() {
        let stats = PrecisionStats::compare(&vector(0.0, 0.0, 2), &vector(f64::NAN, 0.0, 2));
        assert_eq!((stats.min, stats.max_error), (f64::NEG_INFINITY, f64::INFINITY));
        assert_eq!((stats.std_real, stats.mean), (f64::NEG_INFINITY, f64::NEG_INFINITY));
        assert_eq!((stats.std_imaginary, stats.median), (60.0, 60.0));
    }

    #[test]
    fn empty_input_is_exact() {
        let stats = PrecisionStats::compare(&[], &[]);
        assert_eq!((stats.slots, stats.min, stats.mean, stats.max_error), (0, 60.0, 60.0, 0.0));
    }
}
