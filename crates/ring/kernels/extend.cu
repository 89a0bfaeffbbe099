// Base extension between transforms, n = 2^16: the last 8 stages of the sources' inverse transforms, the conversion and the
// first 8 stages of the targets' transforms in one kernel, so that no coefficient is written to memory. Equal to
// `intt_columns_44`, `convert_*` and `ntt_columns_44` one after the other.
//
// Thread mapping: a block of two groups of 256 threads works on 4 columns of the 256 x 256 matrices of ntt.cu.
// blockIdx.x picks the columns, blockIdx.y the tiles of 8 targets, blockIdx.z = digit + digits * polynomial.
//   Sources: 64 threads each, thread (r, c) with 16 words of column c as in `backward_columns`. The coefficients stay in
//     shared memory, Y_STRIDE apart, word 4 row + c.
//   Targets: a group works on a tile of 8. Warp w takes rows 2w, 2w + 1, .. in steps of 16 by way of FP64 tensor cores, tile
//     by tile of 8 words, so that a thread ends up with rows r + 16 k of two neighbouring columns of target lane / 4: what
//     the first four stages want. Through shared memory (word 4 (row + row / 16) + c, X_STRIDE a target) another thread has
//     the words r * 16 + k of two columns for the last four.
// Layout: sources are rows of lazy doubles (what `intt_rows` leaves), results likewise (what `ntt_rows*` take). Factors as
// `convert_tiles`.
//
// FP64 only. Halves as in convert.cu, at most 10 sources: |s0| and |s2| <= 10 * 2^48, |s1| <= 20 * 2^48 < 2^53.
#pragma once
#include "convert.cu"
#include "ntt.cu"

#define EXTEND_COLUMNS 4
#define GROUP_THREADS (64 * EXTEND_COLUMNS)

#ifndef INTEGER
#define Y_STRIDE (256 * EXTEND_COLUMNS + 4)
#define X_STRIDE (272 * EXTEND_COLUMNS + 8)

// x * 2^25 mod p, of absolute value at most p / 2 + 1 for |x| < 2^53 (1.5 p below 2^26, where the quotient may exceed
// 2^51 by a little). The product is exact, a multiple of 2^25 below 2^78, and so is the difference.
__device__ __forceinline__ double shifted(double x, const Prime& m) { return reduce(__dmul_rn(x, 33554432.0), m); }

// Waits for the threads of a group: barriers by constant numbers, since a block with all 16 leaves none for another.
__device__ __forceinline__ void group_barrier(u32 group) {
    if (group == 0) {
        asm volatile("bar.sync 1, %0;" ::"n"(GROUP_THREADS) : "memory");
    } else {
        asm volatile("bar.sync 2, %0;" ::"n"(GROUP_THREADS) : "memory");
    }
}

// At most K = 4 S sources, and 10. Dynamic shared memory: Y_STRIDE a source, 512 and 16 X_STRIDE doubles.
template <int S>
__device__ __forceinline__ void extend(const double* in, u64 in_step, double* out, u64 out_step,
                                       const Job* __restrict__ jobs, const Digit* __restrict__ digits, u32 digit_count,
                                       const Target* __restrict__ targets, const double2* __restrict__ factors,
                                       const Prime* __restrict__ primes, const double* __restrict__ twiddles, u32 stride,
                                       u32 tiles_a_block) {
    begin();
    constexpr u32 n = 65536, K = S == 3 ? 10 : 4 * S;
    extern __shared__ double shared[];
    double* y = shared;
    float* times = (float*)(shared + K * Y_STRIDE);
    double* x = shared + K * Y_STRIDE + 128 * EXTEND_COLUMNS;
    const Digit d = digits[blockIdx.z % digit_count];
    const u32 polynomial = blockIdx.z / digit_count, first = blockIdx.y * tiles_a_block;
    const u32 last = min(first + tiles_a_block, (d.targets + 7) / 8);
    if (first >= last) return;
    const bool quotient = d.flags & QUOTIENT, centred = d.flags & (CENTRED | QUOTIENT);
    in += polynomial * in_step + (size_t)d.source * n + blockIdx.x * EXTEND_COLUMNS;
    out += polynomial * out_step + blockIdx.x * EXTEND_COLUMNS;

    // Sources.
    for (u32 start = 0; start < K; start += 8) {
        const u32 k = start + threadIdx.x / (16 * EXTEND_COLUMNS), r = threadIdx.x / EXTEND_COLUMNS % 16;
        const u32 c = threadIdx.x % EXTEND_COLUMNS;
        const bool present = k < d.sources;
        const u32 prime = source_prime(d, present ? k : 0);
        const Prime m = primes[prime];
        const double* __restrict__ t = twiddles + (size_t)prime * stride;
        double* exchange = x + threadIdx.x / (16 * EXTEND_COLUMNS) * (272 * EXTEND_COLUMNS);
        double v[16];
        if (present) {
#pragma unroll
            for (int i = 0; i < 16; i++) v[i] = in[(size_t)k * n + (r * 16 + i) * 256 + c];
            backward<4, 4, false>(v, m, [&](int st, int b) { return t[(32 << st) - 1 - ((r << st) + b)]; });
        }
        if (start > 0) __syncthreads();
        if (present) {
#pragma unroll
            for (int i = 0; i < 16; i++) exchange[(r * 17 + i) * EXTEND_COLUMNS + c] = v[i];
        }
        __syncthreads();
        if (present) {
            const Job job = jobs[d.source + k];
#pragma unroll
            for (int i = 0; i < 16; i++) v[i] = exchange[(r + 17 * i) * EXTEND_COLUMNS + c];
            backward<4, 4, true>(v, m, [&](int st, int b) { return t[(2 << st) - 1 - b]; });
#pragma unroll
            for (int i = 0; i < 16; i++) {
                double word = mul(v[i], job.factor, m);
                word = __dadd_rn(word < 0.0 ? __dadd_rn(word, m.p) : word, job.add);
                word = word >= m.p ? __dadd_rn(word, -m.p) : word;
                // p is odd: above (p - 1) / 2.
                if (centred && word > 0.5 * m.p) word = __dadd_rn(word, -m.p);
                y[k * Y_STRIDE + (r + 16 * i) * EXTEND_COLUMNS + c] = word;
            }
        } else if (k < K) {
#pragma unroll
            for (int i = 0; i < 16; i++) y[k * Y_STRIDE + (r + 16 * i) * EXTEND_COLUMNS + c] = 0.0;
        }
    }
    __syncthreads();
    if (quotient) {
        for (u32 i = threadIdx.x; i < 256 * EXTEND_COLUMNS; i += 2 * GROUP_THREADS) {
            u64 fractions = 0;
            int negative = 0;
            for (u32 k = 0; k < d.sources; k++) {
                const Prime& m = primes[source_prime(d, k)];
                const double word = y[k * Y_STRIDE + i];
                negative += word < 0.0;
                fractions += quotient_of(word_of(word, m), m);
            }
            times[i] = (float)((int)(fractions >> 50) - negative);
        }
        __syncthreads();
    }

    // Targets.
    const u32 group = threadIdx.x / GROUP_THREADS, lane = threadIdx.x % 32;
    const u32 warp = threadIdx.x % GROUP_THREADS / 32;
    x += group * (8 * X_STRIDE);
    for (u32 tile = first + group; tile < last; tile += 2) {
        const double2* f = factors + d.factor + tile * (32 * S + 8);
        const u32 row = 2 * warp + lane % 4 / 2, pair = lane % 2 * 2;
        double a[16], b[16];
        {
            double2 w[S];
#pragma unroll
            for (int s = 0; s < S; s++) w[s] = f[32 * s + lane];
            const Target target = targets[d.target + min(8 * tile + lane / 4, d.targets - 1)];
            const Prime m = primes[target.prime];
            const double init = (double)target.init;
            const double2 last_factor = f[32 * S + lane / 4];
            const double by = whole(last_factor);
            const double* from = y + 8 * warp + lane / 4;
            const float* count = times + row * EXTEND_COLUMNS + pair;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                double by_low[4] = {}, by_high[4] = {};
#pragma unroll
                for (int s = 0; s < S; s++) {
                    // A source that is not there has factors 0.
                    const u32 source = min(4 * s + lane % 4, K - 1);
                    const Operand halves = operand(from[source * Y_STRIDE + 16 * EXTEND_COLUMNS * i]);
                    multiply_tiles(by_low, w[s], halves.x);
                    multiply_tiles(by_high, w[s], halves.y);
                }
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const double s1 = __dadd_rn(by_low[e + 2], by_high[e]);
                    double v = __dadd_rn(shifted(by_high[e + 2], m), s1);
                    v = __dadd_rn(__dadd_rn(shifted(v, m), by_low[e]), init);
                    // |quotient - negative sources| <= sources / 2 + 1: at most 6 * 2^49, with the rest below 2^53.
                    if (quotient) v = __fma_rn(by, (double)count[16 * EXTEND_COLUMNS * i + e], v);
                    (e ? b : a)[i] = reduce(v, m);
                }
            }
            const double* __restrict__ t = twiddles + (size_t)target.prime * stride;
            const auto twiddle = [&](int st, int b) { return t[(1 << st) + b]; };
            forward<4, 4>(a, m, twiddle);
            forward<4, 4>(b, m, twiddle);
        }
        double* to = x + lane / 4 * X_STRIDE + row * EXTEND_COLUMNS + pair;
        group_barrier(group);
#pragma unroll
        for (int i = 0; i < 16; i++) *(double2*)(to + 17 * i * EXTEND_COLUMNS) = make_double2(a[i], b[i]);
        group_barrier(group);
        // Eight neighbouring threads: two column pairs, two r, two targets, in different banks.
        const u32 r = lane / 2 % 2 + lane / 8 * 2 + warp % 2 * 8, which = lane / 4 % 2 + warp / 2 * 2;
        if (8 * tile + which < d.targets) {
            const Target target = targets[d.target + 8 * tile + which];
            const Prime m = primes[target.prime];
            const double* from = x + which * X_STRIDE + r * 17 * EXTEND_COLUMNS + pair;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const double2 v = *(const double2*)(from + i * EXTEND_COLUMNS);
                a[i] = v.x, b[i] = v.y;
            }
            settle<4, 4>(a, m);
            settle<4, 4>(b, m);
            const double* __restrict__ t = twiddles + (size_t)target.prime * stride;
            const auto twiddle = [&](int st, int b) { return t[(16 << st) + (r << st) + b]; };
            forward<4, 4>(a, m, twiddle);
            forward<4, 4>(b, m, twiddle);
            double* o = out + (size_t)target.row * n + r * 16 * 256 + pair;
#pragma unroll
            for (int i = 0; i < 16; i++) *(double2*)(o + i * 256) = make_double2(a[i], b[i]);
        }
    }
}

#endif

// Older code has no body, and the driver says which code it loaded: never called there.
#if !defined(INTEGER) && __CUDA_ARCH__ >= 900
#define EXTEND_BODY(S)                                                                                                   \
    extend<S>(in, in_step, out, out_step, jobs, digits, digit_count, targets, factors, primes, twiddles, stride,         \
              tiles_a_block);
#else
#define EXTEND_BODY(S)
#endif
#define EXTEND(NAME, S)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(2 * GROUP_THREADS, 4 / EXTEND_COLUMNS) NAME(                              \
        const Lazy* in, u64 in_step, Lazy* out, u64 out_step, const Job* __restrict__ jobs,                          \
        const Digit* __restrict__ digits, u32 digit_count, const Target* __restrict__ targets,                           \
        const Operand* __restrict__ factors, const Prime* __restrict__ primes, const Lazy* __restrict__ twiddles,      \
        u32 stride, u32 tiles_a_block) {                                                                                 \
        EXTEND_BODY(S)                                                                                                   \
    }
EXTEND(extend_4, 1)
EXTEND(extend_8, 2)
EXTEND(extend_10, 3)
