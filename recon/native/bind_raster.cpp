// The rasterizer for Python: whole images of several cameras. Tensors come and go as DLPack; nothing here knows torch.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "raster.h"
#include "tensors.h"

namespace nb = nanobind;
using namespace handful;

static size_t product(const std::vector<size_t> &shape) {
    size_t n = 1;
    for (size_t s : shape) n *= s;
    return n;
}

static Scene make_scene(const In &means, const In &quats, const In &log_scales, const In &logits, const In &sh, const OptIn &scale) {
    Scene s{means.data(), quats.data(), log_scales.data(), logits.data(), sh.data(), scale ? scale->data() : nullptr, (int64_t)means.shape(0), 0};
    size_t n = means.shape(0);
    want(means.size() == 3 * n && quats.size() == 4 * n && log_scales.size() == 3 * n && logits.size() == n, "sizes of the Gaussians' arrays differ");
    want(sh.ndim() == 3 && sh.shape(0) == n && sh.shape(2) == 3, "sh must be (N, K, 3)");
    want(!scale || scale->size() == n, "opacity_scale must be (N)");
    want(n < 0x7fffffffu, "too many Gaussians");
    s.sh_k = (int)sh.shape(1);
    return s;
}

static Options make_options(std::tuple<float, float, float> bg, int sh_degree, bool antialiased, float near_plane, bool normal, bool surfels, const Scene &s) {
    want(sh_degree >= 0 && sh_degree <= 3 && (sh_degree + 1) * (sh_degree + 1) <= s.sh_k, "sh_degree does not fit sh");
    return {{std::get<0>(bg), std::get<1>(bg), std::get<2>(bg)}, near_plane, sh_degree, antialiased && !surfels, normal || surfels, surfels};
}

// The views of a forward pass that a backward pass may follow. Python holds a tensor with the number of one; when that tensor goes, it goes too. So the state
// travels through torch's autograd like any tensor, and a copy of that tensor that outlives the original is an error instead of a dangling pointer.
struct States {
    std::mutex guard;
    std::unordered_map<int64_t, std::shared_ptr<std::vector<View>>> of;
    int64_t next = 1;
};
static States &states() {
    static States *s = new States;
    return *s;
}

static nb::ndarray<nb::pytorch, int64_t> state_tensor(std::vector<View> views) {
    States &all = states();
    auto *number = new int64_t[1];
    {
        std::lock_guard<std::mutex> lock(all.guard);
        number[0] = all.next++;
        all.of.emplace(number[0], std::make_shared<std::vector<View>>(std::move(views)));
    }
    nb::capsule owner(number, [](void *p) noexcept {
        auto *id = static_cast<int64_t *>(p);
        States &s = states();
        std::shared_ptr<std::vector<View>> last;  // freed after the lock is gone
        {
            std::lock_guard<std::mutex> lock(s.guard);
            auto it = s.of.find(*id);
            if (it != s.of.end()) last = std::move(it->second), s.of.erase(it);
        }
        delete[] id;
    });
    size_t shape[1] = {1};
    return nb::ndarray<nb::pytorch, int64_t>(number, 1, shape, owner);
}

static std::shared_ptr<std::vector<View>> find_state(int64_t number) {
    States &all = states();
    std::lock_guard<std::mutex> lock(all.guard);
    auto it = all.of.find(number);
    if (it == all.of.end()) throw std::invalid_argument("this render's state is gone");
    return it->second;
}

// color V,H,W,3; alpha V,H,W; depth V,H,W; normal V,H,W,3 (or 0 elements); distortion V,H,W (surfels; or 0 elements); means2d V,N,2; radii V,N; state
static nb::tuple forward(In means, In quats, In log_scales, In logits, In sh, OptIn scale, In E, In K, int width, int height,
                         std::tuple<float, float, float> bg, int sh_degree, bool antialiased, float near_plane, bool normal, bool surfels, bool keep, int threads) {
    Scene scene = make_scene(means, quats, log_scales, logits, sh, scale);
    Options opt = make_options(bg, sh_degree, antialiased, near_plane, normal, surfels, scene);
    const size_t v = E.shape(0), h = (size_t)height, w = (size_t)width, n = (size_t)scene.n, pixels = h * w;
    want(E.size() == 16 * v && K.size() == 9 * v && width > 0 && height > 0, "cameras must be (V,4,4) and (V,3,3)");
    std::vector<size_t> s_color{v, h, w, 3}, s_one{v, h, w}, s_normal = opt.normal ? s_color : std::vector<size_t>{0}, s_distortion = surfels ? s_one : std::vector<size_t>{0}, s_means{v, n, 2}, s_radii{v, n};
    Array<float> color(product(s_color)), alpha(product(s_one)), depth(product(s_one)), nrm(product(s_normal)), distortion(product(s_distortion)), means2d(product(s_means)), radii(product(s_radii));
    std::vector<View> views;
    {
        nb::gil_scoped_release release;
        for (size_t i = 0; i < v; ++i) {
            View view;
            Images out{color.data + i * pixels * 3, alpha.data + i * pixels, depth.data + i * pixels, opt.normal ? nrm.data + i * pixels * 3 : nullptr,
                       surfels ? distortion.data + i * pixels : nullptr};
            render_forward(scene, make_camera(E.data() + 16 * i, K.data() + 9 * i, width, height), opt, threads, out, means2d.data + i * n * 2,
                           radii.data + i * n, view);
            view.gaussians = (int64_t)n, view.width = width, view.height = height;
            if (keep) views.push_back(std::move(view));
        }
    }
    return nb::make_tuple(to_tensor(color, s_color), to_tensor(alpha, s_one), to_tensor(depth, s_one), to_tensor(nrm, s_normal), to_tensor(distortion, s_distortion), to_tensor(means2d, s_means),
                          to_tensor(radii, s_radii), state_tensor(std::move(views)));
}

// gradients: means, quats, log_scales, logits, sh, cam_from_world, K, means2d
static nb::tuple backward(In means, In quats, In log_scales, In logits, In sh, OptIn scale, In E, In K, int width, int height,
                          std::tuple<float, float, float> bg, int sh_degree, bool antialiased, float near_plane, bool normal, bool surfels, int64_t state,
                          In depth, In distortion, OptIn v_color, OptIn v_alpha, OptIn v_depth, OptIn v_normal, OptIn v_distortion, bool camera_grads, int threads) {
    Scene scene = make_scene(means, quats, log_scales, logits, sh, scale);
    Options opt = make_options(bg, sh_degree, antialiased, near_plane, normal, surfels, scene);
    const size_t v = E.shape(0), n = (size_t)scene.n, pixels = (size_t)height * (size_t)width, k = (size_t)scene.sh_k;
    auto views = find_state(state);
    bool same = views->size() == v && depth.size() == v * pixels && (!surfels || distortion.size() == v * pixels);
    for (const View &view : *views) same = same && view.gaussians == (int64_t)n && view.width == width && view.height == height;
    want(same, "the state of another render");
    auto fits = [&](const OptIn &g, size_t stride) { return !g || g->size() == v * pixels * stride; };
    want(fits(v_color, 3) && fits(v_alpha, 1) && fits(v_depth, 1) && fits(v_normal, 3) && fits(v_distortion, 1), "gradients must have the images' sizes");
    Array<float> g_means(3 * n), g_quats(4 * n), g_scales(3 * n), g_logits(n), g_sh(3 * k * n), g_E(16 * v), g_K(9 * v), g_means2d(2 * n * v);
    {
        nb::gil_scoped_release release;
        for (size_t i = 0; i < v; ++i) {
            auto at = [&](const OptIn &a, size_t stride) { return a ? a->data() + i * pixels * stride : nullptr; };
            ImageGrads in{at(v_color, 3), at(v_alpha, 1), at(v_depth, 1), opt.normal ? at(v_normal, 3) : nullptr, surfels ? at(v_distortion, 1) : nullptr};
            SceneGrads out{g_means.data, g_quats.data, g_scales.data, g_logits.data, g_sh.data, g_means2d.data + 2 * n * i, i > 0, camera_grads};
            render_backward(scene, make_camera(E.data() + 16 * i, K.data() + 9 * i, width, height), opt, threads, (*views)[i],
                            {depth.data() + i * pixels, surfels ? distortion.data() + i * pixels : nullptr}, in, out, camera_grads ? g_E.data + 16 * i : nullptr, g_K.data + 9 * i);
        }
        if (v == 0)
            for (auto *a : {&g_means, &g_quats, &g_scales, &g_logits, &g_sh}) std::fill(a->data, a->data + a->size, 0.0f);
        if (!camera_grads) std::fill(g_E.data, g_E.data + 16 * v, 0.0f), std::fill(g_K.data, g_K.data + 9 * v, 0.0f);
    }
    return nb::make_tuple(to_tensor(g_means, {n, 3}), to_tensor(g_quats, {n, 4}), to_tensor(g_scales, {n, 3}), to_tensor(g_logits, {n}),
                          to_tensor(g_sh, {n, k, 3}), to_tensor(g_E, {v, 4, 4}), to_tensor(g_K, {v, 3, 3}), to_tensor(g_means2d, {v, n, 2}));
}

void bind_raster(nb::module_ &m) {
    auto A = [](const char *name) { return nb::arg(name).noconvert(); };
    m.def("raster_forward", &forward, A("means"), A("quats"), A("log_scales"), A("logits"), A("sh"), A("opacity_scale").none(), A("cam_from_world"), A("K"),
          nb::arg("width"), nb::arg("height"), nb::arg("background"), nb::arg("sh_degree"), nb::arg("antialiased"), nb::arg("near"), nb::arg("normal"),
          nb::arg("surfels"), nb::arg("keep"), nb::arg("threads"));
    m.def("raster_backward", &backward, A("means"), A("quats"), A("log_scales"), A("logits"), A("sh"), A("opacity_scale").none(), A("cam_from_world"), A("K"),
          nb::arg("width"), nb::arg("height"), nb::arg("background"), nb::arg("sh_degree"), nb::arg("antialiased"), nb::arg("near"), nb::arg("normal"),
          nb::arg("surfels"), nb::arg("state"), A("depth"), A("distortion"), A("v_color").none(), A("v_alpha").none(), A("v_depth").none(), A("v_normal").none(),
          A("v_distortion").none(), nb::arg("camera_grads"),
          nb::arg("threads"));
    m.def("raster_constants", [] {
        nb::dict d;
        d["ALPHA_MIN"] = kAlphaMin, d["ALPHA_MAX"] = kAlphaMax, d["TRANSMITTANCE_MIN"] = kTransmittanceMin, d["COVARIANCE_BLUR"] = kBlur;
        d["SURFEL_BLUR"] = kSurfelBlur, d["SURFEL_GRAZING"] = kSurfelGrazing;
        d["FOV_CLAMP"] = 1.0f + kFovMargin, d["TILE_SIZE"] = kTile;
        return d;
    });
    m.def("stage_times", [] {
        const StageTimes &t = stage_times();
        nb::dict d;
        d["project"] = t.project, d["sort"] = t.sort, d["bin"] = t.bin, d["forward"] = t.forward, d["backward"] = t.backward;
        d["project_grad"] = t.project_grad;
        return d;
    }, "Milliseconds of each stage of this thread's last forward and backward pass (last camera).");
    m.def("raster_counts", [](int64_t state) {
        nb::dict d;
        size_t visible = 0, pairs = 0, drawn = 0, blocks = 0;
        for (auto &v : *find_state(state)) {
            visible += v.projection.visible, pairs += v.projection.pairs;
            for (size_t i = 0; i < v.binned.mask.size; ++i) {
                drawn += v.binned.mask[i] != 0;
                for (unsigned m = v.binned.mask[i]; m; m &= m - 1) ++blocks;
            }
        }
        d["visible"] = visible, d["pairs"] = pairs, d["pairs_drawn"] = drawn, d["blocks_drawn"] = blocks;
        return d;
    }, nb::arg("state"), "Of a render that was kept, summed over its cameras: visible Gaussians, pairs of Gaussian and 16x16 tile, those pairs and 4x4 blocks that received "
       "something.");
    m.def("isa", [] { return std::string(kernels().name); }, "The instruction set in use.");
    m.def("set_isa", [](const std::string &name) { return choose_kernels(name.c_str()); }, nb::arg("name"),
          "Chooses a variant by name, or \"auto\"; false where this machine has none of that name.");
    m.def("memory", [] {
        nb::dict d;
        d["idle"] = idle_bytes(), d["in_use"] = in_use_bytes(), d["peak"] = peak_bytes();
        return d;
    }, "Bytes of the kernels' own buffers.");
    m.def("reset_peak_memory", &reset_peak);
    m.def("release_memory", &release_idle, "Gives idle buffers back to the system.");
}
