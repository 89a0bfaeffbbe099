// Word-by-word arithmetic. Equal to the methods of the same names of backend/cpu.
//
// Thread mapping: a thread works on two neighbouring words (16 bytes), blockIdx.y is the row, blockIdx.z the polynomial
// of the batch; blockDim.x * gridDim.x covers n / 2. Layout: rows of n words, the q-rows and then the special rows of
// the call's limbs; an operand may hold more q-rows, `*_q` says how many.
#pragma once
#include "field.cuh"

// Limbs of a call and what a kernel needs to find primes.
struct Shape {
    const Prime* __restrict__ primes;
    u32 n;
    u32 q;      // q-rows of the call
    u32 total;  // primes of Q in the basis
    u32 unused;
};

__device__ __forceinline__ u32 prime_of(const Shape& s, u32 row) { return row_in(row, s.q, s.total); }

// An operand: rows of `width` words, `q` q-rows; polynomial z starts `step` words later.
struct In {
    const u64* words;
    u64 step;
    u32 q;
    u32 shift;  // word i of the call is word i >> shift of the operand: runs of a subring polynomial
};
struct Out {
    u64* words;
    u64 step;
};

__device__ __forceinline__ ulonglong2 read2(const In& a, const Shape& s, u32 i) {
    const u32 row = row_in(blockIdx.y, s.q, a.q);
    const u64* from = a.words + blockIdx.z * a.step + (size_t)row * (s.n >> a.shift);
    if (a.shift == 0) return ((const ulonglong2*)from)[i];
    const u64 x = from[2 * i >> a.shift];  // shift >= 1: neighbours share a word
    return make_ulonglong2(x, x);
}

__device__ __forceinline__ ulonglong2* at(const Out& a, const Shape& s) {
    return (ulonglong2*)(a.words + blockIdx.z * a.step + (size_t)blockIdx.y * s.n);
}

#define ELEMENT                                          \
    begin();                                             \
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x; \
    if (i >= s.n / 2) return;                            \
    const Prime m = s.primes[prime_of(s, blockIdx.y)];

extern "C" __global__ void add(Out out, In a, In b, Shape s) {
    ELEMENT
    const ulonglong2 x = read2(a, s, i), y = read2(b, s, i);
    at(out, s)[i] = make_ulonglong2(add_words(x.x, y.x, m.word), add_words(x.y, y.y, m.word));
}

extern "C" __global__ void sub(Out out, In a, In b, Shape s) {
    ELEMENT
    const ulonglong2 x = read2(a, s, i), y = read2(b, s, i);
    at(out, s)[i] = make_ulonglong2(sub_words(x.x, y.x, m.word), sub_words(x.y, y.y, m.word));
}

extern "C" __global__ void neg(Out out, In a, Shape s) {
    ELEMENT
    const ulonglong2 x = read2(a, s, i);
    at(out, s)[i] = make_ulonglong2(sub_words(0, x.x, m.word), sub_words(0, x.y, m.word));
}

__device__ __forceinline__ u64 mul_words(u64 a, u64 b, const Prime& m) { return word_of(mul(load(a), load(b), m), m); }

extern "C" __global__ void mul(Out out, In a, In b, Shape s) {
    ELEMENT
    const ulonglong2 x = read2(a, s, i), y = read2(b, s, i);
    at(out, s)[i] = make_ulonglong2(mul_words(x.x, y.x, m), mul_words(x.y, y.y, m));
}

// out = c + a * b.
extern "C" __global__ void mul_add(Out out, In c, In a, In b, Shape s) {
    ELEMENT
    const ulonglong2 z = read2(c, s, i), x = read2(a, s, i), y = read2(b, s, i);
    at(out, s)[i] = make_ulonglong2(add_words(z.x, mul_words(x.x, y.x, m), m.word),
                                    add_words(z.y, mul_words(x.y, y.y, m), m.word));
}

// (x, y, z) = (a0 b0, a0 b1 + a1 b0, a1 b1).
extern "C" __global__ void tensor(Out x, Out y, Out z, In a0, In a1, In b0, In b1, Shape s) {
    ELEMENT
    const ulonglong2 p = read2(a0, s, i), q = read2(a1, s, i), r = read2(b0, s, i), t = read2(b1, s, i);
    u64 words[2][3];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const Lazy u = load(k ? p.y : p.x), v = load(k ? q.y : q.x), w = load(k ? r.y : r.x), e = load(k ? t.y : t.x);
        words[k][0] = word_of(mul(u, w, m), m);
        words[k][1] = store(plus(mul(u, e, m), mul(v, w, m)), m);
        words[k][2] = word_of(mul(v, e, m), m);
    }
    at(x, s)[i] = make_ulonglong2(words[0][0], words[1][0]);
    at(y, s)[i] = make_ulonglong2(words[0][1], words[1][1]);
    at(z, s)[i] = make_ulonglong2(words[0][2], words[1][2]);
}

// One number a row, by value: a basis on a CUDA device has at most 256 primes.
struct Scalars {
    Lazy of[256];
};

// out = c + a * scalars[row], with c optional (q = 0: none). Scalars are centred.
extern "C" __global__ void mul_scalars(Out out, In c, In a, const __grid_constant__ Scalars scalars, Shape s) {
    ELEMENT
    const ulonglong2 x = read2(a, s, i);
    const Lazy f = scalars.of[blockIdx.y];
    ulonglong2 y = make_ulonglong2(word_of(mul(load(x.x), f, m), m), word_of(mul(load(x.y), f, m), m));
    if (c.q) {
        const ulonglong2 z = read2(c, s, i);
        y = make_ulonglong2(add_words(z.x, y.x, m.word), add_words(z.y, y.y, m.word));
    }
    at(out, s)[i] = y;
}

// Terms of a sum with a factor a row, some rows at a time.
#define TERMS 8
#define TERM_ROWS 64
struct Terms {
    In of[TERMS];
    Lazy factors[TERMS][TERM_ROWS];  // centred
    u32 count, first;                  // terms, first row of the launch
};

// out = c + sum of factors * terms over the rows from `first` on, all of them q-rows; c optional (q = 0: none).
extern "C" __global__ void combination(Out out, In c, const __grid_constant__ Terms terms, Shape s) {
    begin();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, row = terms.first + blockIdx.y;
    if (i >= s.n / 2) return;
    const Prime m = s.primes[row];
    const size_t at_row = (size_t)row * s.n;
    Lazy x = 0, y = 0;
    if (c.q) {
        const ulonglong2 z = ((const ulonglong2*)(c.words + at_row))[i];
        x = load(z.x), y = load(z.y);
    }
#pragma unroll
    for (u32 k = 0; k < TERMS; k++) {
        if (k < terms.count) {
            const ulonglong2 z = ((const ulonglong2*)(terms.of[k].words + at_row))[i];
            const Lazy f = terms.factors[k][blockIdx.y];
            x = plus(x, mul(load(z.x), f, m));  // 1 p + 8 * 0.6 p
            y = plus(y, mul(load(z.y), f, m));
        }
    }
    ((ulonglong2*)(out.words + at_row))[i] = make_ulonglong2(store(x, m), store(y, m));
}

// out = (a - b) * scalars[row].
extern "C" __global__ void sub_scale(Out out, In a, In b, const __grid_constant__ Scalars scalars, Shape s) {
    ELEMENT
    const ulonglong2 x = read2(a, s, i), y = read2(b, s, i);
    const Lazy f = scalars.of[blockIdx.y];
    at(out, s)[i] = make_ulonglong2(word_of(mul(minus(load(x.x), load(y.x)), f, m), m),
                                    word_of(mul(minus(load(x.y), load(y.y)), f, m), m));
}

// out = a + scalars[row], in [0, p).
extern "C" __global__ void add_scalars(Out out, In a, const __grid_constant__ Scalars scalars, Shape s) {
    ELEMENT
    const ulonglong2 x = read2(a, s, i);
    const u64 c = (u64)scalars.of[blockIdx.y];
    at(out, s)[i] = make_ulonglong2(add_words(x.x, c, m.word), add_words(x.y, c, m.word));
}

extern "C" __global__ void select_rows(Out out, In a, Shape s) {
    ELEMENT
    at(out, s)[i] = read2(a, s, i);
}

// Times X^exponent: word i by psi^(exponent * (2 brv(i) + 1)). Powers of psi come from two tables a prime, 256 low and
// 2n / 256 (at least one) high digits of the exponent.
extern "C" __global__ void mul_monomial(Out out, In a, const Lazy* __restrict__ powers, u32 power_stride, u32 log_n,
                                        u32 exponent, Shape s) {
    ELEMENT
    const Lazy* __restrict__ low = powers + (size_t)prime_of(s, blockIdx.y) * power_stride;
    const ulonglong2 x = read2(a, s, i);
    u64 y[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const u32 reversed = __brev(2 * i + k) >> (32 - log_n);
        const u32 e = (u32)((u64)exponent * (2 * reversed + 1)) & (2 * s.n - 1);
        const Lazy f = mul(low[e & 255], low[256 + (e >> 8)], m);
        y[k] = word_of(mul(load(k ? x.y : x.x), f, m), m);
    }
    at(out, s)[i] = make_ulonglong2(y[0], y[1]);
}

// X -> X^g in NTT order: index i holds the evaluation at psi^e, e = 2 brv(i) + 1, and takes it from where psi^(g e) is.
// One word a thread. Equal to `Permutation` of automorphism.rs.
__device__ __forceinline__ u32 galois_source(u32 i, u32 g, u32 log_n) {
    const u32 reversed = __brev(i) >> (32 - log_n);
    const u32 e = (g * (2 * reversed + 1)) & ((2u << log_n) - 1);
    return __brev(e >> 1) >> (32 - log_n);
}

extern "C" __global__ void automorphism(Out out, In a, u32 g, u32 log_n, Shape s) {
    begin();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= s.n) return;
    const u32 row = row_in(blockIdx.y, s.q, a.q);
    const u64* from = a.words + blockIdx.z * a.step + (size_t)row * s.n;
    out.words[blockIdx.z * out.step + (size_t)blockIdx.y * s.n + i] = from[galois_source(i, g, log_n)];
}

// A polynomial in X^(n/m): m words a row to every (n/m)-th word of rows of n, others 0; and back from runs.
extern "C" __global__ void spread(u64* out, const u64* a, u32 n, u32 shift) {
    begin();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const bool whole = (i & ((1u << shift) - 1)) == 0;
    out[(size_t)blockIdx.y * n + i] = whole ? a[(size_t)blockIdx.y * (n >> shift) + (i >> shift)] : 0;
}
extern "C" __global__ void gather_runs(u64* out, const u64* a, u32 n, u32 shift) {
    begin();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n >> shift) return;
    out[(size_t)blockIdx.y * (n >> shift) + i] = a[(size_t)blockIdx.y * n + ((size_t)i << shift)];
}
