// Radiance fields: grid lookup, the network and compositing of whole rays, forward and backward. Semantics: recon/field/volume.py, its slow twin.
#include "field_types.h"

namespace handful {
namespace HANDFUL_NS {

// -- small matrices: rows are samples, columns lie in whole vectors ----------------------------------------------------

// C[r][m] = bias[m] + sum over k of A[r][k] B[k][m], for ROWS rows and NV vectors of columns
template <int ROWS, int NV> inline void mul_tile(const float *A, int K, const float *B, int M, const float *bias, float *C) {
    VF acc[ROWS][NV];
    for (int v = 0; v < NV; ++v) {
        VF b = bias ? load(bias + v * W) : zero();
        for (int r = 0; r < ROWS; ++r) acc[r][v] = b;
    }
    for (int k = 0; k < K; ++k) {
        VF b[NV];
        for (int v = 0; v < NV; ++v) b[v] = load(B + (size_t)k * M + v * W);
        for (int r = 0; r < ROWS; ++r) {
            VF a = set1(A[r * K + k]);
            for (int v = 0; v < NV; ++v) acc[r][v] = fma(a, b[v], acc[r][v]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < NV; ++v) store(C + r * M + v * W, acc[r][v]);
}

// rows in multiples of 4, M of W
static void mul(const float *A, int rows, int K, const float *B, int M, const float *bias, float *C) {
    constexpr int NV = W >= 16 ? 4 : 2;
    for (int r = 0; r < rows; r += 4) {
        int m = 0;
        for (; m + NV * W <= M; m += NV * W) mul_tile<4, NV>(A + r * K, K, B + m, M, bias ? bias + m : nullptr, C + r * M + m);
        for (; m < M; m += W) mul_tile<4, 1>(A + r * K, K, B + m, M, bias ? bias + m : nullptr, C + r * M + m);
    }
}

// G[k][m] += sum over r of A[r][k] D[r][m], for KT rows of G and NV vectors
template <int KT, int NV> inline void outer_tile(const float *A, int K, const float *D, int M, int rows, float *G) {
    VF acc[KT][NV];
    for (int k = 0; k < KT; ++k)
        for (int v = 0; v < NV; ++v) acc[k][v] = load(G + k * M + v * W);
    for (int r = 0; r < rows; ++r) {
        VF d[NV];
        for (int v = 0; v < NV; ++v) d[v] = load(D + r * M + v * W);
        for (int k = 0; k < KT; ++k) {
            VF a = set1(A[r * K + k]);
            for (int v = 0; v < NV; ++v) acc[k][v] = fma(a, d[v], acc[k][v]);
        }
    }
    for (int k = 0; k < KT; ++k)
        for (int v = 0; v < NV; ++v) store(G + k * M + v * W, acc[k][v]);
}

// K in multiples of 4, M of W
static void outer(const float *A, int K, const float *D, int M, int rows, float *G) {
    constexpr int NV = W >= 16 ? 4 : 2;
    for (int k = 0; k < K; k += 4) {
        int m = 0;
        for (; m + NV * W <= M; m += NV * W) outer_tile<4, NV>(A + k, K, D + m, M, rows, G + k * M + m);
        for (; m < M; m += W) outer_tile<4, 1>(A + k, K, D + m, M, rows, G + k * M + m);
    }
}

// -- the grid ----------------------------------------------------------------------------------------------------------

struct GridCell {
    int64_t corner[3];  // of each axis: the lower grid line
    float t[3];         // how far beyond it, [0, 1]
};

inline GridCell cell_of(const float *xyz, int side) {
    GridCell c;
    for (int a = 0; a < 3; ++a) {
        float x = xyz[a] > 0.0f ? (xyz[a] < 1.0f ? xyz[a] : 1.0f) : 0.0f;  // NaN is 0
        x *= (float)(side - 1);
        int i = (int)x;
        if (i > side - 2) i = side - 2;
        c.corner[a] = i, c.t[a] = x - (float)i;
    }
    return c;
}

// The axes of plane k (rows, columns) and the one its line runs along.
constexpr int kPlaneRow[3] = {1, 2, 2}, kPlaneColumn[3] = {0, 0, 1}, kLineAxis[3] = {2, 1, 0};

// plane and line values of a sample: P and L are 3 C each; x = P L
inline void look_up(const VmField &f, const float *xyz, float *P, float *L, float *x) {
    const GridCell c = cell_of(xyz, f.side);
    const int C = f.channels;
    for (int k = 0; k < 3; ++k) {
        const int64_t i = c.corner[kPlaneRow[k]], j = c.corner[kPlaneColumn[k]], l = c.corner[kLineAxis[k]];
        const float u = c.t[kPlaneRow[k]], v = c.t[kPlaneColumn[k]], w = c.t[kLineAxis[k]];
        const float *p = f.planes + ((k * (int64_t)f.side + i) * f.side + j) * C, *q = p + (int64_t)f.side * C;
        const float *n = f.lines + (k * (int64_t)f.side + l) * C;
        const VF w00 = set1((1 - u) * (1 - v)), w01 = set1((1 - u) * v), w10 = set1(u * (1 - v)), w11 = set1(u * v), n0 = set1(1 - w), n1 = set1(w);
        for (int m = 0; m < C; m += W) {
            VF a = fma(w11, load(q + C + m), fma(w10, load(q + m), fma(w01, load(p + C + m), w00 * load(p + m))));
            VF b = fma(n1, load(n + C + m), n0 * load(n + m));
            store(P + k * C + m, a), store(L + k * C + m, b), store(x + k * C + m, a * b);
        }
    }
}

inline void add(float *p, VF v) { store(p, load(p) + v); }

inline void scatter(const VmField &f, const float *xyz, const float *P, const float *L, const float *dx, VmGrads g) {
    const GridCell c = cell_of(xyz, f.side);
    const int C = f.channels;
    for (int k = 0; k < 3; ++k) {
        const int64_t i = c.corner[kPlaneRow[k]], j = c.corner[kPlaneColumn[k]], l = c.corner[kLineAxis[k]];
        const float u = c.t[kPlaneRow[k]], v = c.t[kPlaneColumn[k]], w = c.t[kLineAxis[k]];
        float *p = g.planes + ((k * (int64_t)f.side + i) * f.side + j) * C, *q = p + (int64_t)f.side * C;
        float *n = g.lines + (k * (int64_t)f.side + l) * C;
        const VF w00 = set1((1 - u) * (1 - v)), w01 = set1((1 - u) * v), w10 = set1(u * (1 - v)), w11 = set1(u * v), n0 = set1(1 - w), n1 = set1(w);
        for (int m = 0; m < C; m += W) {
            VF d = load(dx + k * C + m), dp = d * load(L + k * C + m), dl = d * load(P + k * C + m);
            add(p + m, w00 * dp), add(p + C + m, w01 * dp), add(q + m, w10 * dp), add(q + C + m, w11 * dp);
            add(n + m, n0 * dl), add(n + C + m, n1 * dl);
        }
    }
}

// -- the network -------------------------------------------------------------------------------------------------------

struct FieldScratch {
    float *P, *L, *x, *dx, *h, *dh, *out, *dout;
};

static size_t field_scratch(const VmField &f) { return (size_t)kFieldBlock * (size_t)(4 * f.features + 2 * f.hidden + 2 * f.outputs); }

inline FieldScratch split(const VmField &f, float *p) {
    const size_t F = (size_t)(kFieldBlock * f.features), H = (size_t)(kFieldBlock * f.hidden), O = (size_t)(kFieldBlock * f.outputs);
    FieldScratch s;
    s.P = p, s.L = p + F, s.x = p + 2 * F, s.dx = p + 3 * F, p += 4 * F;
    s.h = p, s.dh = p + H, p += 2 * H;
    s.out = p, s.dout = p + O;
    return s;
}

// n samples, n <= kFieldBlock: features, hidden units and (where wanted) outputs
inline void decode(const VmField &f, const float *xyz, int n, FieldScratch s, bool outputs) {
    const int F = f.features, H = f.hidden, rows = (n + 3) / 4 * 4;
    for (int i = 0; i < n; ++i) look_up(f, xyz + 3 * i, s.P + i * F, s.L + i * F, s.x + i * F);
    memset(s.x + n * F, 0, sizeof(float) * (size_t)((rows - n) * F));
    mul(s.x, rows, F, f.w1, H, f.b1, s.h);
    for (int i = 0; i < rows * H; i += W) store(s.h + i, max(zero(), load(s.h + i)));  // in this order NaN stays NaN, and is seen in the loss
    if (outputs) mul(s.h, rows, H, f.w2, f.outputs, f.b2, s.out);
}

static void vm_points(const VmField &f, const float *xyz, int64_t begin, int64_t end, float *scratch, float *out) {
    FieldScratch s = split(f, scratch);
    const int kept = 1 + 3 * f.bands;
    for (int64_t i = begin; i < end; i += kFieldBlock) {
        const int n = (int)(end - i < kFieldBlock ? end - i : kFieldBlock);
        decode(f, xyz + 3 * i, n, s, true);
        for (int j = 0; j < n; ++j) memcpy(out + (i + j) * kept, s.out + j * f.outputs, sizeof(float) * (size_t)kept);
    }
}

// -- rays --------------------------------------------------------------------------------------------------------------

inline float density_of(float raw) { return expf(raw > kMostLogDensity ? kMostLogDensity : raw); }
inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// density and colour, of the network's outputs
inline void value_of(const VmField &f, const float *o, const float *basis, float *v) {
    v[0] = density_of(o[0]);
    for (int c = 0; c < 3; ++c) {
        float x = 0;
        for (int k = 0; k < f.bands; ++k) x += basis[k] * o[1 + c * f.bands + k];
        v[1 + c] = sigmoid(x);
    }
}

// Front to back; add() is false once no light is left.
struct RaySum {
    float T = 1, r = 0, g = 0, b = 0, alpha = 0, s = 0, distortion = 0;
    bool add(const float *value, float delta, float at) {
        if (T < kLeastTransmittance) return false;
        const float stay = expf(-value[0] * delta), w = T * (1 - stay);
        distortion += 2 * w * (at * alpha - s);  // alpha and s are yet those of the samples before
        r += w * value[1], g += w * value[2], b += w * value[3], alpha += w, s += w * at;
        T *= stay;
        return true;
    }
    void write(float *out) const { out[0] = r, out[1] = g, out[2] = b, out[3] = alpha, out[4] = s, out[5] = distortion; }
};

// value: N,4: density and colour of every sample that was looked at; out: R,6
static void vm_rays(const VmField &f, const RayBatch &rays, int64_t begin, int64_t end, float *scratch, float *value, float *out) {
    FieldScratch s = split(f, scratch);
    for (int64_t r = begin; r < end; ++r) {
        const float *basis = rays.basis + r * f.bands;
        RaySum sum;
        bool light = true;
        for (int64_t i = rays.starts[r]; light && i < rays.starts[r + 1]; i += kFieldGroup) {
            const int64_t left = rays.starts[r + 1] - i;
            const int n = (int)(left < kFieldGroup ? left : kFieldGroup);
            decode(f, rays.xyz + 3 * i, n, s, true);
            for (int j = 0; j < n && light; ++j) {
                float *v = value + 4 * (i + j);
                value_of(f, s.out + j * f.outputs, basis, v);
                light = sum.add(v, rays.delta[i + j], rays.s[i + j]);
            }
        }
        sum.write(out + r * kRayOutputs);
    }
}

static void composite_rays(const RayBatch &rays, const float *value, int64_t begin, int64_t end, float *out) {
    for (int64_t r = begin; r < end; ++r) {
        RaySum sum;
        for (int64_t i = rays.starts[r]; i < rays.starts[r + 1]; ++i)
            if (!sum.add(value + 4 * i, rays.delta[i], rays.s[i])) break;
        sum.write(out + r * kRayOutputs);
    }
}

// dvalue: of the samples of ray r, the gradient to density and colour, 0 where no light came
static void composite_grad_ray(const RayBatch &rays, const float *value, int64_t r, const float *v_out, float *dvalue) {
    const float *v = v_out + r * kRayOutputs;
    const int64_t first = rays.starts[r], last = rays.starts[r + 1];
    float T = 1, alpha = 0, total = 0;
    int64_t used = first;
    for (; used < last && T >= kLeastTransmittance; ++used) {  // dvalue[0] and [1] keep T and the weight for the way back
        const float stay = expf(-value[4 * used] * rays.delta[used]), w = T * (1 - stay);
        float *d = dvalue + 4 * used;
        d[0] = T * stay, d[1] = w;
        alpha += w, total += w * rays.s[used], T *= stay;
    }
    float before = alpha, before_s = total, after = 0, after_s = 0, behind = 0;  // behind: sum over later samples of w dL/dw
    for (int64_t i = used; i-- > first;) {
        float *d = dvalue + 4 * i;
        const float next = d[0], w = d[1], at = rays.s[i], *c = value + 4 * i;
        before -= w, before_s -= w * at;
        const float pull = v[0] * c[1] + v[1] * c[2] + v[2] * c[3] + v[3] + v[4] * at + 2 * v[5] * (at * before - before_s + after_s - at * after);
        d[0] = (next * pull - behind) * rays.delta[i];
        d[1] = w * v[0], d[2] = w * v[1], d[3] = w * v[2];
        behind += w * pull, after += w, after_s += w * at;
    }
    memset(dvalue + 4 * used, 0, sizeof(float) * (size_t)(4 * (last - used)));
}

static void composite_grad(const RayBatch &rays, const float *value, int64_t begin, int64_t end, const float *v_out, float *dvalue) {
    for (int64_t r = begin; r < end; ++r) composite_grad_ray(rays, value, r, v_out, dvalue);
}

// A block of samples, their dout filled in, back to the network and the grid.
inline void block_grad(const VmField &f, const float *xyz, int n, FieldScratch s, VmGrads g) {
    const int F = f.features, H = f.hidden, O = f.outputs, rows = (n + 3) / 4 * 4;
    memset(s.dout + n * O, 0, sizeof(float) * (size_t)((rows - n) * O));
    decode(f, xyz, n, s, false);
    outer(s.h, H, s.dout, O, rows, g.w2);
    mul(s.dout, rows, O, f.w2t, H, nullptr, s.dh);
    for (int i = 0; i < rows * H; i += W) store(s.dh + i, keep(load(s.h + i) > zero(), load(s.dh + i)));
    for (int r = 0; r < n; ++r) {
        for (int m = 0; m < O; m += W) add(g.b2 + m, load(s.dout + r * O + m));
        for (int m = 0; m < H; m += W) add(g.b1 + m, load(s.dh + r * H + m));
    }
    outer(s.x, F, s.dh, H, rows, g.w1);
    mul(s.dh, rows, H, f.w1t, F, nullptr, s.dx);
    for (int i = 0; i < n; ++i) scatter(f, xyz + 3 * i, s.P + i * F, s.L + i * F, s.dx + i * F, g);
}

// dvalue: scratch, N,4
static void vm_grad(const VmField &f, const RayBatch &rays, const float *value, int64_t begin, int64_t end, const float *v_out, float *dvalue, float *scratch,
                    VmGrads g) {
    FieldScratch s = split(f, scratch);
    float xyz[3 * kFieldBlock];
    int n = 0;
    const float most = expf(kMostLogDensity);
    for (int64_t r = begin; r < end; ++r) {
        const float *basis = rays.basis + r * f.bands;
        composite_grad_ray(rays, value, r, v_out, dvalue);
        for (int64_t i = rays.starts[r]; i < rays.starts[r + 1]; ++i) {
            const float *d = dvalue + 4 * i, *v = value + 4 * i;
            if (d[0] == 0 && d[1] == 0 && d[2] == 0 && d[3] == 0) continue;
            float *o = s.dout + n * f.outputs;
            memset(o, 0, sizeof(float) * (size_t)f.outputs);
            o[0] = v[0] < most ? d[0] * v[0] : 0.0f;
            for (int c = 0; c < 3; ++c) {
                const float x = d[1 + c] * v[1 + c] * (1 - v[1 + c]);
                for (int k = 0; k < f.bands; ++k) o[1 + c * f.bands + k] = x * basis[k];
            }
            memcpy(xyz + 3 * n, rays.xyz + 3 * i, sizeof(float) * 3);
            if (++n == kFieldBlock) block_grad(f, xyz, n, s, g), n = 0;
        }
    }
    if (n) block_grad(f, xyz, n, s, g);
}

// Where a sample lies, and in which cell.
inline void sample_place(const float *start, const float *span, float t, int side, float *p, int *cell) {
    for (int a = 0; a < 3; ++a) {
        p[a] = start[a] + t * span[a];
        p[a] = p[a] > 0 ? (p[a] < 1 ? p[a] : 1) : 0;
        const int q = (int)(p[a] * (float)side);
        cell[a] = q < side ? q : side - 1;
    }
}

// Samples of the straight segments start + t span, t in [0, 1], in steps of 1 / (steps |span|) from jitter of one on, where the grid says so. xyz null: counts only.
static int64_t march_ray(const float *start, const float *span, float steps, float jitter, float length, const uint8_t *grid, int side, float *xyz, float *delta,
                         float *s) {
    const float size = sqrtf(span[0] * span[0] + span[1] * span[1] + span[2] * span[2]);
    if (!(length > 0 && size > 0 && size < 3e38f && jitter >= 0)) return 0;  // nothing that is not finite
    const float dt = 1.0f / (size * steps);
    int64_t n = 0;
    for (int64_t i = 0;; ++i) {
        const float t = ((float)i + jitter) * dt;
        if (t >= 1) break;
        float p[3];
        int at[3];
        sample_place(start, span, t, side, p, at);
        if (!grid[((int64_t)at[0] * side + at[1]) * side + at[2]]) continue;
        if (xyz) {
            memcpy(xyz + 3 * n, p, sizeof(p));
            delta[n] = dt * length, s[n] = t;
        }
        ++n;
    }
    return n;
}

}  // namespace HANDFUL_NS
}  // namespace handful
