// Scheduling of the stereo kernels over threads, and the choice of the instruction set.
#include "stereo.h"

#include <cstring>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

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

void sweep(const Sweep &j) {
    const Kernels &k = kernels();
    const int bands = (j.height + kBand - 1) / kBand;
#pragma omp parallel
    {
        std::vector<float> scratch(k.sweep_scratch(j, kBand));
#pragma omp for schedule(dynamic, 1)
        for (int b = 0; b < bands; ++b) k.sweep_band(j, b * kBand, b * kBand + kBand < j.height ? b * kBand + kBand : j.height, scratch.data());
    }
}

void aggregate(const Aggregate &j, int paths) {
    static const int dirs[8][2] = {{1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, 1}, {-1, 1}, {1, -1}, {-1, -1}};
    const Kernels &k = kernels();
#pragma omp parallel
    {
        std::vector<int16_t> scratch((long)(kChunk + 1) * (j.planes + 32) + kChunk);
        for (int p = 0; p < paths; ++p) {
            const int dx = dirs[p][0], dy = dirs[p][1], lines = dy == 0 ? j.height : j.width;
#pragma omp for schedule(dynamic, 1)  // its end is a barrier: two directions never touch one sum at once
            for (int l = 0; l < lines; l += kChunk)
                k.aggregate_lines(j, dx, dy, p == 0, l, l + kChunk < lines ? l + kChunk : lines, scratch.data());
        }
    }
}

void winner(const Winner &j) {
    const Kernels &k = kernels();
#pragma omp parallel for schedule(dynamic, 8)
    for (int y = 0; y < j.height; ++y) k.winner_rows(j, y, y + 1);
}

}  // namespace handful_stereo
