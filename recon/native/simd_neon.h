// 4 float lanes, NEON (the baseline of aarch64). Included by simd.h inside the variant's namespace.
struct VM { uint32x4_t m; };
struct VF { float32x4_t v; };
struct VI { int32x4_t v; };
constexpr int W = 4;

inline VF set1(float x) { return {vdupq_n_f32(x)}; }
inline VF zero() { return {vdupq_n_f32(0.0f)}; }
inline VF load(const float *p) { return {vld1q_f32(p)}; }
inline void store(float *p, VF a) { vst1q_f32(p, a.v); }
inline VF operator+(VF a, VF b) { return {vaddq_f32(a.v, b.v)}; }
inline VF operator-(VF a, VF b) { return {vsubq_f32(a.v, b.v)}; }
inline VF operator*(VF a, VF b) { return {vmulq_f32(a.v, b.v)}; }
inline VF operator/(VF a, VF b) { return {vdivq_f32(a.v, b.v)}; }
inline VF fma(VF a, VF b, VF c) { return {vfmaq_f32(c.v, a.v, b.v)}; }   // a b + c
inline VF fnma(VF a, VF b, VF c) { return {vfmsq_f32(c.v, a.v, b.v)}; }  // c - a b
inline VF attenuate(VF t, VF a) { return fnma(t, a, t); }  // t (1 - a), also where a is near 1
// as on x86: where either is NaN the second is taken
inline VF min(VF a, VF b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
inline VF max(VF a, VF b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
inline VF sqrt(VF a) { return {vsqrtq_f32(a.v)}; }
inline VF round(VF a) { return {vrndnq_f32(a.v)}; }
// a 2^n, n integral; below the smallest normal number the result is that number times a
inline VF ldexp(VF a, VF n) {
    int32x4_t e = vcvtq_s32_f32(vmaxq_f32(n.v, vdupq_n_f32(-126.0f)));
    return {vmulq_f32(a.v, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e, vdupq_n_s32(127)), 23)))};
}
inline VF rcp(VF a) { return {vdivq_f32(vdupq_n_f32(1.0f), a.v)}; }

inline VM operator<(VF a, VF b) { return {vcltq_f32(a.v, b.v)}; }
inline VM operator<=(VF a, VF b) { return {vcleq_f32(a.v, b.v)}; }
inline VM operator>(VF a, VF b) { return {vcgtq_f32(a.v, b.v)}; }
inline VM operator>=(VF a, VF b) { return {vcgeq_f32(a.v, b.v)}; }
inline VM operator==(VF a, VF b) { return {vceqq_f32(a.v, b.v)}; }
inline VM operator&(VM a, VM b) { return {vandq_u32(a.m, b.m)}; }
inline VM operator|(VM a, VM b) { return {vorrq_u32(a.m, b.m)}; }
inline VM operator!(VM a) { return {vmvnq_u32(a.m)}; }
inline VM mask_first(int n) {
    const int32_t lane[4] = {0, 1, 2, 3};
    return {vcgtq_s32(vdupq_n_s32(n), vld1q_s32(lane))};
}
inline unsigned bits(VM a) {
    const uint32_t weight[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(a.m, vld1q_u32(weight)));
}
inline bool any(VM a) { return vmaxvq_u32(a.m) != 0; }
inline VF select(VM m, VF a, VF b) { return {vbslq_f32(m.m, a.v, b.v)}; }  // m ? a : b
inline VF keep(VM m, VF a) { return {vreinterpretq_f32_u32(vandq_u32(m.m, vreinterpretq_u32_f32(a.v)))}; }  // m ? a : 0
inline VF raise(VM m, VF b, VF a) { return select(m, b, a); }  // m ? b : a, for 0 <= a <= b

inline VI set1i(int x) { return {vdupq_n_s32(x)}; }
inline VI loadi(const int *p) { return {vld1q_s32(p)}; }
inline void storei(int *p, VI a) { vst1q_s32(p, a.v); }
inline VM operator>(VI a, VI b) { return {vcgtq_s32(a.v, b.v)}; }
inline VI select(VM m, VI a, VI b) { return {vbslq_s32(m.m, a.v, b.v)}; }
inline VF to_float(VI a) { return {vcvtq_f32_s32(a.v)}; }
inline VI as_int(VF a) { return {vreinterpretq_s32_f32(a.v)}; }
inline VF as_float(VI a) { return {vreinterpretq_f32_s32(a.v)}; }
inline VI operator+(VI a, VI b) { return {vaddq_s32(a.v, b.v)}; }
inline VI operator-(VI a, VI b) { return {vsubq_s32(a.v, b.v)}; }
inline VI operator&(VI a, VI b) { return {vandq_s32(a.v, b.v)}; }
template <int N> inline VI shr(VI a) { return {vshrq_n_s32(a.v, N)}; }
template <int N> inline VI shl(VI a) { return {vshlq_n_s32(a.v, N)}; }

inline float hsum(VF a) { return vaddvq_f32(a.v); }
// lane i = p[i * stride] for the first n lanes, p[0] beyond
inline VF load_strided(const float *p, int stride, int n) {
    const float lane[4] = {p[0], n > 1 ? p[stride] : p[0], n > 2 ? p[2 * stride] : p[0], n > 3 ? p[3 * stride] : p[0]};
    return {vld1q_f32(lane)};
}

// out[k] = sum over the lanes of acc[k], k = 0..15
inline void reduce16(const VF *acc, float *out) {
    for (int h = 0; h < 16; h += 4)
        vst1q_f32(out + h, vpaddq_f32(vpaddq_f32(acc[h].v, acc[h + 1].v), vpaddq_f32(acc[h + 2].v, acc[h + 3].v)));
}
