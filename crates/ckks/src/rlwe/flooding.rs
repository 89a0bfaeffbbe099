//! Discrete Gaussians far wider than the errors of keys and ciphertexts.

use cipherform_ring::{Ring, sample};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// A deviation at which a Gaussian over the integers is smooth up to 2^-64: the smoothing parameter
/// sqrt(ln(2 + 2 / epsilon) / pi) of Micciancio and Regev, divided by sqrt(2 pi) as deviations are.
const SMOOTH: f64 = 1.512;

/// How a wide Gaussian is put together from [`sample::gaussian`], whose samples are taken in constant time.
///
/// If x_1 and x_2 are discrete Gaussians of deviations s_1 and s_2, then x_1 + z x_2 is one of deviation
/// sqrt(s_1^2 + z^2 s_2^2) up to 2^-64, as long as the Gaussian of deviation (s_1^-2 + (z s_2)^-2)^(-1/2) is smooth over
/// the multiples of z (Micciancio and Peikert, ePrint 2013/069, theorem 3.3; used like this by Micciancio and Walter,
/// ePrint 2017/259). Level k + 1 is x_1 + z_k x_2 of two samples of level k with the largest such z: deviations grow from
/// 3.2 to 4.5, 10, 42, 8e2, 3e5, 4e10.
#[derive(Debug)]
pub(crate) struct WideGaussian {
    /// z of every level above 0.
    factors: Vec<i64>,
    /// A multiple of a sample of a lower level that brings the sum to the deviation asked for.
    last: Option<(i64, usize)>,
}

fn combined(s1: f64, z: f64, s2: f64) -> f64 {
    s1.hypot(z * s2)
}

fn is_smooth(s1: f64, z: f64, s2: f64) -> bool {
    s1 * z * s2 / combined(s1, z, s2) >= z * SMOOTH
}

/// Widest deviation: samples stay far below 2^63.
const STD_MAX: f64 = (1u64 << 50) as f64;

impl WideGaussian {
    /// Of at least the deviation `std`, above it by little; [`sample::SIGMA`] if that is larger. None unless `std` is a number
    /// from 0 to 2^50.
    pub(crate) fn new(std: f64) -> Option<Self> {
        if !(0.0..=STD_MAX).contains(&std) {
            return None;
        }
        let mut levels = vec![sample::SIGMA];
        let mut factors = Vec::new();
        let mut top = sample::SIGMA;
        loop {
            // From zero on the condition holds, and holds less and less.
            let limit = (top / (std::f64::consts::SQRT_2 * SMOOTH)).floor();
            let next = combined(top, limit, top);
            if next > std {
                break;
            }
            factors.push(limit as i64);
            levels.push(next);
            top = next;
        }
        let missing = (std * std - top * top).max(0.0).sqrt();
        // The lowest level that may be used: its multiples are the finest steps.
        let last = levels.iter().enumerate().find_map(|(level, &s)| {
            let z = (missing / s).ceil();
            (z > 0.0 && is_smooth(top, z, s)).then_some((z as i64, level))
        });
        Some(Self { factors, last })
    }

    /// One sample for each coefficient. Which words are drawn and combined depends on the deviation alone.
    pub(crate) fn sample<R: CryptoRng + ?Sized>(
        &self,
        ring: &Ring,
        rng: &mut R,
    ) -> Zeroizing<Vec<i64>> {
        let mut sum = self.level(self.factors.len(), ring, rng);
        if let Some((z, level)) = self.last {
            add_multiple(&mut sum, z, &self.level(level, ring, rng));
        }
        sum
    }

    fn level<R: CryptoRng + ?Sized>(
        &self,
        level: usize,
        ring: &Ring,
        rng: &mut R,
    ) -> Zeroizing<Vec<i64>> {
        match level.checked_sub(1).and_then(|below| Some((below, *self.factors.get(below)?))) {
            None => Zeroizing::new(sample::gaussian(ring, rng).coefficients().to_vec()),
            Some((below, z)) => {
                let mut sum = self.level(below, ring, rng);
                add_multiple(&mut sum, z, &self.level(below, ring, rng));
                sum
            }
        }
    }
}

/// `sum += z x`.
///
/// No overflow: a sample of the narrow Gaussian is at most 9 deviations, and a sum of extreme samples exceeds the extreme of one
/// of its deviation by (1 + z) / sqrt(1 + z^2). For z = 1, 2, 4, 19, .. that makes 22 deviations, for the last multiple at most
/// sqrt 2 times as many: 31 times 2^50.
fn add_multiple(sum: &mut [i64], z: i64, x: &[i64]) {
    for (s, &x) in sum.iter_mut().zip(x) {
        *s += z * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl WideGaussian {
        /// The deviation, by the formula of the sum.
        pub(in crate::rlwe) fn std(&self) -> f64 {
            let mut levels = vec![sample::SIGMA];
            for (i, &z) in self.factors.iter().enumerate() {
                levels.push(combined(levels[i], z as f64, levels[i]));
            }
            let top = levels[self.factors.len()];
            self.last.map_or(top, |(z, level)| combined(top, z as f64, levels[level]))
        }
    }
    use cipherform_ring::{Device, RnsBasis};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn any_deviation_is_met_and_hardly_exceeded() {
        for i in 0..=500 {
            let want = (f64::from(i) / 10.0).exp2();
            let plan = WideGaussian::new(want).unwrap();
            assert!(plan.std() >= want && plan.std() >= sample::SIGMA);
            // The last multiple is an integer, and a small one while deviations are small.
            let limit = [(100.0, 1.6), (1e3, 1.15), (f64::INFINITY, 1.05)];
            let limit = limit.into_iter().find(|(below, _)| want < *below).unwrap().1;
            let excess = plan.std() / want.max(sample::SIGMA);
            assert!(excess < limit, "{want}: {excess}");
            let mut s = sample::SIGMA;
            for &z in &plan.factors {
                assert!(is_smooth(s, z as f64, s), "{want}");
                s = combined(s, z as f64, s);
            }
        }
    }

    #[test]
    fn what_is_no_deviation_is_refused() {
        for std in [f64::NAN, f64::INFINITY, -1.0, f64::NEG_INFINITY, 2f64.powi(50) * 1.001] {
            assert!(WideGaussian::new(std).is_none(), "{std}");
        }
    }

    #[test]
    fn extremes_fit_words() {
        // The largest sum there can be, if every narrow sample is at its extreme of 9 deviations.
        for i in 0..=500 {
            let plan = WideGaussian::new((f64::from(i) / 10.0).exp2()).unwrap();
            let mut extremes = vec![9.0 * sample::SIGMA];
            for (level, &z) in plan.factors.iter().enumerate() {
                extremes.push(extremes[level] * (1.0 + z as f64));
            }
            let top = extremes[plan.factors.len()];
            let sum = plan.last.map_or(top, |(z, level)| top + z as f64 * extremes[level]);
            assert!(sum <= 31.2 * plan.std() && sum < 2f64.powi(62), "{i}: {sum:e}");
        }
    }

    #[test]
    fn moments_and_residues_are_those_of_a_gaussian() {
        let n = 1 << 14;
        let ring = cipherform_ring::Ring::new(
            RnsBasis::new(n, &[65_537], &[786_433], &[1]).unwrap(),
            &Device::reference(),
        )
        .unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        for std in [3.2, 20.0, 1e4, 3e9, 2f64.powi(49)] {
            let plan = WideGaussian::new(std).unwrap();
            let x = plan.sample(&ring, &mut rng);
            let moment =
                |k: i32| x.iter().map(|&v| (v as f64 / plan.std()).powi(k)).sum::<f64>() / n as f64;
            // Relative to the deviation, moments 1 to 4 scatter by sqrt(1, 2, 15, 96) / 128; five of those.
            for (k, want, scatter) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
            {
                let tolerance = 5.0 * f64::sqrt(scatter) / 128.0;
                assert!((moment(k) - want).abs() < tolerance, "{std:e}, {k}: {}", moment(k));
            }
            // A sum with a factor that is too large would miss residues: each of 5 has 3277 +- 51.
            for r in 0..5 {
                let count = x.iter().filter(|v| v.rem_euclid(5) == r).count() as f64;
                assert!((count - n as f64 / 5.0).abs() < 5.0 * 51.0, "{std:e}, {r}: {count}");
            }
        }
    }
}
