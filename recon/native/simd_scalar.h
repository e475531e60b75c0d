// 4 float lanes in plain C++, for processors without a variant of their own. Included by simd.h inside the variant's namespace.
struct VM { bool m[4]; };
struct VF { float v[4]; };
struct VI { int v[4]; };
constexpr int W = 4;
#define HANDFUL_LANES(T, expr) T r; for (int i = 0; i < 4; ++i) r expr; return r

inline VF set1(float x) { return {{x, x, x, x}}; }
inline VF zero() { return set1(0.0f); }
inline VF load(const float *p) { return {{p[0], p[1], p[2], p[3]}}; }
inline void store(float *p, VF a) { for (int i = 0; i < 4; ++i) p[i] = a.v[i]; }
inline VF operator+(VF a, VF b) { HANDFUL_LANES(VF, .v[i] = a.v[i] + b.v[i]); }
inline VF operator-(VF a, VF b) { HANDFUL_LANES(VF, .v[i] = a.v[i] - b.v[i]); }
inline VF operator*(VF a, VF b) { HANDFUL_LANES(VF, .v[i] = a.v[i] * b.v[i]); }
inline VF operator/(VF a, VF b) { HANDFUL_LANES(VF, .v[i] = a.v[i] / b.v[i]); }
inline VF fma(VF a, VF b, VF c) { HANDFUL_LANES(VF, .v[i] = a.v[i] * b.v[i] + c.v[i]); }
inline VF fnma(VF a, VF b, VF c) { HANDFUL_LANES(VF, .v[i] = c.v[i] - a.v[i] * b.v[i]); }
inline VF attenuate(VF t, VF a) { return t * (set1(1.0f) - a); }  // t (1 - a), also where a is near 1
inline VF min(VF a, VF b) { HANDFUL_LANES(VF, .v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
inline VF max(VF a, VF b) { HANDFUL_LANES(VF, .v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
inline VF sqrt(VF a) { HANDFUL_LANES(VF, .v[i] = ::sqrtf(a.v[i])); }
inline VF round(VF a) { HANDFUL_LANES(VF, .v[i] = ::rintf(a.v[i])); }
inline VF ldexp(VF a, VF n) { HANDFUL_LANES(VF, .v[i] = ::ldexpf(a.v[i], n.v[i] > -126.0f ? (int)n.v[i] : -126)); }
inline VF rcp(VF a) { return set1(1.0f) / a; }

inline VM operator<(VF a, VF b) { HANDFUL_LANES(VM, .m[i] = a.v[i] < b.v[i]); }
inline VM operator<=(VF a, VF b) { HANDFUL_LANES(VM, .m[i] = a.v[i] <= b.v[i]); }
inline VM operator>(VF a, VF b) { HANDFUL_LANES(VM, .m[i] = a.v[i] > b.v[i]); }
inline VM operator>=(VF a, VF b) { HANDFUL_LANES(VM, .m[i] = a.v[i] >= b.v[i]); }
inline VM operator==(VF a, VF b) { HANDFUL_LANES(VM, .m[i] = a.v[i] == b.v[i]); }
inline VM operator&(VM a, VM b) { HANDFUL_LANES(VM, .m[i] = a.m[i] && b.m[i]); }
inline VM operator|(VM a, VM b) { HANDFUL_LANES(VM, .m[i] = a.m[i] || b.m[i]); }
inline VM operator!(VM a) { HANDFUL_LANES(VM, .m[i] = !a.m[i]); }
inline VM mask_first(int n) { HANDFUL_LANES(VM, .m[i] = i < n); }
inline unsigned bits(VM a) { return (unsigned)a.m[0] | (unsigned)a.m[1] << 1 | (unsigned)a.m[2] << 2 | (unsigned)a.m[3] << 3; }
inline bool any(VM a) { return bits(a) != 0; }
inline VF select(VM m, VF a, VF b) { HANDFUL_LANES(VF, .v[i] = m.m[i] ? a.v[i] : b.v[i]); }
inline VF keep(VM m, VF a) { HANDFUL_LANES(VF, .v[i] = m.m[i] ? a.v[i] : 0.0f); }
inline VF raise(VM m, VF b, VF a) { return select(m, b, a); }  // m ? b : a, for 0 <= a <= b

inline VI set1i(int x) { return {{x, x, x, x}}; }
inline VI loadi(const int *p) { return {{p[0], p[1], p[2], p[3]}}; }
inline void storei(int *p, VI a) { for (int i = 0; i < 4; ++i) p[i] = a.v[i]; }
inline VM operator>(VI a, VI b) { HANDFUL_LANES(VM, .m[i] = a.v[i] > b.v[i]); }
inline VI select(VM m, VI a, VI b) { HANDFUL_LANES(VI, .v[i] = m.m[i] ? a.v[i] : b.v[i]); }
inline VF to_float(VI a) { HANDFUL_LANES(VF, .v[i] = (float)a.v[i]); }
inline VI as_int(VF a) { VI r; __builtin_memcpy(&r, &a, sizeof r); return r; }
inline VF as_float(VI a) { VF r; __builtin_memcpy(&r, &a, sizeof r); return r; }
inline VI operator+(VI a, VI b) { HANDFUL_LANES(VI, .v[i] = (int)((unsigned)a.v[i] + (unsigned)b.v[i])); }
inline VI operator-(VI a, VI b) { HANDFUL_LANES(VI, .v[i] = (int)((unsigned)a.v[i] - (unsigned)b.v[i])); }
inline VI operator&(VI a, VI b) { HANDFUL_LANES(VI, .v[i] = a.v[i] & b.v[i]); }
template <int N> inline VI shr(VI a) { HANDFUL_LANES(VI, .v[i] = a.v[i] >> N); }
template <int N> inline VI shl(VI a) { HANDFUL_LANES(VI, .v[i] = (int)((unsigned)a.v[i] << N)); }

inline float hsum(VF a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline VF load_strided(const float *p, int stride, int n) { HANDFUL_LANES(VF, .v[i] = p[i < n ? i * stride : 0]); }
inline void reduce16(const VF *acc, float *out) { for (int k = 0; k < 16; ++k) out[k] = hsum(acc[k]); }
#undef HANDFUL_LANES
