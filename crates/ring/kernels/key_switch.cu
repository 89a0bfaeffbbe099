// Sums of products with key polynomials. Equal to `inner_product` of backend/cpu.
//
// Thread mapping: as elementwise.cu; blockIdx.z is the polynomial of the batch, so that neighbouring blocks of one row
// meet the key in the second-level cache. Layout: digits and results are rows over the call's limbs.
#pragma once
#include "elementwise.cu"

#define KEY_DIGITS 16

struct Keys {
    const u64* halves[KEY_DIGITS][2];
    u32 q[KEY_DIGITS][2];  // q-rows of each half
};
struct DigitRows {
    const u64* words[KEY_DIGITS];
};

// out[h] (+)= sum over d of digits[d] * keys[d][h].
extern "C" __global__ void __launch_bounds__(256) inner_product(u64* out0, u64* out1, const __grid_constant__ DigitRows digits,
                                                                u32 count, const __grid_constant__ Keys keys,
                                                                u32 accumulate, Shape s) {
    ELEMENT
    const size_t at_digit = (size_t)blockIdx.y * s.n;
    double a0 = 0, a1 = 0, b0 = 0, b1 = 0;
    ulonglong2* o0 = (ulonglong2*)(out0 + at_digit) + i;
    ulonglong2* o1 = (ulonglong2*)(out1 + at_digit) + i;
    if (accumulate) {
        a0 = load(o0->x), a1 = load(o0->y), b0 = load(o1->x), b1 = load(o1->y);
    }
    for (u32 d = 0; d < count; d++) {
        const ulonglong2 x = ((const ulonglong2*)(digits.words[d] + at_digit))[i];
        const ulonglong2 k = ((const ulonglong2*)(keys.halves[d][0] + (size_t)row_in(blockIdx.y, s.q, keys.q[d][0]) * s.n))[i];
        const ulonglong2 l = ((const ulonglong2*)(keys.halves[d][1] + (size_t)row_in(blockIdx.y, s.q, keys.q[d][1]) * s.n))[i];
        const double x0 = load(x.x), x1 = load(x.y);
        a0 = __dadd_rn(a0, mul(x0, load(k.x), m));
        a1 = __dadd_rn(a1, mul(x1, load(k.y), m));
        b0 = __dadd_rn(b0, mul(x0, load(l.x), m));
        b1 = __dadd_rn(b1, mul(x1, load(l.y), m));
        if (d % 4 == 3) {  // 1 p + 4 * 0.69 p
            a0 = reduce(a0, m), a1 = reduce(a1, m), b0 = reduce(b0, m), b1 = reduce(b1, m);
        }
    }
    *o0 = make_ulonglong2(store(a0, m), store(a1, m));
    *o1 = make_ulonglong2(store(b0, m), store(b1, m));
}
