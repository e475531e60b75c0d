// What the field's kernels pass to each other: see recon/field/radiance.py for what the numbers mean.
#pragma once
#include <stdint.h>

namespace handful {

constexpr float kLeastTransmittance = 1e-4f;  // samples behind less light than this are left out (recon/field/volume.py has the same number)
constexpr float kMostLogDensity = 15.0f;      // density = exp(min(raw, this))
constexpr float kNoMatter = -1000.0f;         // logarithm of density where a grid holds nothing (recon/field/radiance.py has the same number)
constexpr int kFieldBlock = 32;               // samples that go backward together
constexpr int kFieldGroup = 8;                // samples of a ray that go forward together
constexpr int kFieldPad = 16;                 // hidden units and padded outputs come in multiples of it, so do a plane's channels

// Three planes times three lines (recon/field/vm.py). 3 channels features.
struct VmGrid {
    const float *planes, *lines;  // 3,S,S,C and 3,S,C; gradients lie one after the other
    int side, channels;
};

// One size of the tensors of a cloud: `tensors` of them, T,3,P,C of `lines` from `first` on. Which reach into cell c of G,G,G: listed[starts[c]] .. listed[starts[c + 1] - 1].
struct TriScale {
    const float *centers;            // T,3
    const int64_t *starts, *listed;  // numbers of tensors of this scale
    int64_t first, tensors;
    int points, cells;
    float size;
};

// A cloud of tensors of three lines each (recon/field/trivec.py). scales channels features.
struct TriCloud {
    const float *lines;
    const TriScale *scales;
    int count, channels, nearest;  // scales; and tensors of each that a place asks at most
};

constexpr int kMostNearest = 64;
constexpr float kClose = 1e-3f;  // of a box: tensors nearer than this count alike (recon/field/trivec.py has the same number)

// The small network that reads a grid.
struct FieldNet {
    const float *w1, *b1, *w2, *b2;       // F,H; H; H,O; O with O padded with zeros
    const float *w1t, *w2t;               // H,F and O,H: the same, transposed
    int features, hidden, outputs, bands; // bands of spherical harmonics: of the outputs, 1 + 3 bands count
};

template <class Grid> struct Field {
    Grid grid;
    FieldNet net;
};

struct FieldGrads {
    float *grid, *w1, *b1, *w2, *b2;
};

// Samples of rays, one ray after the other: those of ray r are starts[r] .. starts[r + 1] - 1.
struct RayBatch {
    const float *xyz, *delta, *s;  // N,3 in [0, 1]; N; N
    const float *basis;            // R,bands: spherical harmonics of the rays' directions
    const int64_t *starts;
};

// An occupied cell, and the pixels it may cover: columns u0 .. u1 - 1 of rows v0 .. v1 - 1.
struct CellFootprint {
    int32_t at[3], u0, u1, v0, v1;
};

// A picture to be drawn by cells, nearest first: of each pixel its ray as march_ray takes it, from the middle of the first step on.
struct CellPicture {
    const float *start, *span, *length, *basis;  // P,3; P,3; P; P,bands
    const CellFootprint *cells;
    int64_t count;
    int width, side;  // side: cells to an edge of the cube
    float steps;
};

constexpr int kRayOutputs = 6;  // r, g, b, alpha, sum of w s, distortion

}  // namespace handful
