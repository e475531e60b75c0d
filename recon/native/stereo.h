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

// Slanted planes: each pixel holds an inverse depth and its slopes (inverse depth of a plane is linear in the pixel), tries its
// neighbours' planes and small changes, and keeps what matches best (PatchMatch stereo, Bleyer et al. 2011), with a window whose taps
// count by how much their colour is like the centre's.
constexpr int kMaxTaps = 49;
constexpr int kMaxCandidates = 16;

struct Refine {
    int width, height, sources, candidates, taps;
    int tap_dx[kMaxTaps], tap_dy[kMaxTaps];
    float tap_weight[kMaxTaps];
    const float *ref;      // H,W grey
    const uint8_t *rgb;    // H,W,3
    const uint8_t *mask;   // H,W
    const uint32_t *packed[kMaxSources];
    float map[kMaxSources][12];
    float noise, second_weight, unknown_cost;
    float colour_scale;               // weight = exp(-mean channel difference [0,255] / colour_scale)
    const float *prior;               // H,W,2 inverse depth and trust [0,1]; cost grows towards trust * prior_weight when prior_step away
    float prior_weight, prior_step;
    float smooth_weight, smooth_step; // cost of differing from the planes of the four neighbours of like colour by smooth_step or more
    const float *other[kMaxSources];  // H,W inverse depth of each source, or null
    float back[kMaxSources][12];      // source to reference
    float agree_weight, agree_px;     // cost of disagreeing with the source's depth by agree_px or more
    const float *candidate[kMaxCandidates];  // H,W,3 planes from elsewhere (inverse depth, slopes); 0 = none
    float near, slope_cap;            // largest inverse depth; largest slope relative to the inverse depth, per pixel
    float shake;                      // size of the random changes, inverse depth
    float *plane;                     // H,W,3 in and out
    float *cost;                      // H,W in and out
};

// Do the views agree? The point of a pixel, at the depth that the source has there, must come back to the pixel.
struct Agree {
    int width, height, sources;
    const float *inv;                 // H,W of the reference
    const float *other[kMaxSources];
    float map[kMaxSources][12], back[kMaxSources][12];
    float max_px, max_relative;
    float *count, *error_px, *error_relative;  // H,W
};

// The hot loops, one table per instruction set.
struct Kernels {
    const char *isa;
    long (*sweep_scratch)(const Sweep &, int rows);  // floats needed by sweep_band
    void (*sweep_band)(const Sweep &, int y0, int y1, float *scratch);
    void (*aggregate_lines)(const Aggregate &, int dx, int dy, bool first, int line0, int line1, int16_t *scratch);
    void (*winner_rows)(const Winner &, int y0, int y1);
    long (*refine_scratch)(const Refine &);
    void (*refine_row)(const Refine &, int y, int round, bool score_only, float *scratch);
    void (*agree_rows)(const Agree &, int y0, int y1);
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
void sweep(const Sweep &, int threads);
void aggregate(const Aggregate &, int paths, int threads);
void winner(const Winner &, int threads);
void refine(const Refine &, int rounds, int threads);
void agree(const Agree &, int threads);

// Slopes of the inverse depth from a 5x5 window, counting pixels by exp(-(difference / scale)^2): H,W -> H,W,3 (inverse depth, slopes).
void fit_planes(const float *inv, int width, int height, float scale, float *plane, int threads);
// A source's planes carried into the reference (map: reference to source, back: source to reference); the nearest wins; 0 = none.
void carry_planes(const float *source_plane, int width, int height, const float *map, const float *back, float *plane);

}  // namespace handful_stereo
