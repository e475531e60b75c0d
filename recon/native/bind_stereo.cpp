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
template <typename T> using A4 = nb::ndarray<T, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
template <typename T> using A3 = nb::ndarray<T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void require(bool ok, const char *what) {
    if (!ok) throw std::invalid_argument(what);
}

void cost_volume(A3<const float> grey, A3<const uint8_t> mask, int reference, std::vector<int> sources, A2<const float> maps,
                 A1<const float> inv_depth, float noise, float second_weight, float unknown_cost, A3<uint8_t> cost, int threads) {
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
    sweep(j, threads);
}

void aggregate_paths(A3<const uint8_t> cost, A3<const uint8_t> rgb, int p1, A1<const int16_t> p2, int paths, A3<uint16_t> sum, int threads) {
    const int H = (int)cost.shape(0), W = (int)cost.shape(1), D = (int)cost.shape(2);
    require((int)rgb.shape(0) == H && (int)rgb.shape(1) == W && rgb.shape(2) == 3, "stereo: rgb must be (H,W,3)");
    require((int)sum.shape(0) == H && (int)sum.shape(1) == W && (int)sum.shape(2) == D, "stereo: sum must be (H,W,D)");
    require(p2.shape(0) == 256, "stereo: p2 must have 256 entries");
    require(paths == 2 || paths == 4 || paths == 8, "stereo: 2, 4 or 8 paths");
    Aggregate j{};
    j.width = W, j.height = H, j.planes = D, j.cost = cost.data(), j.rgb = rgb.data(), j.p1 = p1, j.sum = sum.data();
    std::memcpy(j.p2, p2.data(), sizeof j.p2);
    nb::gil_scoped_release free;
    aggregate(j, paths, threads);
}

void best_plane(A3<const uint8_t> cost, A3<const uint16_t> sum, A2<float> plane, A2<float> margin, A2<float> best_cost, int threads) {
    const int H = (int)cost.shape(0), W = (int)cost.shape(1), D = (int)cost.shape(2);
    require((int)sum.shape(0) == H && (int)sum.shape(1) == W && (int)sum.shape(2) == D, "stereo: sum must be (H,W,D)");
    for (auto *a : {&plane, &margin, &best_cost})
        require((int)a->shape(0) == H && (int)a->shape(1) == W, "stereo: results must be (H,W)");
    Winner j{W, H, D, cost.data(), sum.data(), plane.data(), margin.data(), best_cost.data()};
    nb::gil_scoped_release free;
    winner(j, threads);
}

// Slanted-plane refinement of one photo. `plane` H,W,3 and `cost` H,W are changed in place; rounds = 0 only scores the planes.
// settings: noise, second_weight, unknown_cost, colour_scale, prior_weight, prior_step, agree_weight, agree_px, near, slope_cap, shake,
// smooth_weight, smooth_step.
void refine_planes(A3<const float> grey, A3<const uint8_t> rgb, A3<const uint8_t> mask, int reference, std::vector<int> sources,
                   A2<const float> maps, A2<const float> backs, A2<const float> taps, A3<const float> prior, A3<const float> inv,
                   bool geometric, A4<const float> candidates, std::vector<float> settings, int rounds, A3<float> plane, A2<float> cost, int threads) {
    const int V = (int)grey.shape(0), H = (int)grey.shape(1), W = (int)grey.shape(2), S = (int)sources.size();
    require(H >= 2 && W >= 2, "stereo: photos need at least 2x2 pixels");
    require((int)mask.shape(0) == V && (int)mask.shape(1) == H && (int)mask.shape(2) == W, "stereo: mask and grey differ in shape");
    require((int)rgb.shape(0) == H && (int)rgb.shape(1) == W && rgb.shape(2) == 3, "stereo: rgb must be (H,W,3)");
    require(reference >= 0 && reference < V, "stereo: no such reference");
    require(S >= 1 && S <= kMaxSources, "stereo: 1 to 16 sources");
    require((int)maps.shape(0) == S && maps.shape(1) == 12 && (int)backs.shape(0) == S && backs.shape(1) == 12, "stereo: maps must be (S,12)");
    require(taps.shape(0) >= 1 && taps.shape(0) <= kMaxTaps && taps.shape(1) == 3, "stereo: taps must be (T,3), at most 49");
    require((int)prior.shape(0) == H && (int)prior.shape(1) == W && prior.shape(2) == 2, "stereo: prior must be (H,W,2)");
    require(!geometric || ((int)inv.shape(0) == V && (int)inv.shape(1) == H && (int)inv.shape(2) == W), "stereo: inv must be (V,H,W)");
    const int C = (int)candidates.shape(0);
    require(C <= kMaxCandidates, "stereo: at most 16 candidate maps");
    require(C == 0 || ((int)candidates.shape(1) == H && (int)candidates.shape(2) == W && candidates.shape(3) == 3), "stereo: candidates must be (C,H,W,3)");
    require(settings.size() == 13, "stereo: 13 settings");
    require(rounds >= 0 && rounds <= 16, "stereo: 0 to 16 rounds");
    require((int)plane.shape(0) == H && (int)plane.shape(1) == W && plane.shape(2) == 3, "stereo: plane must be (H,W,3)");
    require((int)cost.shape(0) == H && (int)cost.shape(1) == W, "stereo: cost must be (H,W)");
    Refine j{};
    const long n = (long)H * W;
    j.width = W, j.height = H, j.sources = S, j.candidates = C, j.taps = (int)taps.shape(0);
    for (int t = 0; t < j.taps; ++t) {
        j.tap_dx[t] = (int)taps(t, 0), j.tap_dy[t] = (int)taps(t, 1), j.tap_weight[t] = taps(t, 2);
    }
    j.ref = grey.data() + reference * n, j.rgb = rgb.data(), j.mask = mask.data() + reference * n;
    std::vector<std::vector<uint32_t>> packed(S);
    for (int s = 0; s < S; ++s) {
        require(sources[s] >= 0 && sources[s] < V, "stereo: no such source");
        packed[s].resize(n);
        pack_image(grey.data() + sources[s] * n, mask.data() + sources[s] * n, W, H, packed[s].data());
        j.packed[s] = packed[s].data();
        j.other[s] = geometric ? inv.data() + sources[s] * n : nullptr;
        std::memcpy(j.map[s], maps.data() + 12 * s, sizeof(float) * 12);
        std::memcpy(j.back[s], backs.data() + 12 * s, sizeof(float) * 12);
    }
    for (int c = 0; c < C; ++c) j.candidate[c] = candidates.data() + c * n * 3;
    j.noise = settings[0], j.second_weight = settings[1], j.unknown_cost = settings[2], j.colour_scale = settings[3];
    j.prior = prior.data(), j.prior_weight = settings[4], j.prior_step = settings[5];
    j.agree_weight = settings[6], j.agree_px = settings[7], j.near = settings[8], j.slope_cap = settings[9], j.shake = settings[10];
    j.smooth_weight = settings[11], j.smooth_step = settings[12];
    j.plane = plane.data(), j.cost = cost.data();
    nb::gil_scoped_release free;
    refine(j, rounds, threads);
}

void agreement(A3<const float> inv, int reference, std::vector<int> sources, A2<const float> maps, A2<const float> backs, float max_px,
               float max_relative, A2<float> count, A2<float> error_px, A2<float> error_relative, int threads) {
    const int V = (int)inv.shape(0), H = (int)inv.shape(1), W = (int)inv.shape(2), S = (int)sources.size();
    require(H >= 2 && W >= 2, "stereo: photos need at least 2x2 pixels");
    require(reference >= 0 && reference < V && S >= 1 && S <= kMaxSources, "stereo: no such reference or sources");
    require((int)maps.shape(0) == S && maps.shape(1) == 12 && (int)backs.shape(0) == S && backs.shape(1) == 12, "stereo: maps must be (S,12)");
    for (auto *a : {&count, &error_px, &error_relative})
        require((int)a->shape(0) == H && (int)a->shape(1) == W, "stereo: results must be (H,W)");
    Agree j{};
    const long n = (long)H * W;
    j.width = W, j.height = H, j.sources = S, j.inv = inv.data() + reference * n;
    for (int s = 0; s < S; ++s) {
        require(sources[s] >= 0 && sources[s] < V, "stereo: no such source");
        j.other[s] = inv.data() + sources[s] * n;
        std::memcpy(j.map[s], maps.data() + 12 * s, sizeof(float) * 12);
        std::memcpy(j.back[s], backs.data() + 12 * s, sizeof(float) * 12);
    }
    j.max_px = max_px, j.max_relative = max_relative;
    j.count = count.data(), j.error_px = error_px.data(), j.error_relative = error_relative.data();
    nb::gil_scoped_release free;
    agree(j, threads);
}

void fit(A2<const float> inv, float scale, A3<float> plane, int threads) {
    require(plane.shape(0) == inv.shape(0) && plane.shape(1) == inv.shape(1) && plane.shape(2) == 3, "stereo: plane must be (H,W,3)");
    nb::gil_scoped_release free;
    fit_planes(inv.data(), (int)inv.shape(1), (int)inv.shape(0), scale, plane.data(), threads);
}

void carry(A3<const float> source, A1<const float> map, A1<const float> back, A3<float> plane) {
    for (int i = 0; i < 2; ++i) require(plane.shape(i) == source.shape(i), "stereo: planes must have one shape");
    require(source.shape(2) == 3 && plane.shape(2) == 3 && map.shape(0) == 12 && back.shape(0) == 12, "stereo: planes are (H,W,3), maps (12,)");
    nb::gil_scoped_release free;
    carry_planes(source.data(), (int)source.shape(1), (int)source.shape(0), map.data(), back.data(), plane.data());
}

}  // namespace

void bind_stereo(nb::module_ &m) {
    m.def("stereo_isa", [] { return std::string(kernels().isa); });
    m.def("stereo_select", [](const std::string &isa) { return select_kernels(isa.c_str()); }, "isa"_a);
    m.def("stereo_cost_volume", &cost_volume, "grey"_a.noconvert(), "mask"_a.noconvert(), "reference"_a, "sources"_a, "maps"_a.noconvert(),
          "inv_depth"_a.noconvert(), "noise"_a, "second_weight"_a, "unknown_cost"_a, "cost"_a.noconvert(), "threads"_a);
    m.def("stereo_aggregate", &aggregate_paths, "cost"_a.noconvert(), "rgb"_a.noconvert(), "p1"_a, "p2"_a.noconvert(), "paths"_a,
          "sum"_a.noconvert(), "threads"_a);
    m.def("stereo_winner", &best_plane, "cost"_a.noconvert(), "sum"_a.noconvert(), "plane"_a.noconvert(), "margin"_a.noconvert(),
          "best_cost"_a.noconvert(), "threads"_a);
    m.def("stereo_refine", &refine_planes, "grey"_a.noconvert(), "rgb"_a.noconvert(), "mask"_a.noconvert(), "reference"_a, "sources"_a,
          "maps"_a.noconvert(), "backs"_a.noconvert(), "taps"_a.noconvert(), "prior"_a.noconvert(), "inv"_a.noconvert(), "geometric"_a,
          "candidates"_a.noconvert(), "settings"_a, "rounds"_a, "plane"_a.noconvert(), "cost"_a.noconvert(), "threads"_a);
    m.def("stereo_agreement", &agreement, "inv"_a.noconvert(), "reference"_a, "sources"_a, "maps"_a.noconvert(), "backs"_a.noconvert(),
          "max_px"_a, "max_relative"_a, "count"_a.noconvert(), "error_px"_a.noconvert(), "error_relative"_a.noconvert(), "threads"_a);
    m.def("stereo_fit_planes", &fit, "inv"_a.noconvert(), "scale"_a, "plane"_a.noconvert(), "threads"_a);
    m.def("stereo_carry_planes", &carry, "source"_a.noconvert(), "map"_a.noconvert(), "back"_a.noconvert(), "plane"_a.noconvert());
}
