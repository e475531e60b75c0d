// What the rasterizer's stages hand to each other. No Python, no threads, no standard containers (see simd.h).
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace handful {

// What an image is, in numbers. A test holds these against recon/raster/constants.py.
constexpr float kAlphaMin = 1.0f / 255.0f;
constexpr float kAlphaMax = 0.999f;
constexpr float kTransmittanceMin = 1e-4f;
constexpr float kBlur = 0.3f;
constexpr float kSurfelBlur = 1.0f;      // inverse of twice the variance of the least footprint of a surfel, pixels^-2: exp(-d^2)
constexpr float kSurfelGrazing = 0.01f;  // |cosine| between a surfel's normal and the line of sight below which it is not drawn
constexpr float kFovMargin = 0.3f;  // FOV_CLAMP - 1: how far past the border, in half image widths, the projection is still linearised where it is

constexpr int kTile = 16;        // a tile is 16 x 16 pixels = 16 blocks
constexpr int kBlock = 4;        // a block is 4 x 4 pixels; the unit of work, and one bit of a pair's mask
constexpr int kTilePixels = kTile * kTile;
constexpr int kBlockPixels = kBlock * kBlock;
constexpr int kChunk = 1024;     // Gaussians projected by one task
constexpr int kGrad = 16;        // floats of one pair's gradient, see PairGrad
constexpr int kCamGrad = 20;     // floats of a camera's gradient, see CamGrad

// Raw parameters, contiguous float32: means n,3; quats (wxyz) n,4; log_scales n,3; logits n; sh n,sh_k,3; opacity_scale n or null.
struct Scene {
    const float *means, *quats, *log_scales, *logits, *sh, *opacity_scale;
    int64_t n;
    int sh_k;
};

struct Camera {
    float R[9], t[3];  // cam_from_world
    float fx, fy, cx, cy;
    float center[3];                                       // -R^T t
    float lim_x_neg, lim_x_pos, lim_y_neg, lim_y_pos;      // where x/z and y/z are clamped for the linearisation
    int width, height, tiles_x, tiles_y;
};

struct Options {
    float background[3];
    float near_plane;
    int sh_degree;
    bool antialiased, normal, surfels;
};

// A Gaussian as one camera sees it: one cache line. alpha(dx, dy) = min(2^(lop - qa dx^2 - qb dx dy - qc dy^2), kAlphaMax). Of a surfel, that form is divided by
// w^2, w = 1 + wx dx + wy dy, and z / w is the depth at that pixel.
struct alignas(64) Splat {
    float mx, my;      // centre, pixels
    float qa, qb, qc;  // half the inverse covariance, times log2(e); qb holds both off-diagonal entries
    float lop;         // log2 of the opacity
    float r, g, b, z;  // colour, z-depth
    float nx, ny, nz;  // normal, camera frame
    float order;       // while compositing: place in the tile's list, from 1
    float wx, wy;      // surfels: change of z(centre) / z(pixel) by pixel
};
static_assert(sizeof(Splat) == 64, "one cache line");

// (tile, blocks touched) of the Gaussians of some chunks, in the order they were projected; grows as needed.
struct PairBuffer {
    uint32_t *tile;
    uint16_t *mask;
    size_t size, capacity;
};
void grow(PairBuffer &buffer, size_t extra);  // room for `extra` more

struct ProjectOut {
    Splat *splats;         // n
    float *means2d;        // n,2
    float *radii;          // n; 0 = not drawn
    uint32_t *pair_count;  // n
    uint32_t *keys, *ids;  // depth bits and index of the visible ones, from `begin` on
    int visible;           // how many of them
};

// A Gaussian over a tile, and the pair's place in the order of Gaussians, where its gradient goes.
struct Pair {
    uint32_t gaussian, slot;
};

// The pairs of one camera, sorted by tile and then depth.
struct Pairs {
    const Pair *at;
    uint16_t *mask;              // blocks; the forward pass leaves those it looked at before they were done
    const uint32_t *tile_begin;  // tiles + 1
};

// Images, H,W[,3]; `normal` and `distortion` may be null.
struct Images {
    float *color, *alpha, *depth, *normal, *distortion;
};
struct ImageGrads {  // any may be null
    const float *color, *alpha, *depth, *normal, *distortion;
};
struct Drawn {  // what the backward pass reads of the images
    const float *depth, *distortion;
};

// What the backward pass must know of each pixel, tile by tile in block order: transmittance behind the last splat drawn, and how many of the tile's pairs come
// up to and with that one (a float holds it exactly up to kTilePairs).
struct PixelState {
    float *transmittance, *end;
};
constexpr uint32_t kTilePairs = 1u << 24;

// One pair's gradient, summed over its pixels; g = dL/dalpha * alpha, (dx, dy) = pixel - centre: g times 1, dx, dy, dx^2, dx dy, dy^2. Of surfels see kernels_surfel.h.
enum PairGrad { kGr, kGg, kGb, kGz, kGnx, kGny, kGnz, kG1, kGx, kGy, kGxx, kGxy, kGyy, kGw, kGwx, kGwy };

// A camera's gradient: R row by row, t, fx fy cx cy, centre.
enum CamGrad { kCamR = 0, kCamT = 9, kCamK = 12, kCamCenter = 16 };

struct SceneGrads {
    float *means, *quats, *log_scales, *logits, *sh;
    float *means2d;   // n,2, of this camera
    bool accumulate;  // add (a further camera) instead of write
    bool camera;
};

}  // namespace handful
