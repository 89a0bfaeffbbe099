// Base conversion of whole rows. Equal to `convert_rows` with `kernels::convert` and `kernels::quotients` of
// backend/cpu; the integer definitions are those of backend/mod.rs.
//
// Thread mapping: a thread holds one column (coefficient) of up to 16 source rows in registers, split in 25-bit halves,
// and writes `targets` target rows; blockIdx.y picks the group of targets, blockIdx.z = digit + digits * polynomial.
// Layout: sources and targets are rows of n words; `Digit` says which, in words of the launch's pointers.
//
// A source is centred, y = y1 * 2^25 + y0 with |y0|, |y1| <= 2^24, and so is a factor: sums of 16 products stay within
// 2^52 and are exact. Sum = s2 * 2^50 + (s1 + s3) * 2^25 + s0. (The one source of a division by one prime is not centred:
// |y1| <= 2^25.)
#pragma once
#include "field.cuh"

// One conversion from at most 16 primes, 40 bytes.
struct Digit {
    u32 source, sources;     // first source row, how many
    u32 all;                 // how many with those of later conversions that add to this one (for the quotient)
    u32 prime, split, rest;  // primes of the sources: prime + k for k < split, rest + k - split after that
    u32 target, targets;     // first entry of the launch's targets, how many
    u32 factor;              // first factor: target-major, K each (0 where there is no source) and one for the quotient
    u32 flags;
};
#define CENTRED 1     // sources above p / 2 stand for negative numbers
#define QUOTIENT 2    // sum - u * D, the quotient u of a division: sources are centred, which changes u by their number
#define ACCUMULATE 4  // add to what the targets hold

struct Target {
    u32 row;    // of the output
    u32 prime;
    u64 init;   // added, in [0, p)
};

__device__ __forceinline__ double2 split(double x) {
    // 1.5 * 2^77: rounds to a multiple of 2^25.
    const double coarse = 6755399441055744.0 * 33554432.0;
    const double high = __dadd_rn(__dadd_rn(x, coarse), -coarse);
    return make_double2(__dadd_rn(x, -high), __dmul_rn(high, 1.0 / 33554432.0));
}

// floor(y * ratio / 2^bits), y < 2^50, ratio <= 2^51.
__device__ __forceinline__ u64 quotient_of(u64 y, const Prime& m) {
    const u64 high = __umul64hi(y, m.ratio), low = y * m.ratio;
    return high << (64 - m.bits) | low >> m.bits;
}

__device__ __forceinline__ u32 source_prime(const Digit& d, u32 k) {
    return k < d.split ? d.prime + k : d.rest + (k - d.split);
}

#define GROUP 16  // targets of a block at most

#define CONVERT_ARGS                                                                                                   \
    const u64 *in, u64 in_step, u64 *out, u64 out_step, const Digit *__restrict__ digits, u32 digit_count,             \
        const Target *__restrict__ targets, const double2 *__restrict__ factors, const Prime *__restrict__ primes, u32 n, \
        u32 group

// At most K sources.
template <int K>
__device__ __forceinline__ void convert(CONVERT_ARGS) {
    __shared__ double2 f[GROUP * (K + 1)];
    __shared__ Prime target_primes[GROUP];
    const Digit d = digits[blockIdx.z % digit_count];
    const u32 polynomial = blockIdx.z / digit_count, first = blockIdx.y * group;
    if (first >= d.targets) return;
    const u32 count = min(group, d.targets - first), i = blockIdx.x * blockDim.x + threadIdx.x;
    for (u32 k = threadIdx.x; k < count * (K + 1); k += blockDim.x) f[k] = factors[d.factor + first * (K + 1) + k];
    targets += d.target + first;
    if (threadIdx.x < count) target_primes[threadIdx.x] = primes[targets[threadIdx.x].prime];
    __syncthreads();
    if (i >= n) return;
    in += polynomial * in_step + (size_t)d.source * n + i;
    out += polynomial * out_step + i;

    double2 x[K];
    u64 fractions = 0;
    int negative = 0;
    const bool centred = d.flags & (CENTRED | QUOTIENT);
#pragma unroll
    for (int k = 0; k < K; k++) {
        x[k] = make_double2(0, 0);
        if (k < d.sources) {
            const Prime& m = primes[source_prime(d, k)];
            const u64 word = in[(size_t)k * n];
            double y = load(word);
            if (centred && word > m.word / 2) {
                y = __dadd_rn(y, -m.p);
                negative++;
            }
            if (d.flags & QUOTIENT) fractions += quotient_of(word, m);
            x[k] = split(y);
        }
    }
    if (d.flags & QUOTIENT) {
        for (u32 k = d.sources; k < d.all; k++) {
            const Prime& m = primes[source_prime(d, k)];
            const u64 word = in[(size_t)k * n];
            negative += word > m.word / 2;
            fractions += quotient_of(word, m);
        }
    }
    const double times = (double)((int)(fractions >> 50) - negative);
#pragma unroll 2
    for (u32 j = 0; j < count; j++) {
        const Prime m = target_primes[j];
        const double2* w = f + j * (K + 1);
        double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const double2 c = w[k];
            s0 = __fma_rn(x[k].x, c.x, s0);
            s1 = __fma_rn(x[k].x, c.y, s1);
            s3 = __fma_rn(x[k].y, c.x, s3);
            s2 = __fma_rn(x[k].y, c.y, s2);
        }
        // |s2| <= 2^52: times 2^25 below p; with s1 + s3 reduced below 1.6 p, times 2^25 below p, and s0.
        double y = __dadd_rn(mul(s2, m.p25, m), reduce(__dadd_rn(s1, s3), m));
        y = __dadd_rn(mul(y, m.p25, m), s0);
        if (d.flags & QUOTIENT) y = __dadd_rn(y, mul(__fma_rn(w[K].y, 33554432.0, w[K].x), times, m));
        const Target target = targets[j];
        u64* o = out + (size_t)target.row * n;
        u64 word = add_words(store(y, m), target.init, m.word);
        if (d.flags & ACCUMULATE) word = add_words(word, *o, m.word);
        *o = word;
    }
}

#define CONVERT(K)                                                                       \
    extern "C" __global__ void __launch_bounds__(256) convert_##K(CONVERT_ARGS) {        \
        convert<K>(in, in_step, out, out_step, digits, digit_count, targets, factors, primes, n, group); \
    }

CONVERT(1)
CONVERT(2)
CONVERT(4)
CONVERT(6)
CONVERT(8)
CONVERT(12)
CONVERT(16)
