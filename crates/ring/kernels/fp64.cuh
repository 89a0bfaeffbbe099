// Arithmetic modulo primes below 2^50 on FP64 units: exact products by fused multiply-add.
//
// Every sum, product and difference is an exact integer operation (no result reaches 2^53). Built with --fmad=false: the
// compiler must not contract anything that is not spelled __fma_rn.
#pragma once

namespace fp64 {

typedef double Lazy;

// One prime, in device memory, 48 bytes. Filled by backend/cuda/tables.rs.
struct Prime {
    double p;      // the prime
    double p_inv;  // 1 / p, rounded
    u64 word;      // the prime again
    u64 ratio;     // floor(2^(bits + 50) / p): the 50-bit quotient of a conversion
    u32 bits;      // of the prime
    u32 unused;
    double p25;    // 2^25 mod p, centred
};

// 1.5 * 2^52: adding and subtracting it rounds to an integer.
__device__ __forceinline__ double magic() { return 6755399441055744.0; }

__device__ __forceinline__ double plus(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double minus(double a, double b) { return __dadd_rn(a, -b); }

// A word below 2^52 as a double, exactly.
__device__ __forceinline__ double load(u64 x) {
    return __dadd_rn(__longlong_as_double(x | 0x4330000000000000ull), -4503599627370496.0);
}

// What memory holds for a lazy value.
__device__ __forceinline__ u64 bits_of(double x) { return (u64)__double_as_longlong(x); }

// x mod p of absolute value at most p / 2 + 1, for |x| < 2^53. 3 instructions.
__device__ __forceinline__ double reduce(double x, const Prime& m) {
    double q = __dadd_rn(__fma_rn(x, m.p_inv, magic()), -magic());
    return __fma_rn(-q, m.p, x);
}

// Where a lazy value would outgrow its bound but for this: integers have the room.
__device__ __forceinline__ double make_room(double x, const Prime& m) { return reduce(x, m); }

// x * w mod p for |x| <= c * p, |w| <= p / 2. 6 instructions. |x * w| must stay within 2^51 * p: beyond, the quotient
// would no longer be rounded to an integer. For c <= 4 and p < 2^50 it does.
//
// h + l = x * w exactly; q is within 1/2 + |h/p| * 2^-53 of h / p, so that |h - q * p + l| is at most
// (1/2 + c/16 + c/32) * p: below 0.88 * p for c = 4. For a w of 0.56 * p (a product) below 0.92 * p.
// With |w| <= p instead (two operands at rest: c = 1) it is at most 0.69 * p.
__device__ __forceinline__ double mul(double x, double w, const Prime& m) {
    double h = __dmul_rn(x, w);
    double q = __dadd_rn(__fma_rn(h, m.p_inv, magic()), -magic());
    double l = __fma_rn(x, w, -h);
    return __dadd_rn(__fma_rn(-q, m.p, h), l);
}

// The word in [0, p) of |x| < p.
__device__ __forceinline__ u64 word_of(double x, const Prime& m) {
    x = x < 0.0 ? __dadd_rn(x, m.p) : x;
    return (u64)__double_as_longlong(__dadd_rn(x, 4503599627370496.0)) & 0x000fffffffffffffull;
}

// A centred operand of sums of products: high * 2^25 + low, |low|, |high| <= 2^24. Sums of 16 products of halves stay
// within 2^52 and are exact. (The one source of a division by one prime is not centred: |high| <= 2^25.)
typedef double2 Operand;  // low, high

__device__ __forceinline__ Operand operand(double x) {
    // 1.5 * 2^77: rounds to a multiple of 2^25.
    const double coarse = 6755399441055744.0 * 33554432.0;
    const double high = __dadd_rn(__dadd_rn(x, coarse), -coarse);
    return make_double2(__dadd_rn(x, -high), __dmul_rn(high, 1.0 / 33554432.0));
}
__device__ __forceinline__ double whole(Operand x) { return __fma_rn(x.y, 33554432.0, x.x); }

// high * 2^50 + middle * 2^25 + low mod p, below 2^53, for |low|, |high| <= 2^52, |middle| <= 2^53.
__device__ __forceinline__ double combine(double low, double middle, double high, const Prime& m) {
    // |high| <= 2^52: times 2^25 below p; with `middle` reduced below 1.6 p, times 2^25 below p.
    const double y = __dadd_rn(mul(high, m.p25, m), reduce(middle, m));
    return __dadd_rn(mul(y, m.p25, m), low);
}

// A sum of up to 16 products.
struct Sum {
    double low, middle[2], high;
};
__device__ __forceinline__ void add_product(Sum& sum, Operand x, Operand w) {
    sum.low = __fma_rn(x.x, w.x, sum.low);
    sum.middle[0] = __fma_rn(x.x, w.y, sum.middle[0]);
    sum.middle[1] = __fma_rn(x.y, w.x, sum.middle[1]);
    sum.high = __fma_rn(x.y, w.y, sum.high);
}
__device__ __forceinline__ double residue(const Sum& sum, const Prime& m) {
    return combine(sum.low, __dadd_rn(sum.middle[0], sum.middle[1]), sum.high, m);
}

}  // namespace fp64
