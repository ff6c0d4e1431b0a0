// What decode.cu takes from CUDA, in C++: the threads of a block are coroutines of one thread that take turns at
// every barrier, block after block.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __device__
#define __global__
#define __shared__ thread_local
#define __launch_bounds__(...)

using std::min;

struct Index {
    unsigned x;
};
static thread_local Index threadIdx, blockIdx, blockDim, gridDim;

void wait_for_all();  // returns when every thread that still runs has called it
static inline void __syncthreads() { wait_for_all(); }
static inline void __syncwarp() { wait_for_all(); }

static inline unsigned __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) result |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return result;
}
template <class T, class U> static inline void atomicAdd(T *at, U more) { *at += more; }
static inline void atomicOr(unsigned *at, unsigned bits) { *at |= bits; }
static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fsub_rn(float a, float b) { return a - b; }

// float16, half to even: a multiple of the unit in the last place, which below 2**-14 is 2**-24.
static inline unsigned short host_half(float value) {
    const unsigned sign = __float_as_uint(value) >> 16 & 0x8000;
    if (value != value) return 0x7FFF;
    const float size = std::fabs(value);
    if (size == 0) return sign;
    if (size >= 65520) return sign | 0x7C00;
    int exponent;
    std::frexp(size, &exponent);
    exponent = std::max(exponent, -13);
    const unsigned units = (unsigned)std::nearbyint(std::ldexp(size, 11 - exponent));
    return sign | (units + ((exponent + 13) << 10));
}
