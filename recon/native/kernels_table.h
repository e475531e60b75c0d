// Included last by isa_*.cpp: this variant's table.
#include "kernels.h"

namespace handful {
namespace HANDFUL_NS {

static void forward_any(const Camera &c, const Options &o, const Splat *s, Pairs p, int tile, PixelState st, Images out) {
    o.surfels  ? forward_tile<kSurfels>(c, o, s, p, tile, st, out)
    : o.normal ? forward_tile<kNormals>(c, o, s, p, tile, st, out)
               : forward_tile<kPlain>(c, o, s, p, tile, st, out);
}
static void backward_any(const Camera &c, const Options &o, const Splat *s, Pairs p, int tile, PixelState st, Drawn drawn, ImageGrads in, float *grads,
                         uint8_t *hit) {
    o.surfels  ? backward_tile<kSurfels>(c, o, s, p, tile, st, drawn, in, grads, hit)
    : o.normal ? backward_tile<kNormals>(c, o, s, p, tile, st, drawn, in, grads, hit)
               : backward_tile<kPlain>(c, o, s, p, tile, st, drawn, in, grads, hit);
}

template <class G> constexpr FieldKernels<G> field_kernels() { return {field_scratch<G>, field_points<G>, field_rays<G>, field_grad<G>}; }

static const Kernels table = {HANDFUL_NAME, project, forward_any, backward_any, project_grad, loss_scratch, loss_strips, loss_strip, adam_rows, decay_rows,
                              field_kernels<VmGrid>(), field_kernels<TriCloud>(), composite_rays, composite_grad, march_ray, cells_scratch, draw_cells};

}  // namespace HANDFUL_NS
}  // namespace handful
