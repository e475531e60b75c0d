// What the field's kernels pass to each other: see recon/field/radiance.py for what the numbers mean.
#pragma once
#include <stdint.h>

namespace handful {

constexpr float kLeastTransmittance = 1e-4f;  // samples behind less light than this are left out (recon/field/volume.py has the same number)
constexpr float kMostLogDensity = 15.0f;      // density = exp(min(raw, this))
constexpr int kFieldBlock = 32;               // samples that go backward together
constexpr int kFieldGroup = 8;                // samples of a ray that go forward together
constexpr int kFieldPad = 16;                 // hidden units and padded outputs come in multiples of it, so do a plane's channels

// A VM-factorised grid (three planes times three lines) and the small network that reads it.
struct VmField {
    const float *planes, *lines;       // 3,S,S,C and 3,S,C
    const float *w1, *b1, *w2, *b2;    // F,H; H; H,O; O with F = 3 C, O padded with zeros
    const float *w1t, *w2t;            // H,F and O,H: the same, transposed
    int side, channels, features, hidden, outputs;  // features = 3 channels
    int bands;                         // of spherical harmonics: of the outputs, 1 + 3 bands count
};

struct VmGrads {
    float *planes, *lines, *w1, *b1, *w2, *b2;
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
