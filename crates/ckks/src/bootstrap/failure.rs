//! How likely a bootstrap fails: the exact distribution of what raising the modulus adds.
//!
//! Raising the modulus from q_0 turns c_0 + c_1 s = m modulo q_0 into m + q_0 I over the integers, with c_0 and the
//! coefficients of c_1 centred modulo q_0. A coefficient of c_1 s is a signed sum of h coefficients of c_1, h the weight
//! of s; these are uniform, so with u_1, .., u_h uniform on (-1/2, 1/2), I = round(u_1 + .. + u_h - m / q_0). The
//! modular reduction covers |I| <= K. The union bound over n coefficients of 2 P(u_1 + .. + u_h > K + 1/2 - d), where d covers
//! |m| / q_0 and that q_0 is discrete, bounds the probability that any I is larger.

use crate::params::BootstrappingLiteral;

/// Covers that q_0 is discrete, and |m| / q_0 for every R of 2^9 and more.
const SHIFT: f64 = 1.0 / 256.0;

/// log2 of the probability that one bootstrap fails in any coefficient; minus infinity if it cannot. For |m| up to q_0 / R
/// and a hundredth more, for noise and correction.
pub(crate) fn failure_log2(n: usize, set: &BootstrappingLiteral, log2_ratio: u32) -> f64 {
    let threshold = f64::from(set.overflow_bound) + 0.5 - SHIFT.max(message(log2_ratio));
    1.0 + (n as f64).log2() + upper_tail_log2(set.ephemeral_weight, threshold)
}

/// Bound of |m| / q_0 for slots within their bound: 1 / R, and a hundredth more.
pub(super) fn message(log2_ratio: u32) -> f64 {
    1.01 / f64::from(log2_ratio).exp2()
}

/// P(|I| = k): how often a multiple is met.
pub(crate) fn overflow_probability(h: u32, k: u32) -> f64 {
    let above = |t: f64| upper_tail_log2(h, t).exp2();
    let k = f64::from(k);
    if k == 0.0 { 1.0 - 2.0 * above(0.5) } else { 2.0 * (above(k - 0.5) - above(k + 0.5)) }
}

/// log2 P(u_1 + .. + u_h > t) for h independent uniforms on (-1/2, 1/2).
///
/// By symmetry the lower tail F_h(y) of the Irwin-Hall distribution at y = h/2 - t. With its density f,
/// f_(h+1)(x) = F_h(x) - F_h(x - 1), so F_h(y) = sum over k of f_(h+1)(y - k); and
/// (m - 1) f_m(x) = x f_(m-1)(x) + (m - x) f_(m-1)(x - 1). Nothing here is ever subtracted from something of its size,
/// unlike in the usual alternating sum: the result is good to a few dozen units in the last place.
fn upper_tail_log2(h: u32, t: f64) -> f64 {
    let y = f64::from(h) / 2.0 - t;
    if y <= 0.0 {
        return f64::NEG_INFINITY;
    }
    // density[k] is f_m(y - k).
    let steps = y.floor() as usize + 1;
    let mut density: Vec<f64> = (0..steps).map(|k| f64::from(y - (k as f64) < 1.0)).collect();
    for m in 2..=h + 1 {
        for k in 0..steps {
            let x = y - k as f64;
            let here = density.get(k).copied().unwrap_or(0.0);
            let below = density.get(k + 1).copied().unwrap_or(0.0);
            if let Some(value) = density.get_mut(k) {
                // Beyond its support a density is zero; the weight m - x would be negative there.
                *value = (x * here + (f64::from(m) - x).max(0.0) * below) / f64::from(m - 1);
            }
        }
    }
    density.iter().sum::<f64>().log2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    #[test]
    fn published_values() {
        // design/parameters: exact rational arithmetic (failprob.py), n = 2^16, h = 32, by K; and h = 24 and 192.
        let by_k = [
            (5, 5.4),
            (6, 1.6),
            (7, -2.8),
            (8, -8.1),
            (9, -14.5),
            (10, -22.0),
            (11, -31.2),
            (12, -42.8),
            (13, -58.3),
            (14, -81.8),
            (15, -132.3),
        ];
        let mut set = presets::literal("boot16").unwrap().bootstrapping.unwrap();
        let mut check = |h, k, want: f64| {
            set.ephemeral_weight = h;
            set.overflow_bound = k;
            let got = failure_log2(1 << 16, &set, 11);
            assert!((got - want).abs() < 0.051, "h = {h}, K = {k}: {got}");
        };
        for (k, want) in by_k {
            check(32, k, want);
        }
        check(24, 10, -47.9);
        check(192, 25, -17.0);
        set.ephemeral_weight = 32;
        set.overflow_bound = 16;
        assert!(failure_log2(1 << 16, &set, 11).is_infinite());
    }

    #[test]
    fn small_cases_by_hand() {
        // One uniform above 1/4; two uniforms above 1/2: a triangle of area 1/8.
        assert!((upper_tail_log2(1, 0.25) + 2.0).abs() < 1e-14);
        assert!((upper_tail_log2(2, 0.5) + 3.0).abs() < 1e-14);
        // Three uniforms above 1/2: a mirror image of P(sum of three in (0, 1) < 1) = 1/6.
        assert!((upper_tail_log2(3, 0.5).exp2() - 1.0 / 6.0).abs() < 1e-14);
    }

    #[test]
    fn the_secure_sets_cannot_fail_in_practice() {
        for (name, want) in [("boot16", -132.3), ("boot16_deep", -132.3), ("boot15", -133.3)] {
            let params = presets::get(name).unwrap();
            let got = failure_log2(params.n(), params.bootstrapping().unwrap(), 11);
            assert!((got - want).abs() < 0.051, "{name}: {got}");
        }
        // A smaller R leaves less room; still enough at the smallest in use.
        let params = presets::get("boot16_hp").unwrap();
        let got = failure_log2(params.n(), params.bootstrapping().unwrap(), 6);
        assert!((-132.3..-131.0).contains(&got), "{got}");
        let mut literal = presets::literal("boot16").unwrap();
        literal.bootstrapping.as_mut().unwrap().overflow_bound = 14;
        let error = literal.check().unwrap_err();
        assert!(error.to_string().contains("2^-81.5"), "{error}");
    }
}
