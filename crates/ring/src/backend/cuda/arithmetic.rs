//! What kernels compute with: FP64 units, or integer units where those are few. The same primes, the same words.

use super::abi::{Lazy, Prime};
use crate::error::{Error, Result};
use crate::modulus::Modulus;

/// The arithmetic of a card's kernels: field.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Fp64,
    Integer,
}

impl Arithmetic {
    /// For reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fp64 => "FP64 arithmetic",
            Self::Integer => "integer arithmetic",
        }
    }

    /// A number of absolute value below 2^53.
    pub(super) fn lazy(self, value: i64) -> Lazy {
        match self {
            Self::Fp64 => Lazy((value as f64).to_bits()),
            Self::Integer => Lazy(value.cast_unsigned()),
        }
    }

    /// The representative of smallest absolute value.
    pub(super) fn centred(self, value: u64, m: &Modulus) -> Lazy {
        self.lazy(centred(value, m))
    }

    /// `Operand`s of the kernels' sums of products, from centred residues: the 25-bit halves of each, low half first, or
    /// the numbers as they are.
    pub(super) fn operands(self, values: &[i64]) -> Vec<Lazy> {
        let halves = |&value: &i64| {
            let high = (value + (1 << 24)) >> 25;
            [value - (high << 25), high]
        };
        match self {
            Self::Fp64 => values.iter().flat_map(halves).map(|half| self.lazy(half)).collect(),
            Self::Integer => values.iter().map(|&value| self.lazy(value)).collect(),
        }
    }

    /// What kernels know of a prime.
    pub(super) fn prime(self, m: &Modulus) -> Result<Prime> {
        let (p, bits) = (m.value(), m.bits());
        let power_over_p = |exponent: u32| ((1u128 << exponent) / u128::from(p)) as u64;
        let (p_inv, last) = match self {
            Self::Fp64 => {
                (Lazy((1.0 / p as f64).to_bits()), self.centred(m.reduce_u64(1 << 25), m))
            }
            Self::Integer if bits < 5 => {
                let detail = format!("prime {p}: integer kernels take primes above 16");
                return Err(Error::InvalidBasis { detail });
            }
            Self::Integer => (Lazy(power_over_p(bits + 60)), Lazy((p >> (bits - 4)) / 2 + 1)),
        };
        let ratio = power_over_p(bits + 50);
        Ok(Prime { p: self.lazy(p.cast_signed()), p_inv, word: p, ratio, bits, unused: 0, last })
    }
}

/// The representative of smallest absolute value.
pub(super) fn centred(value: u64, m: &Modulus) -> i64 {
    if value > m.value() / 2 { -(m.value() - value).cast_signed() } else { value.cast_signed() }
}

#[cfg(test)]
mod tests {
    use super::{Arithmetic, centred};
    use crate::modulus::Modulus;

    #[test]
    fn halves_are_small_and_make_up_the_number() {
        let m = Modulus::new((1 << 50) - 27).unwrap();
        for value in [0, 1, m.value() / 2, m.value() / 2 + 1, m.value() - 1, 1 << 24, 3 << 24] {
            let whole = centred(value, &m);
            let [low, high] = Arithmetic::Fp64.operands(&[whole])[..] else { panic!("two halves") };
            let [low, high] = [low, high].map(|half| f64::from_bits(half.0));
            assert!(low.abs() <= 16_777_216.0 && high.abs() <= 16_777_216.0);
            assert_eq!(high as i64 * (1 << 25) + low as i64, whole);
        }
    }

    /// The quotients of integer.cuh, with 128-bit integers: remainders stay within the bounds stated there, at the largest
    /// operands that are stated.
    #[test]
    fn integer_remainders_stay_within_their_bounds() {
        let primes = [17, 97, (1 << 28) - 57, (1 << 40) - 87, (1 << 49) + 69, (1 << 50) - 27];
        for p in primes.map(|p| Modulus::new(p).unwrap()) {
            let prime = Arithmetic::Integer.prime(&p).unwrap();
            let [modulus, inverse, half] = [prime.p, prime.p_inv, prime.last].map(|l| l.0 as i128);
            let shift = p.bits() - 4;
            let largest = modulus * modulus * 32;
            let steps = (-1000..=1000).map(|i| largest / 1000 * i);
            for sum in steps.flat_map(|sum| [sum - 1, sum, sum + 1, sum / modulus * modulus]) {
                let q = (((sum >> shift) + half) * inverse) >> 64;
                let rest = sum - q * modulus;
                assert!(rest.abs() * 100 <= modulus * 66, "{sum} mod {modulus}: {rest}");
            }
            for x in (-1000..=1000).map(|i| (1i128 << 60) / 1000 * i) {
                let q = (((x + modulus / 2) * inverse) >> 64) >> shift;
                let rest = x - q * modulus;
                assert!(rest.abs() <= modulus / 2 + 1, "{x} mod {modulus}: {rest}");
            }
        }
    }
}
