// Vectors of W floats for the instruction set this file is compiled for, and the few functions of them the kernels need.
//
// Every kernel file is compiled once per instruction set (isa_*.cpp) in a namespace of its own. Nothing here may come from the C++ standard
// library: an inline function of it compiled with AVX-512 could be the copy the linker keeps for everybody.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(HANDFUL_ISA_AVX512) || defined(HANDFUL_ISA_AVX2) || defined(HANDFUL_ISA_SSE2)
#include <immintrin.h>
#elif defined(HANDFUL_ISA_NEON)
#include <arm_neon.h>
#endif

namespace handful {
namespace HANDFUL_NS {

#if defined(HANDFUL_ISA_AVX512)
#include "simd_avx512.h"
#elif defined(HANDFUL_ISA_AVX2)
#include "simd_avx2.h"
#elif defined(HANDFUL_ISA_SSE2)
#include "simd_sse2.h"
#elif defined(HANDFUL_ISA_NEON)
#include "simd_neon.h"
#else
#include "simd_scalar.h"
#endif

inline VF operator-(VF a) { return zero() - a; }
inline VF &operator+=(VF &a, VF b) { return a = a + b; }
inline void add(float *p, VF v) { store(p, load(p) + v); }
inline VF clamp(VF x, VF lo, VF hi) { return min(max(x, lo), hi); }
inline VF abs(VF a) { return max(a, zero() - a); }

// 2^x. Relative error below 2.5e-7 (degree 5 on [-1/2, 1/2], minimax, constant term held at 1).
#ifndef HANDFUL_OWN_EXP2
inline VF exp2(VF x) {
    VF n = round(x), f = x - n;
    VF p = fma(set1(1.3276457e-3f), f, set1(9.6755413e-3f));
    p = fma(p, f, set1(5.5507133e-2f));
    p = fma(p, f, set1(2.4022120e-1f));
    p = fma(p, f, set1(6.9314697e-1f));
    p = fma(p, f, set1(1.0f));
    return ldexp(p, n);
}
#endif

// e^x, x below about 88; the reduction keeps the error of x itself out (Cody and Waite).
inline VF exp(VF x) {
    x = max(min(x, set1(88.7f)), set1(-87.0f));
    VF n = round(x * set1(1.44269504f));
    VF r = fnma(n, set1(0.693359375f), x);
    r = fnma(n, set1(-2.12194440e-4f), r);
    VF p = fma(set1(1.9875691e-4f), r, set1(1.3981999e-3f));
    p = fma(p, r, set1(8.3334519e-3f));
    p = fma(p, r, set1(4.1665796e-2f));
    p = fma(p, r, set1(1.6666665e-1f));
    p = fma(p, r, set1(0.5f));
    p = fma(p, r * r, r);
    return ldexp(p + set1(1.0f), n);
}

// log2(x) of normal positive x: exponent and mantissa in [sqrt(1/2), sqrt(2)), then the series of artanh.
inline VF log2(VF x) {
    VI i = as_int(x);
    VI e = shr<23>(i - set1i(0x3f3504f3));
    VF m = as_float(i - shl<23>(e));
    VF s = (m - set1(1.0f)) / (m + set1(1.0f)), s2 = s * s;
    VF p = fma(set1(0.32059890f), s2, set1(0.41219859f));
    p = fma(p, s2, set1(0.57707802f));
    p = fma(p, s2, set1(0.96179669f));
    p = fma(p, s2, set1(2.88539008f));
    return fma(p, s, to_float(e));
}

}  // namespace HANDFUL_NS
}  // namespace handful
