//! Eight lanes with AVX-512 IFMA: 52-bit products, low and high half.
//!
//! A product of words below 2^50 is a low half below 2^52 and a high half below 2^48, so that [`Ifma::TERMS`] of them
//! are added before their sum is reduced once.

use super::{BLOCK, Butterflies, Lanes, QUOTIENT_BITS, REGISTERS};
use crate::backend::cpu::kernels::{Constants, Factor};
use pulp::cast;
use std::arch::x86_64::__m512i;

pulp::simd_type! {
    /// Proof that this machine has the instructions.
    pub(crate) struct Ifma {
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

/// Low 52 bits.
const MASK: u64 = (1 << 52) - 1;

/// [`Constants`] of one prime in every lane.
#[derive(Clone, Copy)]
pub(crate) struct Wide {
    p: __m512i,
    p2: __m512i,
    /// 2^52 - p.
    minus_p: __m512i,
    fold: WideFactor,
    one_quotient: __m512i,
    mask: __m512i,
}

/// [`Factor`] in every lane.
#[derive(Clone, Copy)]
pub(crate) struct WideFactor {
    value: __m512i,
    quotient: __m512i,
}

/// Low and high halves, added up separately.
#[derive(Clone, Copy)]
pub(crate) struct Halves {
    low: __m512i,
    high: __m512i,
}

impl Ifma {
    /// `acc + low 52 bits of a·b`, operands below 2^52.
    #[inline(always)]
    fn lo(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        self.avx512ifma._mm512_madd52lo_epu64(acc, a, b)
    }

    /// `acc + (a·b >> 52)`, operands below 2^52.
    #[inline(always)]
    fn hi(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        self.avx512ifma._mm512_madd52hi_epu64(acc, a, b)
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        self.avx512f._mm512_and_si512(a, b)
    }

    #[inline(always)]
    fn wide(self, f: Factor) -> WideFactor {
        WideFactor { value: self.splat(f.value), quotient: self.splat(f.quotient52()) }
    }
}

impl Lanes for Ifma {
    /// The high halves, the carry of the low ones included, stay below 2^52: 14·(2^48 - 1) + 15.
    const TERMS: usize = 14;
    type Words = [u64; 8];
    type Vector = __m512i;
    type Operand = __m512i;
    type Sum = Halves;
    type Prime = Wide;
    type Multiplier = WideFactor;

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        Ifma::vectorize(self, f)
    }

    #[inline(always)]
    fn split(self, words: &[u64]) -> &[[u64; 8]] {
        words.as_chunks().0
    }

    #[inline(always)]
    fn split_mut(self, words: &mut [u64]) -> &mut [[u64; 8]] {
        words.as_chunks_mut().0
    }

    #[inline(always)]
    fn load(self, words: [u64; 8]) -> __m512i {
        cast(words)
    }

    #[inline(always)]
    fn store(self, a: __m512i) -> [u64; 8] {
        cast(a)
    }

    #[inline(always)]
    fn splat(self, word: u64) -> __m512i {
        self.avx512f._mm512_set1_epi64(word as i64)
    }

    #[inline(always)]
    fn prime(self, c: &Constants) -> Wide {
        Wide {
            p: self.splat(c.p),
            p2: self.splat(2 * c.p),
            minus_p: self.splat((1 << 52) - c.p),
            fold: self.wide(c.fold),
            one_quotient: self.splat(c.one.quotient52()),
            mask: self.splat(MASK),
        }
    }

    #[inline(always)]
    fn modulus(self, w: &Wide) -> __m512i {
        w.p
    }

    #[inline(always)]
    fn multiplier(self, _: &Wide, f: Factor) -> WideFactor {
        self.wide(f)
    }

    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        self.avx512f._mm512_add_epi64(a, b)
    }

    #[inline(always)]
    fn sub(self, a: __m512i, b: __m512i) -> __m512i {
        self.avx512f._mm512_sub_epi64(a, b)
    }

    #[inline(always)]
    fn fold(self, a: __m512i, bound: __m512i) -> __m512i {
        self.avx512f._mm512_min_epu64(a, self.sub(a, bound))
    }

    /// Shoup's product, quotient at most one too small.
    #[inline(always)]
    fn times(self, w: &Wide, a: __m512i, f: WideFactor) -> __m512i {
        let zero = self.splat(0);
        let q = self.hi(zero, a, f.quotient);
        let r = self.sub(self.lo(zero, a, f.value), self.lo(zero, q, w.p));
        self.fold(self.and(r, w.mask), w.p)
    }

    #[inline(always)]
    fn mul_add(self, w: &Wide, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        self.reduce(w, self.accumulate(self.zero(), a, b), acc)
    }

    #[inline(always)]
    fn operand(self, a: __m512i) -> __m512i {
        a
    }

    #[inline(always)]
    fn zero(self) -> Halves {
        Halves { low: self.splat(0), high: self.splat(0) }
    }

    #[inline(always)]
    fn accumulate(self, sum: Halves, a: __m512i, b: __m512i) -> Halves {
        Halves { low: self.lo(sum.low, a, b), high: self.hi(sum.high, a, b) }
    }

    /// With f = 2^52 mod p: hi·f - floor(hi·f'/2^52)·p and lo - floor(lo·1'/2^52)·p are both in [0, 2p) (Shoup), their
    /// sum is below 4p < 2^52, so that 52 bits of it suffice.
    #[inline(always)]
    fn reduce(self, w: &Wide, sum: Halves, init: __m512i) -> __m512i {
        let zero = self.splat(0);
        let low = self.add(sum.low, init);
        let high = self.add(sum.high, self.avx512f._mm512_srli_epi64::<52>(low));
        let low = self.and(low, w.mask);
        let q = self.hi(self.hi(zero, high, w.fold.quotient), low, w.one_quotient);
        let sum = self.lo(low, high, w.fold.value);
        let r = self.and(self.sub(sum, self.lo(zero, q, w.p)), w.mask);
        self.fold(self.fold(r, w.p2), w.p)
    }

    /// The high half of `(y·2^(52 - bits))·ratio`.
    #[inline(always)]
    fn quotient(self, c: &Constants, y: __m512i) -> __m512i {
        let count = self.sse2._mm_set_epi64x(0, 52 - i64::from(c.modulus.bits()));
        let shifted = self.avx512f._mm512_sll_epi64(y, count);
        self.hi(self.splat(0), shifted, self.splat(c.ratio))
    }

    #[inline(always)]
    fn shift_quotient(self, a: __m512i) -> __m512i {
        self.avx512f._mm512_srli_epi64::<QUOTIENT_BITS>(a)
    }

    #[inline(always)]
    fn permute(self, words: &[u64; BLOCK], lanes: &[u64; BLOCK]) -> [u64; BLOCK] {
        cast(self.avx512f._mm512_permutexvar_epi64(cast(*lanes), cast(*words)))
    }
}

/// Harvey's lazy butterflies (arXiv 1205.2926): forward values below 4p, inverse ones below 2p.
impl Butterflies for Ifma {
    const LOG_WIDTH: usize = 3;
    const STEP: usize = 4;
    const PAIRED: bool = true;
    const TWIDDLE: usize = 2;
    type Lazy = __m512i;
    type Twiddle = WideFactor;

    fn twiddle(c: &Constants, value: u64) -> [u64; 2] {
        [value, Factor::new(value, &c.modulus).quotient52()]
    }

    #[inline(always)]
    fn broadcast(self, words: &[u64]) -> WideFactor {
        WideFactor { value: self.splat(words[0]), quotient: self.splat(words[1]) }
    }

    #[inline(always)]
    fn gather(self, words: &[u64]) -> WideFactor {
        let lines = self.split(words);
        WideFactor { value: self.load(lines[0]), quotient: self.load(lines[1]) }
    }

    #[inline(always)]
    fn widen(self, words: [u64; 8]) -> __m512i {
        cast(words)
    }

    #[inline(always)]
    fn get(self, words: [u64; 8]) -> __m512i {
        cast(words)
    }

    #[inline(always)]
    fn put(self, x: __m512i) -> [u64; 8] {
        cast(x)
    }

    #[inline(always)]
    fn narrow(self, w: &Wide, x: __m512i) -> __m512i {
        self.fold(self.fold(x, w.p2), w.p)
    }

    #[inline(always)]
    fn butterfly<const NORM: bool>(
        self,
        w: &Wide,
        x: __m512i,
        y: __m512i,
        f: WideFactor,
    ) -> (__m512i, __m512i) {
        let (x, t) = (self.fold(x, w.p2), self.lazy_times(w, y, f));
        (self.add(x, t), self.sub(self.add(x, w.p2), t))
    }

    #[inline(always)]
    fn inverse_butterfly(
        self,
        w: &Wide,
        x: __m512i,
        y: __m512i,
        f: WideFactor,
    ) -> (__m512i, __m512i) {
        let difference = self.sub(self.add(x, w.p2), y);
        (self.fold(self.add(x, y), w.p2), self.lazy_times(w, difference, f))
    }

    #[inline(always)]
    fn tame(self, _: &Wide, x: __m512i) -> __m512i {
        x
    }

    /// In [0, 2p) for words below 2^52.
    #[inline(always)]
    fn lazy_times(self, w: &Wide, x: __m512i, f: WideFactor) -> __m512i {
        let zero = self.splat(0);
        let q = self.hi(zero, x, f.quotient);
        self.and(self.lo(self.lo(zero, x, f.value), q, w.minus_p), w.mask)
    }

    #[inline(always)]
    fn transpose(self, x: &mut [__m512i; REGISTERS]) {
        let f = self.avx512f;
        let mut pairs = *x;
        for i in 0..4 {
            pairs[2 * i] = f._mm512_unpacklo_epi64(x[2 * i], x[2 * i + 1]);
            pairs[2 * i + 1] = f._mm512_unpackhi_epi64(x[2 * i], x[2 * i + 1]);
        }
        // Rows 4h to 4h + 3 and, in 128-bit lanes, their columns {0, 4} and {2, 6} (even), {1, 5} and {3, 7} (odd).
        let mut quads = pairs;
        for h in 0..2 {
            for odd in 0..2 {
                let (a, b) = (pairs[4 * h + odd], pairs[4 * h + 2 + odd]);
                quads[4 * h + odd] = f._mm512_shuffle_i64x2::<0x88>(a, b);
                quads[4 * h + 2 + odd] = f._mm512_shuffle_i64x2::<0xdd>(a, b);
            }
        }
        for column in 0..4 {
            let (a, b) = (quads[column], quads[4 + column]);
            x[column] = f._mm512_shuffle_i64x2::<0x88>(a, b);
            x[column + 4] = f._mm512_shuffle_i64x2::<0xdd>(a, b);
        }
    }
}
