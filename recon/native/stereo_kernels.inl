// Hot loops of the stereo, written so that the compiler vectorises them. This file is compiled once per instruction set with
// STEREO_TABLE and STEREO_ISA defined. Nothing here may instantiate an inline function or template shared with other files: the linker
// could keep the copy that uses instructions an older processor lacks. So: raw pointers, static functions, C's math.
#include <math.h>
#include <string.h>

#include "stereo.h"

namespace handful_stereo {
namespace {

constexpr int kRadius = 3;  // 7x7 windows
constexpr int kTaps = 2 * kRadius + 1;
constexpr float kInvalid = 2.0f;

inline int clampi(int v, int lo, int hi) { return v < lo ? lo : (v > hi ? hi : v); }

// One row of the source seen through plane `w`. out has kRadius floats of margin on both sides, filled with the border value.
void warp_row(const Sweep &j, int s, float w, int y, float *__restrict out, float *__restrict seen) {
    const float *m = j.map[s];
    const float v = y + 0.5f;
    const float x0 = m[1] * v + m[2] + m[9] * w, y0 = m[4] * v + m[5] + m[10] * w, z0 = m[7] * v + m[8] + m[11] * w;
    const float mx = m[0], my = m[3], mz = m[6];
    const int W = j.width, H = j.height;
    const float xmax = W - 1.001f, ymax = H - 1.001f;
    const uint32_t *__restrict img = j.packed[s];
    float *__restrict o = out + kRadius;
#pragma omp simd
    for (int x = 0; x < W; ++x) {
        const float u = x + 0.5f;
        const float z = mz * u + z0, iz = 1.0f / z;
        float a = (mx * u + x0) * iz - 0.5f, b = (my * u + y0) * iz - 0.5f;
        const bool in = (z > 0.0f) & (a >= -0.5f) & (b >= -0.5f) & (a <= W - 0.5f) & (b <= H - 0.5f);
        a = a > 0.0f ? a : 0.0f;  // also catches NaN
        b = b > 0.0f ? b : 0.0f;
        a = a < xmax ? a : xmax;
        b = b < ymax ? b : ymax;
        const int ia = (int)a, ib = (int)b;
        const float fa = a - ia, fb = b - ib;
        const uint32_t p = img[ib * W + ia], q = img[(ib + 1) * W + ia];
        const float p0 = (float)(int)(p & 0x7fff), p1 = (float)(int)((p >> 16) & 0x7fff);
        const float q0 = (float)(int)(q & 0x7fff), q1 = (float)(int)((q >> 16) & 0x7fff);
        const float top = p0 + fa * (p1 - p0), bottom = q0 + fa * (q1 - q0);
        o[x] = (top + fb * (bottom - top)) * (1.0f / 32767.0f) - 0.5f;
        seen[x] = (in & ((p & 0x8000u) != 0)) ? 1.0f : 0.0f;
    }
    for (int i = 0; i < kRadius; ++i) {
        out[i] = o[0];
        o[W + i] = o[W - 1];
    }
}

inline void pad_row(const float *row, int W, float *out) {
    for (int x = 0; x < W; ++x) out[kRadius + x] = row[x] - 0.5f;
    for (int i = 0; i < kRadius; ++i) {
        out[i] = row[0] - 0.5f;
        out[kRadius + W + i] = row[W - 1] - 0.5f;
    }
}

long sweep_scratch(const Sweep &j, int rows) {
    const long W = j.width, R = rows + 2 * kRadius;
    return R * (W + 2 * kRadius)      // padded reference rows
           + 2 * R * W                // sums over the reference's row windows
           + 2 * rows * W             // reference mean sum and variance
           + (W + 2 * kRadius)        // warped row
           + 4 * R * W                // row sums of w, ww, rw and what is seen
           + 2 * rows * W             // best and second-best cost
           + (kPlaneBlock * rows * W + 3) / 4;
}

void sweep_band(const Sweep &j, int y0, int y1, float *scratch) {
    const int W = j.width, H = j.height, rows = y1 - y0, R = rows + 2 * kRadius, P = W + 2 * kRadius, D = j.planes;
    float *ref = scratch;
    float *hr = ref + (long)R * P, *hrr = hr + (long)R * W;
    float *mean = hrr + (long)R * W, *var = mean + (long)rows * W;
    float *warped = var + (long)rows * W;
    float *hw = warped + P, *hww = hw + (long)R * W, *hrw = hww + (long)R * W, *seen = hrw + (long)R * W;
    float *best = seen + (long)R * W, *second = best + (long)rows * W;
    uint8_t *block = (uint8_t *)(second + (long)rows * W);
    const float n = kTaps * kTaps;
    const float floor_var = n * n * j.noise * j.noise;

    for (int r = 0; r < R; ++r) {
        float *__restrict row = ref + (long)r * P;
        pad_row(j.ref + (long)clampi(y0 + r - kRadius, 0, H - 1) * W, W, row);
        float *__restrict a = hr + (long)r * W, *__restrict b = hrr + (long)r * W;
#pragma omp simd
        for (int x = 0; x < W; ++x) {
            float sa = 0, sb = 0;
            for (int i = 0; i < kTaps; ++i) {
                sa += row[x + i];
                sb += row[x + i] * row[x + i];
            }
            a[x] = sa;
            b[x] = sb;
        }
    }
    for (int r = 0; r < rows; ++r) {
        float *__restrict mr = mean + (long)r * W, *__restrict vr = var + (long)r * W;
        const float *__restrict a = hr + (long)r * W, *__restrict b = hrr + (long)r * W;
#pragma omp simd
        for (int x = 0; x < W; ++x) {
            float sa = 0, sb = 0;
            for (int i = 0; i < kTaps; ++i) {
                sa += a[(long)i * W + x];
                sb += b[(long)i * W + x];
            }
            mr[x] = sa;
            const float v = n * sb - sa * sa;
            vr[x] = (v > 0 ? v : 0) + floor_var;
        }
    }

    const long pixels = (long)rows * W;
    for (int d0 = 0; d0 < D; d0 += kPlaneBlock) {
        for (int k = 0; k < kPlaneBlock; ++k) {
            for (long i = 0; i < pixels; ++i) best[i] = second[i] = kInvalid;
            for (int s = 0; s < j.sources; ++s) {
                for (int r = 0; r < R; ++r) {
                    warp_row(j, s, j.inv_depth[d0 + k], clampi(y0 + r - kRadius, 0, H - 1), warped, seen + (long)r * W);
                    const float *__restrict wr = warped;
                    const float *__restrict rr = ref + (long)r * P;
                    float *__restrict a = hw + (long)r * W, *__restrict b = hww + (long)r * W, *__restrict c = hrw + (long)r * W;
#pragma omp simd
                    for (int x = 0; x < W; ++x) {
                        float sa = 0, sb = 0, sc = 0;
                        for (int i = 0; i < kTaps; ++i) {
                            const float t = wr[x + i];
                            sa += t;
                            sb += t * t;
                            sc += t * rr[x + i];
                        }
                        a[x] = sa;
                        b[x] = sb;
                        c[x] = sc;
                    }
                }
                for (int r = 0; r < rows; ++r) {
                    const float *__restrict a = hw + (long)r * W, *__restrict b = hww + (long)r * W, *__restrict c = hrw + (long)r * W;
                    const float *__restrict mr = mean + (long)r * W, *__restrict vr = var + (long)r * W;
                    const float *__restrict ok = seen + (long)(r + kRadius) * W;
                    float *__restrict b1 = best + (long)r * W, *__restrict b2 = second + (long)r * W;
#pragma omp simd
                    for (int x = 0; x < W; ++x) {
                        float sa = 0, sb = 0, sc = 0;
                        for (int i = 0; i < kTaps; ++i) {
                            sa += a[(long)i * W + x];
                            sb += b[(long)i * W + x];
                            sc += c[(long)i * W + x];
                        }
                        const float v = n * sb - sa * sa;
                        const float vw = (v > 0 ? v : 0) + floor_var;
                        const float zncc = (n * sc - mr[x] * sa) / sqrtf(vr[x] * vw);
                        float e = 1.0f - zncc;
                        e = e < 1.0f ? e : 1.0f;
                        e = e > 0.0f ? e : 0.0f;
                        e = ok[x] > 0.5f ? e : kInvalid;
                        const float p = b1[x], q = b2[x];
                        const float hi = p > e ? p : e;
                        b1[x] = p < e ? p : e;
                        b2[x] = q < hi ? q : hi;
                    }
                }
            }
            uint8_t *__restrict out = block + (long)k * pixels;
            const float *__restrict b1 = best, *__restrict b2 = second;
            const float w2 = j.sources > 1 ? j.second_weight : 0.0f, unknown = j.unknown_cost;
#pragma omp simd
            for (long i = 0; i < pixels; ++i) {
                const float p = b1[i];
                const float other = b2[i] > 1.5f ? (p > unknown ? p : unknown) : b2[i];
                float e = p > 1.5f ? unknown : p + w2 * (other - p);
                out[i] = (uint8_t)(int)(e * kCostMax + 0.5f);
            }
        }
        for (int r = 0; r < rows; ++r) {
            for (int x = 0; x < W; ++x) {
                const long at = (long)(y0 + r) * W + x;
                uint8_t *__restrict out = j.cost + at * D + d0;
                const uint8_t *__restrict in = block + (long)r * W + x;
                if (j.mask && !j.mask[at]) {
                    memset(out, kCostMax, kPlaneBlock);
                    continue;
                }
                for (int k = 0; k < kPlaneBlock; ++k) out[k] = in[k * pixels];
            }
        }
    }
}

// One path step: from the previous pixel's path costs (planes -1 .. D valid) to this one's. Returns the smallest.
inline int path_step(const uint8_t *__restrict cost, const int16_t *__restrict prev, int16_t *__restrict next, uint16_t *__restrict sum,
                     int D, int prev_min, int p1, int p2, bool first) {
    const int16_t cap = (int16_t)(prev_min + p2), base = (int16_t)prev_min, q1 = (int16_t)p1;
    int16_t low = 32767;
    if (first) {
#pragma omp simd reduction(min : low)
        for (int d = 0; d < D; ++d) {
            int16_t v = prev[d], a = (int16_t)(prev[d - 1] + q1), b = (int16_t)(prev[d + 1] + q1);
            v = v < a ? v : a;
            v = v < b ? v : b;
            v = v < cap ? v : cap;
            v = (int16_t)(v - base + cost[d]);
            next[d] = v;
            sum[d] = (uint16_t)v;
            low = low < v ? low : v;
        }
    } else {
#pragma omp simd reduction(min : low)
        for (int d = 0; d < D; ++d) {
            int16_t v = prev[d], a = (int16_t)(prev[d - 1] + q1), b = (int16_t)(prev[d + 1] + q1);
            v = v < a ? v : a;
            v = v < b ? v : b;
            v = v < cap ? v : cap;
            v = (int16_t)(v - base + cost[d]);
            next[d] = v;
            sum[d] = (uint16_t)(sum[d] + v);
            low = low < v ? low : v;
        }
    }
    return low;
}

inline int colour_step(const uint8_t *a, const uint8_t *b) {
    int m = 0;
    for (int c = 0; c < 3; ++c) {
        const int d = a[c] > b[c] ? a[c] - b[c] : b[c] - a[c];
        m = d > m ? d : m;
    }
    return m;
}

// Lines of one direction. Horizontal: a line is a row. Else it is the column where the line meets row 0, and a diagonal line that leaves
// the image at one side enters again at the other as a new path, so that every pixel lies on exactly one line.
void aggregate_lines(const Aggregate &j, int dx, int dy, bool first, int line0, int line1, int16_t *scratch) {
    const int W = j.width, H = j.height, D = j.planes, pitch = D + 32, lines = dy == 0 ? 1 : line1 - line0;
    int16_t *state = scratch, *temp = scratch + (long)lines * pitch;
    int16_t *lowest = temp + pitch;
    for (int i = 0; i <= lines; ++i) {
        int16_t *p = scratch + (long)i * pitch;
        for (int d = 0; d < pitch; ++d) p[d] = 16000;
    }
    const int steps = dy == 0 ? W : H;
    const int outer = dy == 0 ? line1 - line0 : 1;
    for (int o = 0; o < outer; ++o) {
        for (int t = 0; t < steps; ++t) {
            for (int l = 0; l < lines; ++l) {
                int x, y;
                if (dy == 0) {
                    y = line0 + o;
                    x = dx > 0 ? t : W - 1 - t;
                } else {
                    y = dy > 0 ? t : H - 1 - t;
                    x = (line0 + l + dx * t) % W;
                    x = x < 0 ? x + W : x;
                }
                const bool entering = t == 0 || (dx > 0 && x == 0) || (dx < 0 && x == W - 1);
                int16_t *prev = state + (long)l * pitch + 16;
                const long at = (long)y * W + x;
                const uint8_t *cost = j.cost + at * D;
                uint16_t *sum = j.sum + at * D;
                if (entering) {
                    for (int d = 0; d < D; ++d) prev[d] = 0;
                    lowest[l] = 0;
                }
                const int p2 = entering ? 0 : j.p2[colour_step(j.rgb + 3 * at, j.rgb + 3 * (at - (long)dy * W - dx))];
                int16_t *next = temp + 16;
                lowest[l] = (int16_t)path_step(cost, prev, next, sum, D, lowest[l], j.p1, p2, first);
                memcpy(prev, next, sizeof(int16_t) * D);
            }
        }
    }
}

void winner_rows(const Winner &j, int y0, int y1) {
    const int W = j.width, D = j.planes;
    for (long at = (long)y0 * W; at < (long)y1 * W; ++at) {
        const uint16_t *__restrict s = j.sum + at * D;
        uint16_t low = 65535;
#pragma omp simd reduction(min : low)
        for (int d = 0; d < D; ++d) low = low < s[d] ? low : s[d];
        int k = 0;
        while (s[k] != low) ++k;
        uint16_t next = 65535;
        const int lo = k - 3, hi = k + 3;
        for (int d = 0; d < lo; ++d) next = next < s[d] ? next : s[d];
        for (int d = hi + 1; d < D; ++d) next = next < s[d] ? next : s[d];
        float offset = 0.0f;
        if (k > 0 && k < D - 1) {
            const float a = s[k - 1], b = s[k], c = s[k + 1], bend = a - 2 * b + c;
            offset = bend > 0 ? 0.5f * (a - c) / bend : 0.0f;
        }
        j.plane[at] = k + offset;
        j.margin[at] = next > low ? (float)(next - low) / (float)(next + 1) : 0.0f;
        j.best_cost[at] = j.cost[at * D + k] * (1.0f / kCostMax);
    }
}

// ---------------------------------------------------------------------------------------------------------------- slanted planes

constexpr int kSpan = 128;  // pixels of a row done at once: their arrays stay in the first-level cache

// exp(-x) for x >= 0, to about 2 %: enough for a weight.
inline float falloff(float x) {
    float t = 1.0f - x * 0.0625f;
    t = t > 0.0f ? t : 0.0f;
    t *= t;
    t *= t;
    t *= t;
    return t * t;
}

// Uniform in [-1, 1), the same for the same pixel and try on every machine.
inline float noise_at(uint32_t x, uint32_t y, uint32_t k) {
    uint32_t h = x * 0x9E3779B1u ^ y * 0x85EBCA77u ^ k * 0xC2B2AE3Du;
    h ^= h >> 15;
    h *= 0x2C1B3C6Du;
    h ^= h >> 12;
    h *= 0x297A2D39u;
    h ^= h >> 15;
    return (float)(int)(h >> 8) * (2.0f / 16777216.0f) - 1.0f;
}

struct Window {  // of the kSpan pixels being done, in scratch
    float *g, *gr;                 // taps x kSpan: weight, weight times grey
    float *sum, *mean, *var;       // kSpan
    float *best, *second;          // kSpan
    float *px, *py, *xx, *xy, *yx, *yy, *ok, *agree;  // kSpan: where the centre falls and how the window turns
    float *sw, *sww, *srw;         // kSpan
    float *next_w[4], *next_ext[4], *next_weight[4];  // kSpan: the four neighbours' inverse depth, that of their plane here, their say
};

void window_weights(const Refine &j, int y, int x0, int n, const Window &m) {
    const int W = j.width, H = j.height;
    for (int i = 0; i < n; ++i) m.sum[i] = m.mean[i] = m.var[i] = 0.0f;
    const uint8_t *__restrict mid = j.rgb + 3 * ((long)y * W + x0);
    const float scale = 1.0f / (3.0f * j.colour_scale);
    for (int t = 0; t < j.taps; ++t) {
        const int yy = clampi(y + j.tap_dy[t], 0, H - 1), dx = j.tap_dx[t];
        const uint8_t *__restrict row = j.rgb + 3 * (long)yy * W;
        const float *__restrict grey = j.ref + (long)yy * W;
        float *__restrict g = m.g + t * kSpan, *__restrict gr = m.gr + t * kSpan;
        float *__restrict s0 = m.sum, *__restrict s1 = m.mean, *__restrict s2 = m.var;
        const float spatial = j.tap_weight[t];
        if (x0 + dx >= 0 && x0 + n + dx <= W) {
            const uint8_t *__restrict q = row + 3 * (x0 + dx);
            const float *__restrict gq = grey + x0 + dx;
#pragma omp simd
            for (int i = 0; i < n; ++i) {
                const int a = q[3 * i] - mid[3 * i], b = q[3 * i + 1] - mid[3 * i + 1], c = q[3 * i + 2] - mid[3 * i + 2];
                const int diff = (a < 0 ? -a : a) + (b < 0 ? -b : b) + (c < 0 ? -c : c);
                const float wgt = spatial * falloff(diff * scale), r = gq[i] - 0.5f;
                g[i] = wgt;
                gr[i] = wgt * r;
                s0[i] += wgt;
                s1[i] += wgt * r;
                s2[i] += wgt * r * r;
            }
        } else {
            for (int i = 0; i < n; ++i) {
                const int x = x0 + i + dx, xc = clampi(x, 0, W - 1);
                int diff = 0;
                for (int c = 0; c < 3; ++c) {
                    const int a = row[3 * xc + c] - mid[3 * i + c];
                    diff += a < 0 ? -a : a;
                }
                // outside the photo nothing counts
                const float wgt = x == xc ? spatial * falloff(diff * scale) : 0.0f, r = grey[xc] - 0.5f;
                g[i] = wgt;
                gr[i] = wgt * r;
                s0[i] += wgt;
                s1[i] += wgt * r;
                s2[i] += wgt * r * r;
            }
        }
        if (yy != y + j.tap_dy[t])
            for (int i = 0; i < n; ++i) {
                const float r = grey[clampi(x0 + i + dx, 0, W - 1)] - 0.5f;
                s0[i] -= g[i];
                s1[i] -= gr[i];
                s2[i] -= gr[i] * r;
                g[i] = gr[i] = 0.0f;
            }
    }
    const float floor_var = j.noise * j.noise;
#pragma omp simd
    for (int i = 0; i < n; ++i) {
        const float k = 1.0f / m.sum[i], mu = m.mean[i] * k, v = m.var[i] * k - mu * mu;
        m.mean[i] = mu;
        m.var[i] = (v > 0.0f ? v : 0.0f) + floor_var;
    }
}

// What the four neighbours say about each pixel; they stand still while the row is done.
void neighbours(const Refine &j, int y, int x0, int n, const float *before, const Window &m) {
    static const int offsets[4][2] = {{-1, 0}, {1, 0}, {0, -1}, {0, 1}};
    const int W = j.width, H = j.height;
    const float scale = 1.0f / (3.0f * j.colour_scale);
    for (int t = 0; t < 4; ++t) {
        const int dx = offsets[t][0], dy = offsets[t][1], yy = y + dy;
        const bool row_in = yy >= 0 && yy < H;
        const float *from = dy == 0 || !row_in ? before : j.plane + 3l * yy * W;
        for (int i = 0; i < n; ++i) {
            const int x = x0 + i, xx = x + dx;
            const bool in = row_in && xx >= 0 && xx < W;
            const long at = (long)y * W + x, to = in ? (long)yy * W + xx : at;
            const float *p = from + 3 * (in ? xx : x);
            int diff = 0;
            for (int c = 0; c < 3; ++c) {
                const int e = j.rgb[3 * to + c] - j.rgb[3 * at + c];
                diff += e < 0 ? -e : e;
            }
            m.next_w[t][i] = p[0];
            m.next_ext[t][i] = p[0] - p[1] * dx - p[2] * dy;
            m.next_weight[t][i] = in && j.mask[to] ? 0.25f * falloff(diff * scale) : 0.0f;
        }
    }
}

// Where the planes put the window's centres in source s, and the first-order change of that over the window.
void place(const Refine &j, int s, int y, int x0, int n, const float *__restrict w, const float *__restrict a, const float *__restrict b,
           const Window &m) {
    const float *k = j.map[s];
    const float v = y + 0.5f;
    const float W = (float)j.width, H = (float)j.height;
    float *__restrict px = m.px, *__restrict py = m.py, *__restrict xx = m.xx, *__restrict xy = m.xy, *__restrict yx = m.yx,
                     *__restrict yy = m.yy, *__restrict ok = m.ok;
#pragma omp simd
    for (int i = 0; i < n; ++i) {
        const float u = x0 + i + 0.5f;
        const float X = k[0] * u + k[1] * v + k[2] + k[9] * w[i], Y = k[3] * u + k[4] * v + k[5] + k[10] * w[i],
                    Z = k[6] * u + k[7] * v + k[8] + k[11] * w[i];
        const float q = 1.0f / Z, x = X * q, yv = Y * q;
        px[i] = x;
        py[i] = yv;
        const float zx = k[6] + k[11] * a[i], zy = k[7] + k[11] * b[i];
        xx[i] = (k[0] + k[9] * a[i] - x * zx) * q;
        xy[i] = (k[1] + k[9] * b[i] - x * zy) * q;
        yx[i] = (k[3] + k[10] * a[i] - yv * zx) * q;
        yy[i] = (k[4] + k[10] * b[i] - yv * zy) * q;
        ok[i] = (Z > 0.0f) & (x >= 0.0f) & (yv >= 0.0f) & (x <= W) & (yv <= H) ? 1.0f : 0.0f;
    }
}

// Cost in [0, agree_weight] of the source's own depth sending the point back elsewhere.
void disagreement(const Refine &j, int s, int y, int x0, int n, const Window &m) {
    const float *k = j.back[s];
    const float *__restrict inv = j.other[s];
    const int W = j.width;
    const float xmax = W - 0.5f, ymax = j.height - 0.5f, v = y + 0.5f, cap = j.agree_px, gain = j.agree_weight / j.agree_px;
    const float *__restrict px = m.px, *__restrict py = m.py;
    float *__restrict out = m.agree;
#pragma omp simd
    for (int i = 0; i < n; ++i) {
        float x = px[i], yv = py[i];
        x = x > 0.0f ? x : 0.0f;
        yv = yv > 0.0f ? yv : 0.0f;
        x = x < xmax ? x : xmax;
        yv = yv < ymax ? yv : ymax;
        const float w = inv[(int)yv * W + (int)x];
        const float Z = k[6] * x + k[7] * yv + k[8] + k[11] * w, q = 1.0f / Z;
        const float du = (k[0] * x + k[1] * yv + k[2] + k[9] * w) * q - (x0 + i + 0.5f);
        const float dv = (k[3] * x + k[4] * yv + k[5] + k[10] * w) * q - v;
        float e = sqrtf(du * du + dv * dv);
        e = (w > 0.0f) & (Z > 0.0f) & (e < cap) ? e : cap;
        out[i] = e * gain;
    }
}

// Matching cost of one plane per pixel, [0,1] plus the terms of prior and agreement.
void plane_cost(const Refine &j, int y, int x0, int n, const float *__restrict w, const float *__restrict a, const float *__restrict b,
                const Window &m, float *__restrict cost) {
    const int W = j.width, H = j.height;
    const float xmax = W - 1.001f, ymax = H - 1.001f, floor_var = j.noise * j.noise;
    float *__restrict best = m.best, *__restrict second = m.second;
    for (int i = 0; i < n; ++i) best[i] = second[i] = kInvalid;
    for (int s = 0; s < j.sources; ++s) {
        place(j, s, y, x0, n, w, a, b, m);
        const uint32_t *__restrict img = j.packed[s];
        float *__restrict sw = m.sw, *__restrict sww = m.sww, *__restrict srw = m.srw;
        for (int i = 0; i < n; ++i) sw[i] = sww[i] = srw[i] = 0.0f;
        for (int t = 0; t < j.taps; ++t) {
            const float dx = (float)j.tap_dx[t], dy = (float)j.tap_dy[t];
            const float *__restrict g = m.g + t * kSpan, *__restrict gr = m.gr + t * kSpan;
            const float *__restrict px = m.px, *__restrict py = m.py, *__restrict xx = m.xx, *__restrict xy = m.xy,
                        *__restrict yx = m.yx, *__restrict yy = m.yy;
#pragma omp simd
            for (int i = 0; i < n; ++i) {
                float x = px[i] + dx * xx[i] + dy * xy[i] - 0.5f, yv = py[i] + dx * yx[i] + dy * yy[i] - 0.5f;
                x = x > 0.0f ? x : 0.0f;
                yv = yv > 0.0f ? yv : 0.0f;
                x = x < xmax ? x : xmax;
                yv = yv < ymax ? yv : ymax;
                const int ix = (int)x, iy = (int)yv;
                const float fx = x - ix, fy = yv - iy;
                const uint32_t p = img[iy * W + ix], q = img[(iy + 1) * W + ix];
                const float p0 = (float)(int)(p & 0x7fff), p1 = (float)(int)((p >> 16) & 0x7fff);
                const float q0 = (float)(int)(q & 0x7fff), q1 = (float)(int)((q >> 16) & 0x7fff);
                const float top = p0 + fx * (p1 - p0), bottom = q0 + fx * (q1 - q0);
                const float val = (top + fy * (bottom - top)) * (1.0f / 32767.0f) - 0.5f;
                sw[i] += g[i] * val;
                sww[i] += g[i] * val * val;
                srw[i] += gr[i] * val;
            }
        }
        const bool geometric = j.other[s] != nullptr;
        if (geometric) disagreement(j, s, y, x0, n, m);
        const float *__restrict sum = m.sum, *__restrict mean = m.mean, *__restrict var = m.var, *__restrict px = m.px,
                    *__restrict py = m.py, *__restrict ok = m.ok, *__restrict agree = m.agree;
        const float extra = geometric ? 1.0f : 0.0f;
#pragma omp simd
        for (int i = 0; i < n; ++i) {
            const float k = 1.0f / sum[i], mw = sw[i] * k, v = sww[i] * k - mw * mw, cov = srw[i] * k - mean[i] * mw;
            const float vw = (v > 0.0f ? v : 0.0f) + floor_var;
            float e = 1.0f - cov / sqrtf(var[i] * vw);
            e = e < 1.0f ? e : 1.0f;
            e = e > 0.0f ? e : 0.0f;
            e += extra * agree[i];
            float x = px[i], yv = py[i];
            x = x > 0.0f ? x : 0.0f;
            yv = yv > 0.0f ? yv : 0.0f;
            x = x < xmax ? x : xmax;
            yv = yv < ymax ? yv : ymax;
            const bool keep = (img[(int)yv * W + (int)x] & 0x8000u) != 0;
            e = (ok[i] > 0.5f) & keep ? e : kInvalid;
            const float p = best[i], q = second[i], hi = p > e ? p : e;
            best[i] = p < e ? p : e;
            second[i] = q < hi ? q : hi;
        }
    }
    const float w2 = j.sources > 1 ? j.second_weight : 0.0f, unknown = j.unknown_cost;
    const float *__restrict prior = j.prior + 2 * ((long)y * W + x0);
    const float pgain = j.prior_weight, pstep = 1.0f / j.prior_step, near = j.near, slope = j.slope_cap;
#pragma omp simd
    for (int i = 0; i < n; ++i) {
        const float p = best[i], other = second[i] > 1.9f ? (p > unknown ? p : unknown) : second[i];
        float e = p > 1.9f ? unknown + 0.3f : p + w2 * (other - p);
        const float off = (w[i] - prior[2 * i]) * pstep, away = off < 0.0f ? -off : off;
        e += pgain * prior[2 * i + 1] * (away < 1.0f ? away : 1.0f);
        const float lim = slope * w[i];
        const bool fine = (w[i] > 0.0f) & (w[i] <= near) & (a[i] <= lim) & (a[i] >= -lim) & (b[i] <= lim) & (b[i] >= -lim);
        cost[i] = fine ? e : 10.0f;
    }
    if (j.smooth_weight <= 0.0f) return;
    static const float offsets[4][2] = {{-1, 0}, {1, 0}, {0, -1}, {0, 1}};
    const float gain = j.smooth_weight, k = 0.5f / j.smooth_step;
    for (int t = 0; t < 4; ++t) {
        const float dx = offsets[t][0], dy = offsets[t][1];
        const float *__restrict nw = m.next_w[t], *__restrict ext = m.next_ext[t], *__restrict say = m.next_weight[t];
#pragma omp simd
        for (int i = 0; i < n; ++i) {
            const float e0 = w[i] - ext[i], e1 = w[i] + a[i] * dx + b[i] * dy - nw[i];
            const float e = ((e0 < 0.0f ? -e0 : e0) + (e1 < 0.0f ? -e1 : e1)) * k;
            cost[i] += gain * say[i] * (e < 1.0f ? e : 1.0f);
        }
    }
}

long refine_scratch(const Refine &j) { return (long)kSpan * (2 * j.taps + 16 + 12 + 8) + 3l * j.width; }

// One row: the planes of the neighbours in other rows and in the row as it was, those from elsewhere, and three random changes. Rows of
// one parity are done together and look at rows of the other parity only, so the result does not depend on the number of threads.
void refine_row(const Refine &j, int y, int round, bool score_only, float *scratch) {
    static const int offsets[8][2] = {{-1, 0}, {1, 0}, {0, -1}, {0, 1}, {-4, 0}, {4, 0}, {0, -3}, {0, 3}};
    const int W = j.width, H = j.height;
    Window m;
    float *at = scratch;
    m.g = at, at += j.taps * kSpan;
    m.gr = at, at += j.taps * kSpan;
    float **slots[] = {&m.sum, &m.mean, &m.var, &m.best, &m.second, &m.px, &m.py, &m.xx, &m.xy, &m.yx, &m.yy, &m.ok, &m.agree, &m.sw, &m.sww, &m.srw};
    for (float **p : slots) *p = at, at += kSpan;
    for (int t = 0; t < 4; ++t) {
        m.next_w[t] = at, at += kSpan;
        m.next_ext[t] = at, at += kSpan;
        m.next_weight[t] = at, at += kSpan;
    }
    float *w = at, *a = w + kSpan, *b = a + kSpan, *cost = b + kSpan, *now_w = cost + kSpan, *now_a = now_w + kSpan, *now_b = now_a + kSpan,
          *now = now_b + kSpan;
    float *before = now + kSpan;
    float *row = j.plane + 3l * y * W;
    memcpy(before, row, sizeof(float) * 3 * W);
    for (int x0 = 0; x0 < W; x0 += kSpan) {
        const int n = W - x0 < kSpan ? W - x0 : kSpan;
        window_weights(j, y, x0, n, m);
        if (j.smooth_weight > 0.0f) neighbours(j, y, x0, n, before, m);
        for (int i = 0; i < n; ++i) {
            now_w[i] = before[3 * (x0 + i)];
            now_a[i] = before[3 * (x0 + i) + 1];
            now_b[i] = before[3 * (x0 + i) + 2];
        }
        plane_cost(j, y, x0, n, now_w, now_a, now_b, m, now);
        const int tries = score_only ? 0 : 8 + j.candidates + 3;
        for (int t = 0; t < tries; ++t) {
            if (t < 8) {
                const int dx = offsets[t][0], dy = offsets[t][1], yy = y + dy;
                if (yy < 0 || yy >= H) continue;
                const float *from = dy == 0 ? before : j.plane + 3l * yy * W;
                for (int i = 0; i < n; ++i) {
                    const float *p = from + 3 * clampi(x0 + i + dx, 0, W - 1);
                    w[i] = p[0] - p[1] * dx - p[2] * dy;
                    a[i] = p[1];
                    b[i] = p[2];
                }
            } else if (t < 8 + j.candidates) {
                const float *p = j.candidate[t - 8] + 3 * ((long)y * W + x0);
                for (int i = 0; i < n; ++i) w[i] = p[3 * i], a[i] = p[3 * i + 1], b[i] = p[3 * i + 2];
            } else {
                const int kind = t - 8 - j.candidates;
                const float size = j.shake / (float)(1 << round), turn = size * 0.25f;
                const float fw = kind != 1 ? size : 0.0f, fs = kind != 0 ? turn : 0.0f;
#pragma omp simd
                for (int i = 0; i < n; ++i) {
                    const uint32_t k = (uint32_t)(round * 16 + kind * 4);
                    w[i] = now_w[i] + fw * noise_at(x0 + i, y, k);
                    a[i] = now_a[i] + fs * noise_at(x0 + i, y, k + 1);
                    b[i] = now_b[i] + fs * noise_at(x0 + i, y, k + 2);
                }
            }
            plane_cost(j, y, x0, n, w, a, b, m, cost);
#pragma omp simd
            for (int i = 0; i < n; ++i) {
                const bool better = cost[i] < now[i] - 1e-4f;
                now[i] = better ? cost[i] : now[i];
                now_w[i] = better ? w[i] : now_w[i];
                now_a[i] = better ? a[i] : now_a[i];
                now_b[i] = better ? b[i] : now_b[i];
            }
        }
        for (int i = 0; i < n; ++i) {
            row[3 * (x0 + i)] = now_w[i];
            row[3 * (x0 + i) + 1] = now_a[i];
            row[3 * (x0 + i) + 2] = now_b[i];
            j.cost[(long)y * W + x0 + i] = now[i];
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------------ agreement

// Inverse depth at a continuous pixel: bilinear on a smooth surface, the nearest pixel across an edge.
inline float sample_inverse(const float *inv, int W, int H, float u, float v) {
    float x = u - 0.5f, y = v - 0.5f;
    x = x > 0.0f ? x : 0.0f;
    y = y > 0.0f ? y : 0.0f;
    x = x < W - 1.0f ? x : W - 1.0f;
    y = y < H - 1.0f ? y : H - 1.0f;
    const int ix = (int)x < W - 2 ? (int)x : W - 2, iy = (int)y < H - 2 ? (int)y : H - 2;
    const float fx = x - ix, fy = y - iy;
    const float *p = inv + (long)iy * W + ix;
    const float a = p[0], b = p[1], c = p[W], d = p[W + 1];
    const float ab = a > b ? a : b, cd = c > d ? c : d, high = ab > cd ? ab : cd;
    const float AB = a < b ? a : b, CD = c < d ? c : d, low = AB < CD ? AB : CD;
    if (high - low < 0.05f * high) return (a + fx * (b - a)) * (1 - fy) + (c + fx * (d - c)) * fy;
    const float top = fx < 0.5f ? a : b, bottom = fx < 0.5f ? c : d;
    return fy < 0.5f ? top : bottom;
}

void agree_rows(const Agree &j, int y0, int y1) {
    const int W = j.width, H = j.height;
    for (int y = y0; y < y1; ++y)
        for (int x = 0; x < W; ++x) {
            const long at = (long)y * W + x;
            const float w = j.inv[at], u = x + 0.5f, v = y + 0.5f;
            float count = 0, best = INFINITY, relative = INFINITY;
            for (int s = 0; s < j.sources && w > 0; ++s) {
                const float *k = j.map[s], *r = j.back[s];
                const float Z = k[6] * u + k[7] * v + k[8] + k[11] * w;
                if (!(Z > 0)) continue;
                const float px = (k[0] * u + k[1] * v + k[2] + k[9] * w) / Z, py = (k[3] * u + k[4] * v + k[5] + k[10] * w) / Z;
                if (!(px >= 0 && py >= 0 && px <= W && py <= H)) continue;
                const float there = sample_inverse(j.other[s], W, H, px, py);
                if (!(there > 0)) continue;
                const float z = r[6] * px + r[7] * py + r[8] + r[11] * there;
                if (!(z > 0)) continue;
                const float du = (r[0] * px + r[1] * py + r[2] + r[9] * there) / z - u, dv = (r[3] * px + r[4] * py + r[5] + r[10] * there) / z - v;
                const float e = sqrtf(du * du + dv * dv), rel = fabsf(1.0f - there * Z / w);
                if (e < j.max_px && rel < j.max_relative) count += 1;
                if (e < best) best = e, relative = rel;
            }
            j.count[at] = count;
            j.error_px[at] = best;
            j.error_relative[at] = relative;
        }
}

}  // namespace

extern const Kernels STEREO_TABLE = {STEREO_ISA,  sweep_scratch,  sweep_band, aggregate_lines,
                                     winner_rows, refine_scratch, refine_row, agree_rows};

}  // namespace handful_stereo
