// 4 float lanes, the baseline of x86-64 (SSE2). Included by simd.h inside the variant's namespace.
struct VM { __m128 m; };
struct VF { __m128 v; };
struct VI { __m128i v; };
constexpr int W = 4;

inline VF set1(float x) { return {_mm_set1_ps(x)}; }
inline VF zero() { return {_mm_setzero_ps()}; }
inline VF load(const float *p) { return {_mm_loadu_ps(p)}; }
inline void store(float *p, VF a) { _mm_storeu_ps(p, a.v); }
inline VF operator+(VF a, VF b) { return {_mm_add_ps(a.v, b.v)}; }
inline VF operator-(VF a, VF b) { return {_mm_sub_ps(a.v, b.v)}; }
inline VF operator*(VF a, VF b) { return {_mm_mul_ps(a.v, b.v)}; }
inline VF operator/(VF a, VF b) { return {_mm_div_ps(a.v, b.v)}; }
inline VF fma(VF a, VF b, VF c) { return {_mm_add_ps(_mm_mul_ps(a.v, b.v), c.v)}; }   // a b + c, rounded twice here
inline VF fnma(VF a, VF b, VF c) { return {_mm_sub_ps(c.v, _mm_mul_ps(a.v, b.v))}; }  // c - a b
inline VF attenuate(VF t, VF a) { return t * (set1(1.0f) - a); }  // t (1 - a), also where a is near 1
inline VF min(VF a, VF b) { return {_mm_min_ps(a.v, b.v)}; }
inline VF max(VF a, VF b) { return {_mm_max_ps(a.v, b.v)}; }
inline VF sqrt(VF a) { return {_mm_sqrt_ps(a.v)}; }
inline VF round(VF a) {  // |a| < 2^31
    return {_mm_cvtepi32_ps(_mm_cvtps_epi32(a.v))};
}
// a 2^n, n integral; below the smallest normal number the result is that number times a
inline VF ldexp(VF a, VF n) {
    __m128i e = _mm_cvtps_epi32(_mm_max_ps(n.v, _mm_set1_ps(-126.0f)));
    return {_mm_mul_ps(a.v, _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(e, _mm_set1_epi32(127)), 23)))};
}
inline VF rcp(VF a) { return {_mm_div_ps(_mm_set1_ps(1.0f), a.v)}; }

inline VM operator<(VF a, VF b) { return {_mm_cmplt_ps(a.v, b.v)}; }
inline VM operator<=(VF a, VF b) { return {_mm_cmple_ps(a.v, b.v)}; }
inline VM operator>(VF a, VF b) { return {_mm_cmpgt_ps(a.v, b.v)}; }
inline VM operator>=(VF a, VF b) { return {_mm_cmpge_ps(a.v, b.v)}; }
inline VM operator==(VF a, VF b) { return {_mm_cmpeq_ps(a.v, b.v)}; }
inline VM operator&(VM a, VM b) { return {_mm_and_ps(a.m, b.m)}; }
inline VM operator|(VM a, VM b) { return {_mm_or_ps(a.m, b.m)}; }
inline VM operator!(VM a) { return {_mm_xor_ps(a.m, _mm_castsi128_ps(_mm_set1_epi32(-1)))}; }
inline VM mask_first(int n) { return {_mm_castsi128_ps(_mm_cmpgt_epi32(_mm_set1_epi32(n), _mm_setr_epi32(0, 1, 2, 3)))}; }
inline unsigned bits(VM a) { return (unsigned)_mm_movemask_ps(a.m); }
inline bool any(VM a) { return _mm_movemask_ps(a.m) != 0; }
inline VF select(VM m, VF a, VF b) { return {_mm_or_ps(_mm_and_ps(m.m, a.v), _mm_andnot_ps(m.m, b.v))}; }  // m ? a : b
inline VF keep(VM m, VF a) { return {_mm_and_ps(m.m, a.v)}; }                                              // m ? a : 0
inline VF raise(VM m, VF b, VF a) { return max(keep(m, b), a); }  // m ? b : a, for 0 <= a <= b

inline VI set1i(int x) { return {_mm_set1_epi32(x)}; }
inline VI loadi(const int *p) { return {_mm_loadu_si128((const __m128i *)p)}; }
inline void storei(int *p, VI a) { _mm_storeu_si128((__m128i *)p, a.v); }
inline VM operator>(VI a, VI b) { return {_mm_castsi128_ps(_mm_cmpgt_epi32(a.v, b.v))}; }
inline VI select(VM m, VI a, VI b) {
    __m128i k = _mm_castps_si128(m.m);
    return {_mm_or_si128(_mm_and_si128(k, a.v), _mm_andnot_si128(k, b.v))};
}
inline VF to_float(VI a) { return {_mm_cvtepi32_ps(a.v)}; }
inline VI as_int(VF a) { return {_mm_castps_si128(a.v)}; }
inline VF as_float(VI a) { return {_mm_castsi128_ps(a.v)}; }
inline VI operator+(VI a, VI b) { return {_mm_add_epi32(a.v, b.v)}; }
inline VI operator-(VI a, VI b) { return {_mm_sub_epi32(a.v, b.v)}; }
inline VI operator&(VI a, VI b) { return {_mm_and_si128(a.v, b.v)}; }
template <int N> inline VI shr(VI a) { return {_mm_srai_epi32(a.v, N)}; }
template <int N> inline VI shl(VI a) { return {_mm_slli_epi32(a.v, N)}; }

inline float hsum(VF a) {
    __m128 s = _mm_add_ps(a.v, _mm_movehl_ps(a.v, a.v));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
// lane i = p[i * stride] for the first n lanes, p[0] beyond
inline VF load_strided(const float *p, int stride, int n) {
    return {_mm_setr_ps(p[0], n > 1 ? p[stride] : p[0], n > 2 ? p[2 * stride] : p[0], n > 3 ? p[3 * stride] : p[0])};
}

// out[k] = sum over the lanes of acc[k], k = 0..15
inline void reduce16(const VF *acc, float *out) {
    for (int h = 0; h < 16; h += 4) {
        __m128 a = acc[h].v, b = acc[h + 1].v, c = acc[h + 2].v, d = acc[h + 3].v;
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_storeu_ps(out + h, _mm_add_ps(_mm_add_ps(a, b), _mm_add_ps(c, d)));
    }
}
