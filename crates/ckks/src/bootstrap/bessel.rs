//! Bessel functions of the first kind: the Chebyshev coefficients of the complex exponential.
//!
//! exp(i z u) = J_0(z) + 2 sum over k >= 1 of i^k J_k(z) T_k(u) on -1 <= u <= 1 (Jacobi-Anger).

use num_complex::Complex64;

/// J_0(z), .., J_degree(z) for z > 0.
///
/// Miller's algorithm: the recurrence J_(k-1) = (2k/z) J_k - J_(k+1), which grows the wanted solution downwards, from far
/// above max(degree, z), normalised by J_0 + 2 (J_2 + J_4 + ..) = 1. Errors are a few units in the last place of the
/// largest value (Abramowitz and Stegun, 9.12).
pub(crate) fn bessel(degree: usize, z: f64) -> Vec<f64> {
    let start = 2 * (degree.max(z.ceil() as usize) / 2 + 20);
    let mut values = vec![0.0; start + 2];
    let (mut above, mut here) = (0.0, f64::MIN_POSITIVE * 1e20);
    for k in (0..=start).rev() {
        if let Some(value) = values.get_mut(k) {
            *value = here;
        }
        let below = 2.0 * k as f64 / z * here - above;
        (above, here) = (here, below);
    }
    let even: f64 = values.iter().skip(2).step_by(2).sum();
    let norm = values.first().copied().unwrap_or(1.0) + 2.0 * even;
    values.truncate(degree + 1);
    values.into_iter().map(|value| value / norm).collect()
}

/// The Chebyshev coefficients of exp(i z u), up to a degree.
pub(crate) fn exponential(degree: usize, z: f64) -> Vec<Complex64> {
    let turn = [Complex64::ONE, Complex64::I, -Complex64::ONE, -Complex64::I];
    let coefficient = |(k, j): (usize, f64)| {
        let turned = turn.get(k % 4).copied().unwrap_or_default();
        turned * j * if k == 0 { 1.0 } else { 2.0 }
    };
    bessel(degree, z).into_iter().enumerate().map(coefficient).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    #[test]
    fn known_values() {
        // mpmath.besselj(k, z), 20 digits.
        let z = 2.0 * PI * 15.02 / 8.0;
        let rows: [(usize, f64, f64); 9] = [
            (0, 1.0, 0.765_197_686_557_966_5),
            (1, 1.0, 0.440_050_585_744_933_5),
            (5, 2.5, 0.019_501_625_134_503_22),
            (0, z, 0.001_195_966_302_743_861),
            (1, z, -0.232_355_350_209_877_8),
            (12, z, 0.179_917_975_630_849_03),
            (31, z, 3.142_729_973_929_59e-11),
            (32, z, 5.996_872_892_637_958e-12),
            (40, 10.0, 6.030_895_312_346_907e-21),
        ];
        for (k, z, want) in rows {
            let values = bessel(k, z);
            let got = *values.last().unwrap();
            assert_eq!(values.len(), k + 1);
            // The largest of the values is below 1; small ones above the order z are good relatively, too.
            let tolerance = if k as f64 > z { 1e-12 * want.abs() } else { 1e-15 };
            assert!((got - want).abs() < tolerance, "J_{k}({z}): {got:e}");
        }
    }

    #[test]
    fn the_series_is_the_exponential() {
        let z = 2.0 * PI * 15.02 / 8.0;
        let coefficients = exponential(31, z);
        // What is left out, 2 (J_32 + J_33 + ..) at 11.797: 1.2e-11, 2.3e-12, .. sum to less than 1.5e-11.
        for i in 0..=200 {
            let u = f64::from(i) / 100.0 - 1.0;
            let series: Complex64 =
                coefficients.iter().enumerate().map(|(k, c)| c * (k as f64 * u.acos()).cos()).sum();
            let error = (series - Complex64::from_polar(1.0, z * u)).norm();
            assert!(error < 1.5e-11, "{u}: {error:e}");
        }
    }
}
