//! Loops over the words of one row.

use crate::modulus::Modulus;

/// A constant factor with its precomputed quotient (Shoup): `floor(value · 2^64 / p)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor {
    value: u64,
    quotient: u64,
}

impl Factor {
    pub(super) fn new(value: u64, m: &Modulus) -> Self {
        Self { value, quotient: (((value as u128) << 64) / m.value() as u128) as u64 }
    }

    /// `x · value mod p` for any word x.
    #[inline(always)]
    fn mul(self, x: u64, p: u64) -> u64 {
        let q = ((x as u128 * self.quotient as u128) >> 64) as u64;
        let r = x.wrapping_mul(self.value).wrapping_sub(q.wrapping_mul(p));
        r.min(r.wrapping_sub(p))
    }
}

pub(super) fn add(m: &Modulus, a: &mut [u64], b: &[u64]) {
    a.iter_mut().zip(b).for_each(|(a, &b)| *a = m.add(*a, b));
}

pub(super) fn sub(m: &Modulus, a: &mut [u64], b: &[u64]) {
    a.iter_mut().zip(b).for_each(|(a, &b)| *a = m.sub(*a, b));
}

pub(super) fn neg(m: &Modulus, a: &mut [u64]) {
    a.iter_mut().for_each(|a| *a = m.neg(*a));
}

pub(super) fn mul(m: &Modulus, a: &mut [u64], b: &[u64]) {
    a.iter_mut().zip(b).for_each(|(a, &b)| *a = m.mul(*a, b));
}

pub(super) fn mul_add(m: &Modulus, acc: &mut [u64], a: &[u64], b: &[u64]) {
    for ((acc, &a), &b) in acc.iter_mut().zip(a).zip(b) {
        *acc = m.reduce(a as u128 * b as u128 + *acc as u128);
    }
}

/// `a = a · f`.
pub(super) fn scale(m: &Modulus, a: &mut [u64], f: Factor) {
    let p = m.value();
    a.iter_mut().for_each(|a| *a = f.mul(*a, p));
}

/// `a = a · f + c`.
pub(super) fn scale_add(m: &Modulus, a: &mut [u64], f: Factor, c: u64) {
    let p = m.value();
    a.iter_mut().for_each(|a| *a = m.add(f.mul(*a, p), c));
}

/// `acc += a · f`.
pub(super) fn mul_add_factor(m: &Modulus, acc: &mut [u64], a: &[u64], f: Factor) {
    let p = m.value();
    acc.iter_mut().zip(a).for_each(|(acc, &a)| *acc = m.add(*acc, f.mul(a, p)));
}

pub(super) fn add_scalar(m: &Modulus, a: &mut [u64], c: u64) {
    a.iter_mut().for_each(|a| *a = m.add(*a, c));
}

/// `a = (a + b) · f`.
pub(super) fn add_scale(m: &Modulus, a: &mut [u64], b: &[u64], f: Factor) {
    let p = m.value();
    a.iter_mut().zip(b).for_each(|(a, &b)| *a = f.mul(*a + b, p));
}

/// `a = (a - b) · f`.
pub(super) fn sub_scale(m: &Modulus, a: &mut [u64], b: &[u64], f: Factor) {
    let p = m.value();
    a.iter_mut().zip(b).for_each(|(a, &b)| *a = f.mul(*a + (p - b), p));
}

/// `out = c - (a mod p)` for words of another prime.
pub(super) fn reduce_sub_from(m: &Modulus, out: &mut [u64], a: &[u64], c: u64) {
    out.iter_mut().zip(a).for_each(|(out, &a)| *out = m.sub(c, m.reduce(a as u128)));
}

/// Words of an output row that are converted together, so that the inputs stay in the first cache.
pub(super) const BLOCK: usize = 256;

/// `out = init + Σ_i sources[i] · factors[i] mod p`; sources are words below 2^50 of other primes, at most 2^20.
pub(super) fn convert(
    m: &Modulus,
    out: &mut [u64],
    sources: &[&[u64]],
    factors: &[u64],
    init: u64,
) {
    let mut sums = [0u128; BLOCK];
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let start = block * BLOCK;
        let sums = &mut sums[..out.len()];
        sums.fill(init as u128);
        for (source, &f) in sources.iter().zip(factors) {
            for (sum, &y) in sums.iter_mut().zip(&source[start..]) {
                *sum += y as u128 * f as u128;
            }
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = m.reduce(*sum));
    }
}

/// `out[h] = Σ_d digits[d] · keys[d][h]`.
pub(super) fn inner_product(
    m: &Modulus,
    out: [&mut [u64]; 2],
    digits: &[&[u64]],
    keys: &[[&[u64]; 2]],
) {
    let [out0, out1] = out;
    let mut sums = [[0u128; BLOCK]; 2];
    let blocks = out0.chunks_mut(BLOCK).zip(out1.chunks_mut(BLOCK));
    for (block, (out0, out1)) in blocks.enumerate() {
        let range = block * BLOCK..block * BLOCK + out0.len();
        let [sums0, sums1] = &mut sums;
        let (sums0, sums1) = (&mut sums0[..out0.len()], &mut sums1[..out0.len()]);
        sums0.fill(0);
        sums1.fill(0);
        for (digit, [key0, key1]) in digits.iter().zip(keys) {
            let digit = &digit[range.clone()];
            let keys = key0[range.clone()].iter().zip(&key1[range.clone()]);
            let sums = sums0.iter_mut().zip(sums1.iter_mut());
            for ((&x, (&k0, &k1)), (s0, s1)) in digit.iter().zip(keys).zip(sums) {
                *s0 += x as u128 * k0 as u128;
                *s1 += x as u128 * k1 as u128;
            }
        }
        out0.iter_mut().zip(sums0).for_each(|(out, sum)| *out = m.reduce(*sum));
        out1.iter_mut().zip(sums1).for_each(|(out, sum)| *out = m.reduce(*sum));
    }
}

/// Bits kept of every quotient y / p in [`quotients`].
pub(crate) const QUOTIENT_BITS: u32 = 50;

/// `out = floor(Σ_i floor(y_i · c_i / 2^b_i) / 2^50)` with b_i the bits of p_i and c_i = floor(2^(b_i+50) / p_i).
pub(super) fn quotients(out: &mut [u64], sources: &[&[u64]], primes: &[Modulus], start: usize) {
    out.fill(0);
    for (source, prime) in sources.iter().zip(primes) {
        let bits = prime.bits();
        let c = ((1u128 << (bits + QUOTIENT_BITS)) / prime.value() as u128) as u64;
        for (out, &y) in out.iter_mut().zip(&source[start..]) {
            *out += ((y as u128 * c as u128) >> bits) as u64;
        }
    }
    out.iter_mut().for_each(|out| *out >>= QUOTIENT_BITS);
}
