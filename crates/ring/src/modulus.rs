//! Scalar arithmetic modulo one prime below 2^50.

use crate::error::{Error, Result};
use crate::primes::is_prime;

/// Exclusive upper bound of every prime: the limit of the fastest transforms, and what lets
/// lazily added products of two residues fit 128 bits with 28 bits to spare.
pub const MODULUS_LIMIT: u64 = 1 << 50;

/// An odd prime `p < 2^50` with its reduction constants.
///
/// Operands of `add`, `sub`, `neg`, `mul` are canonical, in `[0, p)`, and so are the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Modulus {
    p: u64,
    /// floor(2^128 / p).
    ratio: u128,
}

impl Modulus {
    /// A modulus from an odd prime below [`MODULUS_LIMIT`].
    ///
    /// # Errors
    /// `InvalidModulus` if `p` is even, composite or too large.
    pub fn new(p: u64) -> Result<Self> {
        let fail = |reason| Err(Error::InvalidModulus { value: p, reason });
        if p >= MODULUS_LIMIT {
            return fail("it must be below 2^50");
        }
        if p < 3 || !is_prime(p) {
            return fail("it must be an odd prime");
        }
        // p is odd and > 1, so floor((2^128 - 1) / p) = floor(2^128 / p).
        Ok(Self { p, ratio: u128::MAX / p as u128 })
    }

    /// The prime itself.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.p
    }

    /// Number of bits of the prime, at most 50.
    #[must_use]
    pub fn bits(&self) -> u32 {
        u64::BITS - self.p.leading_zeros()
    }

    /// `a + b mod p`.
    #[inline]
    #[must_use]
    pub fn add(&self, a: u64, b: u64) -> u64 {
        let s = a + b;
        s.min(s.wrapping_sub(self.p))
    }

    /// `a - b mod p`.
    #[inline]
    #[must_use]
    pub fn sub(&self, a: u64, b: u64) -> u64 {
        let d = a.wrapping_sub(b);
        d.min(d.wrapping_add(self.p))
    }

    /// `-a mod p`.
    #[inline]
    #[must_use]
    pub fn neg(&self, a: u64) -> u64 {
        self.sub(0, a)
    }

    /// `a · b mod p`.
    #[inline]
    #[must_use]
    pub fn mul(&self, a: u64, b: u64) -> u64 {
        self.reduce(a as u128 * b as u128)
    }

    /// `x mod p` for any 128-bit `x` (Barrett with a 128-bit reciprocal, one correction).
    #[inline]
    #[must_use]
    pub fn reduce(&self, x: u128) -> u64 {
        // q = floor(x · ratio / 2^128) is floor(x / p) or one less, since
        // x · ratio / 2^128 > x / p - x / 2^128 > x / p - 1.
        let (x1, x0) = ((x >> 64) as u64 as u128, x as u64 as u128);
        let (r1, r0) = ((self.ratio >> 64) as u64 as u128, self.ratio as u64 as u128);
        let mid = x1 * r0;
        let low = (x0 * r1) + ((x0 * r0) >> 64);
        let (mid_sum, carry) = mid.overflowing_add(low);
        let q = (x1 * r1) + (mid_sum >> 64) + ((carry as u128) << 64);
        let r = (x as u64).wrapping_sub((q as u64).wrapping_mul(self.p));
        r.min(r.wrapping_sub(self.p))
    }

    /// `x mod p` for any 64-bit `x`.
    #[inline]
    #[must_use]
    pub fn reduce_u64(&self, x: u64) -> u64 {
        // The high word of the reciprocal is floor(2^64 / p): the quotient is exact or one too small.
        let reciprocal = (self.ratio >> 64) as u64;
        let q = ((x as u128 * reciprocal as u128) >> 64) as u64;
        let r = x - q * self.p;
        r.min(r.wrapping_sub(self.p))
    }

    /// `x mod p`, in `[0, p)`, of a signed integer.
    #[inline]
    #[must_use]
    pub fn reduce_i128(&self, x: i128) -> u64 {
        let r = self.reduce(x.unsigned_abs());
        if x < 0 { self.neg(r) } else { r }
    }

    /// `x mod p`, in `[0, p)`, of a signed integer.
    #[inline]
    #[must_use]
    pub fn reduce_i64(&self, x: i64) -> u64 {
        let r = self.reduce_u64(x.unsigned_abs());
        if x < 0 { self.neg(r) } else { r }
    }

    /// `base^exponent mod p`. Time depends on the exponent: public data only.
    #[must_use]
    pub fn pow(&self, base: u64, exponent: u64) -> u64 {
        let (mut result, mut square, mut e) = (1, base, exponent);
        while e > 0 {
            if e & 1 == 1 {
                result = self.mul(result, square);
            }
            square = self.mul(square, square);
            e >>= 1;
        }
        result
    }

    /// `a^-1 mod p`.
    ///
    /// # Errors
    /// `NoInverse` if `a` is a multiple of `p`.
    pub fn inv(&self, a: u64) -> Result<u64> {
        let a = self.reduce(a as u128);
        if a == 0 {
            return Err(Error::NoInverse { value: a, modulus: self.p });
        }
        // Fermat: a^(p-2).
        Ok(self.pow(a, self.p - 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRIMES: [u64; 4] = [3, 134_250_497, 1_125_899_906_826_241, 65537];

    #[test]
    fn refuses_what_is_not_an_odd_prime_below_the_limit() {
        for bad in [0, 1, 2, 4, 561, (1 << 50) + 55, u64::MAX] {
            assert!(matches!(Modulus::new(bad), Err(Error::InvalidModulus { .. })), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_integer_remainder(x: u128, y: i128, a: u64, b: u64, which in 0usize..4) {
            let p = PRIMES[which];
            let m = Modulus::new(p).unwrap();
            prop_assert_eq!(m.reduce(x), (x % p as u128) as u64);
            prop_assert_eq!(m.reduce(u128::MAX - x % 4), ((u128::MAX - x % 4) % p as u128) as u64);
            prop_assert_eq!(m.reduce_u64(a), a % p);
            prop_assert_eq!(m.reduce_i64(a as i64), (a as i64 as i128).rem_euclid(p as i128) as u64);
            prop_assert_eq!(m.reduce_i64(i64::MIN), (i64::MIN as i128).rem_euclid(p as i128) as u64);
            prop_assert_eq!(m.reduce_i128(y), y.rem_euclid(p as i128) as u64);
            let (a, b) = (a % p, b % p);
            prop_assert_eq!(m.add(a, b), (a + b) % p);
            prop_assert_eq!(m.sub(a, b), (a + p - b) % p);
            prop_assert_eq!(m.add(a, m.neg(a)), 0);
            prop_assert_eq!(m.mul(a, b), (a as u128 * b as u128 % p as u128) as u64);
            if a != 0 {
                prop_assert_eq!(m.mul(a, m.inv(a).unwrap()), 1);
            }
        }
    }
}
