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

}  // namespace

extern const Kernels STEREO_TABLE = {STEREO_ISA, sweep_scratch, sweep_band, aggregate_lines, winner_rows};

}  // namespace handful_stereo
