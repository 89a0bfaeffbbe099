// Base conversion of whole rows. Equal to backend/cpu/convert.rs; the integer definitions are those of backend/mod.rs.
//
// Thread mapping of `convert_1` and `convert_2`: a thread holds one column (coefficient) of the sources in registers and
// writes `group` target rows. Of `convert_4` to `convert_16`, on FP64 tensor cores: a warp holds 32 columns as four tiles of
// 8, a thread the sources lane % 4, lane % 4 + 4, ... of column lane / 4 of each tile; the targets come in tiles of 8, of
// which it gets target lane / 4, columns 2 (lane % 4) and the next. blockIdx.y picks the group of targets or tiles of
// targets, blockIdx.z = digit + digits * polynomial.
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
    u32 factor;              // first factor: see `convert` and `convert_tiles`
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

// At most K sources. Factors: K a target, 0 where there is no source, and one for the quotient.
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

#define CONVERT(K)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) convert_##K(CONVERT_ARGS) {                                \
        convert<K>(in, in_step, out, out_step, digits, digit_count, targets, factors, primes, n, group);         \
    }
CONVERT(1)
CONVERT(2)

// c += a * b, a of 8 x 4, b of 4 x 8.
__device__ __forceinline__ void multiply_tiles(double (&c)[2], double a, double b) {
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(c[0]), "+d"(c[1])
        : "d"(a), "d"(b));
}

// At most K = 4 S sources. Factors: for every tile of 8 targets S times 32, for (target lane / 4, source 4 s + lane % 4);
// then 8, for the quotient. 0 where there is no source or no target.
template <int S>
__device__ __forceinline__ void convert_tiles(CONVERT_ARGS) {
    constexpr int TILES = 4;
    const Digit d = digits[blockIdx.z % digit_count];
    const u32 polynomial = blockIdx.z / digit_count, lane = threadIdx.x % 32;
    const u32 tiles = (d.targets + 7) / 8, first = blockIdx.y * group, last = min(first + group, tiles);
    const u32 column = (blockIdx.x * blockDim.x + threadIdx.x - lane) / 32 * 32;
    if (first >= last || column >= n) return;
    in += polynomial * in_step + (size_t)d.source * n;
    out += polynomial * out_step;

    double low[TILES][S], high[TILES][S];
    u64 fractions[TILES] = {};
    int negative[TILES] = {};
    const bool quotient = d.flags & QUOTIENT;
#pragma unroll
    for (int s = 0; s < S; s++) {
        const u32 k = 4 * s + lane % 4;
        const bool present = k < d.sources;
        const Prime m = primes[source_prime(d, present ? k : 0)];
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            const u32 i = column + 8 * t + lane / 4;
            const u64 word = present && i < n ? in[(size_t)k * n + i] : 0;
            double y = load(word);
            if (word > m.word / 2) {
                y = __dadd_rn(y, -m.p);
                negative[t]++;
            }
            if (quotient) fractions[t] += quotient_of(word, m);
            const double2 halves = split(y);
            low[t][s] = halves.x, high[t][s] = halves.y;
        }
    }
    double times[TILES][2];
    if (quotient) {
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            // Sources of later conversions that belong to the same division.
            const u32 i = column + 8 * t + lane / 4;
            for (u32 k = d.sources + lane % 4; k < d.all && i < n; k += 4) {
                const Prime& m = primes[source_prime(d, k)];
                const u64 word = in[(size_t)k * n + i];
                negative[t] += word > m.word / 2;
                fractions[t] += quotient_of(word, m);
            }
#pragma unroll
            for (int shift = 1; shift < 4; shift *= 2) {
                fractions[t] += __shfl_xor_sync(0xffffffff, fractions[t], shift);
                negative[t] += __shfl_xor_sync(0xffffffff, negative[t], shift);
            }
            const double mine = (double)((int)(fractions[t] >> 50) - negative[t]);
#pragma unroll
            for (int e = 0; e < 2; e++) times[t][e] = __shfl_sync(0xffffffff, mine, (lane % 4 * 2 + e) * 4);
        }
    }
    for (u32 tile = first; tile < last; tile++) {
        const double2* f = factors + d.factor + tile * (32 * S + 8);
        double2 w[S];
#pragma unroll
        for (int s = 0; s < S; s++) w[s] = f[32 * s + lane];
        const u32 j = 8 * tile + lane / 4;
        const Target target = targets[d.target + min(j, d.targets - 1)];
        const Prime m = primes[target.prime];
        const double2 last_factor = f[32 * S + lane / 4];
        u64* o = out + (size_t)target.row * n + column + lane % 4 * 2;
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            double s0[2] = {}, s1[2] = {}, s2[2] = {};
#pragma unroll
            for (int s = 0; s < S; s++) {
                multiply_tiles(s0, w[s].x, low[t][s]);
                multiply_tiles(s1, w[s].y, low[t][s]);
                multiply_tiles(s1, w[s].x, high[t][s]);
                multiply_tiles(s2, w[s].y, high[t][s]);
            }
            if (j < d.targets && column + 8 * t < n) {
                u64 words[2];
    #pragma unroll
                for (int e = 0; e < 2; e++) {
                    // As in `convert`.
                    double y = __dadd_rn(mul(s2[e], m.p25, m), reduce(s1[e], m));
                    y = __dadd_rn(mul(y, m.p25, m), s0[e]);
                    if (quotient) {
                        const double by = __fma_rn(last_factor.y, 33554432.0, last_factor.x);
                        y = __dadd_rn(y, mul(by, times[t][e], m));
                    }
                    words[e] = add_words(store(y, m), target.init, m.word);
                }
                ulonglong2* to = (ulonglong2*)(o + 8 * t);
                if (d.flags & ACCUMULATE) {
                    const ulonglong2 before = *to;
                    words[0] = add_words(words[0], before.x, m.word);
                    words[1] = add_words(words[1], before.y, m.word);
                }
                *to = make_ulonglong2(words[0], words[1]);
            }
        }
    }
}

#define CONVERT_TILES(K, S)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) convert_##K(CONVERT_ARGS) {                                \
        convert_tiles<S>(in, in_step, out, out_step, digits, digit_count, targets, factors, primes, n, group);   \
    }
CONVERT_TILES(4, 1)
CONVERT_TILES(8, 2)
CONVERT_TILES(12, 3)
CONVERT_TILES(16, 4)
