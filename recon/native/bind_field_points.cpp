// Radiance fields drawn by their occupied cells, for Python. What is drawn: recon/field/cells.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "held_field.h"
#include "kernels.h"
#include "memory.h"
#include "parallel.h"

namespace nb = nanobind;
using namespace handful;

namespace {

constexpr int BAND = 8;             // rows of pixels that a thread draws at once
constexpr float BEHIND = 1e-4f;     // depth below which a corner has no pixel

// The pixels whose middles a cell may cover; all of them where a corner lies beside or behind the camera. m: 3,4, cube to pixels.
CellFootprint footprint(const int *at, int side, const float *m, int width, int height) {
    float low[2] = {3e38f, 3e38f}, high[2] = {-3e38f, -3e38f};
    CellFootprint cell{{at[0], at[1], at[2]}, 0, width, 0, height};
    for (int corner = 0; corner < 8; ++corner) {
        float x[3], h[3];
        for (int a = 0; a < 3; ++a) x[a] = (float)(at[a] + (corner >> a & 1)) / (float)side;
        for (int r = 0; r < 3; ++r) h[r] = m[4 * r] * x[0] + m[4 * r + 1] * x[1] + m[4 * r + 2] * x[2] + m[4 * r + 3];
        if (!(h[2] > BEHIND)) return cell;
        for (int r = 0; r < 2; ++r) low[r] = std::min(low[r], h[r] / h[2]), high[r] = std::max(high[r], h[r] / h[2]);
    }
    auto within = [](float x, int most) { return (int)std::clamp(x, 0.0f, (float)most); };
    // middles lie at .5; a hundredth of a pixel for rounding
    cell.u0 = within(std::ceil(low[0] - 0.51f), width), cell.u1 = within(std::floor(high[0] - 0.49f) + 1, width);
    cell.v0 = within(std::ceil(low[1] - 0.51f), height), cell.v1 = within(std::floor(high[1] - 0.49f) + 1, height);
    return cell;
}

// Occupied cells that cover any pixel, by the number of steps from face to face between them and the camera's cell: along a ray that number only grows.
std::vector<CellFootprint> nearest_first(const bool *grid, int side, const float *origin, const float *m, int width, int height) {
    int64_t camera[3];
    for (int a = 0; a < 3; ++a) camera[a] = (int64_t)std::floor(std::clamp(origin[a], -1e3f, 1e3f) * (float)side);
    auto steps = [&](const int32_t *at) { return std::abs(at[0] - camera[0]) + std::abs(at[1] - camera[1]) + std::abs(at[2] - camera[2]); };
    std::vector<CellFootprint> cells;
    for (int x = 0, at[3]; x < side; ++x)
        for (int y = 0; y < side; ++y)
            for (int z = 0; z < side; ++z)
                if (grid[((int64_t)x * side + y) * side + z]) {
                    at[0] = x, at[1] = y, at[2] = z;
                    const CellFootprint cell = footprint(at, side, m, width, height);
                    if (cell.u0 < cell.u1 && cell.v0 < cell.v1) cells.push_back(cell);
                }
    std::stable_sort(cells.begin(), cells.end(), [&](const CellFootprint &a, const CellFootprint &b) { return steps(a.at) < steps(b.at); });
    return cells;
}

}  // namespace

// start, span: P,3; length: P; basis: P,bands, of the pixels of a picture, row by row; origin: the camera in the cube; pixel_from_cube: 3,4. Returns P,6 as vm_rays
// does, and how many samples were decoded. The same whatever the number of threads.
static nb::tuple vm_cells(In planes, In lines, In w1, In b1, In w2, In b2, In start, In span, In length, In basis, Grid grid, In origin, In pixel_from_cube,
                          float steps, int width, int threads) {
    want(basis.ndim() == 2 && threads >= 1 && steps > 0, "basis must be (P, bands), threads 1 or more, steps more than 0");
    const size_t pixels = length.size();
    want(width >= 1 && pixels % (size_t)width == 0 && pixels < ((size_t)1 << 31), "the pixels must be whole rows");
    want(start.size() == 3 * pixels && span.size() == 3 * pixels && basis.shape(0) == pixels, "start and span must be (P, 3), basis (P, bands)");
    want(grid.shape(0) == grid.shape(1) && grid.shape(1) == grid.shape(2) && grid.shape(0) >= 1, "grid must be (G, G, G)");
    want(origin.size() == 3 && pixel_from_cube.size() == 12, "origin must be (3), pixel_from_cube (3, 4)");
    const VmGrid planes_lines = vm_grid(planes, lines);
    const Net net(3 * planes_lines.channels, w1, b1, w2, b2, (int)basis.shape(1));
    const Field<VmGrid> field{planes_lines, net.f};
    const int height = (int)(pixels / (size_t)width), side = (int)grid.shape(0);
    Array<float> out(pixels * kRayOutputs);
    std::atomic<int64_t> decoded{0};
    {
        nb::gil_scoped_release release;
        const Kernels &k = kernels();
        const auto cells = nearest_first(grid.data(), side, origin.data(), pixel_from_cube.data(), width, height);
        const CellPicture job{start.data(), span.data(), length.data(), basis.data(), cells.data(), (int64_t)cells.size(), width, side, steps};
        const size_t size = k.vm.scratch(field) + k.cells_scratch(BAND * width);
        Array<float> scratch(size * (size_t)threads);
        parallel_for(threads, (height + BAND - 1) / BAND, [&](int64_t i, int worker) {
            const int row = (int)i * BAND;
            decoded += k.draw_cells(field, job, row, std::min(height, row + BAND), scratch.data + size * (size_t)worker, out.data);
        });
    }
    return nb::make_tuple(to_tensor(out, {pixels, (size_t)kRayOutputs}), decoded.load());
}

void bind_field_points(nb::module_ &m) {
    auto A = [](const char *name) { return nb::arg(name).noconvert(); };
    m.def("vm_cells", &vm_cells, A("planes"), A("lines"), A("w1"), A("b1"), A("w2"), A("b2"), A("start"), A("span"), A("length"), A("basis"), A("grid"), A("origin"),
          A("pixel_from_cube"), nb::arg("steps"), nb::arg("width"), nb::arg("threads"));
}
