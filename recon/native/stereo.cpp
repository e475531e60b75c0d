// Scheduling of the stereo kernels over threads, and the choice of the instruction set.
#include "stereo.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "parallel.h"

namespace handful_stereo {

namespace {

bool runs_here(const char *isa) {
    if (std::strcmp(isa, "base") == 0) return true;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (std::strcmp(isa, "avx2") == 0) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (std::strcmp(isa, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#endif
    return false;
}

const Kernels *find(const char *isa) {
    if (!runs_here(isa)) return nullptr;
    const Kernels *all[] = {&kernels_base,
#if defined(__x86_64__) || defined(_M_X64)
                            &kernels_avx2, &kernels_avx512
#endif
    };
    for (const Kernels *k : all)
        if (std::strcmp(k->isa, isa) == 0) return k;
    return nullptr;
}

const Kernels *&chosen() {
    static const Kernels *k = [] {
        for (const char *isa : {"avx512", "avx2"})
            if (const Kernels *found = find(isa)) return found;
        return &kernels_base;
    }();
    return k;
}

constexpr int kBand = 16;    // rows of the sweep done at once: the band's costs stay in the second-level cache
constexpr int kChunk = 32;   // lines of a path direction done at once
constexpr int kRows = 8;     // rows of the cheap steps done at once

// Room for each worker, made before they start: what runs on them must not fail.
template <class T> std::vector<std::vector<T>> scratch_for(int threads, size_t size) {
    return std::vector<std::vector<T>>((size_t)std::max(threads, 1), std::vector<T>(size));
}

template <class F> void rows_of(int threads, int height, const F &body) {
    handful::parallel_for(threads, (height + kRows - 1) / kRows, [&](int64_t i, int) {
        body((int)i * kRows, std::min(height, (int)i * kRows + kRows));
    });
}

}  // namespace

const Kernels &kernels() { return *chosen(); }

bool select_kernels(const char *isa) {
    const Kernels *k = find(isa);
    if (k) chosen() = k;
    return k != nullptr;
}

void pack_image(const float *grey, const uint8_t *mask, int width, int height, uint32_t *packed) {
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) {
            auto value = [&](int c) {
                float g = grey[(long)y * width + c];
                g = g > 0 ? (g < 1 ? g : 1) : 0;
                return (uint32_t)(g * 32767.0f + 0.5f);
            };
            const bool keep = !mask || mask[(long)y * width + x];
            packed[(long)y * width + x] = value(x) | (keep ? 0x8000u : 0u) | value(x + 1 < width ? x + 1 : x) << 16;
        }
}

void sweep(const Sweep &j, int threads) {
    const Kernels &k = kernels();
    auto scratch = scratch_for<float>(threads, k.sweep_scratch(j, kBand));
    handful::parallel_for(threads, (j.height + kBand - 1) / kBand, [&](int64_t b, int worker) {
        k.sweep_band(j, (int)b * kBand, std::min((int)b * kBand + kBand, j.height), scratch[(size_t)worker].data());
    });
}

void aggregate(const Aggregate &j, int paths, int threads) {
    static const int dirs[8][2] = {{1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, 1}, {-1, 1}, {1, -1}, {-1, -1}};
    const Kernels &k = kernels();
    auto scratch = scratch_for<int16_t>(threads, (size_t)(kChunk + 1) * (size_t)(j.planes + 32) + kChunk);
    for (int p = 0; p < paths; ++p) {  // one after the other: two directions never touch one sum at once
        const int dx = dirs[p][0], dy = dirs[p][1], lines = dy == 0 ? j.height : j.width;
        handful::parallel_for(threads, (lines + kChunk - 1) / kChunk, [&](int64_t c, int worker) {
            k.aggregate_lines(j, dx, dy, p == 0, (int)c * kChunk, std::min((int)c * kChunk + kChunk, lines), scratch[(size_t)worker].data());
        });
    }
}

void winner(const Winner &j, int threads) {
    const Kernels &k = kernels();
    rows_of(threads, j.height, [&](int begin, int end) { k.winner_rows(j, begin, end); });
}

void refine(const Refine &j, int rounds, int threads) {
    const Kernels &k = kernels();
    auto scratch = scratch_for<float>(threads, k.refine_scratch(j));
    for (int half = 0; half < 2 * rounds || (rounds == 0 && half < 2); ++half) {
        const int odd = half % 2, rows = (j.height + 1 - odd) / 2;  // every second row, then those between: neighbours stand still
        handful::parallel_for(threads, (rows + 1) / 2, [&](int64_t i, int worker) {
            for (int r = 2 * (int)i; r < std::min(2 * (int)i + 2, rows); ++r)
                k.refine_row(j, 2 * r + odd, half / 2, rounds == 0, scratch[(size_t)worker].data());
        });
    }
}

static void fit_rows(const float *inv, int W, int H, float k, float *plane, int begin, int end) {
    for (int y = begin; y < end; ++y)
        for (int x = 0; x < W; ++x) {
            const float w = inv[(long)y * W + x];
            float suu = 1e-3f, svv = 1e-3f, suv = 0, su = 0, sv = 0;
            for (int dy = -2; dy <= 2; ++dy)
                for (int dx = -2; dx <= 2; ++dx) {
                    if (x + dx < 0 || x + dx >= W || y + dy < 0 || y + dy >= H) continue;
                    const float d = inv[(long)(y + dy) * W + x + dx] - w, e = d * k, g = e * e < 9.0f ? std::exp(-e * e) : 0.0f;
                    suu += g * dx * dx, svv += g * dy * dy, suv += g * dx * dy, su += g * dx * d, sv += g * dy * d;
                }
            const float det = suu * svv - suv * suv;
            float *p = plane + 3 * ((long)y * W + x);
            p[0] = w;
            p[1] = det > 1e-6f ? (svv * su - suv * sv) / det : 0.0f;
            p[2] = det > 1e-6f ? (suu * sv - suv * su) / det : 0.0f;
        }
}

void fit_planes(const float *inv, int W, int H, float scale, float *plane, int threads) {
    rows_of(threads, H, [&](int begin, int end) { fit_rows(inv, W, H, 1.0f / scale, plane, begin, end); });
}

void carry_planes(const float *from, int W, int H, const float *k, const float *r, float *plane) {
    std::memset(plane, 0, sizeof(float) * 3 * (size_t)W * H);
    for (int y = 0; y < H; ++y)
        for (int x = 0; x < W; ++x) {
            const float *p = from + 3 * ((long)y * W + x);
            const float w = p[0], u = x + 0.5f, v = y + 0.5f;
            if (!(w > 0)) continue;
            const float z = r[6] * u + r[7] * v + r[8] + r[11] * w;
            if (!(z > 0)) continue;
            const float px = (r[0] * u + r[1] * v + r[2] + r[9] * w) / z, py = (r[3] * u + r[4] * v + r[5] + r[10] * w) / z;
            if (!(px > -1 && py > -1 && px < W + 1 && py < H + 1)) continue;
            // the plane c . (u, v, 1) = inverse depth, moved: A^T c / (1 - c . b)
            const float c[3] = {p[1], p[2], w - p[1] * u - p[2] * v};
            const float scale = 1.0f - (c[0] * k[9] + c[1] * k[10] + c[2] * k[11]);
            if (!(scale > 1e-6f || scale < -1e-6f)) continue;
            float q[3];
            for (int i = 0; i < 3; ++i) q[i] = (k[i] * c[0] + k[3 + i] * c[1] + k[6 + i] * c[2]) / scale;
            const int ix = (int)std::floor(px - 0.5f), iy = (int)std::floor(py - 0.5f);
            for (int yy = iy; yy <= iy + 1; ++yy)
                for (int xx = ix; xx <= ix + 1; ++xx) {
                    if (xx < 0 || yy < 0 || xx >= W || yy >= H) continue;
                    const float there = q[0] * (xx + 0.5f) + q[1] * (yy + 0.5f) + q[2];
                    float *out = plane + 3 * ((long)yy * W + xx);
                    if (there > out[0]) out[0] = there, out[1] = q[0], out[2] = q[1];
                }
        }
}

void agree(const Agree &j, int threads) {
    const Kernels &k = kernels();
    rows_of(threads, j.height, [&](int begin, int end) { k.agree_rows(j, begin, end); });
}

}  // namespace handful_stereo
