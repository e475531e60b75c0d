// A VM field drawn by its occupied cells instead of by rays: each cell meets the pixels it covers, nearest cells first. Included behind kernels_field.h.
#include "field_types.h"

namespace handful {
namespace HANDFUL_NS {

// What a pixel's ray needs to meet cells.
struct PixelRay {
    float inverse[3], slack[3];  // 1 / span; how far rounding may move a crossing, in t
    float dt;                    // 0: misses the cube
};

inline PixelRay pixel_ray(const float *span, float length, float steps) {
    PixelRay r;
    const float size = sqrtf(span[0] * span[0] + span[1] * span[1] + span[2] * span[2]);
    r.dt = length > 0 && size > 0 && size < 3e38f ? 1.0f / (size * steps) : 0.0f;
    for (int a = 0; a < 3; ++a) {
        const float d = fabsf(span[a]) > 1e-9f ? span[a] : 1e-9f;  // along the faces: the slack lets every cell through, and the sample's own place decides
        r.inverse[a] = 1.0f / d, r.slack[a] = 1e-3f * r.dt + 1e-6f * fabsf(r.inverse[a]);
    }
    return r;
}

// Samples of a ray that may lie in the cell: numbers first to last, as march_ray counts them; none where last < first.
inline void samples_in(const PixelRay &r, const float *start, const int32_t *cell, float edge, int64_t *first, int64_t *last) {
    float near = 0, far = 1;
    for (int a = 0; a < 3; ++a) {
        const float p = ((float)cell[a] * edge - start[a]) * r.inverse[a], q = ((float)(cell[a] + 1) * edge - start[a]) * r.inverse[a];
        const float lo = (p < q ? p : q) - r.slack[a], hi = (p < q ? q : p) + r.slack[a];
        near = lo > near ? lo : near, far = hi < far ? hi : far;
    }
    if (!(near <= far)) {
        *first = 1, *last = 0;
        return;
    }
    const int64_t i = (int64_t)(near / r.dt - 0.5f) - 1;
    *first = i > 0 ? i : 0, *last = (int64_t)(far / r.dt - 0.5f) + 1;
}

// Samples that wait to be decoded together, whichever cells and pixels they are of; each pixel's in order.
struct Waiting {
    float xyz[3 * kFieldBlock], delta[kFieldBlock], s[kFieldBlock];
    int pixel[kFieldBlock], n;
};

static void compose(const Field<VmGrid> &f, const CellPicture &job, Waiting &w, FieldScratch s, RaySum *sums, int first_pixel) {
    for (int j = 0; j < w.n; ++j) fill_row(f, w.xyz + 3 * j, j, s);  // planes and lines hold something everywhere
    decode(f.net, w.n, s, true);
    for (int j = 0; j < w.n; ++j) {
        float value[4];
        value_of(f.net, s.out + j * f.net.outputs, job.basis + (int64_t)w.pixel[j] * f.net.bands, value);
        sums[w.pixel[j] - first_pixel].add(value, w.delta[j], w.s[j]);
    }
    w.n = 0;
}

static size_t cells_scratch(int pixels) { return (size_t)pixels * ((sizeof(PixelRay) + sizeof(RaySum)) / sizeof(float)); }

// Rows row0 .. row1 - 1 of the picture; returns how many samples were decoded. scratch: field_scratch + cells_scratch(pixels of the rows) floats.
static int64_t draw_cells(const Field<VmGrid> &f, const CellPicture &job, int row0, int row1, float *scratch, float *out) {
    FieldScratch s = split(f, scratch);
    const int first_pixel = row0 * job.width, pixels = (row1 - row0) * job.width;
    RaySum *sums = (RaySum *)(scratch + field_scratch(f));
    PixelRay *rays = (PixelRay *)(sums + pixels);
    for (int k = 0; k < pixels; ++k) {
        const int64_t p = first_pixel + k;
        sums[k] = RaySum();
        rays[k] = pixel_ray(job.span + 3 * p, job.length[p], job.steps);
    }
    Waiting w;
    w.n = 0;
    int64_t decoded = 0;
    const float edge = 1.0f / (float)job.side;
    for (int64_t c = 0; c < job.count; ++c) {
        const CellFootprint &cell = job.cells[c];
        const int top = cell.v0 > row0 ? cell.v0 : row0, bottom = cell.v1 < row1 ? cell.v1 : row1;
        for (int v = top; v < bottom; ++v) {
            for (int u = cell.u0; u < cell.u1; ++u) {
                const int p = v * job.width + u, k = p - first_pixel;
                const PixelRay &ray = rays[k];
                if (ray.dt == 0 || sums[k].T < kLeastTransmittance) continue;
                const float *start = job.start + 3 * (int64_t)p, *span = job.span + 3 * (int64_t)p;
                int64_t first, last;
                samples_in(ray, start, cell.at, edge, &first, &last);
                for (int64_t i = first; i <= last; ++i) {
                    const float t = ((float)i + 0.5f) * ray.dt;
                    if (t >= 1) break;
                    int at[3];
                    sample_place(start, span, t, job.side, w.xyz + 3 * w.n, at);
                    if (at[0] != cell.at[0] || at[1] != cell.at[1] || at[2] != cell.at[2]) continue;
                    w.delta[w.n] = ray.dt * job.length[p], w.s[w.n] = t, w.pixel[w.n] = p, ++decoded;
                    if (++w.n == kFieldBlock) compose(f, job, w, s, sums, first_pixel);
                }
            }
        }
    }
    if (w.n) compose(f, job, w, s, sums, first_pixel);
    for (int k = 0; k < pixels; ++k) sums[k].write(out + (int64_t)(first_pixel + k) * kRayOutputs);
    return decoded;
}

}  // namespace HANDFUL_NS
}  // namespace handful
