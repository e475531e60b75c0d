// 16 float lanes, AVX-512 F/DQ/BW/VL. Included by simd.h inside the variant's namespace.
struct VM { __mmask16 m; };
struct VF { __m512 v; };
struct VI { __m512i v; };
constexpr int W = 16;

inline VF set1(float x) { return {_mm512_set1_ps(x)}; }
inline VF zero() { return {_mm512_setzero_ps()}; }
inline VF load(const float *p) { return {_mm512_loadu_ps(p)}; }
inline void store(float *p, VF a) { _mm512_storeu_ps(p, a.v); }
inline VF operator+(VF a, VF b) { return {_mm512_add_ps(a.v, b.v)}; }
inline VF operator-(VF a, VF b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline VF operator*(VF a, VF b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline VF operator/(VF a, VF b) { return {_mm512_div_ps(a.v, b.v)}; }
inline VF fma(VF a, VF b, VF c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }    // a b + c
inline VF fnma(VF a, VF b, VF c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a b
inline VF attenuate(VF t, VF a) { return fnma(t, a, t); }  // t (1 - a), also where a is near 1
inline VF min(VF a, VF b) { return {_mm512_min_ps(a.v, b.v)}; }
inline VF max(VF a, VF b) { return {_mm512_max_ps(a.v, b.v)}; }
inline VF sqrt(VF a) { return {_mm512_sqrt_ps(a.v)}; }
inline VF round(VF a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline VF ldexp(VF a, VF n) { return {_mm512_scalef_ps(a.v, n.v)}; }  // a 2^n, n integral
// 1/a to a few units in the last place: estimate and one Newton step
inline VF rcp(VF a) {
    __m512 r = _mm512_rcp14_ps(a.v);
    return {_mm512_fmadd_ps(r, _mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(1.0f)), r)};
}

inline VM operator<(VF a, VF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline VM operator<=(VF a, VF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline VM operator>(VF a, VF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline VM operator>=(VF a, VF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
inline VM operator==(VF a, VF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline VM operator&(VM a, VM b) { return {(__mmask16)(a.m & b.m)}; }
inline VM operator|(VM a, VM b) { return {(__mmask16)(a.m | b.m)}; }
inline VM operator!(VM a) { return {(__mmask16)~a.m}; }
inline VM mask_first(int n) { return {(__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1u)}; }
inline unsigned bits(VM a) { return a.m; }
inline bool any(VM a) { return a.m != 0; }
inline VF select(VM m, VF a, VF b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }  // m ? a : b
inline VF keep(VM m, VF a) { return {_mm512_maskz_mov_ps(m.m, a.v)}; }                // m ? a : 0
inline VF raise(VM m, VF b, VF a) { return {_mm512_mask_mov_ps(a.v, m.m, b.v)}; }  // m ? b : a, for 0 <= a <= b

inline VI set1i(int x) { return {_mm512_set1_epi32(x)}; }
inline VI loadi(const int *p) { return {_mm512_loadu_si512(p)}; }
inline void storei(int *p, VI a) { _mm512_storeu_si512(p, a.v); }
inline VM operator>(VI a, VI b) { return {_mm512_cmpgt_epi32_mask(a.v, b.v)}; }
inline VI select(VM m, VI a, VI b) { return {_mm512_mask_blend_epi32(m.m, b.v, a.v)}; }
inline VF to_float(VI a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline VI as_int(VF a) { return {_mm512_castps_si512(a.v)}; }
inline VF as_float(VI a) { return {_mm512_castsi512_ps(a.v)}; }
inline VI operator+(VI a, VI b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline VI operator-(VI a, VI b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline VI operator&(VI a, VI b) { return {_mm512_and_si512(a.v, b.v)}; }
template <int N> inline VI shr(VI a) { return {_mm512_srai_epi32(a.v, N)}; }
template <int N> inline VI shl(VI a) { return {_mm512_slli_epi32(a.v, N)}; }

inline float hsum(VF a) { return _mm512_reduce_add_ps(a.v); }
// lane i = p[i * stride] for the first n lanes, p[0] beyond
inline VF load_strided(const float *p, int stride, int n) {
    __m512i idx = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(stride));
    idx = _mm512_maskz_mov_epi32(mask_first(n).m, idx);
    return {_mm512_i32gather_ps(idx, p, 4)};
}

// out[k] = sum over the lanes of acc[k], k = 0..15: a tree of pairwise merges, so 16 sums cost little more than two
inline void reduce16(const VF *acc, float *out) {
    __m512 a[8], b[4], c[2];
    for (int i = 0; i < 8; ++i) {
        __m512 x = acc[2 * i].v, y = acc[2 * i + 1].v;
        a[i] = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));  // per 128 bits: x02 y02 x13 y13
    }
    for (int i = 0; i < 4; ++i) {
        __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
        b[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    for (int i = 0; i < 2; ++i) {
        __m512 x = b[2 * i], y = b[2 * i + 1];
        c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
    }
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd)));
}

// 2^x: a table of 32 roots and a parabola on [0, 1/32); a shorter chain than the polynomial alone. Relative error below 2.5e-7. |x| < 2^17.
#define HANDFUL_OWN_EXP2
alignas(64) constexpr float kRoots[32] = {
    1.0f,        1.0218972f,  1.04427373f, 1.06714046f, 1.09050775f, 1.1143868f,  1.13878858f, 1.1637249f,  1.18920708f, 1.21524739f, 1.24185777f,
    1.26905096f, 1.29683959f, 1.32523668f, 1.35425556f, 1.38390994f, 1.41421354f, 1.44518077f, 1.47682619f, 1.50916445f, 1.54221082f, 1.5759809f,
    1.61049032f, 1.64575553f, 1.68179286f, 1.71861935f, 1.75625217f, 1.79470909f, 1.8340081f,  1.87416768f, 1.91520655f, 1.95714414f};
inline VF exp2(VF x) {
    // adding 1.5 * 2^18 leaves floor(32 x) in the low bits; scalef takes the whole part of x itself
    __m512i k = _mm512_castps_si512(_mm512_add_round_ps(x.v, _mm512_set1_ps(393216.0f), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    __m512 root = _mm512_permutex2var_ps(_mm512_load_ps(kRoots), k, _mm512_load_ps(kRoots + 16));
    __m512 f = _mm512_reduce_ps(x.v, 5 << 4 | _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.242840622f), f, _mm512_set1_ps(0.693116563f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return {_mm512_mul_ps(p, _mm512_scalef_ps(root, x.v))};
}
