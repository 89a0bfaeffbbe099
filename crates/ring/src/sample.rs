//! Random polynomials: uniform from a seed, ternary secrets, Gaussian errors.

use crate::basis::Limbs;
use crate::error::{Error, Result};
use crate::modulus::Modulus;
use crate::poly::{RingPoly, build};
use crate::ring::Ring;
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, Rng, SeedableRng};
use std::fmt;
use std::sync::Arc;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Standard deviation of [`gaussian`], that of the homomorphic encryption standard.
pub const SIGMA: f64 = 3.2;

/// log2 of the 32-bit words of a stream that are set aside for each prime.
const WORDS_PER_PRIME: u32 = 40;

/// A polynomial with uniform residues, the same for the same seed on every device.
///
/// The limb of the prime with index i in the basis is filled from ChaCha20 with key `seed` and stream `domain`,
/// starting at 32-bit word `i·2^40`: eight little-endian bytes at a time, cut to the prime's bit length, those not
/// below the prime skipped. A limb's words therefore do not depend on which other limbs are sampled. The words
/// are taken as they are in NTT order.
///
/// # Errors
/// `LimbMismatch` if the basis has no such limbs.
pub fn uniform(ring: &Arc<Ring>, limbs: Limbs, seed: &[u8; 32], domain: u64) -> Result<RingPoly> {
    ring.basis().check_limbs("uniform", limbs)?;
    let data = build(ring, limbs, ring.n(), |row, words| {
        let index = ring.basis().prime_index(limbs, row);
        fill_uniform(&ring.basis().moduli()[index], index, seed, domain, words);
    })?;
    Ok(RingPoly::from_parts(ring.clone(), limbs, data))
}

fn fill_uniform(m: &Modulus, index: usize, seed: &[u8; 32], domain: u64, words: &mut [u64]) {
    let mut stream = ChaCha20Rng::from_seed(*seed);
    stream.set_stream(domain);
    stream.set_word_pos((index as u128) << WORDS_PER_PRIME);
    let mask = (1u64 << m.bits()) - 1;
    // In pieces: the cipher is several times faster on long requests.
    let mut bytes = [0u8; 2048];
    let mut filled = 0;
    while filled < words.len() {
        stream.fill_bytes(&mut bytes);
        for &candidate in bytes.as_chunks::<8>().0 {
            let candidate = u64::from_le_bytes(candidate) & mask;
            let Some(word) = words.get_mut(filled) else { return };
            // A rejected candidate is overwritten by the next: no branch on random bits.
            *word = candidate;
            filled += usize::from(candidate < m.value());
        }
    }
}

/// The small signed coefficients of a secret or an error. Zeroised when dropped, shows no content.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SmallPoly {
    coefficients: Vec<i64>,
}

impl fmt::Debug for SmallPoly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SmallPoly({} coefficients)", self.coefficients.len())
    }
}

impl SmallPoly {
    /// A small polynomial with given coefficients.
    #[must_use]
    pub fn from_coefficients(coefficients: Vec<i64>) -> Self {
        Self { coefficients }
    }

    /// The coefficients.
    ///
    /// # Security
    /// These are the secret: whoever copies them has to wipe the copy.
    #[must_use]
    pub fn coefficients(&self) -> &[i64] {
        &self.coefficients
    }

    /// The polynomial modulo the primes of `limbs`, in NTT order. Cost: one transform a limb.
    ///
    /// # Errors
    /// `LengthMismatch` if made for another degree; `LimbMismatch`.
    pub fn to_ntt(&self, ring: &Arc<Ring>, limbs: Limbs) -> Result<RingPoly> {
        RingPoly::from_i64(ring, limbs, &self.coefficients)?.into_ntt()
    }
}

/// Coefficients that are -1, 0 or 1 with probability 1/3 each.
pub fn ternary(ring: &Ring, rng: &mut (impl CryptoRng + ?Sized)) -> SmallPoly {
    ternary_of_degree(ring.n(), rng)
}

/// As [`ternary`], with `n` coefficients whatever the degree of a ring is: for a secret in a subring.
pub fn ternary_of_degree(n: usize, rng: &mut (impl CryptoRng + ?Sized)) -> SmallPoly {
    SmallPoly { coefficients: ternary_vec(n, rng) }
}

/// Exactly `weight` coefficients are -1 or 1, the others 0; every such polynomial is equally likely.
///
/// Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S): coefficient i is chosen with
/// probability (still to choose) / (still to come). Neither branches nor addresses depend on what is chosen.
///
/// # Errors
/// `LengthMismatch` if the weight is above the degree.
pub fn ternary_of_weight(
    ring: &Ring,
    weight: usize,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<SmallPoly> {
    Ok(SmallPoly { coefficients: weighted_vec(ring.n(), weight, rng)? })
}

/// Coefficients of the discrete Gaussian with standard deviation [`SIGMA`], sampled in constant time.
pub fn gaussian(ring: &Ring, rng: &mut (impl CryptoRng + ?Sized)) -> SmallPoly {
    SmallPoly { coefficients: gaussian_vec(ring.n(), rng) }
}

fn ternary_vec(n: usize, rng: &mut (impl CryptoRng + ?Sized)) -> Vec<i64> {
    let one = |_| {
        // Two random bits, the value 3 rejected: how often says nothing about what is kept.
        loop {
            let bits = rng.next_u32() & 3;
            if bits < 3 {
                break bits as i64 - 1;
            }
        }
    };
    (0..n).map(one).collect()
}

fn weighted_vec(n: usize, weight: usize, rng: &mut (impl CryptoRng + ?Sized)) -> Result<Vec<i64>> {
    if weight > n {
        let what = "weight of a ternary polynomial (at most the degree)";
        return Err(Error::LengthMismatch { what, expected: n, got: weight });
    }
    let mut missing = weight as u64;
    let one = |i: usize| {
        let remaining = (n - i) as u64;
        let mask = remaining.next_power_of_two() - 1;
        // Uniform below `remaining`, by rejection; the top bit, which the mask leaves out, is the sign.
        let (draw, sign) = loop {
            let random = rng.next_u64();
            if random & mask < remaining {
                break (random & mask, (random >> 63) as i64);
            }
        };
        let chosen = u64::from(draw < missing);
        missing -= chosen;
        chosen as i64 * (1 - 2 * sign)
    };
    Ok((0..n).map(one).collect())
}

fn gaussian_vec(n: usize, rng: &mut (impl CryptoRng + ?Sized)) -> Vec<i64> {
    (0..n).map(|_| gaussian_one(rng.next_u64())).collect()
}

/// `round(2^63 · P(|X| <= k))`, k = 0, 1, ...: printed by tests/testdata/gaussian.py.
const THRESHOLDS: [u64; 29] = [
    1_149_872_835_429_266_008,
    3_340_023_666_152_832_878,
    5_231_742_854_224_525_755,
    6_713_673_034_491_318_534,
    7_766_573_326_200_196_559,
    8_445_050_402_542_556_634,
    8_841_576_285_654_612_683,
    9_051_758_678_878_186_096,
    9_152_802_451_769_415_979,
    9_196_859_074_767_746_705,
    9_214_281_206_174_004_120,
    9_220_529_764_022_708_441,
    9_222_562_339_745_873_206,
    9_223_161_995_634_596_964,
    9_223_322_447_917_711_088,
    9_223_361_386_320_111_733,
    9_223_369_956_674_611_012,
    9_223_371_667_508_612_691,
    9_223_371_977_254_386_295,
    9_223_372_028_116_140_532,
    9_223_372_035_690_845_298,
    9_223_372_036_713_969_870,
    9_223_372_036_839_307_001,
    9_223_372_036_853_232_778,
    9_223_372_036_854_636_068,
    9_223_372_036_854_764_320,
    9_223_372_036_854_774_951,
    9_223_372_036_854_775_750,
    9_223_372_036_854_775_804,
];

/// One sample from 64 random bits: a sign and the number of thresholds that 63 bits reach (cumulative table
/// look-up). The table is read to its end every time and nothing branches on the randomness. The distribution is
/// within 2^-63 of the discrete Gaussian in every point, |x| at most 29.
fn gaussian_one(random: u64) -> i64 {
    let uniform = random >> 1;
    let magnitude: i64 = THRESHOLDS.iter().map(|&t| i64::from(uniform >= t)).sum();
    let sign = -((random & 1) as i64);
    (magnitude ^ sign) - sign
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::from_seed([7; 32])
    }

    #[test]
    fn gaussian_has_the_wanted_moments() {
        // 2^18 samples: the standard error of the mean is 3.2/512, of the variance 10.24·sqrt(2)/512; 5 of each.
        let n = 1 << 18;
        let sample = gaussian_vec(n, &mut rng());
        let mean = sample.iter().sum::<i64>() as f64 / n as f64;
        let variance = sample.iter().map(|&x| (x * x) as f64).sum::<f64>() / n as f64;
        assert!(mean.abs() < 5.0 * 3.2 / 512.0, "{mean}");
        assert!((variance - SIGMA * SIGMA).abs() < 5.0 * 14.5 / 512.0, "{variance}");
    }

    #[test]
    fn gaussian_uses_both_signs_and_every_threshold() {
        assert_eq!(gaussian_one(0), 0);
        assert_eq!(gaussian_one(1), 0);
        assert_eq!(gaussian_one(u64::MAX), -(29));
        assert_eq!(gaussian_one(u64::MAX - 1), 29);
        for (k, &t) in THRESHOLDS.iter().enumerate() {
            assert_eq!(gaussian_one(2 * t), k as i64 + 1);
            assert_eq!(gaussian_one(2 * t - 1), -(k as i64));
        }
        assert!(THRESHOLDS.is_sorted() && THRESHOLDS[28] < 1 << 63);
    }

    #[test]
    fn weighted_is_exact_and_uniform() {
        let (n, weight, rounds) = (64, 16, 1 << 12);
        let mut rng = rng();
        let (mut positions, mut signs) = (vec![0; n], 0);
        for _ in 0..rounds {
            let sample = weighted_vec(n, weight, &mut rng).unwrap();
            assert_eq!(sample.iter().map(|x| x.abs()).sum::<i64>(), weight as i64);
            assert!(sample.iter().all(|x| x.abs() <= 1));
            positions.iter_mut().zip(&sample).for_each(|(sum, x)| *sum += x.abs());
            signs += sample.iter().sum::<i64>();
        }
        // A position's count is binomial with n = 2^12, p = 1/4: deviation 27.7; of 64 positions none is 5 off. The sum
        // of 2^16 signs has deviation 2^8.
        for (i, &count) in positions.iter().enumerate() {
            assert!((count as f64 - 1024.0).abs() < 5.0 * 27.8, "{i}: {count}");
        }
        assert!(signs.abs() < 5 << 8, "{signs}");
        for (weight, fits) in [(0, true), (n, true), (n + 1, false)] {
            assert_eq!(weighted_vec(n, weight, &mut rng).is_ok(), fits);
        }
    }

    #[test]
    fn ternary_is_balanced() {
        // Counts are binomial with n = 3·2^16, p = 1/3: deviation 209; 5 of them.
        let n = 3 << 16;
        let sample = ternary_vec(n, &mut rng());
        for value in -1..=1 {
            let count = sample.iter().filter(|&&x| x == value).count() as f64;
            assert!((count - 65536.0).abs() < 5.0 * 209.0, "{value}: {count}");
        }
    }
}
