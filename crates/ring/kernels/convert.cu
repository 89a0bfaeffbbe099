// Base conversion of whole rows. Equal to backend/cpu/convert.rs; the integer definitions are those of backend/mod.rs.
//
// Thread mapping of `convert_1` and `convert_2`: a thread holds one column (coefficient) of the sources in registers and
// writes `group` target rows. Of `convert_4` to `convert_16`, on FP64 tensor cores: a warp holds 32 columns as four tiles of
// 8, a thread the sources lane % 4, lane % 4 + 4, ... of column lane / 4 of each tile; the targets come in tiles of 8, of
// which it gets target lane / 4, columns 2 (lane % 4) and the next. blockIdx.y picks the group of targets or tiles of
// targets, blockIdx.z = digit + digits * polynomial.
// Layout: sources and targets are rows of n words; `Digit` says which, in words of the launch's pointers.
//
// Sources and factors are centred `Operand`s of a sum of at most 16 products. With -DINTEGER there are no tensor cores to
// gain from: all kernels are of the first kind.
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
        const Target *__restrict__ targets, const Operand *__restrict__ factors, const Prime *__restrict__ primes,     \
        u32 n, u32 group

// At most K sources. Factors: K a target, 0 where there is no source, and one for the quotient.
template <int K>
__device__ __forceinline__ void convert(CONVERT_ARGS) {
    begin();
    __shared__ Operand f[GROUP * (K + 1)];
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

    Operand x[K];
    u64 fractions = 0;
    int negative = 0;
    const bool centred = d.flags & (CENTRED | QUOTIENT);
#pragma unroll
    for (int k = 0; k < K; k++) {
        x[k] = Operand{};
        if (k < d.sources) {
            const Prime& m = primes[source_prime(d, k)];
            const u64 word = in[(size_t)k * n];
            Lazy y = load(word);
            if (centred && word > m.word / 2) {
                y = minus(y, m.p);
                negative++;
            }
            if (d.flags & QUOTIENT) fractions += quotient_of(word, m);
            x[k] = operand(y);
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
    const Lazy times = (Lazy)((int)(fractions >> 50) - negative);
#pragma unroll 2
    for (u32 j = 0; j < count; j++) {
        const Prime m = target_primes[j];
        const Operand* w = f + j * (K + 1);
        Sum sum = {};
#pragma unroll
        for (int k = 0; k < K; k++) add_product(sum, x[k], w[k]);
        Lazy y = residue(sum, m);
        if (d.flags & QUOTIENT) y = plus(y, mul(whole(w[K]), times, m));
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

#ifdef INTEGER
CONVERT(4)
CONVERT(8)
CONVERT(12)
CONVERT(16)
#else

// c += a * b, a of 16 x 4: the low halves of 8 targets' factors above their high halves; b of 4 x 8. A thread gets two
// columns of a target, low halves first. Hopper has the rate for 16 rows at once.
__device__ __forceinline__ void multiply_tiles(double (&c)[4], Operand a, double b) {
#if __CUDA_ARCH__ >= 900
    asm("mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
        : "d"(a.x), "d"(a.y), "d"(b));
#else
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(c[0]), "+d"(c[1])
        : "d"(a.x), "d"(b));
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(c[2]), "+d"(c[3])
        : "d"(a.y), "d"(b));
#endif
}

// At most K = 4 S sources. Factors: for every tile of 8 targets S times 32, for (target lane / 4, source 4 s + lane % 4);
// then 8, for the quotient. 0 where there is no source or no target.
template <int S>
__device__ __forceinline__ void convert_tiles(CONVERT_ARGS) {
    begin();
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
            Lazy y = load(word);
            if (word > m.word / 2) {
                y = minus(y, m.p);
                negative[t]++;
            }
            if (quotient) fractions[t] += quotient_of(word, m);
            const Operand halves = operand(y);
            low[t][s] = halves.x, high[t][s] = halves.y;
        }
    }
    Lazy times[TILES][2];
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
            const Lazy mine = (Lazy)((int)(fractions[t] >> 50) - negative[t]);
#pragma unroll
            for (int e = 0; e < 2; e++) times[t][e] = __shfl_sync(0xffffffff, mine, (lane % 4 * 2 + e) * 4);
        }
    }
    for (u32 tile = first; tile < last; tile++) {
        const Operand* f = factors + d.factor + tile * (32 * S + 8);
        Operand w[S];
#pragma unroll
        for (int s = 0; s < S; s++) w[s] = f[32 * s + lane];
        const u32 j = 8 * tile + lane / 4;
        const Target target = targets[d.target + min(j, d.targets - 1)];
        const Prime m = primes[target.prime];
        const Operand last_factor = f[32 * S + lane / 4];
        u64* o = out + (size_t)target.row * n + column + lane % 4 * 2;
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            double by_low[4] = {}, by_high[4] = {};
#pragma unroll
            for (int s = 0; s < S; s++) {
                multiply_tiles(by_low, w[s], low[t][s]);
                multiply_tiles(by_high, w[s], high[t][s]);
            }
            if (j < d.targets && column + 8 * t < n) {
                u64 words[2];
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    Lazy y = combine(by_low[e], __dadd_rn(by_low[e + 2], by_high[e]), by_high[e + 2], m);
                    if (quotient) y = plus(y, mul(whole(last_factor), times[t][e], m));
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
#endif
