//! `x^-1/2` by one polynomial of least relative error.

use std::f64::consts::PI;

use crate::approx::measure;
use crate::error::{Error, Result};

/// Degree 255, beyond what any affordable level budget holds.
const MAX_LEVELS: usize = 8;

/// A ratio of ends below this is widened to it: a single point leaves no interval to map to [-1, 1].
const MIN_RATIO: f64 = 1.001;

/// `x^-1/2` on `[low, high]` as one Chebyshev series of degree `2^levels - 1` that minimises the maximal *relative*
/// error (Remez exchange on `p(x) √x - 1`).
///
/// `p(x) = Σ_j coefficients[j] · T_j(t)` with `t = (2x - low - high)/(high - low)`. Paterson–Stockmeyer evaluates a
/// degree below `2^levels` in `levels` levels from `t`. Above the interval the polynomial diverges;
/// [`crate::approx::layer_approximations`] makes sure that it is bounded below it, down to an empty token.
#[derive(Clone, Debug, PartialEq)]
pub struct InverseSqrt {
    /// Lower end, widened already.
    pub low: f64,
    /// Upper end, widened already.
    pub high: f64,
    /// Chebyshev coefficients, lowest degree first.
    pub coefficients: Vec<f64>,
    /// Levels from `t` to the value.
    pub levels: usize,
    /// Largest relative error on `[low, high]`, measured on a dense grid in f64.
    pub max_relative_error: f64,
}

impl InverseSqrt {
    /// The shallowest polynomial whose relative error on `[low, high]` is at most `tolerance`. An interval narrower
    /// than a tenth of a percent is widened to that at its upper end.
    ///
    /// # Errors
    /// `Approximation` when degree 255 does not suffice or the interval is not positive and ordered.
    pub fn fit(low: f64, high: f64, tolerance: f64) -> Result<Self> {
        if low > 0.0 && low <= high && high.is_finite() {
            let high = high.max(low * MIN_RATIO);
            for levels in 1..=MAX_LEVELS {
                let coefficients = minimax(low, high, (1 << levels) - 1);
                let mut fitted = Self { low, high, coefficients, levels, max_relative_error: 0.0 };
                fitted.max_relative_error = measure(low, high, |x| fitted.evaluate(x), f64::sqrt);
                if fitted.max_relative_error <= tolerance {
                    return Ok(fitted);
                }
            }
        }
        let (function, levels) = ("inverse square root", MAX_LEVELS);
        Err(Error::Approximation { function, low, high, tolerance, levels })
    }

    /// The approximation at `x` (Clenshaw).
    #[must_use]
    pub fn evaluate(&self, x: f64) -> f64 {
        clenshaw(&self.coefficients, (2.0 * x - self.low - self.high) / (self.high - self.low))
    }
}

fn clenshaw(coefficients: &[f64], t: f64) -> f64 {
    let Some((first, rest)) = coefficients.split_first() else {
        return 0.0;
    };
    let (mut b1, mut b2) = (0.0, 0.0);
    for c in rest.iter().rev() {
        (b1, b2) = (c + 2.0 * t * b1 - b2, b1);
    }
    first + t * b1 - b2
}

/// Remez exchange for `p(x) √x ≈ 1`. The functions `√x T_j` satisfy the Haar condition on a positive interval, so the
/// optimum is the polynomial whose error alternates at `degree + 2` points, and the exchange converges to it. Returns
/// the best iterate, should rounding stop the exchange early.
fn minimax(low: f64, high: f64, degree: usize) -> Vec<f64> {
    let count = degree + 2;
    let to_x = |t: f64| (low + high + t * (high - low)) / 2.0;
    let grid = exchange_grid(low, high, count);
    let mut points: Vec<f64> =
        (0..count).map(|i| -(PI * i as f64 / (count - 1) as f64).cos()).collect();
    let mut best = (f64::INFINITY, vec![0.0; degree + 1]);
    for _ in 0..50 {
        let Some((coefficients, levelled)) = interpolate(&points, degree, &to_x) else { break };
        let error = |t: f64| clenshaw(&coefficients, t) * to_x(t).sqrt() - 1.0;
        let extrema = alternating_extrema(&grid, error);
        let worst = extrema.iter().fold(0.0, |m: f64, (_, e)| m.max(e.abs()));
        if worst < best.0 {
            best = (worst, coefficients);
        }
        if worst <= levelled.abs() * (1.0 + 1e-6) || extrema.len() < count {
            break;
        }
        points = strongest_window(extrema, count);
    }
    best.1
}

/// Points in [-1, 1], dense where alternation points can cluster: towards both ends, and geometrically towards `low`,
/// near which the function varies fastest.
fn exchange_grid(low: f64, high: f64, count: usize) -> Vec<f64> {
    let n = 48 * count;
    let mut grid: Vec<f64> = (0..=n)
        .flat_map(|i| {
            let at = i as f64 / n as f64;
            let geometric = low * (at * (high / low).ln()).exp();
            [-(PI * at).cos(), ((2.0 * geometric - low - high) / (high - low)).clamp(-1.0, 1.0)]
        })
        .collect();
    grid.sort_by(f64::total_cmp);
    grid.dedup();
    grid
}

/// Solves `Σ c_j T_j(t_i) √x_i + (-1)^i E = 1` at `degree + 2` points; `None` when the system is singular.
fn interpolate(
    points: &[f64],
    degree: usize,
    to_x: &impl Fn(f64) -> f64,
) -> Option<(Vec<f64>, f64)> {
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(points.len());
    for (i, &t) in points.iter().enumerate() {
        let root = to_x(t).sqrt();
        let (mut before, mut current) = (t, 1.0); // T_{-1} = T_1 = t
        let mut row = Vec::with_capacity(degree + 3);
        for _ in 0..=degree {
            row.push(current * root);
            (before, current) = (current, 2.0 * t * current - before);
        }
        row.push(if i % 2 == 0 { 1.0 } else { -1.0 });
        row.push(1.0);
        rows.push(row);
    }
    let mut solution = solve(rows)?;
    let levelled = solution.pop()?;
    Some((solution, levelled))
}

/// Gaussian elimination with partial pivoting on the augmented matrix `rows`.
fn solve(mut rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let n = rows.len();
    for column in 0..n {
        let pivot =
            (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()))?;
        rows.swap(column, pivot);
        let (above, below) = rows.split_at_mut(column + 1);
        let lead = &above[column];
        if lead[column].abs() < 1e-300 {
            return None;
        }
        for row in below {
            let factor = row[column] / lead[column];
            for (x, y) in row[column..].iter_mut().zip(&lead[column..]) {
                *x -= factor * y;
            }
        }
    }
    let mut solution = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| rows[i][j] * solution[j]).sum();
        solution[i] = (rows[i][n] - known) / rows[i][i];
    }
    solution.iter().all(|x| x.is_finite()).then_some(solution)
}

/// The largest error of every run of equal sign: (t, error), signs alternating.
fn alternating_extrema(grid: &[f64], error: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    let mut extrema: Vec<(f64, f64)> = Vec::new();
    for &t in grid {
        let e = error(t);
        match extrema.last_mut() {
            Some(last) if (last.1 < 0.0) == (e < 0.0) => {
                if e.abs() > last.1.abs() {
                    *last = (t, e);
                }
            }
            _ => extrema.push((t, e)),
        }
    }
    extrema
}

/// `count` neighbouring extrema: the weaker end is dropped until as many are left.
fn strongest_window(mut extrema: Vec<(f64, f64)>, count: usize) -> Vec<f64> {
    while extrema.len() > count {
        let first = extrema.first().map_or(0.0, |x| x.1.abs());
        let last = extrema.last().map_or(0.0, |x| x.1.abs());
        if first < last {
            extrema.remove(0);
        } else {
            extrema.pop();
        }
    }
    extrema.into_iter().map(|x| x.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_as_claimed_and_equioscillates() {
        for (low, high) in [(0.1, 0.2), (0.05, 3.0), (0.2, 20.0), (1e-3, 1.0), (1e-3, 3.0)] {
            for tolerance in [0.1, 1e-2, 1e-3] {
                let f = InverseSqrt::fit(low, high, tolerance).unwrap();
                assert_eq!(f.coefficients.len(), 1 << f.levels);
                assert!(f.max_relative_error <= tolerance);
                // An optimal polynomial of degree n touches ± its error n + 2 times (Chebyshev).
                let grid = exchange_grid(low, high, f.coefficients.len() + 1);
                let to_x = |t: f64| (low + high + t * (high - low)) / 2.0;
                let error = |t: f64| f.evaluate(to_x(t)) * to_x(t).sqrt() - 1.0;
                let extrema = alternating_extrema(&grid, error);
                assert!(extrema.len() > f.coefficients.len());
                let weakest = extrema.iter().fold(f64::INFINITY, |m, e| m.min(e.1.abs()));
                assert!(weakest > 0.99 * f.max_relative_error, "{low} {high} {tolerance}");
            }
        }
    }

    #[test]
    fn depths_match_the_design() {
        // The design's table: max/min 67 takes 5 levels for 1e-4, 6 for 4e-8; 750 takes 7 for 2e-5.
        assert_eq!(InverseSqrt::fit(1.0, 67.0, 1.3e-4).unwrap().levels, 5);
        assert_eq!(InverseSqrt::fit(1.0, 67.0, 5e-8).unwrap().levels, 6);
        assert_eq!(InverseSqrt::fit(1.0, 750.0, 2.5e-5).unwrap().levels, 7);
    }

    #[test]
    fn degree_one_agrees_with_a_hand_solution() {
        // On [1, 4] with e(x) = (a + b x) √x - 1: e(1) = e(4) forces a + b = 2a + 8b, so a = -7b. The interior
        // extremum is where a/2 + 3bx/2 = 0, x = 7/3. e(1) = -6b - 1 = -E and e(7/3) = -(14/3) b √(7/3) - 1 = E.
        let b = -2.0 / (6.0 + 14.0 / 3.0 * (7.0_f64 / 3.0).sqrt());
        let coefficients = minimax(1.0, 4.0, 1);
        // x = 2.5 + 1.5 t
        assert!((coefficients[0] - (-7.0 * b + 2.5 * b)).abs() < 1e-5);
        assert!((coefficients[1] - 1.5 * b).abs() < 1e-5);
    }

    #[test]
    fn unusable_intervals_are_refused_and_points_are_widened() {
        for (low, high) in [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (1.0, f64::NAN), (1e-12, 1e12)] {
            assert!(InverseSqrt::fit(low, high, 1e-2).is_err(), "{low} {high}");
        }
        let point = InverseSqrt::fit(0.25, 0.25, 1e-2).unwrap();
        assert!((point.evaluate(0.25) - 2.0).abs() < 1e-2);
        assert_eq!(point.levels, 1);
    }
}
