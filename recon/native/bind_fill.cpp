// Smooth continuation of a map over a grid of weighted links, for Python: conjugate gradients with a multigrid cycle as preconditioner.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <vector>

#include "memory.h"
#include "tensors.h"

namespace nb = nanobind;
using namespace handful;

namespace {

constexpr float DAMPING = 0.7f;  // of the Jacobi sweeps
constexpr int COARSEST_SIDE = 4, COARSEST_SWEEPS = 20;

// A map with a border of one zero all around, so that the loops need no special cases: links over the border are zero.
struct Grid {
    int h = 0, w = 0;
    std::vector<float> v;
    Grid() = default;
    Grid(int h, int w) : h(h), w(w), v((size_t)(h + 2) * (size_t)(w + 2), 0.0f) {}
    size_t stride() const { return (size_t)w + 2; }
    float *row(int y) { return v.data() + (size_t)(y + 1) * stride() + 1; }
    const float *row(int y) const { return v.data() + (size_t)(y + 1) * stride() + 1; }
};

Grid grid_of(const In &a, int h, int w) {
    Grid g(h, w);
    const int rows = (int)a.shape(0), columns = (int)a.shape(1);
    for (int y = 0; y < rows; ++y) std::copy_n(a.data() + (size_t)y * (size_t)columns, columns, g.row(y));
    return g;
}

// data: weight that holds a pixel; right, down: links to the next pixel; damped: DAMPING over the diagonal. x, r, t: work space of a cycle.
struct Level {
    Grid data, right, down, damped, x, r, t;
};

// out = (data + Laplacian of the links) x
void apply(const Level &l, const Grid &x, Grid &out) {
    const size_t s = x.stride();
    for (int y = 0; y < x.h; ++y) {
        const float *p = x.row(y), *d = l.data.row(y), *right = l.right.row(y), *down = l.down.row(y);
        float *o = out.row(y);
        for (int i = 0; i < x.w; ++i)
            o[i] = d[i] * p[i] + right[i - 1] * (p[i] - p[i - 1]) + right[i] * (p[i] - p[i + 1]) + (down - s)[i] * (p[i] - (p - s)[i]) +
                   down[i] * (p[i] - (p + s)[i]);
    }
}

template <class F> void each(Grid &g, const F &f) {
    for (int y = 0; y < g.h; ++y)
        for (int i = 0; i < g.w; ++i) f(y, i);
}

Level finish(Grid data, Grid right, Grid down) {
    const int h = data.h, w = data.w;
    Level l{std::move(data), std::move(right), std::move(down), Grid(h, w), Grid(h, w), Grid(h, w), Grid(h, w)};
    const size_t s = l.data.stride();
    for (int y = 0; y < h; ++y) {
        const float *d = l.data.row(y), *right = l.right.row(y), *down = l.down.row(y);
        float *o = l.damped.row(y);
        for (int i = 0; i < w; ++i) o[i] = DAMPING / (d[i] + 1e-9f + right[i - 1] + right[i] + (down - s)[i] + down[i]);
    }
    return l;
}

// Sum of 2x2 blocks.
void coarsen(const Grid &fine, Grid &out) {
    each(out, [&](int y, int i) {
        const float *a = fine.row(2 * y) + 2 * i, *b = a + fine.stride();  // the zero border stands in for a missing odd row or column
        out.row(y)[i] = a[0] + a[1] + b[0] + b[1];
    });
}

// The problem and its coarser copies: data summed, links summed over the blocks' borders, half as stiff for twice the way.
std::vector<Level> levels_of(Grid data, Grid right, Grid down) {
    std::vector<Level> out;
    out.push_back(finish(std::move(data), std::move(right), std::move(down)));
    while (std::max(out.back().data.h, out.back().data.w) > COARSEST_SIDE) {
        const Level &f = out.back();
        const int H = (f.data.h + 1) / 2, W = (f.data.w + 1) / 2;
        Grid d(H, W), r(H, W), b(H, W);
        coarsen(f.data, d);
        each(r, [&](int y, int i) {
            const float *a = f.right.row(2 * y) + 2 * i + 1;
            r.row(y)[i] = i + 1 < W ? 0.5f * (a[0] + a[f.right.stride()]) : 0.0f;
        });
        each(b, [&](int y, int i) {
            const float *a = f.down.row(2 * y + (2 * y + 1 < f.data.h)) + 2 * i;
            b.row(y)[i] = y + 1 < H ? 0.5f * (a[0] + a[1]) : 0.0f;
        });
        out.push_back(finish(std::move(d), std::move(r), std::move(b)));
    }
    return out;
}

void sweep(Level &l, const Grid &r, Grid &x) {
    apply(l, x, l.t);
    each(x, [&](int y, int i) { x.row(y)[i] += l.damped.row(y)[i] * (r.row(y)[i] - l.t.row(y)[i]); });
}

// One symmetric V-cycle: x becomes an approximate solution for the residual r.
void cycle(std::vector<Level> &levels, size_t k, const Grid &r, Grid &x) {
    Level &l = levels[k];
    each(x, [&](int y, int i) { x.row(y)[i] = l.damped.row(y)[i] * r.row(y)[i]; });
    if (k + 1 == levels.size()) {
        for (int n = 0; n < COARSEST_SWEEPS; ++n) sweep(l, r, x);
        return;
    }
    Level &c = levels[k + 1];
    apply(l, x, l.t);
    each(l.t, [&](int y, int i) { l.t.row(y)[i] = r.row(y)[i] - l.t.row(y)[i]; });
    coarsen(l.t, c.r);
    cycle(levels, k + 1, c.r, c.x);
    each(x, [&](int y, int i) { x.row(y)[i] += c.x.row(y / 2)[i / 2]; });
    sweep(l, r, x);
}

double dot(const Grid &a, const Grid &b) {
    double sum = 0.0;
    for (int y = 0; y < a.h; ++y) {
        const float *p = a.row(y), *q = b.row(y);
        float part = 0.0f;
        for (int i = 0; i < a.w; ++i) part += p[i] * q[i];
        sum += part;
    }
    return sum;
}

}  // namespace

// goal, data: H,W; right: H,W-1; down: H-1,W. x with (data + Laplacian of the links) x = goal, after at most `rounds` rounds from `start` (none: the mean).
static nb::ndarray<nb::pytorch, float> solve_links(In goal, In data, In right, In down, OptIn start, int rounds) {
    want(goal.ndim() == 2 && data.ndim() == 2 && right.ndim() == 2 && down.ndim() == 2, "goal, data, right and down must be images");
    const int h = (int)goal.shape(0), w = (int)goal.shape(1);
    want(h > 0 && w > 0 && data.shape(0) == (size_t)h && data.shape(1) == (size_t)w, "goal and data differ in shape");
    want(right.shape(0) == (size_t)h && right.shape(1) + 1 == (size_t)w && down.shape(0) + 1 == (size_t)h && down.shape(1) == (size_t)w,
         "right must be (H, W-1) and down (H-1, W)");
    want(!start || (start->ndim() == 2 && start->shape(0) == (size_t)h && start->shape(1) == (size_t)w), "start and goal differ in shape");
    Array<float> result((size_t)h * (size_t)w);
    {
        nb::gil_scoped_release release;
        Grid g = grid_of(goal, h, w), x(h, w), r(h, w), z(h, w), p(h, w), q(h, w);
        std::vector<Level> levels = levels_of(grid_of(data, h, w), grid_of(right, h, w), grid_of(down, h, w));
        if (start) {
            x = grid_of(*start, h, w);
        } else {
            double above = 0.0, below = 0.0;
            each(g, [&](int y, int i) { above += g.row(y)[i], below += levels[0].data.row(y)[i]; });
            each(x, [&](int y, int i) { x.row(y)[i] = (float)(above / below); });
        }
        apply(levels[0], x, r);
        each(r, [&](int y, int i) { r.row(y)[i] = g.row(y)[i] - r.row(y)[i]; });
        cycle(levels, 0, r, z);
        p = z;
        double rz = dot(r, z);
        for (int n = 0; n < rounds && rz >= 1e-12 * (double)h * (double)w; ++n) {
            apply(levels[0], p, q);
            const float step = (float)(rz / std::max(dot(p, q), 1e-30));
            each(x, [&](int y, int i) { x.row(y)[i] += step * p.row(y)[i], r.row(y)[i] -= step * q.row(y)[i]; });
            cycle(levels, 0, r, z);
            const double before = rz;
            rz = dot(r, z);
            const float turn = (float)(rz / before);
            each(p, [&](int y, int i) { p.row(y)[i] = z.row(y)[i] + turn * p.row(y)[i]; });
        }
        for (int y = 0; y < h; ++y) std::copy_n(x.row(y), w, result.data + (size_t)y * (size_t)w);
    }
    return to_tensor(result, {(size_t)h, (size_t)w});
}

void bind_fill(nb::module_ &m) {
    auto A = [](const char *name) { return nb::arg(name).noconvert(); };
    m.def("solve_links", &solve_links, A("goal"), A("data"), A("right"), A("down"), A("start").none(), nb::arg("rounds"));
}
