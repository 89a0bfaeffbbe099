// Doubly hoisted sums: weighted sums of key-switched automorphisms, in one pass. Equal to `HoistedSums::compose` of
// backend/hoisted.rs.
//
// Thread mapping: a thread holds one word (column) of one row; blockIdx.y is the row. For each baby step it gathers the
// digits and the key through the automorphism (aligned blocks of 8 words go to aligned blocks, so 64 bytes at a time),
// and multiplies the pair into the sums of up to G giant steps, which stay in registers. No pair is written to memory.
#pragma once
#include "elementwise.cu"

#define BABIES 16
#define GIANTS 8
#define HOISTED_DIGITS 8

struct Hoisted {
    const u64* digits[HOISTED_DIGITS];  // rows over the call's limbs
    const u64* c[2];
    const u64* keys[BABIES][HOISTED_DIGITS][2];
    const u64* weights[GIANTS][BABIES];  // null for 0
    u64* out[GIANTS][2];
    u32 key_q[BABIES][HOISTED_DIGITS][2];  // q-rows of each operand
    u32 weight_q[GIANTS][BABIES];
    u32 weight_shift[GIANTS][BABIES];  // of a word of the call's rows to one of the weight's
    u32 galois[BABIES];                // 0: the pair (P c_0, P c_1) itself
    u32 digit_count, babies, giants, log_n, accumulate, unused;
    Lazy special[256];  // P mod each prime of Q, centred
};

// A word that is read once.
template <bool ONCE>
__device__ __forceinline__ u64 read(const u64* from) {
    if constexpr (ONCE) return __ldcs(from);
    return *from;
}

template <int G>
__device__ __forceinline__ void hoisted(const Hoisted& h, const Shape& s) {
    begin();
    constexpr bool EARLY = G <= 4;
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (i >= s.n) return;
    const Prime m = s.primes[prime_of(s, row)];
    const bool upper = row >= s.q;  // a special row, where P is 0
    const Lazy special = upper ? Lazy(0) : h.special[row];
    Lazy sums[G][2];
#pragma unroll
    for (int g = 0; g < G; g++) {
        sums[g][0] = sums[g][1] = 0;
        if (h.accumulate && g < h.giants) {
            sums[g][0] = load(h.out[g][0][(size_t)row * s.n + i]);
            sums[g][1] = load(h.out[g][1][(size_t)row * s.n + i]);
        }
    }
    for (u32 b = 0; b < h.babies; b++) {
        // Up to four giant steps have room for all loads of a baby step before anything waits for one: a weight that is not
        // there is read elsewhere and is 0. Nothing is read twice.
        u64 weights[EARLY ? G : 1];
        if constexpr (EARLY) {
#pragma unroll
            for (int g = 0; g < G; g++) {
                const u64* weight = g < h.giants ? h.weights[g][b] : nullptr;
                const u32 shift = h.weight_shift[g][b], at_row = row_in(row, s.q, h.weight_q[g][b]);
                const u64 word = __ldcs(weight ? weight + (size_t)at_row * (s.n >> shift) + (i >> shift) : h.c[0] + i);
                weights[g] = weight ? word : 0;
            }
        }
        Lazy u0 = 0, u1 = 0;
        if (h.galois[b] == 0) {
            if (upper) continue;
            u0 = mul(load(h.c[0][(size_t)row * s.n + i]), special, m);
            u1 = mul(load(h.c[1][(size_t)row * s.n + i]), special, m);
        } else {
            const u32 j = galois_source(i, h.galois[b], h.log_n);
#pragma unroll 4
            for (u32 d = 0; d < h.digit_count; d++) {
                const Lazy x = load(h.digits[d][(size_t)row * s.n + j]);
                const Lazy k0 = load(read<EARLY>(h.keys[b][d][0] + (size_t)row_in(row, s.q, h.key_q[b][d][0]) * s.n + j));
                const Lazy k1 = load(read<EARLY>(h.keys[b][d][1] + (size_t)row_in(row, s.q, h.key_q[b][d][1]) * s.n + j));
                u0 = plus(u0, mul(x, k0, m));
                u1 = plus(u1, mul(x, k1, m));
            }
            if (!upper) u0 = plus(u0, mul(load(h.c[0][(size_t)row * s.n + j]), special, m));
        }
        u0 = make_room(u0, m);  // 8 * 0.69 p + 0.6 p at most
        u1 = make_room(u1, m);
#pragma unroll
        for (int g = 0; g < G; g++) {
            if constexpr (EARLY) {
                const Lazy w = load(weights[g]);
                sums[g][0] = plus(sums[g][0], mul(u0, w, m));
                sums[g][1] = plus(sums[g][1], mul(u1, w, m));
            } else if (g < h.giants && h.weights[g][b] != 0) {
                const u32 shift = h.weight_shift[g][b], at_row = row_in(row, s.q, h.weight_q[g][b]);
                const Lazy w = load(h.weights[g][b][(size_t)at_row * (s.n >> shift) + (i >> shift)]);
                sums[g][0] = plus(sums[g][0], mul(u0, w, m));
                sums[g][1] = plus(sums[g][1], mul(u1, w, m));
            }
            if (b % 4 == 3) {  // 1 p + 4 * 0.6 p; one step more where an identity is skipped
                sums[g][0] = make_room(sums[g][0], m);
                sums[g][1] = make_room(sums[g][1], m);
            }
        }
    }
#pragma unroll
    for (int g = 0; g < G; g++) {
        if (g >= h.giants) break;
        h.out[g][0][(size_t)row * s.n + i] = store(sums[g][0], m);
        h.out[g][1][(size_t)row * s.n + i] = store(sums[g][1], m);
    }
}

extern "C" __global__ void __launch_bounds__(256) hoisted_4(const __grid_constant__ Hoisted h, Shape s) { hoisted<4>(h, s); }
extern "C" __global__ void __launch_bounds__(256) hoisted_8(const __grid_constant__ Hoisted h, Shape s) { hoisted<8>(h, s); }
