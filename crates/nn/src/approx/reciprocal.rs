//! `1/b` by relaxed Goldschmidt iteration.

use crate::approx::measure;
use crate::error::{Error, Result};

/// More factors than any tolerance on an interval that a trained model has.
const MAX_STEPS: usize = 16;

/// One factor of the product, and how the next one comes from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReciprocalStep {
    /// `1/α_i`: the factor is `z_i + offset`.
    pub offset: f64,
    /// `m_i`, a power of two, in `z_{i+1} = m_i z_i² + d_{i+1}`; 0 in the last step, which has no successor.
    pub multiplier: i64,
    /// `d_{i+1}`; 0 in the last step.
    pub next: f64,
}

/// Relaxed Goldschmidt reciprocal on `[e, 1]`, in the form that costs one squaring and one product a step.
///
/// Textbook: `b_0 = b` lies in `[e_0, 1]`, `e_0 = e`. With the relaxation `k_i = 2/(1 + e_i)` and `c_i = 1 - k_i b_i`,
/// multiplying by `k_i (1 + c_i)` gives `b_{i+1} = 1 - c_i²` in `[e_{i+1}, 1]`, `e_{i+1} = 4 e_i/(1 + e_i)²`. After r
/// factors `b_r` is within `[e_r, 1]`, and a last constant `k_r` centres it:
/// ```text
/// 1/b ≈ k_r · prod_{i<r} k_i (1 + c_i),   c_0 = 1 - k_0 b,   c_{i+1} = (1 - k_{i+1}) + k_{i+1} c_i²,
/// relative error (1 - e_r)/(1 + e_r).
/// ```
/// Multiplying a ciphertext by `k_{i+1}` would cost a level, so the constants move out of the recurrence: with
/// `c_i = α_i z_i` and `α_0 = -k_0`,
/// ```text
/// z_0 = b - 1/k_0,   z_{i+1} = m_i z_i² + d_{i+1},   α_{i+1} = k_{i+1} α_i²/m_i,   d_{i+1} = (1 - k_{i+1})/α_{i+1},
/// 1/b ≈ β · prod_{i<r} (z_i + 1/α_i),   β = k_r · prod_{i<r} k_i α_i.
/// ```
/// `m_i` is an integer power of two, free under encryption, chosen to keep every `|α_i|`, i > 0, as close to 1 as it
/// can: the `z_i` then have the size of the `c_i`, which are at most 1 in absolute value on all of `[0, 1]`.
///
/// Above 1 the iteration diverges; between 0 and e it is bounded and merely inaccurate. Depth: `z_i` sits i levels
/// down, so the product of r ≥ 2 factors, taken left to right, ends r levels down, and the first factor has one level
/// to spare (masks go there).
///
/// The relaxed step is the one of THOR (CCS 2025), where it is called aSOR.
#[derive(Clone, Debug, PartialEq)]
pub struct Reciprocal {
    /// e, the lower end of the interval; the upper end is 1.
    pub lower: f64,
    /// The factors in order.
    pub steps: Vec<ReciprocalStep>,
    /// `1/k_0`: `z_0 = b - first_shift`.
    pub first_shift: f64,
    /// Factor on the product; callers fold it into constants they multiply with anyway.
    pub beta: f64,
    /// Levels from `b` to the product.
    pub levels: usize,
    /// Largest relative error on `[lower, 1]`, measured on a dense grid in f64.
    pub max_relative_error: f64,
}

impl Reciprocal {
    /// The fewest steps (at least 2) whose relative error on `[lower, 1]` is at most `tolerance`.
    ///
    /// # Errors
    /// `Approximation` when 16 steps do not suffice or `lower` is not in (0, 1].
    pub fn fit(lower: f64, tolerance: f64) -> Result<Self> {
        if lower > 0.0 && lower <= 1.0 {
            for steps in 2..=MAX_STEPS {
                // The closed form decides whether a measurement is worth its time.
                let (_, end) = relaxations(lower, steps);
                if (1.0 - end) / (1.0 + end) > tolerance {
                    continue;
                }
                let candidate = Self::with_steps(lower, steps);
                if candidate.max_relative_error <= tolerance {
                    return Ok(candidate);
                }
            }
        }
        let function = "reciprocal";
        Err(Error::Approximation { function, low: lower, high: 1.0, tolerance, levels: MAX_STEPS })
    }

    fn with_steps(lower: f64, count: usize) -> Self {
        let (k, end) = relaxations(lower, count);
        let (_, multipliers) = choose_multipliers(-k[0], &k[1..count]);
        let mut alpha = -k[0];
        let mut beta = 2.0 / (1.0 + end);
        let mut steps = Vec::with_capacity(count);
        for i in 0..count {
            beta *= k[i] * alpha;
            let offset = 1.0 / alpha;
            let Some(&multiplier) = multipliers.get(i) else {
                steps.push(ReciprocalStep { offset, multiplier: 0, next: 0.0 });
                break;
            };
            alpha = k[i + 1] * alpha * alpha / multiplier as f64;
            let next = (1.0 - k[i + 1]) / alpha;
            steps.push(ReciprocalStep { offset, multiplier, next });
        }
        let mut fitted = Self {
            lower,
            steps,
            first_shift: 1.0 / k[0],
            beta,
            levels: count,
            max_relative_error: 0.0,
        };
        fitted.max_relative_error = measure(lower, 1.0, |b| fitted.evaluate(b), |b| b);
        fitted
    }

    /// The approximation at `b`, computed in exactly the form of the encrypted circuit.
    #[must_use]
    pub fn evaluate(&self, b: f64) -> f64 {
        let mut z = b - self.first_shift;
        let mut product = self.beta;
        for step in &self.steps {
            product *= z + step.offset;
            z = step.multiplier as f64 * z * z + step.next;
        }
        product
    }
}

/// `k_0 .. k_{count-1}` and `e_count`.
fn relaxations(lower: f64, count: usize) -> (Vec<f64>, f64) {
    let mut e = lower;
    let mut k = Vec::with_capacity(count);
    for _ in 0..count {
        k.push(2.0 / (1.0 + e));
        e = 4.0 * e / ((1.0 + e) * (1.0 + e));
    }
    (k, e)
}

/// The multipliers, one per entry of `k` = `k_1 ..`, that minimise the largest `|log2 α_i|`, and that minimum. Greedy
/// rounding is not enough: an α a little below 1 squares itself away from 1 with no integer to bring it back. The
/// search tries both neighbouring powers of two, at most 2^15 leaves.
fn choose_multipliers(alpha: f64, k: &[f64]) -> (f64, Vec<i64>) {
    let Some((first, rest)) = k.split_first() else {
        return (0.0, Vec::new());
    };
    let target = first * alpha * alpha;
    let floor = target.log2().floor().max(0.0) as u32;
    let candidates = [floor, floor + 1].map(|exponent| {
        let multiplier = 1_i64 << exponent;
        let next = target / multiplier as f64;
        let (worst, mut tail) = choose_multipliers(next, rest);
        tail.insert(0, multiplier);
        (worst.max(next.log2().abs()), tail)
    });
    let [low, high] = candidates;
    if low.0 <= high.0 { low } else { high }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook recurrence on b itself, with the same relaxations, written independently of the z form.
    fn textbook(b: f64, lower: f64, steps: usize) -> f64 {
        let (mut b, mut e, mut y) = (b, lower, 1.0);
        for _ in 0..steps {
            let k = 2.0 / (1.0 + e);
            let factor = k * (2.0 - k * b);
            y *= factor;
            b *= factor;
            e = 1.0 - ((1.0 - e) / (1.0 + e)).powi(2);
        }
        y * 2.0 / (1.0 + e)
    }

    fn grid() -> impl Iterator<Item = f64> {
        (0..=2000).map(|i| f64::from(i) / 2000.0)
    }

    #[test]
    fn the_z_form_is_the_textbook_recurrence_and_keeps_its_claim() {
        for lower in [0.3, 0.05, 1e-2, 3e-3, 1e-3, 1e-4] {
            for tolerance in [0.1, 1e-2, 1e-4, 1e-6] {
                let r = Reciprocal::fit(lower, tolerance).unwrap();
                assert!(r.max_relative_error <= tolerance);
                for b in grid().filter(|b| *b >= lower) {
                    let want = textbook(b, lower, r.steps.len());
                    // Both are products of r factors of at most 4 ulp-sized cancellation each.
                    assert!((r.evaluate(b) - want).abs() <= 1e-11 * want, "{lower} {b}");
                    assert!(
                        (r.evaluate(b) * b - 1.0).abs() <= r.max_relative_error * 1.001 + 1e-12
                    );
                }
            }
        }
    }

    #[test]
    fn steps_match_the_published_depths() {
        // The design's table: 1e-2 needs 5 levels for 6e-3, 1e-3 needs 7 for 1e-3.
        assert_eq!(Reciprocal::fit(1e-2, 6e-3).unwrap().levels, 5);
        assert_eq!(Reciprocal::fit(1e-3, 1e-3).unwrap().levels, 7);
        assert!(Reciprocal::fit(1e-30, 1e-2).is_err());
        assert!(Reciprocal::fit(0.0, 1e-2).is_err());
        assert!(Reciprocal::fit(1.5, 1e-2).is_err());
    }

    #[test]
    fn alphas_stay_near_one_and_multipliers_are_powers_of_two() {
        for lower in [0.5, 0.1, 7e-3, 2e-3, 1e-4, 1e-5] {
            let r = Reciprocal::fit(lower, 1e-2).unwrap();
            for (i, step) in r.steps.iter().enumerate() {
                let alpha = 1.0 / step.offset;
                if i > 0 {
                    assert!((0.6..1.7).contains(&alpha), "{lower}: alpha_{i} = {alpha}");
                }
                let last = i + 1 == r.steps.len();
                assert_eq!(step.multiplier == 0, last);
                assert!(last || (step.multiplier as u64).is_power_of_two());
            }
        }
    }

    #[test]
    fn nothing_diverges_between_zero_and_one() {
        for lower in [0.2, 1e-2, 1e-3] {
            let r = Reciprocal::fit(lower, 1e-2).unwrap();
            let at_zero = r.evaluate(0.0);
            for b in grid() {
                let y = r.evaluate(b);
                // Below the interval the product climbs to its value at 0, prod 2 k_i, and never beyond.
                assert!(y > 0.0 && y <= at_zero * (1.0 + 1e-12), "{lower} {b} {y}");
                let mut z = b - r.first_shift;
                for step in &r.steps {
                    assert!((z / step.offset).abs() <= 1.0 + 1e-12, "|c| <= 1 at b = {b}");
                    z = step.multiplier as f64 * z * z + step.next;
                }
            }
            assert!(at_zero.is_finite() && at_zero < 20.0 / lower);
        }
    }
}
