// Radiance fields for Python: marching, fields of planes and lines and of tensors along rays, compositing. What the numbers mean: recon/field.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "held_field.h"
#include "kernels.h"
#include "memory.h"
#include "parallel.h"
#include "tensors.h"

namespace nb = nanobind;
using namespace handful;

using InLong = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Tensors = nb::ndarray<nb::pytorch, float>;

namespace {

constexpr int64_t CHUNK = 32;  // rays, or blocks of points, that a thread takes at once

// A cloud's arrays, checked: of all scales one after the other. layout: of each its tensors, line points, cells along an edge.
struct Cloud {
    TriCloud f{};
    std::vector<TriScale> scales;

    Cloud(const In &lines, const In &centers, const InLong &starts, const InLong &listed, const InLong &layout, const In &sizes, int channels, int nearest) {
        want(layout.size() == 3 * sizes.size() && sizes.size() >= 1, "layout must be (3 K), of K sizes");
        want(channels > 0 && channels % kFieldPad == 0, "channels must be a multiple of 16");
        want(nearest >= 1 && nearest <= kMostNearest, "nearest must be 1 to 64");
        size_t tensors = 0, cell = 0, entry = 0, line = 0;
        for (size_t k = 0; k < sizes.size(); ++k) {
            const int64_t *l = layout.data() + 3 * k;
            want(l[0] >= 0 && l[1] >= 2 && l[2] >= 1 && l[2] <= 1024 && sizes.data()[k] > 0, "a scale has tensors of 2 line points or more, 1 to 1024 cells and a size");
            const size_t cells = (size_t)(l[2] * l[2] * l[2]);
            want(tensors + (size_t)l[0] <= centers.size() / 3 && cell + cells + 1 <= starts.size(), "centers must be (T, 3), starts G^3 + 1 of each scale");
            const int64_t *first = starts.data() + cell;
            for (size_t c = 0; c < cells; ++c) want(first[c] <= first[c + 1], "starts must not fall");
            want(first[0] == 0 && entry + (size_t)first[cells] <= listed.size(), "starts must run from 0 to the number of those listed");
            for (int64_t e = 0; e < first[cells]; ++e) want(listed.data()[entry + (size_t)e] >= 0 && listed.data()[entry + (size_t)e] < l[0], "listed must be tensors");
            scales.push_back({centers.data() + 3 * tensors, first, listed.data() + entry, (int64_t)line, l[0], (int)l[1], (int)l[2], sizes.data()[k]});
            tensors += (size_t)l[0], cell += cells + 1, entry += (size_t)first[cells], line += (size_t)(l[0] * 3 * l[1]) * (size_t)channels;
        }
        want(centers.size() == 3 * tensors && starts.size() == cell && listed.size() == entry, "centers, starts and listed must be those of the scales");
        want(lines.size() == line && line < ((size_t)1 << 31), "lines must be those of the scales, (T, 3, P, C) of each, fewer than 2^31 numbers");
        f = {lines.data(), scales.data(), (int)sizes.size(), channels, nearest};
    }
};

// The rays' arrays, checked. basis none: colours are given.
RayBatch batch(const In *xyz, const In &delta, const In &s, const In *basis, const InLong &starts, int bands) {
    const size_t n = delta.size(), rays = starts.size() - 1;
    want(starts.size() >= 1 && starts.data()[0] == 0 && starts.data()[rays] == (int64_t)n, "starts must run from 0 to the number of samples");
    for (size_t r = 0; r < rays; ++r) want(starts.data()[r] <= starts.data()[r + 1], "starts must not fall");
    want(s.size() == n && delta.ndim() == 1 && s.ndim() == 1, "delta and s must be (N)");
    want(!xyz || (xyz->ndim() == 2 && xyz->shape(0) == n && xyz->shape(1) == 3), "xyz must be (N, 3)");
    want(!basis || (basis->ndim() == 2 && basis->shape(0) == rays && (int)basis->shape(1) == bands), "basis must be (R, bands)");
    return {xyz ? xyz->data() : nullptr, delta.data(), s.data(), basis ? basis->data() : nullptr, starts.data()};
}

// First rays of `slots` parts with about as many samples each.
std::vector<int64_t> even_parts(const int64_t *starts, int64_t rays, int slots) {
    std::vector<int64_t> first((size_t)slots + 1, rays);
    for (int k = 0; k < slots; ++k) first[(size_t)k] = std::lower_bound(starts, starts + rays, starts[rays] * k / slots) - starts;
    first[0] = 0;
    return first;
}

template <class F> void in_chunks(int threads, int64_t count, const F &body) {
    parallel_for(threads, (count + CHUNK - 1) / CHUNK, [&](int64_t i, int worker) { body(i * CHUNK, std::min(count, (i + 1) * CHUNK), worker); });
}

}  // namespace

// start, span: R,3 in the unit cube; length, jitter: R; grid: G,G,G. Samples (xyz N,3; delta N; s N) and where each ray's begin (R + 1).
static nb::tuple field_march(In start, In span, In length, In jitter, Grid grid, float steps, int threads) {
    want(start.ndim() == 2 && threads >= 1, "start must be (R, 3), threads 1 or more");
    const size_t rays = start.shape(0);
    want(start.shape(1) == 3 && span.ndim() == 2 && span.shape(0) == rays && span.shape(1) == 3, "start and span must be (R, 3)");
    want(length.size() == rays && jitter.size() == rays, "length and jitter must be (R)");
    want(grid.shape(0) == grid.shape(1) && grid.shape(1) == grid.shape(2) && grid.shape(0) >= 1, "grid must be (G, G, G)");
    want(steps > 0, "steps must be more than 0");
    const int side = (int)grid.shape(0);
    const uint8_t *cells = reinterpret_cast<const uint8_t *>(grid.data());
    Array<int64_t> starts(rays + 1);
    Array<float> xyz, delta, s;
    size_t total = 0;
    {
        nb::gil_scoped_release release;
        const Kernels &k = kernels();
        auto one = [&](int64_t r, float *p, float *d, float *t) {
            return k.march_ray(start.data() + 3 * r, span.data() + 3 * r, steps, jitter.data()[r], length.data()[r], cells, side, p, d, t);
        };
        in_chunks(threads, (int64_t)rays, [&](int64_t b, int64_t e, int) {
            for (int64_t r = b; r < e; ++r) starts[(size_t)r + 1] = one(r, nullptr, nullptr, nullptr);
        });
        starts[0] = 0;
        for (size_t r = 0; r < rays; ++r) starts[r + 1] += starts[r];
        total = (size_t)starts[rays];
        xyz = Array<float>(3 * total), delta = Array<float>(total), s = Array<float>(total);
        in_chunks(threads, (int64_t)rays, [&](int64_t b, int64_t e, int) {
            for (int64_t r = b; r < e; ++r) {
                const int64_t at = starts[(size_t)r];
                one(r, xyz.data + 3 * at, delta.data + at, s.data + at);
            }
        });
    }
    return nb::make_tuple(to_tensor(xyz, {total, 3}), to_tensor(delta, {total}), to_tensor(s, {total}), to_tensor(starts, {rays + 1}));
}

// -- a field with any grid ---------------------------------------------------------------------------------------------

template <class G> static Tensors points_of(const FieldKernels<G> &k, const G &grid, const Net &net, const In &xyz, int threads) {
    want(xyz.ndim() == 2 && xyz.shape(1) == 3 && threads >= 1, "xyz must be (N, 3), threads 1 or more");
    const Field<G> f{grid, net.f};
    const size_t n = xyz.shape(0);
    Array<float> out(n * (size_t)net.kept);
    {
        nb::gil_scoped_release release;
        const size_t size = k.scratch(f);
        Array<float> scratch(size * (size_t)threads);
        const int64_t block = CHUNK * kFieldBlock;
        parallel_for(threads, ((int64_t)n + block - 1) / block, [&](int64_t i, int worker) {
            k.points(f, xyz.data(), i * block, std::min((int64_t)n, (i + 1) * block), scratch.data + size * (size_t)worker, out.data);
        });
    }
    return to_tensor(out, {n, (size_t)net.kept});
}

template <class G> static nb::tuple rays_of(const FieldKernels<G> &k, const G &grid, const Net &net, const RayBatch &rays, size_t count, size_t samples, int threads) {
    want(threads >= 1, "threads must be 1 or more");
    const Field<G> f{grid, net.f};
    Array<float> value(4 * samples), out(count * kRayOutputs);
    {
        nb::gil_scoped_release release;
        const size_t size = k.scratch(f);
        Array<float> scratch(size * (size_t)threads);
        in_chunks(threads, (int64_t)count, [&](int64_t b, int64_t e, int worker) {
            k.rays(f, rays, b, e, scratch.data + size * (size_t)worker, value.data, out.data);
        });
    }
    return nb::make_tuple(to_tensor(out, {count, (size_t)kRayOutputs}), to_tensor(value, {samples, 4}));
}

// Gradients to the grid (as one array of `own` numbers), w1, b1, w2, b2, one after the other. Sums go part by part, one part a thread (64 at most, and 1 GiB of
// them), so they are the same for the same number of threads. Memory: parts x 4 (own + F H + H + H O + O) bytes, and 16 for each sample.
template <class G> static Array<float> grad_of(const FieldKernels<G> &k, const G &grid, size_t own, const Net &net, const RayBatch &rays, int64_t count,
                                               size_t samples, const In &value, const In &v_out, int threads) {
    want(value.size() == 4 * samples && (int64_t)v_out.size() == count * kRayOutputs && threads >= 1, "value must be (N, 4), v_out (R, 6), threads 1 or more");
    const Field<G> f{grid, net.f};
    const size_t w1 = (size_t)net.f.features * (size_t)net.f.hidden, b1 = (size_t)net.f.hidden, each = own + w1 + b1 + net.w2.size() + net.b2.size();
    const int slots = (int)std::max<size_t>(1, std::min<size_t>({(size_t)threads, 64, ((size_t)1 << 28) / each}));
    Array<float> sums(each * (size_t)slots), dvalue(4 * samples);
    nb::gil_scoped_release release;
    const size_t size = k.scratch(f);
    Array<float> scratch(size * (size_t)slots);
    const std::vector<int64_t> first = even_parts(rays.starts, count, slots);
    parallel_for(threads, slots, [&](int64_t i, int) {
        float *p = sums.data + each * (size_t)i;
        std::memset(p, 0, each * sizeof(float));
        const FieldGrads g{p, p + own, p + own + w1, p + own + w1 + b1, p + own + w1 + b1 + net.w2.size()};
        k.grad(f, rays, value.data(), first[(size_t)i], first[(size_t)i + 1], v_out.data(), dvalue.data, scratch.data + size * (size_t)i, g);
    });
    const int64_t block = 1 << 14;
    parallel_for(threads, ((int64_t)each + block - 1) / block, [&](int64_t i, int) {
        const size_t b = (size_t)(i * block), e = std::min(each, b + (size_t)block);
        for (int t = 1; t < slots; ++t)
            for (size_t j = b; j < e; ++j) sums[j] += sums[each * (size_t)t + j];
    });
    return sums;
}

// Takes the parts of grad_of's array out of it, one after the other.
struct Taker {
    const float *at;
    Tensors operator()(const std::vector<size_t> &shape) {
        size_t n = 1;
        for (size_t d : shape) n *= d;
        Array<float> part(n);
        std::copy_n(at, n, part.data);
        at += n;
        return to_tensor(part, shape);
    }
};

// -- planes and lines --------------------------------------------------------------------------------------------------

// Raw outputs N, 1 + 3 bands at the points.
static Tensors vm_points(In planes, In lines, In w1, In b1, In w2, In b2, In xyz, int bands, int threads) {
    const VmGrid grid = vm_grid(planes, lines);
    return points_of(kernels().vm, grid, Net(3 * grid.channels, w1, b1, w2, b2, bands), xyz, threads);
}

// Per ray r, g, b, alpha, sum of w s, distortion (R,6), and per sample density and colour (N,4; of those that light reaches).
static nb::tuple vm_rays(In planes, In lines, In w1, In b1, In w2, In b2, In xyz, In delta, In s, In basis, InLong starts, int threads) {
    const int bands = basis.ndim() == 2 ? (int)basis.shape(1) : 0;
    const VmGrid grid = vm_grid(planes, lines);
    const Net net(3 * grid.channels, w1, b1, w2, b2, bands);
    return rays_of(kernels().vm, grid, net, batch(&xyz, delta, s, &basis, starts, bands), starts.size() - 1, delta.size(), threads);
}

// Gradients to planes, lines, w1, b1, w2, b2.
static nb::tuple vm_grad(In planes, In lines, In w1, In b1, In w2, In b2, In xyz, In delta, In s, In basis, InLong starts, In value, In v_out, int threads) {
    const int bands = basis.ndim() == 2 ? (int)basis.shape(1) : 0;
    const VmGrid grid = vm_grid(planes, lines);
    const Net net(3 * grid.channels, w1, b1, w2, b2, bands);
    const RayBatch rays = batch(&xyz, delta, s, &basis, starts, bands);
    const Array<float> sums =
        grad_of(kernels().vm, grid, planes.size() + lines.size(), net, rays, (int64_t)starts.size() - 1, delta.size(), value, v_out, threads);
    const size_t S = (size_t)grid.side, C = (size_t)grid.channels, H = (size_t)net.f.hidden, O = (size_t)net.f.outputs;
    Taker taken{sums.data};
    auto a = taken({3, S, S, C}), b = taken({3, S, C}), c = taken({3 * C, H}), d = taken({H}), e = taken({H, O}), g = taken({O});
    return nb::make_tuple(a, b, c, d, e, g);
}

// -- clouds of tensors -------------------------------------------------------------------------------------------------

static Tensors trivec_points(In lines, In centers, InLong starts, InLong listed, InLong layout, In sizes, int channels, int nearest, In w1, In b1, In w2, In b2,
                             In xyz, int bands, int threads) {
    const Cloud cloud(lines, centers, starts, listed, layout, sizes, channels, nearest);
    return points_of(kernels().trivec, cloud.f, Net(cloud.f.count * channels, w1, b1, w2, b2, bands), xyz, threads);
}

static nb::tuple trivec_rays(In lines, In centers, InLong starts, InLong listed, InLong layout, In sizes, int channels, int nearest, In w1, In b1, In w2, In b2,
                             In xyz, In delta, In s, In basis, InLong rays, int threads) {
    const int bands = basis.ndim() == 2 ? (int)basis.shape(1) : 0;
    const Cloud cloud(lines, centers, starts, listed, layout, sizes, channels, nearest);
    const Net net(cloud.f.count * channels, w1, b1, w2, b2, bands);
    return rays_of(kernels().trivec, cloud.f, net, batch(&xyz, delta, s, &basis, rays, bands), rays.size() - 1, delta.size(), threads);
}

// Gradients to lines (as one array), w1, b1, w2, b2.
static nb::tuple trivec_grad(In lines, In centers, InLong starts, InLong listed, InLong layout, In sizes, int channels, int nearest, In w1, In b1, In w2, In b2,
                             In xyz, In delta, In s, In basis, InLong rays, In value, In v_out, int threads) {
    const int bands = basis.ndim() == 2 ? (int)basis.shape(1) : 0;
    const Cloud cloud(lines, centers, starts, listed, layout, sizes, channels, nearest);
    const Net net(cloud.f.count * channels, w1, b1, w2, b2, bands);
    const RayBatch seen = batch(&xyz, delta, s, &basis, rays, bands);
    const Array<float> sums = grad_of(kernels().trivec, cloud.f, lines.size(), net, seen, (int64_t)rays.size() - 1, delta.size(), value, v_out, threads);
    const size_t F = (size_t)net.f.features, H = (size_t)net.f.hidden, O = (size_t)net.f.outputs;
    Taker taken{sums.data};
    auto a = taken({lines.size()}), c = taken({F, H}), d = taken({H}), e = taken({H, O}), g = taken({O});
    return nb::make_tuple(a, c, d, e, g);
}

// -- compositing -------------------------------------------------------------------------------------------------------

// value: N,4, density and colour. R,6 as vm_rays gives.
static Tensors composite_rays(In value, In delta, In s, InLong starts, int threads) {
    const RayBatch rays = batch(nullptr, delta, s, nullptr, starts, 0);
    want(value.size() == 4 * delta.size(), "value must be (N, 4)");
    const size_t count = starts.size() - 1;
    Array<float> out(count * kRayOutputs);
    {
        nb::gil_scoped_release release;
        const Kernels &k = kernels();
        in_chunks(threads, (int64_t)count, [&](int64_t b, int64_t e, int) { k.composite_rays(rays, value.data(), b, e, out.data); });
    }
    return to_tensor(out, {count, (size_t)kRayOutputs});
}

static Tensors composite_grad(In value, In delta, In s, InLong starts, In v_out, int threads) {
    const RayBatch rays = batch(nullptr, delta, s, nullptr, starts, 0);
    const size_t count = starts.size() - 1;
    want(value.size() == 4 * delta.size() && v_out.size() == count * kRayOutputs, "value must be (N, 4), v_out (R, 6)");
    Array<float> grad(4 * delta.size());
    {
        nb::gil_scoped_release release;
        const Kernels &k = kernels();
        in_chunks(threads, (int64_t)count, [&](int64_t b, int64_t e, int) { k.composite_grad(rays, value.data(), b, e, v_out.data(), grad.data); });
    }
    return to_tensor(grad, {delta.size(), 4});
}

void bind_field(nb::module_ &m) {
    auto A = [](const char *name) { return nb::arg(name).noconvert(); };
    m.def("field_march", &field_march, A("start"), A("span"), A("length"), A("jitter"), A("grid"), nb::arg("steps"), nb::arg("threads"));
    m.def("vm_points", &vm_points, A("planes"), A("lines"), A("w1"), A("b1"), A("w2"), A("b2"), A("xyz"), nb::arg("bands"), nb::arg("threads"));
    m.def("vm_rays", &vm_rays, A("planes"), A("lines"), A("w1"), A("b1"), A("w2"), A("b2"), A("xyz"), A("delta"), A("s"), A("basis"), A("starts"),
          nb::arg("threads"));
    m.def("vm_grad", &vm_grad, A("planes"), A("lines"), A("w1"), A("b1"), A("w2"), A("b2"), A("xyz"), A("delta"), A("s"), A("basis"), A("starts"), A("value"),
          A("v_out"), nb::arg("threads"));
    m.def("trivec_points", &trivec_points, A("lines"), A("centers"), A("starts"), A("listed"), A("layout"), A("sizes"), nb::arg("channels"), nb::arg("nearest"), A("w1"),
          A("b1"), A("w2"), A("b2"), A("xyz"), nb::arg("bands"), nb::arg("threads"));
    m.def("trivec_rays", &trivec_rays, A("lines"), A("centers"), A("starts"), A("listed"), A("layout"), A("sizes"), nb::arg("channels"), nb::arg("nearest"), A("w1"),
          A("b1"), A("w2"), A("b2"), A("xyz"), A("delta"), A("s"), A("basis"), A("rays"), nb::arg("threads"));
    m.def("trivec_grad", &trivec_grad, A("lines"), A("centers"), A("starts"), A("listed"), A("layout"), A("sizes"), nb::arg("channels"), nb::arg("nearest"), A("w1"),
          A("b1"), A("w2"), A("b2"), A("xyz"), A("delta"), A("s"), A("basis"), A("rays"), A("value"), A("v_out"), nb::arg("threads"));
    m.def("composite_rays", &composite_rays, A("value"), A("delta"), A("s"), A("starts"), nb::arg("threads"));
    m.def("composite_grad", &composite_grad, A("value"), A("delta"), A("s"), A("starts"), A("v_out"), nb::arg("threads"));
}
