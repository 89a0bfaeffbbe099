// Arithmetic modulo primes below 2^50, on FP64 or, with -DINTEGER, on integer units. Kernels are written once.
//
// Residues at rest are u64 words in [0, p); inside a kernel they are `Lazy`: any representative of absolute value at most
// c * p, c stated where it matters. Both arithmetics are exact and keep the bounds stated for FP64, so the words that
// leave a kernel are those of the CPU. Which one a card gets is measured when it is opened (probe.cu).
#pragma once

typedef unsigned long long u64;
typedef unsigned int u32;

#include "fp64.cuh"
#include "integer.cuh"

#ifdef INTEGER
using namespace integer;
#else
using namespace fp64;
#endif

// The word in [0, p) of |x| < 2^53.
__device__ __forceinline__ u64 store(Lazy x, const Prime& m) { return word_of(reduce(x, m), m); }

// a + b, a - b in [0, p) for words in [0, p).
__device__ __forceinline__ u64 add_words(u64 a, u64 b, u64 p) { u64 s = a + b; return min(s, s - p); }
__device__ __forceinline__ u64 sub_words(u64 a, u64 b, u64 p) { u64 d = a - b; return min(d, d + p); }

// Every kernel begins with this: it may have been launched while the last blocks of the one before still ran (driver.rs), and
// waits here until that has ended and its words are visible. The one after may be launched in turn.
__device__ __forceinline__ void begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Limbs of a call: q rows, then the special rows. A buffer may hold more q-rows than the call works on.
// The prime of row r, `total` the number of primes of Q in the basis; and the row of a buffer with `have` q-rows.
__device__ __forceinline__ u32 row_in(u32 row, u32 q, u32 have) { return row < q ? row : have + (row - q); }
