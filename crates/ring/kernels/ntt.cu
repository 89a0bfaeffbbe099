// Negacyclic number-theoretic transforms, the order of ntt.rs. Equal to `subring_ntt` / `intt` of backend/cpu
// (Longa-Naehrig, ePrint 2016/504, algorithms 1 and 2).
//
// Three forms. `ntt_small`, `intt_small`: a block transforms one row of up to 4096 words in shared memory, radix 2.
// `ntt_columns` + `ntt_rows` and back, for n = R * 256, R = 32 ... 512: the row is a matrix of R x 256 words, and the
// first log2(R) stages work on its columns, the last 8 on its rows.
//
// Thread mapping of the large form: blockIdx.y a job (a row of words), blockIdx.z a polynomial of the batch.
//   columns: a block holds CC columns; thread (r, c) = (tid / CC, tid % CC) holds 2^LA words of column c, twice:
//     first rows r + k * 2^LB, then, exchanged through shared memory, rows r * 2^LA + k.
//   rows: a block holds 16 rows of 256 words, thread (row, r) = (tid / 16, tid % 16) 16 words of one: first words
//     r + 16 * k, then words 16 * r + k. 16 neighbouring threads share a row, so warps alone exchange.
// Between the two kernels words are lazy values in place of u64 words.
//
// Twiddles, per prime `stride` lazy values, centred: t[i] = psi^brv(i) for i < n / 16 (all i < n when n <= 4096), then
// t8[T] = t[n/2 + 8T], T < n/16. The last four stages compute theirs: t[n/4 + 4T] = t8[T]^2 and so on, and
// t[n/2 + 8T + j] = t8[T] * t[j]. Inverses are reflections: t[2^s + b]^-1 = -t[2^s + (2^s - 1 - b)].
#pragma once
#include "field.cuh"

// One row to transform, 32 bytes. Rows count words / n from the pointers of the launch. The first kernel of a transform
// reads row `src` of `in`, everything else is row `dst`.
struct Job {
    u32 src, dst;
    u32 prime;
    u32 unused;
    Lazy factor;  // centred: of an inverse transform or a division
    Lazy add;     // in [0, p)
};

// ---------------------------------------------------------------- registers
// Forward stages T ... STAGES - 1 of a pass on E = 2^BITS words: pairs at distance 2^(STAGES - 1 - T), ..., 1.
// `twiddle(T, b)` is the factor of block b. (Recursion, since loops of changing length are not unrolled.)
template <int BITS, int STAGES, int T = 0, class F>
__device__ __forceinline__ void forward(Lazy* x, const Prime& m, F twiddle) {
    if constexpr (T < STAGES) {
        constexpr int HALF = 1 << (STAGES - 1 - T), BLOCKS = (1 << BITS) / (2 * HALF);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const Lazy w = twiddle(T, b);
#pragma unroll
            for (int k = 0; k < HALF; k++) {
                Lazy &u = x[2 * HALF * b + k], &v = x[2 * HALF * b + k + HALF];
                const Lazy y = mul(v, w, m);
                v = minus(u, y);
                u = plus(u, y);
            }
        }
        forward<BITS, STAGES, T + 1>(x, m, twiddle);
    }
}

// Inverse stages T ... 0: pairs at distance 1, ..., 2^(STAGES - 1). `twiddle(T, b)` is *minus* the inverse factor of
// block b. Words come in below 1 p and leave below 0.92 p; with LAST, below 4 p.
template <int BITS, int STAGES, bool LAST, int T = STAGES - 1, class F>
__device__ __forceinline__ void backward(Lazy* x, const Prime& m, F twiddle) {
    if constexpr (T >= 0) {
        constexpr int DONE = STAGES - 1 - T, HALF = 1 << DONE, BLOCKS = (1 << BITS) / (2 * HALF);
        // Sums double a stage: 1, 2, 4 p. They are reduced after every second stage and at the end of a pass.
        constexpr bool SETTLE = (DONE % 2 == 1 || T == 0) && !(LAST && T == 0);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const Lazy w = twiddle(T, b);
#pragma unroll
            for (int k = 0; k < HALF; k++) {
                Lazy &u = x[2 * HALF * b + k], &v = x[2 * HALF * b + k + HALF];
                const Lazy difference = minus(v, u), sum = plus(u, v);
                v = mul(difference, w, m);
                u = SETTLE ? reduce(sum, m) : sum;
            }
        }
        backward<BITS, STAGES, LAST, T - 1>(x, m, twiddle);
    }
}

// Before a forward pass: from below 4.6 p, so that sums keep below 4 p for STAGES stages more. Four stages of a whole
// block leave room for second operands as they are.
template <int BITS, int STAGES>
__device__ __forceinline__ void settle(Lazy* x, const Prime& m) {
    constexpr int E = 1 << BITS;
#pragma unroll
    for (int k = 0; k < (BITS == 4 && STAGES == 4 ? E / 2 : E); k++) x[k] = make_room(x[k], m);
}

// ---------------------------------------------------------------- columns
template <int LA, int LB, int CC>
struct Columns {
    static constexpr int E = 1 << LA, THREADS = 1 << LB, R = 1 << (LA + LB), BLOCK = CC << LB;
};

// Forward, first LA + LB stages. Words in [0, p) of in + src * n to lazy values of out + dst * n.
template <int LA, int LB, int CC>
__device__ __forceinline__ void forward_columns(const u64* in, Lazy* out, const Lazy* __restrict__ t, const Prime& m) {
    typedef Columns<LA, LB, CC> S;
    __shared__ Lazy s[S::R * CC];
    const int c = threadIdx.x % CC, r = threadIdx.x / CC;
    in += blockIdx.x * CC + c;
    out += blockIdx.x * CC + c;
    Lazy x[S::E];
#pragma unroll
    for (int k = 0; k < S::E; k++) x[k] = load(in[(r + (k << LB)) * 256]);
    forward<LA, LA>(x, m, [&](int st, int b) { return t[(1 << st) + b]; });
#pragma unroll
    for (int k = 0; k < S::E; k++) s[(r + (k << LB)) * CC + c] = x[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < S::E; k++) x[k] = s[(r * S::E + k) * CC + c];
    settle<LA, LB>(x, m);
    // Stage LA + st has 2^(LA + st) blocks, of which this thread's words are in 2^(LA - LB + st) consecutive ones.
    forward<LA, LB>(x, m, [&](int st, int b) { return t[(1 << (LA + st)) + (r << (LA - LB + st)) + b]; });
#pragma unroll
    for (int k = 0; k < S::E; k++) out[(r * S::E + k) * 256] = x[k];
}

// Inverse, last LA + LB stages: lazy values below 1 p to words in [0, p), times `factor`, plus `add`.
template <int LA, int LB, int CC>
__device__ __forceinline__ void backward_columns(const Lazy* in, u64* out, const Lazy* __restrict__ t, const Prime& m,
                                                 Lazy factor, Lazy add) {
    typedef Columns<LA, LB, CC> S;
    __shared__ Lazy s[S::R * CC];
    const int c = threadIdx.x % CC, r = threadIdx.x / CC;
    in += blockIdx.x * CC + c;
    out += blockIdx.x * CC + c;
    Lazy x[S::E];
#pragma unroll
    for (int k = 0; k < S::E; k++) x[k] = in[(r * S::E + k) * 256];
    backward<LA, LB, false>(x, m, [&](int st, int b) {
        return t[(2 << (LA + st)) - 1 - ((r << (LA - LB + st)) + b)];
    });
#pragma unroll
    for (int k = 0; k < S::E; k++) s[(r * S::E + k) * CC + c] = x[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < S::E; k++) x[k] = s[(r + (k << LB)) * CC + c];
    backward<LA, LA, true>(x, m, [&](int st, int b) { return t[(2 << st) - 1 - b]; });
#pragma unroll
    for (int k = 0; k < S::E; k++) {
        Lazy y = mul(x[k], factor, m);
        y = plus(y < 0 ? plus(y, m.p) : y, add);
        out[(r + (k << LB)) * 256] = word_of(y >= m.p ? minus(y, m.p) : y, m);
    }
}

// ---------------------------------------------------------------- rows
#define ROW_WORDS 4096  // of a block
#define ROW_PAD 272     // 256 words and a word of padding every 16

// The factors of the last four stages for the 16 words T.
struct Powers {
    Lazy w[4];  // t[n/16 + T], t[n/8 + 2T], t[n/4 + 4T], t[n/2 + 8T]
};
__device__ __forceinline__ Powers powers(Lazy w8, const Prime& m) {
    Powers p;
    p.w[3] = w8;
    p.w[2] = mul(p.w[3], p.w[3], m);
    p.w[1] = mul(p.w[2], p.w[2], m);
    p.w[0] = mul(p.w[1], p.w[1], m);
    return p;
}

// Starts to copy this thread's share of 256 contiguous words to shared memory: 16 neighbouring threads share a row and
// what its threads fetched is theirs after `fetched`.
__device__ __forceinline__ void fetch_row(u64* to, const u64* from) {
    const u32 r = threadIdx.x % 16;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const u32 address = (u32)__cvta_generic_to_shared(to + 2 * (r + 16 * k));
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from + 2 * (r + 16 * k)) : "memory");
    }
}
__device__ __forceinline__ void fetched() {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncwarp();
}

// This thread's words of the 16 rows of a block, `in` its first word.
__device__ __forceinline__ void read_rows(Lazy (&x)[16], const Lazy* in) {
    const int r = threadIdx.x % 16, row = threadIdx.x / 16;
#pragma unroll
    for (int k = 0; k < 16; k++) x[k] = in[row * 256 + r + 16 * k];
}

// Forward, last 8 stages of the 16 rows of block number `block` of a row, in shared memory at the end: row * ROW_PAD +
// i + i / 16 holds lazy values below 4 p. x is what `read_rows` has read.
__device__ __forceinline__ void forward_rows(Lazy (&x)[16], u32 block, Lazy* s, const Lazy* __restrict__ t, u32 n,
                                             const Prime& m) {
    const int r = threadIdx.x % 16, row = threadIdx.x / 16;
    const u32 chunk = block * 16 + row, chunks = n / 256;
    settle<4, 4>(x, m);
    const u32 base = chunks + chunk;
    forward<4, 4>(x, m, [&](int st, int b) { return t[(base << st) + b]; });
    Lazy* sr = s + row * ROW_PAD;
#pragma unroll
    for (int k = 0; k < 16; k++) sr[r + 17 * k] = x[k];
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 16; k++) x[k] = sr[r * 17 + k];
    settle<4, 4>(x, m);
    const Powers p = powers(t[n / 16 + chunk * 16 + r], m);
    forward<4, 4>(x, m, [&](int st, int b) { return b == 0 ? p.w[st] : mul(p.w[st], t[b], m); });
#pragma unroll
    for (int k = 0; k < 16; k++) sr[r * 17 + k] = x[k];
    __syncwarp();
}

// Inverse, first 8 stages: words in [0, p) of `in` to lazy values below 1 p of `out`.
__device__ __forceinline__ void backward_rows(const u64* in, Lazy* out, Lazy* s, const Lazy* __restrict__ t, u32 n,
                                              const Prime& m) {
    const int r = threadIdx.x % 16, row = threadIdx.x / 16;
    const u32 chunk = blockIdx.x * 16 + row, chunks = n / 256;
    Lazy* sr = s + row * ROW_PAD;
    Lazy x[16];
#pragma unroll
    for (int k = 0; k < 16; k++) sr[r + 17 * k] = load(in[row * 256 + r + 16 * k]);
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 16; k++) x[k] = sr[r * 17 + k];
    // Reflected: 16-word group n/16 - 1 - T, block 2^st - 1 - b.
    const Powers p = powers(t[n / 8 - 1 - (chunk * 16 + r)], m);
    backward<4, 4, false>(x, m, [&](int st, int b) {
        const int j = (1 << st) - 1 - b;
        return j == 0 ? p.w[st] : mul(p.w[st], t[j], m);
    });
#pragma unroll
    for (int k = 0; k < 16; k++) sr[r * 17 + k] = x[k];
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 16; k++) x[k] = sr[r + 17 * k];
    const u32 base = 2 * chunks - 1 - chunk;
    backward<4, 4, false>(x, m, [&](int st, int b) { return t[(base << st) + ((1 << st) - 1 - b)]; });
#pragma unroll
    for (int k = 0; k < 16; k++) out[row * 256 + r + 16 * k] = x[k];
}

// ---------------------------------------------------------------- kernels
// Polynomials of a batch, wherever they are.
#define POLYS 16
struct Polys {
    const u64* of[POLYS];
};

#define JOB                                                                     \
    begin();                                                                    \
    const Job job = jobs[blockIdx.y];                                           \
    const Prime m = primes[job.prime];                                          \
    const Lazy* __restrict__ t = twiddles + (size_t)job.prime * stride;

// Polynomial z of the batch starts at in + z * in_step words and out + z * out_step.
#define NTT_TABLES                                                                                                     \
    const Job *__restrict__ jobs, const Prime *__restrict__ primes, const Lazy *__restrict__ twiddles, u32 stride, u32 n
#define NTT_ARGS const u64 *in, u64 in_step, u64 *out, u64 out_step, NTT_TABLES

#define COLUMN_KERNELS(LA, LB, CC)                                                                            \
    extern "C" __global__ void __launch_bounds__(CC << LB) ntt_columns_##LA##LB(NTT_ARGS) {                   \
        JOB forward_columns<LA, LB, CC>(in + blockIdx.z * in_step + (size_t)job.src * n,                      \
                                        (Lazy*)(out + blockIdx.z * out_step + (size_t)job.dst * n), t, m);    \
    }                                                                                                         \
    extern "C" __global__ void __launch_bounds__(CC << LB) intt_columns_##LA##LB(NTT_ARGS) {                  \
        JOB backward_columns<LA, LB, CC>((const Lazy*)(in + blockIdx.z * in_step + (size_t)job.dst * n),      \
                                         out + blockIdx.z * out_step + (size_t)job.dst * n, t, m, job.factor, \
                                         job.add);                                                            \
    }

COLUMN_KERNELS(4, 1, 128)
COLUMN_KERNELS(4, 2, 64)
COLUMN_KERNELS(4, 3, 32)
COLUMN_KERNELS(4, 4, 16)
COLUMN_KERNELS(5, 4, 8)

extern "C" __global__ void __launch_bounds__(256) ntt_rows(NTT_ARGS) {
    __shared__ Lazy s[16 * ROW_PAD];
    JOB
    const size_t block = (size_t)job.dst * n + blockIdx.x * ROW_WORDS;
    Lazy y[16];
    read_rows(y, (const Lazy*)(in + blockIdx.z * in_step) + block);
    forward_rows(y, blockIdx.x, s, t, n, m);
    u64* o = out + blockIdx.z * out_step + block;
    const int r = threadIdx.x % 16, row = threadIdx.x / 16;
#pragma unroll
    for (int k = 0; k < 16; k++) o[row * 256 + r + 16 * k] = store(s[row * ROW_PAD + r + 17 * k], m);
}

// The last 8 stages, and (x - result) * factor: the end of a division (`sub_scale` of backend/cpu). Row `dst` of x, which
// is fetched meanwhile. Dynamic shared memory: ROW_PAD * 16 + ROW_WORDS words.
extern "C" __global__ void __launch_bounds__(256)
    ntt_rows_divide(NTT_ARGS, const __grid_constant__ Polys x) {
    extern __shared__ Lazy s[];
    u64* a = (u64*)(s + 16 * ROW_PAD);
    JOB
    const int r = threadIdx.x % 16, row = threadIdx.x / 16;
    const size_t block = (size_t)job.dst * n + blockIdx.x * ROW_WORDS;
    fetch_row(a + row * 256, x.of[blockIdx.z] + block + row * 256);
    Lazy y[16];
    read_rows(y, (const Lazy*)(in + blockIdx.z * in_step) + block);
    forward_rows(y, blockIdx.x, s, t, n, m);
    u64* o = out + blockIdx.z * out_step + block;
    fetched();
#pragma unroll
    for (int k = 0; k < 16; k++) {
        const int i = row * 256 + r + 16 * k;
        Lazy y = minus(load(a[i]), reduce(s[row * ROW_PAD + r + 17 * k], m));
        o[i] = word_of(mul(y, job.factor, m), m);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    intt_rows(const __grid_constant__ Polys in, u64* out, u64 out_step, NTT_TABLES) {
    __shared__ Lazy s[16 * ROW_PAD];
    JOB
    backward_rows(in.of[blockIdx.z] + (size_t)job.src * n + blockIdx.x * ROW_WORDS,
                  (Lazy*)(out + blockIdx.z * out_step) + (size_t)job.dst * n + blockIdx.x * ROW_WORDS, s, t, n, m);
}

// One row of up to 4096 words a block, 1 word a row included. Dynamic shared memory: n words.
extern "C" __global__ void __launch_bounds__(512) ntt_small(NTT_ARGS) {
    extern __shared__ Lazy a[];
    JOB
    in += blockIdx.z * in_step + (size_t)job.src * n;
    out += blockIdx.z * out_step + (size_t)job.dst * n;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) a[i] = load(in[i]);
    for (u32 half = n / 2, blocks = 1; half > 0; half /= 2, blocks *= 2) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < n / 2; i += blockDim.x) {
            const u32 b = i / half, j = 2 * half * b + i % half;
            const Lazy y = mul(a[j + half], t[blocks + b], m), u = a[j];
            a[j] = make_room(plus(u, y), m);
            a[j + half] = make_room(minus(u, y), m);
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) out[i] = store(a[i], m);
}

extern "C" __global__ void __launch_bounds__(512) intt_small(NTT_ARGS) {
    extern __shared__ Lazy a[];
    JOB
    in += blockIdx.z * in_step + (size_t)job.src * n;
    out += blockIdx.z * out_step + (size_t)job.dst * n;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) a[i] = load(in[i]);
    for (u32 half = 1, blocks = n / 2; blocks > 0; half *= 2, blocks /= 2) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < n / 2; i += blockDim.x) {
            const u32 b = i / half, j = 2 * half * b + i % half;
            const Lazy u = a[j], v = a[j + half];
            a[j] = reduce(plus(u, v), m);
            a[j + half] = mul(minus(v, u), t[2 * blocks - 1 - b], m);
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        Lazy y = mul(a[i], job.factor, m);
        y = plus(y < 0 ? plus(y, m.p) : y, job.add);
        out[i] = word_of(y >= m.p ? minus(y, m.p) : y, m);
    }
}
