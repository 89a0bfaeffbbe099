//! Four lanes with AVX2 and FMA: words below 2^52 as doubles, exact products of two doubles as a sum of two.
//!
//! AVX2 has no 64-bit product; a fused multiply-add gives the rounding error of a product exactly. With p below 2^50,
//! r = 1/p rounded and h = a·b rounded, the quotient round(h·r) differs from a·b/p by at most 1/2 and the relative
//! errors of h and of r and of their product, below 2^-51 together.

use super::{Butterflies, Lanes, QUOTIENT_BITS, REGISTERS};
use crate::backend::cpu::kernels::{Constants, Factor};
use pulp::cast;
use std::arch::x86_64::{__m256d, __m256i};

pulp::simd_type! {
    /// Proof that this machine has the instructions.
    pub(crate) struct AvxFma {
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
    }
}

/// 2^52: its ulp is 1, its mantissa 0, so that adding it to an integer below 2^52 writes that into the mantissa.
const TWO52: f64 = (1u64 << 52) as f64;
/// 1.5·2^52: adding and subtracting it rounds numbers up to 2^51 in absolute value to integers.
pub(super) const ROUND: f64 = 1.5 * TWO52;
/// 2^103: sums of products start here and stay below 2^104, where the ulp is 2^51.
const GRID: f64 = TWO52 * ((1u64 << 51) as f64);

/// Constants of one prime in every lane.
#[derive(Clone, Copy)]
pub(crate) struct Wide {
    /// p as an integer.
    p: __m256i,
    /// p and 1/p as doubles.
    prime: __m256d,
    inverse: __m256d,
    modulus: u64,
}

/// `high - 2^103` is a multiple of 2^51, `low` the sum of what is missing.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    high: __m256d,
    low: __m256d,
}

/// The representative of a residue that is at most p/2 in absolute value.
pub(super) fn centred(value: u64, p: u64) -> f64 {
    let (value, p) = (value as i64, p as i64);
    (if value > p / 2 { value - p } else { value }) as f64
}

impl AvxFma {
    #[inline(always)]
    fn double(self, x: f64) -> __m256d {
        self.avx._mm256_set1_pd(x)
    }

    #[inline(always)]
    fn plus(self, a: __m256d, b: __m256d) -> __m256d {
        self.avx._mm256_add_pd(a, b)
    }

    #[inline(always)]
    fn minus(self, a: __m256d, b: __m256d) -> __m256d {
        self.avx._mm256_sub_pd(a, b)
    }

    #[inline(always)]
    fn multiply(self, a: __m256d, b: __m256d) -> __m256d {
        self.avx._mm256_mul_pd(a, b)
    }

    /// `c - a·b`.
    #[inline(always)]
    fn rest(self, a: __m256d, b: __m256d, c: __m256d) -> __m256d {
        self.fma._mm256_fnmadd_pd(a, b, c)
    }

    /// The integer nearest to a·b, at most 2^51 in absolute value.
    #[inline(always)]
    fn round(self, a: __m256d, b: __m256d) -> __m256d {
        let round = self.double(ROUND);
        self.minus(self.fma._mm256_fmadd_pd(a, b, round), round)
    }

    /// A number congruent to a·b, at most p in absolute value, for |a·b| up to 2^51·p and factors up to 2^52: the
    /// quotient is off by at most 1/2 + 2^51·2^-51·(1/2); the rest of h, a multiple of its ulp below 2^53, is exact.
    #[inline(always)]
    fn product(self, w: &Wide, a: __m256d, b: __m256d) -> __m256d {
        let h = self.multiply(a, b);
        let error = self.fma._mm256_fmsub_pd(a, b, h);
        let q = self.round(h, w.inverse);
        self.plus(self.rest(q, w.prime, h), error)
    }

    /// `a - round(a/p)·p` for an integer |a| up to 2^53.
    #[inline(always)]
    fn norm(self, w: &Wide, a: __m256d) -> __m256d {
        self.rest(self.round(a, w.inverse), w.prime, a)
    }

    /// The residue of a number in (-p, p); never -0, which no sum above is.
    #[inline(always)]
    fn residue(self, w: &Wide, a: __m256d) -> __m256i {
        let a = self.avx._mm256_blendv_pd(a, self.plus(a, w.prime), a);
        let shifted = self.plus(a, self.double(TWO52));
        cast(self.avx._mm256_xor_pd(shifted, self.double(TWO52)))
    }
}

impl Lanes for AvxFma {
    /// Products below 2^100: together below 2^103, their missing parts, each at most 2^50, at most 2^53.
    const TERMS: usize = 8;
    type Words = [u64; 4];
    type Vector = __m256i;
    type Operand = __m256d;
    type Sum = Parts;
    type Prime = Wide;
    type Multiplier = __m256d;

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        AvxFma::vectorize(self, f)
    }

    #[inline(always)]
    fn split(self, words: &[u64]) -> &[[u64; 4]] {
        words.as_chunks().0
    }

    #[inline(always)]
    fn split_mut(self, words: &mut [u64]) -> &mut [[u64; 4]] {
        words.as_chunks_mut().0
    }

    #[inline(always)]
    fn load(self, words: [u64; 4]) -> __m256i {
        cast(words)
    }

    #[inline(always)]
    fn store(self, a: __m256i) -> [u64; 4] {
        cast(a)
    }

    #[inline(always)]
    fn splat(self, word: u64) -> __m256i {
        self.avx._mm256_set1_epi64x(word as i64)
    }

    #[inline(always)]
    fn prime(self, c: &Constants) -> Wide {
        Wide {
            p: self.splat(c.p),
            prime: self.double(c.p as f64),
            inverse: self.double(1.0 / c.p as f64),
            modulus: c.p,
        }
    }

    #[inline(always)]
    fn modulus(self, w: &Wide) -> __m256i {
        w.p
    }

    /// Centred: at most p/2 in absolute value.
    #[inline(always)]
    fn multiplier(self, w: &Wide, f: Factor) -> __m256d {
        self.double(centred(f.value, w.modulus))
    }

    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        self.avx2._mm256_add_epi64(a, b)
    }

    #[inline(always)]
    fn sub(self, a: __m256i, b: __m256i) -> __m256i {
        self.avx2._mm256_sub_epi64(a, b)
    }

    #[inline(always)]
    fn fold(self, a: __m256i, bound: __m256i) -> __m256i {
        let folded = self.sub(a, bound);
        cast(self.avx._mm256_blendv_pd(cast(folded), cast(a), cast(folded)))
    }

    #[inline(always)]
    fn times(self, w: &Wide, a: __m256i, f: __m256d) -> __m256i {
        self.residue(w, self.product(w, self.operand(a), f))
    }

    /// The product is within (1/2 + 1/4)·p here, for |h·r| is below 2^50, its sum with a residue within 2p.
    #[inline(always)]
    fn mul_add(self, w: &Wide, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        let product = self.product(w, self.operand(a), self.operand(b));
        self.residue(w, self.norm(w, self.plus(product, self.operand(acc))))
    }

    #[inline(always)]
    fn operand(self, a: __m256i) -> __m256d {
        let two52 = self.double(TWO52);
        self.minus(self.avx._mm256_or_pd(cast(a), two52), two52)
    }

    #[inline(always)]
    fn zero(self) -> Parts {
        Parts { high: self.double(GRID), low: self.double(0.0) }
    }

    /// Rounds to the grid, then adds what that cost; both differences are exact.
    #[inline(always)]
    fn accumulate(self, sum: Parts, a: __m256d, b: __m256d) -> Parts {
        let high = self.fma._mm256_fmadd_pd(a, b, sum.high);
        let added = self.minus(high, sum.high);
        let missing = self.fma._mm256_fmsub_pd(a, b, added);
        Parts { high, low: self.plus(sum.low, missing) }
    }

    /// The quotient of the high part is below 2^53, off by 5/2; that rest, the normalised low part and the residue
    /// are together below 4.1·p < 2^53, where integers are exact.
    #[inline(always)]
    fn reduce(self, w: &Wide, sum: Parts, init: __m256i) -> __m256i {
        let high = self.minus(sum.high, self.double(GRID));
        let q = self.avx._mm256_round_pd::<8>(self.multiply(high, w.inverse));
        let high = self.rest(q, w.prime, high);
        let rest = self.plus(self.norm(w, sum.low), self.operand(init));
        self.residue(w, self.norm(w, self.plus(high, rest)))
    }

    /// As a product modulo 2^bits: the quotient rounded down, one less where the exact rest is negative.
    #[inline(always)]
    fn quotient(self, c: &Constants, y: __m256i) -> __m256i {
        let bits = (1u64 << c.modulus.bits()) as f64;
        let (y, ratio) = (self.operand(y), self.double(c.ratio as f64));
        let h = self.multiply(y, ratio);
        let error = self.fma._mm256_fmsub_pd(y, ratio, h);
        let q = self.avx._mm256_round_pd::<9>(self.multiply(h, self.double(1.0 / bits)));
        let rest = self.plus(self.rest(q, self.double(bits), h), error);
        let q = self.avx._mm256_blendv_pd(q, self.minus(q, self.double(1.0)), rest);
        let shifted = self.plus(q, self.double(TWO52));
        cast(self.avx._mm256_xor_pd(shifted, self.double(TWO52)))
    }

    #[inline(always)]
    fn shift_quotient(self, a: __m256i) -> __m256i {
        self.avx2._mm256_srli_epi64::<{ QUOTIENT_BITS as i32 }>(a)
    }
}

/// With |f| at most p/2 and |y| at most 4p, a product leaves at most (1/2 + |y|/8p)·p. Forward, values stay within 4p:
/// after a layer with a normalised x (1/2) they are at most 1.5, then 2.19, 2.96 and 3.83 p. Inverse, values within p:
/// two layers leave sums of four and two products of 3/4, which are tamed, and products within p.
impl Butterflies for AvxFma {
    const LOG_WIDTH: usize = 2;
    const STEP: usize = 2;
    const PAIRED: bool = false;
    const TWIDDLE: usize = 1;
    type Lazy = __m256d;
    type Twiddle = __m256d;

    fn twiddle(c: &Constants, value: u64) -> [u64; 2] {
        [centred(value, c.p).to_bits(), 0]
    }

    #[inline(always)]
    fn broadcast(self, words: &[u64]) -> __m256d {
        self.double(f64::from_bits(words[0]))
    }

    #[inline(always)]
    fn gather(self, words: &[u64]) -> __m256d {
        cast(self.split(words)[0])
    }

    #[inline(always)]
    fn widen(self, words: [u64; 4]) -> __m256d {
        self.operand(cast(words))
    }

    #[inline(always)]
    fn get(self, words: [u64; 4]) -> __m256d {
        cast(words)
    }

    #[inline(always)]
    fn put(self, x: __m256d) -> [u64; 4] {
        cast(x)
    }

    #[inline(always)]
    fn narrow(self, w: &Wide, x: __m256d) -> __m256i {
        self.residue(w, self.norm(w, x))
    }

    #[inline(always)]
    fn butterfly<const NORM: bool>(
        self,
        w: &Wide,
        x: __m256d,
        y: __m256d,
        f: __m256d,
    ) -> (__m256d, __m256d) {
        let x = if NORM { self.norm(w, x) } else { x };
        let t = self.product(w, y, f);
        (self.plus(x, t), self.minus(x, t))
    }

    #[inline(always)]
    fn inverse_butterfly(self, w: &Wide, x: __m256d, y: __m256d, f: __m256d) -> (__m256d, __m256d) {
        (self.plus(x, y), self.product(w, self.minus(x, y), f))
    }

    #[inline(always)]
    fn tame(self, w: &Wide, x: __m256d) -> __m256d {
        self.norm(w, x)
    }

    #[inline(always)]
    fn lazy_times(self, w: &Wide, x: __m256d, f: __m256d) -> __m256d {
        self.product(w, x, f)
    }

    #[inline(always)]
    fn transpose(self, x: &mut [__m256d; REGISTERS]) {
        let f = self.avx;
        let (a, b) = (f._mm256_unpacklo_pd(x[0], x[1]), f._mm256_unpackhi_pd(x[0], x[1]));
        let (c, d) = (f._mm256_unpacklo_pd(x[2], x[3]), f._mm256_unpackhi_pd(x[2], x[3]));
        x[0] = f._mm256_permute2f128_pd::<0x20>(a, c);
        x[1] = f._mm256_permute2f128_pd::<0x20>(b, d);
        x[2] = f._mm256_permute2f128_pd::<0x31>(a, c);
        x[3] = f._mm256_permute2f128_pd::<0x31>(b, d);
    }
}
