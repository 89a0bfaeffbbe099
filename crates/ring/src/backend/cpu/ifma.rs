//! The loops of [`super::kernels`] on eight lanes with AVX-512 IFMA: 52-bit products, low and high half.
//!
//! Same words as the scalar loops. A product of words below 2^50 is a low half below 2^52 and a high half below
//! 2^48, so [`GROUP`] products can be added before their sum is reduced once.
#![expect(
    clippy::inline_always,
    reason = "a vector function has to be inlined into the one that enables the instructions"
)]

use super::kernels::{Constants, Factor, QUOTIENT_BITS};
use crate::automorphism::Permutation;
use pulp::{cast, u64x8};

pulp::simd_type! {
    /// Proof that this machine has the instructions.
    pub(super) struct Ifma {
        sse: "sse",
        sse2: "sse2",
        fxsr: "fxsr",
        sse3: "sse3",
        ssse3: "ssse3",
        sse4_1: "sse4.1",
        sse4_2: "sse4.2",
        popcnt: "popcnt",
        avx: "avx",
        avx2: "avx2",
        bmi1: "bmi1",
        bmi2: "bmi2",
        fma: "fma",
        lzcnt: "lzcnt",
        avx512f: "avx512f",
        avx512bw: "avx512bw",
        avx512cd: "avx512cd",
        avx512dq: "avx512dq",
        avx512vl: "avx512vl",
        avx512ifma: "avx512ifma",
    }
}

/// Lanes of a vector.
pub(super) const LANES: usize = 8;
/// Vectors that are in flight together: IFMA has a latency of four cycles, two chains a vector.
const UNROLL: usize = 4;
/// Products, the carried remainder included, whose high halves stay below 2^52: 16·(2^48 - 1) + 16 would not.
const GROUP: usize = 14;
/// Low 52 bits.
const MASK: u64 = (1 << 52) - 1;

type Lane = [u64; LANES];

/// [`Constants`] of one prime in every lane.
#[derive(Clone, Copy)]
struct Wide {
    p: u64x8,
    p2: u64x8,
    fold: u64x8,
    fold_quotient: u64x8,
    one_quotient: u64x8,
    mask: u64x8,
}

/// [`Factor`] in every lane.
#[derive(Clone, Copy)]
struct WideFactor {
    value: u64x8,
    quotient: u64x8,
}

impl Ifma {
    #[inline(always)]
    fn splat(self, x: u64) -> u64x8 {
        cast(self.avx512f._mm512_set1_epi64(x as i64))
    }

    #[inline(always)]
    fn wide(self, c: &Constants) -> Wide {
        Wide {
            p: self.splat(c.p),
            p2: self.splat(2 * c.p),
            fold: self.splat(c.fold.value),
            fold_quotient: self.splat(c.fold.quotient52()),
            one_quotient: self.splat(c.one.quotient52()),
            mask: self.splat(MASK),
        }
    }

    #[inline(always)]
    fn factor(self, f: Factor) -> WideFactor {
        WideFactor { value: self.splat(f.value), quotient: self.splat(f.quotient52()) }
    }

    /// `acc + low 52 bits of a·b`, operands below 2^52.
    #[inline(always)]
    fn lo(self, acc: u64x8, a: u64x8, b: u64x8) -> u64x8 {
        cast(self.avx512ifma._mm512_madd52lo_epu64(cast(acc), cast(a), cast(b)))
    }

    /// `acc + (a·b >> 52)`, operands below 2^52.
    #[inline(always)]
    fn hi(self, acc: u64x8, a: u64x8, b: u64x8) -> u64x8 {
        cast(self.avx512ifma._mm512_madd52hi_epu64(cast(acc), cast(a), cast(b)))
    }

    #[inline(always)]
    fn add(self, a: u64x8, b: u64x8) -> u64x8 {
        cast(self.avx512f._mm512_add_epi64(cast(a), cast(b)))
    }

    #[inline(always)]
    fn sub(self, a: u64x8, b: u64x8) -> u64x8 {
        cast(self.avx512f._mm512_sub_epi64(cast(a), cast(b)))
    }

    #[inline(always)]
    fn and(self, a: u64x8, b: u64x8) -> u64x8 {
        cast(self.avx512f._mm512_and_si512(cast(a), cast(b)))
    }

    /// `a - bound` where that is not negative: for a below 2^63.
    #[inline(always)]
    fn fold(self, a: u64x8, bound: u64x8) -> u64x8 {
        cast(self.avx512f._mm512_min_epu64(cast(a), cast(self.sub(a, bound))))
    }

    #[inline(always)]
    fn shift_right<const BITS: u32>(self, a: u64x8) -> u64x8 {
        cast(self.avx512f._mm512_srli_epi64::<BITS>(cast(a)))
    }

    #[inline(always)]
    fn shift_left(self, a: u64x8, bits: u64) -> u64x8 {
        let count = self.sse2._mm_set_epi64x(0, bits as i64);
        cast(self.avx512f._mm512_sll_epi64(cast(a), count))
    }

    /// `hi·2^52 + lo mod p` for sums of at most [`GROUP`] products and one word below 2^52.
    ///
    /// With f = 2^52 mod p: hi·f - floor(hi·f'/2^52)·p and lo - floor(lo·1'/2^52)·p are both in [0, 2p) (Shoup),
    /// their sum is below 4p < 2^52, so 52 bits of it suffice.
    #[inline(always)]
    fn reduce(self, w: &Wide, lo: u64x8, hi: u64x8) -> u64x8 {
        let zero = self.splat(0);
        let hi = self.add(hi, self.shift_right::<52>(lo));
        let lo = self.and(lo, w.mask);
        let q = self.hi(self.hi(zero, hi, w.fold_quotient), lo, w.one_quotient);
        let sum = self.lo(lo, hi, w.fold);
        let r = self.and(self.sub(sum, self.lo(zero, q, w.p)), w.mask);
        self.fold(self.fold(r, w.p2), w.p)
    }

    /// `a·f mod p` for a below 2^52.
    #[inline(always)]
    fn times(self, w: &Wide, a: u64x8, f: WideFactor) -> u64x8 {
        let zero = self.splat(0);
        let q = self.hi(zero, a, f.quotient);
        let r = self.sub(self.lo(zero, a, f.value), self.lo(zero, q, w.p));
        self.fold(self.and(r, w.mask), w.p)
    }

    #[inline(always)]
    fn product(self, w: &Wide, acc: u64x8, a: u64x8, b: u64x8) -> u64x8 {
        self.reduce(w, self.lo(acc, a, b), self.hi(self.splat(0), a, b))
    }

    /// Runs `f` with the instructions enabled.
    #[inline(always)]
    fn run(self, f: impl FnOnce()) {
        self.vectorize(f);
    }
}

#[inline(always)]
fn lanes(a: &[u64]) -> &[Lane] {
    a.as_chunks().0
}

#[inline(always)]
fn lanes_mut(a: &mut [u64]) -> &mut [Lane] {
    a.as_chunks_mut().0
}

/// `a = f(a)`.
#[inline(always)]
fn each(a: &mut [u64], f: impl Fn(u64x8) -> u64x8) {
    for a in lanes_mut(a) {
        *a = cast(f(cast(*a)));
    }
}

/// `a = f(a, b)`.
#[inline(always)]
fn each2(a: &mut [u64], b: &[u64], f: impl Fn(u64x8, u64x8) -> u64x8) {
    for (a, b) in lanes_mut(a).iter_mut().zip(lanes(b)) {
        *a = cast(f(cast(*a), cast(*b)));
    }
}

pub(super) fn add(s: Ifma, c: &Constants, a: &mut [u64], b: &[u64]) {
    s.run(
        #[inline(always)]
        || {
            let w = s.wide(c);
            each2(a, b, |a, b| s.fold(s.add(a, b), w.p));
        },
    );
}

pub(super) fn sub(s: Ifma, c: &Constants, a: &mut [u64], b: &[u64]) {
    s.run(
        #[inline(always)]
        || {
            let w = s.wide(c);
            each2(a, b, |a, b| s.fold(s.add(a, s.sub(w.p, b)), w.p));
        },
    );
}

pub(super) fn mul(s: Ifma, c: &Constants, a: &mut [u64], b: &[u64]) {
    s.run(
        #[inline(always)]
        || {
            let w = s.wide(c);
            each2(a, b, |a, b| s.product(&w, s.splat(0), a, b));
        },
    );
}

pub(super) fn mul_add(s: Ifma, c: &Constants, acc: &mut [u64], a: &[u64], b: &[u64]) {
    s.run(
        #[inline(always)]
        || {
            let w = s.wide(c);
            let pairs = lanes(a).iter().zip(lanes(b));
            for (acc, (a, b)) in lanes_mut(acc).iter_mut().zip(pairs) {
                *acc = cast(s.product(&w, cast(*acc), cast(*a), cast(*b)));
            }
        },
    );
}

pub(super) fn scale_add(s: Ifma, c: &Constants, a: &mut [u64], f: Factor, constant: u64) {
    s.run(
        #[inline(always)]
        || {
            let (w, f, constant) = (s.wide(c), s.factor(f), s.splat(constant));
            each(a, |a| s.fold(s.add(s.times(&w, a, f), constant), w.p));
        },
    );
}

pub(super) fn add_scale(s: Ifma, c: &Constants, a: &mut [u64], b: &[u64], f: Factor) {
    s.run(
        #[inline(always)]
        || {
            let (w, f) = (s.wide(c), s.factor(f));
            each2(a, b, |a, b| s.times(&w, s.add(a, b), f));
        },
    );
}

pub(super) fn sub_scale(s: Ifma, c: &Constants, a: &mut [u64], b: &[u64], f: Factor) {
    s.run(
        #[inline(always)]
        || {
            let (w, f) = (s.wide(c), s.factor(f));
            each2(a, b, |a, b| s.times(&w, s.add(a, s.sub(w.p, b)), f));
        },
    );
}

/// For words below 2^52.
pub(super) fn reduce_sub_from(s: Ifma, c: &Constants, out: &mut [u64], a: &[u64], constant: u64) {
    s.run(
        #[inline(always)]
        || {
            let (w, one, constant) = (s.wide(c), s.factor(c.one), s.splat(constant));
            each2(out, a, |_, a| {
                let difference = s.sub(s.add(constant, w.p), s.times(&w, a, one));
                s.fold(difference, w.p)
            });
        },
    );
}

/// One vector of `Σ_i sources[i]·factors[i]` for `V` vectors from `at`, on top of `sum` below p.
#[inline(always)]
fn convert_vectors<const V: usize>(
    s: Ifma,
    w: &Wide,
    out: &mut [Lane],
    at: usize,
    sources: &[&[u64]],
    factors: &[u64],
    init: u64x8,
) {
    let mut sum = [init; V];
    for (sources, factors) in sources.chunks(GROUP).zip(factors.chunks(GROUP)) {
        let mut high = [s.splat(0); V];
        for (source, &f) in sources.iter().zip(factors) {
            let f = s.splat(f);
            let source = &lanes(source)[at..at + V];
            for v in 0..V {
                let y = cast(source[v]);
                sum[v] = s.lo(sum[v], y, f);
                high[v] = s.hi(high[v], y, f);
            }
        }
        for v in 0..V {
            sum[v] = s.reduce(w, sum[v], high[v]);
        }
    }
    for v in 0..V {
        out[at + v] = cast(sum[v]);
    }
}

pub(super) fn convert(
    s: Ifma,
    c: &Constants,
    out: &mut [u64],
    sources: &[&[u64]],
    factors: &[u64],
    init: u64,
) {
    s.run(
        #[inline(always)]
        || {
            let (w, init) = (s.wide(c), s.splat(init));
            let out = lanes_mut(out);
            let unrolled = out.len() / UNROLL * UNROLL;
            for at in (0..unrolled).step_by(UNROLL) {
                convert_vectors::<UNROLL>(s, &w, out, at, sources, factors, init);
            }
            for at in unrolled..out.len() {
                convert_vectors::<1>(s, &w, out, at, sources, factors, init);
            }
        },
    );
}

pub(super) fn quotients(s: Ifma, out: &mut [u64], sources: &[&[u64]], primes: &[Constants]) {
    s.run(
        #[inline(always)]
        || {
            out.fill(0);
            for (source, c) in sources.iter().zip(primes) {
                // floor(y·c / 2^bits) is the high half of (y·2^(52 - bits))·c.
                let (shift, ratio) = (52 - u64::from(c.modulus.bits()), s.splat(c.ratio));
                each2(out, source, |out, y| s.hi(out, s.shift_left(y, shift), ratio));
            }
            each(out, |out| s.shift_right::<QUOTIENT_BITS>(out));
        },
    );
}

pub(super) fn inner_product(
    s: Ifma,
    c: &Constants,
    out: [&mut [u64]; 2],
    digits: &[&[u64]],
    keys: &[[&[u64]; 2]],
) {
    s.run(
        #[inline(always)]
        || {
            let w = s.wide(c);
            let [out0, out1] = out;
            let outs = lanes_mut(out0).iter_mut().zip(lanes_mut(out1));
            for (at, (out0, out1)) in outs.enumerate() {
                let zero = s.splat(0);
                let [mut sum0, mut sum1] = [zero; 2];
                for (digits, keys) in digits.chunks(GROUP).zip(keys.chunks(GROUP)) {
                    let [mut high0, mut high1] = [zero; 2];
                    for (digit, [key0, key1]) in digits.iter().zip(keys) {
                        let x = cast(lanes(digit)[at]);
                        let (k0, k1) = (cast(lanes(key0)[at]), cast(lanes(key1)[at]));
                        (sum0, high0) = (s.lo(sum0, x, k0), s.hi(high0, x, k0));
                        (sum1, high1) = (s.lo(sum1, x, k1), s.hi(high1, x, k1));
                    }
                    sum0 = s.reduce(&w, sum0, high0);
                    sum1 = s.reduce(&w, sum1, high1);
                }
                (*out0, *out1) = (cast(sum0), cast(sum1));
            }
        },
    );
}

/// `acc = acc + a·f` where each word of `factors` stands for a run of words, a multiple of [`LANES`].
pub(super) fn mul_add_runs(s: Ifma, c: &Constants, acc: &mut [u64], a: &[u64], factors: &[u64]) {
    s.run(
        #[inline(always)]
        || {
            let w = s.wide(c);
            let run = acc.len() / factors.len();
            for ((acc, a), &f) in acc.chunks_exact_mut(run).zip(a.chunks_exact(run)).zip(factors) {
                let f = s.splat(f);
                each2(acc, a, |acc, a| s.product(&w, acc, a, f));
            }
        },
    );
}

/// `a = a·f` where each word of `factors` stands for a run of words, a multiple of [`LANES`].
pub(super) fn mul_runs(s: Ifma, c: &Constants, a: &mut [u64], factors: &[u64]) {
    s.run(
        #[inline(always)]
        || {
            let w = s.wide(c);
            let run = a.len() / factors.len();
            for (a, &f) in a.chunks_exact_mut(run).zip(factors) {
                let f = s.splat(f);
                each(a, |a| s.product(&w, s.splat(0), a, f));
            }
        },
    );
}

/// `out` = `from` permuted.
pub(super) fn permute(s: Ifma, out: &mut [u64], from: &[u64], permutation: &Permutation) {
    s.run(
        #[inline(always)]
        || {
            let blocks = lanes(from);
            for (out, &source) in lanes_mut(out).iter_mut().zip(&permutation.sources) {
                let lanes = permutation.lanes[source as usize % LANES];
                let words = blocks[source as usize / LANES];
                *out = cast(s.avx512f._mm512_permutexvar_epi64(cast(lanes), cast(words)));
            }
        },
    );
}
