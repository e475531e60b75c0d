// 8 float lanes, AVX2 + FMA. Included by simd.h inside the variant's namespace.
struct VM { __m256 m; };
struct VF { __m256 v; };
struct VI { __m256i v; };
constexpr int W = 8;

inline VF set1(float x) { return {_mm256_set1_ps(x)}; }
inline VF zero() { return {_mm256_setzero_ps()}; }
inline VF load(const float *p) { return {_mm256_loadu_ps(p)}; }
inline void store(float *p, VF a) { _mm256_storeu_ps(p, a.v); }
inline VF operator+(VF a, VF b) { return {_mm256_add_ps(a.v, b.v)}; }
inline VF operator-(VF a, VF b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline VF operator*(VF a, VF b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline VF operator/(VF a, VF b) { return {_mm256_div_ps(a.v, b.v)}; }
inline VF fma(VF a, VF b, VF c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }    // a b + c
inline VF fnma(VF a, VF b, VF c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a b
inline VF attenuate(VF t, VF a) { return fnma(t, a, t); }  // t (1 - a), also where a is near 1
inline VF min(VF a, VF b) { return {_mm256_min_ps(a.v, b.v)}; }
inline VF max(VF a, VF b) { return {_mm256_max_ps(a.v, b.v)}; }
inline VF sqrt(VF a) { return {_mm256_sqrt_ps(a.v)}; }
inline VF round(VF a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// a 2^n, n integral; below the smallest normal number the result is that number times a
inline VF ldexp(VF a, VF n) {
    __m256i e = _mm256_cvtps_epi32(_mm256_max_ps(n.v, _mm256_set1_ps(-126.0f)));
    return {_mm256_mul_ps(a.v, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23)))};
}
// 1/a to a few units in the last place: estimate and one Newton step
inline VF rcp(VF a) {
    __m256 r = _mm256_rcp_ps(a.v);
    return {_mm256_fmadd_ps(r, _mm256_fnmadd_ps(a.v, r, _mm256_set1_ps(1.0f)), r)};
}

inline VM operator<(VF a, VF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline VM operator<=(VF a, VF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline VM operator>(VF a, VF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline VM operator>=(VF a, VF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
inline VM operator==(VF a, VF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline VM operator&(VM a, VM b) { return {_mm256_and_ps(a.m, b.m)}; }
inline VM operator|(VM a, VM b) { return {_mm256_or_ps(a.m, b.m)}; }
inline VM operator!(VM a) { return {_mm256_xor_ps(a.m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))}; }
inline VM mask_first(int n) {
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))};
}
inline unsigned bits(VM a) { return (unsigned)_mm256_movemask_ps(a.m); }
inline bool any(VM a) { return _mm256_movemask_ps(a.m) != 0; }
inline VF select(VM m, VF a, VF b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }  // m ? a : b
inline VF keep(VM m, VF a) { return {_mm256_and_ps(m.m, a.v)}; }                  // m ? a : 0
inline VF raise(VM m, VF b, VF a) { return max(keep(m, b), a); }  // m ? b : a, for 0 <= a <= b

inline VI set1i(int x) { return {_mm256_set1_epi32(x)}; }
inline VI loadi(const int *p) { return {_mm256_loadu_si256((const __m256i *)p)}; }
inline void storei(int *p, VI a) { _mm256_storeu_si256((__m256i *)p, a.v); }
inline VM operator>(VI a, VI b) { return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(a.v, b.v))}; }
inline VI select(VM m, VI a, VI b) { return {_mm256_blendv_epi8(b.v, a.v, _mm256_castps_si256(m.m))}; }
inline VF to_float(VI a) { return {_mm256_cvtepi32_ps(a.v)}; }
inline VI as_int(VF a) { return {_mm256_castps_si256(a.v)}; }
inline VF as_float(VI a) { return {_mm256_castsi256_ps(a.v)}; }
inline VI operator+(VI a, VI b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline VI operator-(VI a, VI b) { return {_mm256_sub_epi32(a.v, b.v)}; }
inline VI operator&(VI a, VI b) { return {_mm256_and_si256(a.v, b.v)}; }
template <int N> inline VI shr(VI a) { return {_mm256_srai_epi32(a.v, N)}; }
template <int N> inline VI shl(VI a) { return {_mm256_slli_epi32(a.v, N)}; }

inline float hsum(VF a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
// lane i = p[i * stride] for the first n lanes, p[0] beyond
inline VF load_strided(const float *p, int stride, int n) {
    __m256i idx = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(stride));
    idx = _mm256_and_si256(idx, _mm256_castps_si256(mask_first(n).m));
    return {_mm256_i32gather_ps(p, idx, 4)};
}

// out[k] = sum over the lanes of acc[k], k = 0..15
inline void reduce16(const VF *acc, float *out) {
    for (int h = 0; h < 16; h += 8) {
        __m256 q[2];
        for (int i = 0; i < 2; ++i) {
            const VF *a = acc + h + 4 * i;
            q[i] = _mm256_hadd_ps(_mm256_hadd_ps(a[0].v, a[1].v), _mm256_hadd_ps(a[2].v, a[3].v));
        }
        _mm256_storeu_ps(out + h, _mm256_add_ps(_mm256_permute2f128_ps(q[0], q[1], 0x20), _mm256_permute2f128_ps(q[0], q[1], 0x31)));
    }
}
