//! One word at a time, 128-bit products.

use super::{Butterflies, Lanes, QUOTIENT_BITS, REGISTERS};
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

/// Harvey's lazy butterflies (arXiv 1205.2926): forward values below 4p, inverse ones below 2p.
impl Butterflies for Scalar {
    const LOG_WIDTH: usize = 0;
    const STEP: usize = 2;
    const PAIRED: bool = false;
    const TWIDDLE: usize = 2;
    type Lazy = u64;
    type Twiddle = [u64; 2];

    fn twiddle(c: &Constants, value: u64) -> [u64; 2] {
        [value, Factor::new(value, &c.modulus).quotient64()]
    }

    #[inline(always)]
    fn broadcast(self, words: &[u64]) -> [u64; 2] {
        [words[0], words[1]]
    }

    #[inline(always)]
    fn gather(self, words: &[u64]) -> [u64; 2] {
        self.broadcast(words)
    }

    #[inline(always)]
    fn widen(self, words: u64) -> u64 {
        words
    }

    #[inline(always)]
    fn get(self, words: u64) -> u64 {
        words
    }

    #[inline(always)]
    fn put(self, x: u64) -> u64 {
        x
    }

    #[inline(always)]
    fn narrow(self, w: &Constants, x: u64) -> u64 {
        self.fold(self.fold(x, 2 * w.p), w.p)
    }

    #[inline(always)]
    fn butterfly<const NORM: bool>(self, w: &Constants, x: u64, y: u64, f: [u64; 2]) -> (u64, u64) {
        let (x, t) = (self.fold(x, 2 * w.p), self.lazy_times(w, y, f));
        (x + t, x + 2 * w.p - t)
    }

    #[inline(always)]
    fn inverse_butterfly(self, w: &Constants, x: u64, y: u64, f: [u64; 2]) -> (u64, u64) {
        (self.fold(x + y, 2 * w.p), self.lazy_times(w, x + 2 * w.p - y, f))
    }

    #[inline(always)]
    fn tame(self, _: &Constants, x: u64) -> u64 {
        x
    }

    /// In [0, 2p) for every word x.
    #[inline(always)]
    fn lazy_times(self, w: &Constants, x: u64, [value, quotient]: [u64; 2]) -> u64 {
        let q = ((x as u128 * quotient as u128) >> 64) as u64;
        x.wrapping_mul(value).wrapping_sub(q.wrapping_mul(w.p))
    }

    #[inline(always)]
    fn transpose(self, _: &mut [u64; REGISTERS]) {}
}
