// How fast a card multiplies in either arithmetic: what decides which kernels it gets, see backend/cuda/modules.rs.
//
// Thread mapping: every thread squares four numbers `rounds` times; any grid. Writes one word a thread, so that the work
// cannot be left out.
#include "field.cuh"

template <class Lazy, class Prime>
__device__ __forceinline__ void square(u64* out, u32 rounds, const Prime& m) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    Lazy x[4];
#pragma unroll
    for (int k = 0; k < 4; k++) x[k] = Lazy(i + k + 2);
    for (u32 round = 0; round < rounds; round++) {
#pragma unroll
        for (int k = 0; k < 4; k++) x[k] = mul(x[k], x[k], m);
    }
    out[i] = word_of(x[0], m) + word_of(x[1], m) + word_of(x[2], m) + word_of(x[3], m);
}

extern "C" __global__ void __launch_bounds__(256) probe_fp64(u64* out, u32 rounds, fp64::Prime m) {
    square<fp64::Lazy>(out, rounds, m);
}
extern "C" __global__ void __launch_bounds__(256) probe_integer(u64* out, u32 rounds, integer::Prime m) {
    square<integer::Lazy>(out, rounds, m);
}
