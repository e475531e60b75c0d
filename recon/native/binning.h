// From each Gaussian's tiles to each tile's Gaussians, front to back.
#pragma once
#include "kernels.h"
#include "memory.h"

namespace handful {

// The Gaussians of one camera, projected.
struct Projection {
    Array<Splat> splats;          // n
    Array<uint32_t> slot_begin;   // n + 1: the pairs of Gaussian i are slots slot_begin[i] .. slot_begin[i + 1]
    uint32_t visible = 0, pairs = 0;
};

// Its pairs by tile, and what the compositing leaves behind for the backward pass.
struct Binned {
    Array<uint32_t> tile_begin;
    Array<Pair> pairs;
    Array<uint16_t> mask;
    Array<float> transmittance, end;
};

// Projects all Gaussians, sorts the visible ones by depth (ties: by index) and lists them per tile. means2d n,2 and radii n are written.
void project_and_bin(const Scene &, const Camera &, const Options &, int threads, float *means2d, float *radii, Projection &, Binned &);

// Milliseconds of the stages of the last call on this thread: project (with colours and tile tests), sort, bin.
struct StageTimes {
    double project, sort, bin, forward, backward, project_grad;
};
StageTimes &stage_times();

}  // namespace handful
