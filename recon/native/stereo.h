// Multi-view stereo kernels: what the scheduling (stereo.cpp) hands to the hot loops (stereo_kernels.inl, compiled once per
// instruction set). No Python, no allocation in here. Pixel centres are at +0.5 everywhere.
#pragma once
#include <cstdint>

namespace handful_stereo {

constexpr int kMaxSources = 16;
constexpr int kCostMax = 200;    // cost of a zero-mean NCC of 0 or less
constexpr int kPlaneBlock = 16;  // the number of planes is a multiple of this

// Plane sweep of one reference photo against its sources.
struct Sweep {
    int width, height, sources, planes;
    const float *ref;                         // H,W grey
    const uint32_t *packed[kMaxSources];      // H,W two neighbouring 15-bit greys, top bits: mask (see pack_image)
    float map[kMaxSources][12];               // source pixel ~ A p + b w for reference pixel p and inverse depth w: A row by row, then b
    const float *inv_depth;                   // D
    const uint8_t *mask;                      // H,W of the reference, 0 = ignore
    float noise;                              // grey-level noise added to the NCC's denominator: what has no texture matches nowhere
    float second_weight;                      // weight of the second-best source; the best has the rest
    float unknown_cost;                       // [0,1], cost where no source sees the point
    uint8_t *cost;                            // H,W,D out
};

// Semi-global aggregation (Hirschmueller 2008), one direction at a time.
struct Aggregate {
    int width, height, planes;
    const uint8_t *cost;  // H,W,D
    const uint8_t *rgb;   // H,W,3
    int p1;
    int16_t p2[256];      // by the largest channel difference of neighbouring pixels
    uint16_t *sum;        // H,W,D
};

struct Winner {
    int width, height, planes;
    const uint8_t *cost;
    const uint16_t *sum;
    float *plane;      // H,W: index of the best plane, with its fraction
    float *margin;     // H,W: how much worse the next best minimum is, relative, [0,1]
    float *best_cost;  // H,W: raw matching cost at the best plane, [0,1]
};

// The hot loops, one table per instruction set.
struct Kernels {
    const char *isa;
    long (*sweep_scratch)(const Sweep &, int rows);  // floats needed by sweep_band
    void (*sweep_band)(const Sweep &, int y0, int y1, float *scratch);
    void (*aggregate_lines)(const Aggregate &, int dx, int dy, bool first, int line0, int line1, int16_t *scratch);
    void (*winner_rows)(const Winner &, int y0, int y1);
};

const Kernels &kernels();                     // the best this processor runs
bool select_kernels(const char *isa);         // "base", "avx2", "avx512"; false when this processor or build has none
extern const Kernels kernels_base;
#if defined(__x86_64__) || defined(_M_X64)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

// Scheduling over threads.
void pack_image(const float *grey, const uint8_t *mask, int width, int height, uint32_t *packed);
void sweep(const Sweep &);
void aggregate(const Aggregate &, int paths);
void winner(const Winner &);

}  // namespace handful_stereo
