// Arithmetic modulo primes below 2^50 on integer units, for cards whose FP64 units are few. Same bounds, same words.
#pragma once

namespace integer {

typedef long long Lazy;

// One prime, in device memory, 48 bytes. Filled by backend/cuda/tables.rs.
struct Prime {
    long long p;      // the prime
    long long p_inv;  // floor(2^(bits + 60) / p), at most 2^61
    u64 word;         // the prime again
    u64 ratio;        // floor(2^(bits + 50) / p): the 50-bit quotient of a conversion
    u32 bits;         // of the prime, at least 5
    u32 unused;
    long long half;   // floor(D / 2) + 1 for D = floor(p / 2^(bits - 4)): see `residue`
};

__device__ __forceinline__ long long plus(long long a, long long b) { return a + b; }
__device__ __forceinline__ long long minus(long long a, long long b) { return a - b; }
__device__ __forceinline__ long long load(u64 x) { return (long long)x; }
__device__ __forceinline__ u64 bits_of(long long x) { return (u64)x; }  // what memory holds for a lazy value

// x mod p of absolute value at most p / 2 + 1, for |x| < 2^60: q = floor((x + p / 2) / p), or one less in the last unit.
__device__ __forceinline__ long long reduce(long long x, const Prime& m) {
    const long long q = __mul64hi(x + (m.p >> 1), m.p_inv) >> (m.bits - 4);
    return x - q * m.p;
}

// Values that FP64 must reduce here have grown by less than 1 p in at most 20 steps: they stay below 32 p.
__device__ __forceinline__ long long make_room(long long x, const Prime&) { return x; }

// A sum of products, 128 bits.
typedef long long Operand;
__device__ __forceinline__ Operand operand(long long x) { return x; }
__device__ __forceinline__ long long whole(Operand x) { return x; }
struct Sum {
    u64 low;
    long long high;
};
__device__ __forceinline__ void add_product(Sum& sum, Operand x, Operand w) {
    asm("mad.lo.cc.u64 %0, %2, %3, %0;\n\t"
        "madc.hi.s64 %1, %2, %3, %1;"
        : "+l"(sum.low), "+l"(sum.high)
        : "l"(x), "l"(w));
}

// A sum of absolute value up to 2^(bits + 55) mod p, at most 0.66 * p.
//
// With t = floor(sum / 2^(bits - 4)) and D = p / 2^(bits - 4) in [8, 16), q = floor((t + half) * p_inv / 2^64) is
// (t + half) / D less a fraction and |t| * 2^-64, so that sum / p - q is in [-half / D, 1 + (1 - half) / D + |t| * 2^-64):
// within 0.625, and |t| * 2^-64 <= 2^-5 for sums up to 2^(bits + 55): 32 p times p; 16 products of a conversion are less.
__device__ __forceinline__ long long residue(const Sum& sum, const Prime& m) {
    const u32 shift = m.bits - 4;
    const long long t = (long long)((u64)sum.high << (64 - shift) | sum.low >> shift);
    const long long q = __mul64hi(t + m.half, m.p_inv);
    return (long long)(sum.low - (u64)q * m.word);
}

// x * w mod p, at most 0.66 * p, for |x| <= 32 * p, |w| <= p.
__device__ __forceinline__ long long mul(long long x, long long w, const Prime& m) {
    return residue({(u64)x * (u64)w, __mul64hi(x, w)}, m);
}

// The word in [0, p) of |x| < p.
__device__ __forceinline__ u64 word_of(long long x, const Prime& m) { return (u64)(x < 0 ? x + m.p : x); }

}  // namespace integer
