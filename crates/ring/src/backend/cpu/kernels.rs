//! Loops over the words of one row: the scalar form, and the choice of the vector form of [`super::ifma`].
#![expect(clippy::inline_always, reason = "one instruction or two in the innermost loops")]

#[cfg(target_arch = "x86_64")]
use super::ifma::{self, Ifma, LANES};
use crate::automorphism::{BLOCK as LANE_BLOCK, Permutation};
use crate::modulus::Modulus;

/// A constant factor with its precomputed quotient (Shoup): `floor(value · 2^64 / p)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor {
    pub(super) value: u64,
    quotient: u64,
}

impl Factor {
    pub(super) fn new(value: u64, m: &Modulus) -> Self {
        Self { value, quotient: (((value as u128) << 64) / m.value() as u128) as u64 }
    }

    /// `floor(value · 2^52 / p)`.
    #[inline(always)]
    pub(super) fn quotient52(self) -> u64 {
        self.quotient >> 12
    }

    /// `x · value mod p` for any word x.
    #[inline(always)]
    fn mul(self, x: u64, p: u64) -> u64 {
        let q = ((x as u128 * self.quotient as u128) >> 64) as u64;
        let r = x.wrapping_mul(self.value).wrapping_sub(q.wrapping_mul(p));
        r.min(r.wrapping_sub(p))
    }
}

/// What the loops need to know about a prime.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constants {
    pub(super) modulus: Modulus,
    pub(super) p: u64,
    /// 2^52 mod p.
    pub(super) fold: Factor,
    /// 1, as a factor: reduces words.
    pub(super) one: Factor,
    /// `floor(2^(bits + 50) / p)`: see [`quotients`].
    pub(super) ratio: u64,
}

impl Constants {
    pub(super) fn new(m: &Modulus) -> Self {
        Self {
            modulus: *m,
            p: m.value(),
            fold: Factor::new(m.reduce(1 << 52), m),
            one: Factor::new(1, m),
            ratio: ((1u128 << (m.bits() + QUOTIENT_BITS)) / m.value() as u128) as u64,
        }
    }
}

/// Calls the vector form and returns, on machines that have the instructions and for whole vectors.
macro_rules! with_ifma {
    ($len:expr, $name:ident($($arg:expr),*)) => {
        #[cfg(target_arch = "x86_64")]
        if $len.is_multiple_of(LANES) && let Some(simd) = Ifma::try_new() {
            return ifma::$name(simd, $($arg),*);
        }
    };
}

pub(super) fn add(c: &Constants, a: &mut [u64], b: &[u64]) {
    with_ifma!(a.len(), add(c, a, b));
    let m = c.modulus;
    for (a, &b) in a.iter_mut().zip(b) {
        *a = m.add(*a, b);
    }
}

pub(super) fn sub(c: &Constants, a: &mut [u64], b: &[u64]) {
    with_ifma!(a.len(), sub(c, a, b));
    let m = c.modulus;
    for (a, &b) in a.iter_mut().zip(b) {
        *a = m.sub(*a, b);
    }
}

pub(super) fn neg(c: &Constants, a: &mut [u64]) {
    for a in a {
        *a = c.modulus.neg(*a);
    }
}

pub(super) fn add_scalar(c: &Constants, a: &mut [u64], constant: u64) {
    for a in a {
        *a = c.modulus.add(*a, constant);
    }
}

pub(super) fn mul(c: &Constants, a: &mut [u64], b: &[u64]) {
    with_ifma!(a.len(), mul(c, a, b));
    for (a, &b) in a.iter_mut().zip(b) {
        *a = c.modulus.mul(*a, b);
    }
}

pub(super) fn mul_add(c: &Constants, acc: &mut [u64], a: &[u64], b: &[u64]) {
    with_ifma!(acc.len(), mul_add(c, acc, a, b));
    for ((acc, &a), &b) in acc.iter_mut().zip(a).zip(b) {
        *acc = c.modulus.reduce(a as u128 * b as u128 + *acc as u128);
    }
}

/// `a = a · f`.
pub(super) fn scale(c: &Constants, a: &mut [u64], f: Factor) {
    scale_add(c, a, f, 0);
}

/// `a = a · f + constant`.
pub(super) fn scale_add(c: &Constants, a: &mut [u64], f: Factor, constant: u64) {
    with_ifma!(a.len(), scale_add(c, a, f, constant));
    for a in a {
        *a = c.modulus.add(f.mul(*a, c.p), constant);
    }
}

/// `a = (a + b) · f`.
pub(super) fn add_scale(c: &Constants, a: &mut [u64], b: &[u64], f: Factor) {
    with_ifma!(a.len(), add_scale(c, a, b, f));
    for (a, &b) in a.iter_mut().zip(b) {
        *a = f.mul(*a + b, c.p);
    }
}

/// `a = (a - b) · f`.
pub(super) fn sub_scale(c: &Constants, a: &mut [u64], b: &[u64], f: Factor) {
    with_ifma!(a.len(), sub_scale(c, a, b, f));
    for (a, &b) in a.iter_mut().zip(b) {
        *a = f.mul(*a + (c.p - b), c.p);
    }
}

/// `out = constant - (a mod p)` for words of another prime.
pub(super) fn reduce_sub_from(c: &Constants, out: &mut [u64], a: &[u64], constant: u64) {
    with_ifma!(out.len(), reduce_sub_from(c, out, a, constant));
    for (out, &a) in out.iter_mut().zip(a) {
        *out = c.modulus.sub(constant, c.one.mul(a, c.p));
    }
}

/// Words of a row that are worked on together, so that 16 rows of them stay in the first cache.
pub(super) const BLOCK: usize = 256;

/// `out = init + Σ_i sources[i] · factors[i] mod p` for at most [`BLOCK`] words; sources are words below 2^50 of other
/// primes, at most 2^20 of them.
pub(super) fn convert(
    c: &Constants,
    out: &mut [u64],
    sources: &[&[u64]],
    factors: &[u64],
    init: u64,
) {
    with_ifma!(out.len(), convert(c, out, sources, factors, init));
    let mut sums = [0u128; BLOCK];
    let sums = &mut sums[..out.len()];
    sums.fill(init as u128);
    for (source, &f) in sources.iter().zip(factors) {
        for (sum, &y) in sums.iter_mut().zip(*source) {
            *sum += y as u128 * f as u128;
        }
    }
    for (out, &mut sum) in out.iter_mut().zip(sums) {
        *out = c.modulus.reduce(sum);
    }
}

/// `out[h] = Σ_d digits[d] · keys[d][h]`.
pub(super) fn inner_product(
    c: &Constants,
    out: [&mut [u64]; 2],
    digits: &[&[u64]],
    keys: &[[&[u64]; 2]],
) {
    with_ifma!(out[0].len(), inner_product(c, out, digits, keys));
    let [out0, out1] = out;
    for (i, (out0, out1)) in out0.iter_mut().zip(out1).enumerate() {
        let (mut sum0, mut sum1) = (0u128, 0u128);
        for (digit, [key0, key1]) in digits.iter().zip(keys) {
            sum0 += digit[i] as u128 * key0[i] as u128;
            sum1 += digit[i] as u128 * key1[i] as u128;
        }
        (*out0, *out1) = (c.modulus.reduce(sum0), c.modulus.reduce(sum1));
    }
}

/// Bits kept of every quotient y / p in [`quotients`].
pub(super) const QUOTIENT_BITS: u32 = 50;

/// `out = floor(Σ_i floor(y_i · ratio_i / 2^bits_i) / 2^50)`: how often P goes into `Σ_i y_i · (P/p_i)`.
pub(super) fn quotients(out: &mut [u64], sources: &[&[u64]], primes: &[Constants]) {
    with_ifma!(out.len(), quotients(out, sources, primes));
    out.fill(0);
    for (source, c) in sources.iter().zip(primes) {
        let bits = c.modulus.bits();
        for (out, &y) in out.iter_mut().zip(*source) {
            *out += ((y as u128 * c.ratio as u128) >> bits) as u64;
        }
    }
    for out in out {
        *out >>= QUOTIENT_BITS;
    }
}

/// `a = a · f` where each word of `factors` stands for a run of words.
pub(super) fn mul_runs(c: &Constants, a: &mut [u64], factors: &[u64]) {
    let run = a.len() / factors.len();
    with_ifma!(run, mul_runs(c, a, factors));
    for (a, &f) in a.chunks_exact_mut(run).zip(factors) {
        for a in a {
            *a = c.modulus.mul(*a, f);
        }
    }
}

/// `acc = acc + a · f` where each word of `factors` stands for a run of words.
pub(super) fn mul_add_runs(c: &Constants, acc: &mut [u64], a: &[u64], factors: &[u64]) {
    let run = acc.len() / factors.len();
    with_ifma!(run, mul_add_runs(c, acc, a, factors));
    for ((acc, a), &f) in acc.chunks_exact_mut(run).zip(a.chunks_exact(run)).zip(factors) {
        for (acc, &a) in acc.iter_mut().zip(a) {
            *acc = c.modulus.reduce(a as u128 * f as u128 + *acc as u128);
        }
    }
}

/// `out` = `from` permuted; the scalar loop is [`permute_scalar`].
pub(super) fn permute(out: &mut [u64], from: &[u64], permutation: &Permutation) {
    with_ifma!(out.len(), permute(out, from, permutation));
    permute_scalar(out, from, permutation);
}

fn permute_scalar(out: &mut [u64], from: &[u64], permutation: &Permutation) {
    let blocks = from.as_chunks::<LANE_BLOCK>().0;
    let outs = out.as_chunks_mut::<LANE_BLOCK>().0;
    for (out, &source) in outs.iter_mut().zip(&permutation.sources) {
        let lanes = &permutation.lanes[source as usize % LANE_BLOCK];
        let words = &blocks[source as usize / LANE_BLOCK];
        *out = lanes.map(|lane| words[lane as usize % LANE_BLOCK]);
    }
}

#[cfg(test)]
#[path = "kernels_tests.rs"]
mod tests;
