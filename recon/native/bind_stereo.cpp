// Multi-view stereo for Python: one call takes one reference photo through sweep, aggregation and winner (recon/stereo.py).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "stereo.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace handful_stereo;

namespace {

template <typename T> using A1 = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T> using A2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T> using A3 = nb::ndarray<T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void require(bool ok, const char *what) {
    if (!ok) throw std::invalid_argument(what);
}

void cost_volume(A3<const float> grey, A3<const uint8_t> mask, int reference, std::vector<int> sources, A2<const float> maps,
                 A1<const float> inv_depth, float noise, float second_weight, float unknown_cost, A3<uint8_t> cost) {
    const int V = (int)grey.shape(0), H = (int)grey.shape(1), W = (int)grey.shape(2), D = (int)inv_depth.shape(0);
    require(H >= 2 && W >= 2, "stereo: photos need at least 2x2 pixels");
    require((int)mask.shape(0) == V && (int)mask.shape(1) == H && (int)mask.shape(2) == W, "stereo: mask and grey differ in shape");
    require(reference >= 0 && reference < V, "stereo: no such reference");
    require(sources.size() >= 1 && sources.size() <= kMaxSources, "stereo: 1 to 16 sources");
    require(maps.shape(0) == sources.size() && maps.shape(1) == 12, "stereo: maps must be (S,12)");
    require(D > 0 && D % kPlaneBlock == 0, "stereo: the number of planes must be a multiple of 16");
    require((int)cost.shape(0) == H && (int)cost.shape(1) == W && (int)cost.shape(2) == D, "stereo: cost must be (H,W,D)");
    Sweep j{};
    j.width = W, j.height = H, j.sources = (int)sources.size(), j.planes = D;
    const long n = (long)H * W;
    j.ref = grey.data() + reference * n;
    j.mask = mask.data() + reference * n;
    std::vector<std::vector<uint32_t>> packed(sources.size());
    for (size_t s = 0; s < sources.size(); ++s) {
        require(sources[s] >= 0 && sources[s] < V, "stereo: no such source");
        packed[s].resize(n);
        pack_image(grey.data() + sources[s] * n, mask.data() + sources[s] * n, W, H, packed[s].data());
        j.packed[s] = packed[s].data();
        std::memcpy(j.map[s], maps.data() + 12 * s, sizeof(float) * 12);
    }
    j.inv_depth = inv_depth.data();
    j.noise = noise, j.second_weight = second_weight, j.unknown_cost = unknown_cost;
    j.cost = cost.data();
    nb::gil_scoped_release free;
    sweep(j);
}

void aggregate_paths(A3<const uint8_t> cost, A3<const uint8_t> rgb, int p1, A1<const int16_t> p2, int paths, A3<uint16_t> sum) {
    const int H = (int)cost.shape(0), W = (int)cost.shape(1), D = (int)cost.shape(2);
    require((int)rgb.shape(0) == H && (int)rgb.shape(1) == W && rgb.shape(2) == 3, "stereo: rgb must be (H,W,3)");
    require((int)sum.shape(0) == H && (int)sum.shape(1) == W && (int)sum.shape(2) == D, "stereo: sum must be (H,W,D)");
    require(p2.shape(0) == 256, "stereo: p2 must have 256 entries");
    require(paths == 2 || paths == 4 || paths == 8, "stereo: 2, 4 or 8 paths");
    Aggregate j{};
    j.width = W, j.height = H, j.planes = D, j.cost = cost.data(), j.rgb = rgb.data(), j.p1 = p1, j.sum = sum.data();
    std::memcpy(j.p2, p2.data(), sizeof j.p2);
    nb::gil_scoped_release free;
    aggregate(j, paths);
}

void best_plane(A3<const uint8_t> cost, A3<const uint16_t> sum, A2<float> plane, A2<float> margin, A2<float> best_cost) {
    const int H = (int)cost.shape(0), W = (int)cost.shape(1), D = (int)cost.shape(2);
    require((int)sum.shape(0) == H && (int)sum.shape(1) == W && (int)sum.shape(2) == D, "stereo: sum must be (H,W,D)");
    for (auto *a : {&plane, &margin, &best_cost})
        require((int)a->shape(0) == H && (int)a->shape(1) == W, "stereo: results must be (H,W)");
    Winner j{W, H, D, cost.data(), sum.data(), plane.data(), margin.data(), best_cost.data()};
    nb::gil_scoped_release free;
    winner(j);
}

}  // namespace

void bind_stereo(nb::module_ &m) {
    m.def("stereo_isa", [] { return std::string(kernels().isa); });
    m.def("stereo_select", [](const std::string &isa) { return select_kernels(isa.c_str()); }, "isa"_a);
    m.def("stereo_cost_volume", &cost_volume, "grey"_a.noconvert(), "mask"_a.noconvert(), "reference"_a, "sources"_a, "maps"_a.noconvert(),
          "inv_depth"_a.noconvert(), "noise"_a, "second_weight"_a, "unknown_cost"_a, "cost"_a.noconvert());
    m.def("stereo_aggregate", &aggregate_paths, "cost"_a.noconvert(), "rgb"_a.noconvert(), "p1"_a, "p2"_a.noconvert(), "paths"_a,
          "sum"_a.noconvert());
    m.def("stereo_winner", &best_plane, "cost"_a.noconvert(), "sum"_a.noconvert(), "plane"_a.noconvert(), "margin"_a.noconvert(),
          "best_cost"_a.noconvert());
}
