// The table of kernels of one instruction set; isa.cpp picks one at run time.
#pragma once
#include "field_types.h"
#include "image_types.h"
#include "raster_types.h"

namespace handful {

// Of a field with one kind of grid.
template <class Grid> struct FieldKernels {
    size_t (*scratch)(const Field<Grid> &);  // floats of it, for the others
    void (*points)(const Field<Grid> &, const float *xyz, int64_t begin, int64_t end, float *scratch, float *out);
    void (*rays)(const Field<Grid> &, const RayBatch &, int64_t begin, int64_t end, float *scratch, float *value, float *out);
    void (*grad)(const Field<Grid> &, const RayBatch &, const float *value, int64_t begin, int64_t end, const float *v_out, float *dvalue, float *scratch,
                 FieldGrads);
};

struct Kernels {
    const char *name;
    void (*project)(const Scene &, const Camera &, const Options &, int64_t begin, int64_t end, ProjectOut &, PairBuffer &);
    void (*forward_tile)(const Camera &, const Options &, const Splat *, Pairs, int tile, PixelState, Images);
    void (*backward_tile)(const Camera &, const Options &, const Splat *, Pairs, int tile, PixelState, Drawn, ImageGrads, float *pair_grads,
                          uint8_t *hit_slot);
    void (*project_grad)(const Scene &, const Camera &, const Options &, const Splat *, const uint32_t *slot_begin, const uint8_t *hit_slot,
                         const float *pair_grads, int64_t begin, int64_t end, SceneGrads, float *cam_grads);
    size_t (*loss_scratch)(int width);  // floats of scratch for loss_strip
    int (*loss_strips)(int height);
    void (*loss_strip)(const LossJob &, int strip, float *scratch, double *sums, float *grad);
    void (*adam_rows)(const AdamJob &, int64_t begin, int64_t end);
    void (*decay_rows)(float *logits, const uint8_t *visible, float factor, float log_factor, int64_t begin, int64_t end);
    FieldKernels<VmGrid> vm;
    FieldKernels<TriCloud> trivec;
    void (*composite_rays)(const RayBatch &, const float *value, int64_t begin, int64_t end, float *out);
    void (*composite_grad)(const RayBatch &, const float *value, int64_t begin, int64_t end, const float *v_out, float *dvalue);
    int64_t (*march_ray)(const float *start, const float *span, float steps, float jitter, float length, const uint8_t *grid, int side, float *xyz, float *delta,
                         float *s);
    size_t (*cells_scratch)(int pixels);  // floats of scratch for draw_cells, beside that of the field
    int64_t (*draw_cells)(const Field<VmGrid> &, const CellPicture &, int row0, int row1, float *scratch, float *out);
};

// null where the compiler's target has no such variant
const Kernels *kernels_avx512();
const Kernels *kernels_avx2();
const Kernels *kernels_base();  // SSE2, NEON or plain C++: always there

const Kernels &kernels();           // the fastest this processor runs, or the one chosen by name
bool choose_kernels(const char *name);  // "auto" or a name; false: not on this machine

}  // namespace handful
