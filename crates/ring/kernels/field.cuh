// Arithmetic modulo primes below 2^50 on FP64 units: exact products by fused multiply-add.
//
// A residue is an integer held in a double. Residues at rest are u64 words in [0, p); inside a kernel they are *lazy*:
// any representative of absolute value at most c * p, c stated where it matters. Every sum, product and difference
// below is an exact integer operation (no result reaches 2^53), so the words that leave a kernel are those of the CPU.
// Built with --fmad=false: the compiler must not contract anything that is not spelled __fma_rn.
#pragma once

typedef unsigned long long u64;
typedef unsigned int u32;

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

// The integer nearest to x, |x| < 2^51.
__device__ __forceinline__ double nearest(double x) { return __dadd_rn(__dadd_rn(x, magic()), -magic()); }

// A word below 2^52 as a double, exactly.
__device__ __forceinline__ double load(u64 x) {
    return __dadd_rn(__longlong_as_double(x | 0x4330000000000000ull), -4503599627370496.0);
}

// x mod p of absolute value at most p / 2 + 1, for |x| < 2^53. 3 instructions.
__device__ __forceinline__ double reduce(double x, const Prime& m) {
    double q = __dadd_rn(__fma_rn(x, m.p_inv, magic()), -magic());
    return __fma_rn(-q, m.p, x);
}

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

// The word in [0, p) of |x| < 2^53.
__device__ __forceinline__ u64 store(double x, const Prime& m) { return word_of(reduce(x, m), m); }

// a + b, a - b in [0, p) for words in [0, p).
__device__ __forceinline__ u64 add_words(u64 a, u64 b, u64 p) { u64 s = a + b; return min(s, s - p); }
__device__ __forceinline__ u64 sub_words(u64 a, u64 b, u64 p) { u64 d = a - b; return min(d, d + p); }

// Limbs of a call: q rows, then the special rows. A buffer may hold more q-rows than the call works on.
// The prime of row r, `total` the number of primes of Q in the basis; and the row of a buffer with `have` q-rows.
__device__ __forceinline__ u32 row_in(u32 row, u32 q, u32 have) { return row < q ? row : have + (row - q); }
