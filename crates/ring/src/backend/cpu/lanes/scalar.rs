//! One word at a time, 128-bit products.

use super::{Lanes, QUOTIENT_BITS};
use crate::backend::cpu::kernels::{Constants, Factor};

/// Any machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Lanes for Scalar {
    /// Products below 2^100.
    const TERMS: usize = 1 << 20;
    type Words = u64;
    type Vector = u64;
    type Operand = u64;
    type Sum = u128;
    type Prime = Constants;
    type Multiplier = Factor;

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline(always)]
    fn split(self, words: &[u64]) -> &[u64] {
        words
    }

    #[inline(always)]
    fn split_mut(self, words: &mut [u64]) -> &mut [u64] {
        words
    }

    #[inline(always)]
    fn load(self, words: u64) -> u64 {
        words
    }

    #[inline(always)]
    fn store(self, a: u64) -> u64 {
        a
    }

    #[inline(always)]
    fn splat(self, word: u64) -> u64 {
        word
    }

    #[inline(always)]
    fn prime(self, c: &Constants) -> Constants {
        *c
    }

    #[inline(always)]
    fn modulus(self, w: &Constants) -> u64 {
        w.p
    }

    #[inline(always)]
    fn multiplier(self, _: &Constants, f: Factor) -> Factor {
        f
    }

    #[inline(always)]
    fn add(self, a: u64, b: u64) -> u64 {
        a + b
    }

    #[inline(always)]
    fn sub(self, a: u64, b: u64) -> u64 {
        a - b
    }

    #[inline(always)]
    fn fold(self, a: u64, bound: u64) -> u64 {
        a.min(a.wrapping_sub(bound))
    }

    #[inline(always)]
    fn times(self, w: &Constants, a: u64, f: Factor) -> u64 {
        f.mul(a, w.p)
    }

    #[inline(always)]
    fn mul_add(self, w: &Constants, acc: u64, a: u64, b: u64) -> u64 {
        w.modulus.reduce(a as u128 * b as u128 + acc as u128)
    }

    #[inline(always)]
    fn operand(self, a: u64) -> u64 {
        a
    }

    #[inline(always)]
    fn zero(self) -> u128 {
        0
    }

    #[inline(always)]
    fn accumulate(self, sum: u128, a: u64, b: u64) -> u128 {
        sum + a as u128 * b as u128
    }

    #[inline(always)]
    fn reduce(self, w: &Constants, sum: u128, init: u64) -> u64 {
        w.modulus.reduce(sum + init as u128)
    }

    #[inline(always)]
    fn quotient(self, c: &Constants, y: u64) -> u64 {
        ((y as u128 * c.ratio as u128) >> c.modulus.bits()) as u64
    }

    #[inline(always)]
    fn shift_quotient(self, a: u64) -> u64 {
        a >> QUOTIENT_BITS
    }
}
