// Radiance fields: the network and compositing of whole rays, forward and backward, whatever grid they read. Semantics: recon/field/volume.py, its slow twin.
//
// A grid says by three functions how it is read: kept_floats (scratch of a sample), look_up (features; false where it holds nothing), scatter (their gradient).
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

// -- the network -------------------------------------------------------------------------------------------------------

struct FieldScratch {
    float *kept, *x, *dx, *h, *dh, *out, *dout;
    size_t kept_each;
};

template <class G> static size_t field_scratch(const Field<G> &f) {
    return (size_t)kFieldBlock * (kept_floats(f.grid) + (size_t)(2 * f.net.features + 2 * f.net.hidden + 2 * f.net.outputs));
}

template <class G> inline FieldScratch split(const Field<G> &f, float *p) {
    const size_t F = (size_t)(kFieldBlock * f.net.features), H = (size_t)(kFieldBlock * f.net.hidden), O = (size_t)(kFieldBlock * f.net.outputs);
    FieldScratch s;
    s.kept_each = kept_floats(f.grid);
    s.kept = p, p += kFieldBlock * s.kept_each;
    s.x = p, s.dx = p + F, p += 2 * F;
    s.h = p, s.dh = p + H, p += 2 * H;
    s.out = p, s.dout = p + O;
    return s;
}

// Fills row n with the features of a place; false, and the row stays free, where there is nothing.
template <class G> inline bool fill_row(const Field<G> &f, const float *xyz, int n, FieldScratch s) {
    return look_up(f.grid, xyz, s.kept + (size_t)n * s.kept_each, s.x + n * f.net.features);
}

// The first n rows, n <= kFieldBlock, to hidden units and (where wanted) outputs.
inline void decode(const FieldNet &f, int n, FieldScratch s, bool outputs) {
    const int F = f.features, H = f.hidden, rows = (n + 3) / 4 * 4;
    memset(s.x + n * F, 0, sizeof(float) * (size_t)((rows - n) * F));
    mul(s.x, rows, F, f.w1, H, f.b1, s.h);
    for (int i = 0; i < rows * H; i += W) store(s.h + i, max(zero(), load(s.h + i)));  // in this order NaN stays NaN, and is seen in the loss
    if (outputs) mul(s.h, rows, H, f.w2, f.outputs, f.b2, s.out);
}

template <class G> static void field_points(const Field<G> &f, const float *xyz, int64_t begin, int64_t end, float *scratch, float *out) {
    FieldScratch s = split(f, scratch);
    const int kept = 1 + 3 * f.net.bands;
    int64_t at[kFieldBlock];
    for (int64_t i = begin; i < end;) {
        int n = 0;
        for (; n < kFieldBlock && i < end; ++i) {
            float *o = out + i * kept;
            memset(o, 0, sizeof(float) * (size_t)kept), o[0] = kNoMatter;
            if (fill_row(f, xyz + 3 * i, n, s)) at[n++] = i;
        }
        decode(f.net, n, s, true);
        for (int j = 0; j < n; ++j) memcpy(out + at[j] * kept, s.out + j * f.net.outputs, sizeof(float) * (size_t)kept);
    }
}

// -- rays --------------------------------------------------------------------------------------------------------------

inline float density_of(float raw) { return expf(raw > kMostLogDensity ? kMostLogDensity : raw); }
inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// density and colour, of the network's outputs
inline void value_of(const FieldNet &f, const float *o, const float *basis, float *v) {
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
template <class G> static void field_rays(const Field<G> &f, const RayBatch &rays, int64_t begin, int64_t end, float *scratch, float *value, float *out) {
    FieldScratch s = split(f, scratch);
    const int bands = f.net.bands;
    int64_t at[kFieldGroup];
    for (int64_t r = begin; r < end; ++r) {
        const float *basis = rays.basis + r * bands;
        RaySum sum;
        bool light = true;
        for (int64_t i = rays.starts[r], last = rays.starts[r + 1]; light && i < last;) {
            int n = 0;
            for (; n < kFieldGroup && i < last; ++i) {
                if (fill_row(f, rays.xyz + 3 * i, n, s)) at[n++] = i;
                else memset(value + 4 * i, 0, 4 * sizeof(float));
            }
            decode(f.net, n, s, true);
            for (int j = 0; j < n && light; ++j) {
                float *v = value + 4 * at[j];
                value_of(f.net, s.out + j * f.net.outputs, basis, v);
                light = sum.add(v, rays.delta[at[j]], rays.s[at[j]]);
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

// The first n rows, their dout filled in, back to the network and the grid.
template <class G> inline void block_grad(const Field<G> &f, int n, FieldScratch s, FieldGrads g) {
    const int F = f.net.features, H = f.net.hidden, O = f.net.outputs, rows = (n + 3) / 4 * 4;
    memset(s.dout + n * O, 0, sizeof(float) * (size_t)((rows - n) * O));
    decode(f.net, n, s, false);
    outer(s.h, H, s.dout, O, rows, g.w2);
    mul(s.dout, rows, O, f.net.w2t, H, nullptr, s.dh);
    for (int i = 0; i < rows * H; i += W) store(s.dh + i, keep(load(s.h + i) > zero(), load(s.dh + i)));
    for (int r = 0; r < n; ++r) {
        for (int m = 0; m < O; m += W) add(g.b2 + m, load(s.dout + r * O + m));
        for (int m = 0; m < H; m += W) add(g.b1 + m, load(s.dh + r * H + m));
    }
    outer(s.x, F, s.dh, H, rows, g.w1);
    mul(s.dh, rows, H, f.net.w1t, F, nullptr, s.dx);
    for (int i = 0; i < n; ++i) scatter(f.grid, s.kept + (size_t)i * s.kept_each, s.dx + i * F, g.grid);
}

// dvalue: scratch, N,4
template <class G> static void field_grad(const Field<G> &f, const RayBatch &rays, const float *value, int64_t begin, int64_t end, const float *v_out,
                                          float *dvalue, float *scratch, FieldGrads g) {
    FieldScratch s = split(f, scratch);
    const int bands = f.net.bands;
    int n = 0;
    const float most = expf(kMostLogDensity);
    for (int64_t r = begin; r < end; ++r) {
        const float *basis = rays.basis + r * bands;
        composite_grad_ray(rays, value, r, v_out, dvalue);
        for (int64_t i = rays.starts[r]; i < rays.starts[r + 1]; ++i) {
            const float *d = dvalue + 4 * i, *v = value + 4 * i;
            if (d[0] == 0 && d[1] == 0 && d[2] == 0 && d[3] == 0) continue;
            if (v[0] == 0 || !fill_row(f, rays.xyz + 3 * i, n, s)) continue;  // where nothing is, nothing is learned
            float *o = s.dout + n * f.net.outputs;
            memset(o, 0, sizeof(float) * (size_t)f.net.outputs);
            o[0] = v[0] < most ? d[0] * v[0] : 0.0f;
            for (int c = 0; c < 3; ++c) {
                const float x = d[1 + c] * v[1 + c] * (1 - v[1 + c]);
                for (int k = 0; k < bands; ++k) o[1 + c * bands + k] = x * basis[k];
            }
            if (++n == kFieldBlock) block_grad(f, n, s, g), n = 0;
        }
    }
    if (n) block_grad(f, n, s, g);
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
