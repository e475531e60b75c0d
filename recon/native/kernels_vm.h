// How a grid of planes and lines is read. Semantics: recon/field/vm.py, its slow twin.
#include "field_types.h"

namespace handful {
namespace HANDFUL_NS {

struct GridCell {
    int64_t corner[3];  // of each axis: the lower grid line
    float t[3];         // how far beyond it, [0, 1]
};

inline GridCell cell_of(const float *xyz, int side) {
    GridCell c;
    for (int a = 0; a < 3; ++a) {
        float x = xyz[a] > 0.0f ? (xyz[a] < 1.0f ? xyz[a] : 1.0f) : 0.0f;  // NaN is 0
        x *= (float)(side - 1);
        int i = (int)x;
        if (i > side - 2) i = side - 2;
        c.corner[a] = i, c.t[a] = x - (float)i;
    }
    return c;
}

// The axes of plane k (rows, columns) and the one its line runs along.
constexpr int kPlaneRow[3] = {1, 2, 2}, kPlaneColumn[3] = {0, 0, 1}, kLineAxis[3] = {2, 1, 0};

inline size_t kept_floats(const VmGrid &g) { return (size_t)(6 * g.channels + 3); }

// kept: plane and line values, 3 C each, and the place; x = their products
inline bool look_up(const VmGrid &g, const float *xyz, float *kept, float *x) {
    const GridCell c = cell_of(xyz, g.side);
    const int C = g.channels;
    float *P = kept, *L = kept + 3 * C;
    memcpy(kept + 6 * C, xyz, 3 * sizeof(float));
    for (int k = 0; k < 3; ++k) {
        const int64_t i = c.corner[kPlaneRow[k]], j = c.corner[kPlaneColumn[k]], l = c.corner[kLineAxis[k]];
        const float u = c.t[kPlaneRow[k]], v = c.t[kPlaneColumn[k]], w = c.t[kLineAxis[k]];
        const float *p = g.planes + ((k * (int64_t)g.side + i) * g.side + j) * C, *q = p + (int64_t)g.side * C;
        const float *n = g.lines + (k * (int64_t)g.side + l) * C;
        const VF w00 = set1((1 - u) * (1 - v)), w01 = set1((1 - u) * v), w10 = set1(u * (1 - v)), w11 = set1(u * v), n0 = set1(1 - w), n1 = set1(w);
        for (int m = 0; m < C; m += W) {
            VF a = fma(w11, load(q + C + m), fma(w10, load(q + m), fma(w01, load(p + C + m), w00 * load(p + m))));
            VF b = fma(n1, load(n + C + m), n0 * load(n + m));
            store(P + k * C + m, a), store(L + k * C + m, b), store(x + k * C + m, a * b);
        }
    }
    return true;
}

inline void scatter(const VmGrid &g, const float *kept, const float *dx, float *grads) {
    const int C = g.channels;
    const float *P = kept, *L = kept + 3 * C;
    const GridCell c = cell_of(kept + 6 * C, g.side);
    float *planes = grads, *lines = grads + 3 * (int64_t)g.side * g.side * C;
    for (int k = 0; k < 3; ++k) {
        const int64_t i = c.corner[kPlaneRow[k]], j = c.corner[kPlaneColumn[k]], l = c.corner[kLineAxis[k]];
        const float u = c.t[kPlaneRow[k]], v = c.t[kPlaneColumn[k]], w = c.t[kLineAxis[k]];
        float *p = planes + ((k * (int64_t)g.side + i) * g.side + j) * C, *q = p + (int64_t)g.side * C;
        float *n = lines + (k * (int64_t)g.side + l) * C;
        const VF w00 = set1((1 - u) * (1 - v)), w01 = set1((1 - u) * v), w10 = set1(u * (1 - v)), w11 = set1(u * v), n0 = set1(1 - w), n1 = set1(w);
        for (int m = 0; m < C; m += W) {
            VF d = load(dx + k * C + m), dp = d * load(L + k * C + m), dl = d * load(P + k * C + m);
            add(p + m, w00 * dp), add(p + C + m, w01 * dp), add(q + m, w10 * dp), add(q + C + m, w11 * dp);
            add(n + m, n0 * dl), add(n + C + m, n1 * dl);
        }
    }
}

}  // namespace HANDFUL_NS
}  // namespace handful
