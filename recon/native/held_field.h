// A field's arrays from Python, checked, for those who bind its kernels.
#pragma once
#include <algorithm>
#include <vector>

#include "field_types.h"
#include "tensors.h"

namespace handful {

using Grid = nanobind::ndarray<const bool, nanobind::ndim<3>, nanobind::c_contig, nanobind::device::cpu>;

inline std::vector<float> transposed(const float *a, int rows, int columns) {
    std::vector<float> out((size_t)rows * (size_t)columns);
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < columns; ++c) out[(size_t)c * (size_t)rows + (size_t)r] = a[(size_t)r * (size_t)columns + (size_t)c];
    return out;
}

// The network's arrays, checked, with outputs padded to whole vectors.
struct Net {
    FieldNet f{};
    int kept = 0;
    std::vector<float> w2, b2, w1t, w2t;

    Net(int features, const In &w1, const In &b1, const In &w2_in, const In &b2_in, int bands) {
        f.features = features, f.bands = bands, kept = 1 + 3 * bands;
        want(w1.ndim() == 2 && (int)w1.shape(0) == f.features && w1.shape(1) % kFieldPad == 0 && w1.shape(1) > 0, "w1 must be (features, H), H a multiple of 16");
        f.hidden = (int)w1.shape(1);
        want(b1.ndim() == 1 && (int)b1.shape(0) == f.hidden, "b1 must be (H)");
        want(bands >= 1 && w2_in.ndim() == 2 && (int)w2_in.shape(0) == f.hidden && (int)w2_in.shape(1) == kept, "w2 must be (H, 1 + 3 bands)");
        want(b2_in.ndim() == 1 && (int)b2_in.shape(0) == kept, "b2 must be (1 + 3 bands)");
        f.outputs = (kept + kFieldPad - 1) / kFieldPad * kFieldPad;
        w2.assign((size_t)f.hidden * (size_t)f.outputs, 0.0f), b2.assign((size_t)f.outputs, 0.0f);
        for (int h = 0; h < f.hidden; ++h) std::copy_n(w2_in.data() + h * kept, kept, w2.data() + h * f.outputs);
        std::copy_n(b2_in.data(), kept, b2.data());
        w1t = transposed(w1.data(), f.features, f.hidden), w2t = transposed(w2.data(), f.hidden, f.outputs);
        f.w1 = w1.data(), f.b1 = b1.data(), f.w2 = w2.data(), f.b2 = b2.data(), f.w1t = w1t.data(), f.w2t = w2t.data();
    }
};

// Planes and lines, checked.
inline VmGrid vm_grid(const In &planes, const In &lines) {
    want(planes.ndim() == 4 && planes.shape(0) == 3 && planes.shape(1) == planes.shape(2) && planes.shape(1) >= 2, "planes must be (3, S, S, C)");
    want(planes.shape(3) > 0 && planes.shape(3) % kFieldPad == 0, "channels must be a multiple of 16");
    want(lines.ndim() == 3 && lines.shape(0) == 3 && lines.shape(1) == planes.shape(1) && lines.shape(2) == planes.shape(3), "lines must be (3, S, C)");
    return {planes.data(), lines.data(), (int)planes.shape(1), (int)planes.shape(3)};
}

}  // namespace handful
