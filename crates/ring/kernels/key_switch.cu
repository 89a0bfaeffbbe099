// Key switches up to the division by P: phi(P * plus[h] + sum over d of digits[d] * keys[d][h]), h = 0 and 1. Equal to
// `KeySwitch::compose` of backend/key_switch.rs.
//
// `key_product` takes digits as they are. Thread mapping as elementwise.cu.
//
// `ntt_rows_switch` finishes the digits' transforms (the last 8 stages of ntt.cu) and multiplies on the spot: no digit is
// written to memory. Thread mapping: blockIdx.y is the row, blockIdx.x = member + members * block of 4096 words, so that
// the members of a batch meet the key in the second-level cache; threads and words as `ntt_rows`. Layout: row `row` of digit
// d of member z is row (z * count + d) * rows + row of `digits`; a digit's own rows are those of the polynomial. Keys are fetched while the
// transforms run, a digit's words while those of the one before are multiplied. Dynamic shared memory: ROW_PAD * 16 + 2 *
// ROW_WORDS words.
#pragma once
#include "elementwise.cu"
#include "ntt.cu"

#define KEY_DIGITS 16
#define MEMBERS 8

struct Member {
    const u64* a;        // rows over {q, 0} at least, NTT order
    const u64* plus[2];  // likewise, or null
    u64* out[2];         // rows over the call's limbs
    const u64* lifted;   // ntt_rows_switch: likewise, or null; added to half 0 before the automorphism
    const u64* next[2];  // ntt_rows_switch: likewise; added after it
};
struct Switch {
    const u64* keys[KEY_DIGITS][2];
    const u64* digits[KEY_DIGITS];  // of key_product
    Member members[MEMBERS];        // key_product: the first
    u32 key_q[KEY_DIGITS][2];       // q-rows of the halves
    u32 own[KEY_DIGITS][2];         // first own row of a digit, and the row after the last
    u32 count;                      // digits
    u32 accumulate;                 // key_product: add to what is there
    u32 galois;                     // the inverse automorphism, 0 for none
    u32 log_n;
    u32 member_count;               // ntt_rows_switch
    u32 rows;                       // of a digit
    Lazy special[256];            // P mod each prime of Q, centred
};

__device__ __forceinline__ const u64* key_row(const Switch& k, const Shape& s, u32 d, u32 half, u32 row) {
    return k.keys[d][half] + (size_t)row_in(row, s.q, k.key_q[d][half]) * s.n;
}

// Where word i goes under the automorphism.
__device__ __forceinline__ u32 target_of(const Switch& k, u32 i) { return k.galois ? galois_source(i, k.galois, k.log_n) : i; }

extern "C" __global__ void __launch_bounds__(256) key_product(const __grid_constant__ Switch k, Shape s) {
    ELEMENT
    const u32 row = blockIdx.y;
    const size_t start = (size_t)row * s.n;
    const Member& member = k.members[0];
    Lazy sums[2][2] = {};
    if (k.accumulate) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const ulonglong2 x = ((const ulonglong2*)(member.out[h] + start))[i];
            sums[h][0] = load(x.x), sums[h][1] = load(x.y);
        }
    }
    for (u32 d = 0; d < k.count; d++) {
        const ulonglong2 x = ((const ulonglong2*)(k.digits[d] + start))[i];
        const Lazy x0 = load(x.x), x1 = load(x.y);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const ulonglong2 w = ((const ulonglong2*)key_row(k, s, d, h, row))[i];
            sums[h][0] = plus(sums[h][0], mul(x0, load(w.x), m));
            sums[h][1] = plus(sums[h][1], mul(x1, load(w.y), m));
            if (d % 4 == 3) {  // 1 p + 4 * 0.69 p
                sums[h][0] = make_room(sums[h][0], m);
                sums[h][1] = make_room(sums[h][1], m);
            }
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (row < s.q && member.plus[h]) {
            const ulonglong2 x = ((const ulonglong2*)(member.plus[h] + start))[i];
            sums[h][0] = plus(sums[h][0], mul(load(x.x), k.special[row], m));
            sums[h][1] = plus(sums[h][1], mul(load(x.y), k.special[row], m));
        }
        const u64 y0 = store(sums[h][0], m), y1 = store(sums[h][1], m);
        if (k.galois) {
            member.out[h][start + target_of(k, 2 * i)] = y0;
            member.out[h][start + target_of(k, 2 * i + 1)] = y1;
        } else {
            ((ulonglong2*)(member.out[h] + start))[i] = make_ulonglong2(y0, y1);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) ntt_rows_switch(const Lazy* digits,
                                                                     const __grid_constant__ Switch k,
                                                                     const Lazy* __restrict__ twiddles, u32 stride,
                                                                     Shape s) {
    begin();
    extern __shared__ Lazy x[];
    const u32 z = blockIdx.x % k.member_count, block = blockIdx.x / k.member_count, row = blockIdx.y;
    const u32 prime = prime_of(s, row);
    const Prime m = s.primes[prime];
    const Lazy* __restrict__ t = twiddles + (size_t)prime * stride;
    const Member& member = k.members[z];
    const u32 r = threadIdx.x % 16, local = threadIdx.x / 16 * 256 + r;  // word `local` + 16 i of the block
    const size_t start = (size_t)row * s.n + block * ROW_WORDS;
    // This thread's row of either key half.
    u64* key0 = (u64*)(x + 16 * ROW_PAD) + threadIdx.x / 16 * 256;
    u64* key1 = key0 + ROW_WORDS;
    Lazy sums[2][16] = {};
    // The words of the next digit are read while this one's are multiplied: what memory holds, since a conversion would wait.
    Lazy words[16];
    const auto owns = [&](u32 d) { return k.own[d][0] <= row && row < k.own[d][1]; };
    const auto read = [&](u32 d) {
        const Lazy* digit = digits + (size_t)((z * k.count + d) * k.rows + row) * s.n;
        read_rows(words, (owns(d) ? (const Lazy*)member.a + (size_t)row * s.n : digit) + block * ROW_WORDS);
    };
    read(0);
    for (u32 d = 0; d < k.count; d++) {
        Lazy* mine = x + threadIdx.x / 16 * ROW_PAD + r;  // words r + 16 i at r + 17 i
        __syncwarp();
        fetch_row(key0, key_row(k, s, d, 0, row) + block * ROW_WORDS + threadIdx.x / 16 * 256);
        fetch_row(key1, key_row(k, s, d, 1, row) + block * ROW_WORDS + threadIdx.x / 16 * 256);
        if (owns(d)) {
#pragma unroll
            for (int i = 0; i < 16; i++) mine[17 * i] = load(bits_of(words[i]));
        } else {
            forward_rows(words, block, x, t, s.n, m);
        }
        if (d + 1 < k.count) read(d + 1);
        fetched();
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const Lazy y = make_room(mine[17 * i], m);
            sums[0][i] = plus(sums[0][i], mul(y, load(key0[r + 16 * i]), m));
            sums[1][i] = plus(sums[1][i], mul(y, load(key1[r + 16 * i]), m));
        }
        if (d % 4 == 3) {  // 4 * 0.6 p + 0.5 p
#pragma unroll
            for (int i = 0; i < 16; i++) sums[0][i] = make_room(sums[0][i], m), sums[1][i] = make_room(sums[1][i], m);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        // All that is read before the first word is written: the compiler cannot know that results are elsewhere.
        if (row < s.q && member.plus[h]) {
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const Lazy y = mul(load(member.plus[h][start + local + 16 * i]), k.special[row], m);
                sums[h][i] = plus(sums[h][i], y);
            }
        }
        if (h == 0 && member.lifted) {
#pragma unroll
            for (int i = 0; i < 16; i++) sums[h][i] = plus(sums[h][i], load(member.lifted[start + local + 16 * i]));
        }
        const size_t first = (size_t)row * s.n;
        if (member.next[h]) {
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const u32 to = target_of(k, block * ROW_WORDS + local + 16 * i);
                sums[h][i] = plus(sums[h][i], load(member.next[h][first + to]));
            }
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {
            member.out[h][first + target_of(k, block * ROW_WORDS + local + 16 * i)] = store(sums[h][i], m);
        }
    }
}
