// L1 and structural similarity of interleaved RGB rows (Wang et al. 2004; 11 x 11 Gaussian window, sigma 1.5, zero padding), with gradient.
//
// A row of W pixels is 3 W floats; the horizontal window steps by 3, so nothing is taken apart. Window sums go through a ring of the last 11 rows, of so few
// columns at a time that it stays in the first-level cache.
namespace handful {
namespace HANDFUL_NS {

constexpr int kRadius = 5, kTaps = 2 * kRadius + 1;
constexpr int kPad = 16;       // floats in front of and behind a piece of a row: 3 * 5 are needed
constexpr int kColumns = 288;  // floats of a row worked on at a time: whole pixels and whole vectors
constexpr int kPiece = kColumns + 2 * kPad;
constexpr int kStrip = 48;     // rows of a task; fixed, so that sums do not depend on the number of threads
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;
// exp(-k^2 / (2 * 1.5^2)), normalised over k = -5..5
constexpr float kWindow[kRadius + 1] = {0.26601172f, 0.21300554f, 0.10936069f, 0.036000773f, 0.0075987582f, 0.0010283801f};

inline size_t row_floats(int width) { return ((size_t)width * 3 + 15) / 16 * 16; }  // whole vectors

// Scratch of one worker.
struct LossScratch {
    alignas(64) float row[4][kPiece], weight[kColumns], ring[4][kTaps][kColumns];
};

// out = window * in along the row; `in` points behind its padding.
inline void blur_row(const float *in, float *out, int n) {
    for (int i = 0; i < n; i += W) {
        VF s = set1(kWindow[0]) * load(in + i);
        for (int k = 1; k <= kRadius; ++k) s = fma(set1(kWindow[k]), load(in + i - 3 * k) + load(in + i + 3 * k), s);
        store(out + i, s);
    }
}

// The window's sum down the ring at float i; rows[kRadius] is the centre.
inline VF blur_column(const float *const *rows, int i) {
    VF s = set1(kWindow[0]) * load(rows[kRadius] + i);
    for (int k = 1; k <= kRadius; ++k) s = fma(set1(kWindow[k]), load(rows[kRadius - k] + i) + load(rows[kRadius + k] + i), s);
    return s;
}

// Floats [at - kPad, at + n + kPad) of a row of `size`, zeros beyond its ends: the row itself where it reaches that far, else a copy.
inline const float *piece(const float *row, int64_t size, int64_t at, int n, float *copy) {
    const int64_t first = at - kPad, last = at + n + kPad, from = first > 0 ? first : 0, to = last < size ? last : size;
    if (first == from && last == to) return row + first;
    memset(copy, 0, sizeof(float) * (size_t)(last - first));
    memcpy(copy + (from - first), row + from, sizeof(float) * (size_t)(to - from));
    return copy;
}

// The weight of each float's pixel, 0 behind the row's end. `at` is a multiple of 3.
inline void weight_piece(const float *weight, int width, int64_t at, int n, float *out) {
    const int pixels = width - at / 3 < n / 3 ? (int)(width - at / 3) : n / 3;
    for (int x = 0; x < pixels; ++x) out[3 * x] = out[3 * x + 1] = out[3 * x + 2] = weight ? weight[at / 3 + x] : 1.0f;
    for (int i = 3 * pixels; i < n; ++i) out[i] = 0.0f;
    if (n % 3 && at / 3 + pixels < width)  // a vector's end inside a pixel
        for (int i = 3 * pixels; i < n; ++i) out[i] = weight ? weight[at / 3 + pixels] : 1.0f;
}

// Rows [y0, y1), n floats from `at` on: adds sum(weight * |p - t|) and sum(weight * ssim) of rows [from, to) to sums; with maps (3 planes of y1 - y0 rows, each
// row between kPad zeros), writes what the gradient needs.
inline void ssim_rows(const LossJob &job, int y0, int y1, int from, int to, int64_t at, int n, LossScratch &s, float *maps, double *sums) {
    const int64_t size = (int64_t)job.width * 3, stride = (int64_t)row_floats(job.width) + 2 * kPad, plane = stride * (y1 - y0);
    auto weights = [&](int y) { weight_piece(job.weight ? job.weight + (int64_t)y * job.width : nullptr, job.width, at, n, s.weight); };
    weights(y0);
    for (int y = y0 - kRadius; y < y1 + kRadius; ++y) {
        const int place = (y - y0 + kRadius) % kTaps;
        if (y < 0 || y >= job.height) {
            for (int q = 0; q < 4; ++q) memset(s.ring[q][place], 0, sizeof(float) * (size_t)n);
        } else {
            const float *p_row = piece(job.pred + y * size, size, at, n, s.row[0]), *t_row = piece(job.target + y * size, size, at, n, s.row[1]);
            for (int i = 0; i < n + 2 * kPad; i += W) {
                VF p = load(p_row + i), t = load(t_row + i);
                store(s.row[2] + i, fma(p, p, t * t));
                store(s.row[3] + i, p * t);
            }
            blur_row(p_row + kPad, s.ring[0][place], n), blur_row(t_row + kPad, s.ring[1][place], n);
            blur_row(s.row[2] + kPad, s.ring[2][place], n), blur_row(s.row[3] + kPad, s.ring[3][place], n);
            if (y >= from && y < to) {
                if (job.weight) weights(y);
                VF l1 = zero();
                for (int i = 0; i < n; i += W) l1 = fma(load(s.weight + i), abs(load(p_row + kPad + i) - load(t_row + kPad + i)), l1);
                sums[0] += hsum(l1);
            }
        }
        const int c = y - kRadius;  // the row whose window is complete
        if (c < y0) continue;
        const float *rows[4][kTaps];
        for (int q = 0; q < 4; ++q)
            for (int k = 0; k < kTaps; ++k) rows[q][k] = s.ring[q][(c - y0 + k) % kTaps];
        if (job.weight) weights(c);
        VF total = zero();
        for (int i = 0; i < n; i += W) {
            VF w = load(s.weight + i);
            VF mp = blur_column(rows[0], i), mt = blur_column(rows[1], i), squares = blur_column(rows[2], i), product = blur_column(rows[3], i);
            VF mm = mp * mt, sq = fma(mp, mp, mt * mt);
            VF a1 = fma(set1(2.0f), mm, set1(kC1)), a2 = fma(set1(2.0f), product - mm, set1(kC2));
            VF b1 = sq + set1(kC1), b2 = squares - sq + set1(kC2);
            VF r1 = set1(1.0f) / b1, r2 = set1(1.0f) / b2;
            VF ssim = a1 * a2 * r1 * r2;
            total = fma(w, ssim, total);
            if (!maps) continue;
            VF ds_product = set1(2.0f) * a1 * r1 * r2, ds_squares = zero() - ssim * r2;
            VF ds_mean = set1(2.0f) * (mt * a2 * r1 * r2 - mp * ssim * r1) - set1(2.0f) * mp * ds_squares - mt * ds_product;
            w = w * set1(job.ssim_scale);
            float *out = maps + (int64_t)(c - y0) * stride + kPad + at + i;
            store(out, w * ds_mean), store(out + plane, set1(2.0f) * w * ds_squares), store(out + 2 * plane, w * ds_product);
        }
        if (c >= from && c < to) sums[1] += hsum(total);
    }
}

// Rows [y0, y1) of the gradient, n floats from `at` on: window * map0 + p (window * map1) + t (window * map2) + l1_scale * weight * sign(p - t), of maps of
// the rows [first, end), which reach kRadius beyond y0 and y1 where the image does.
inline void loss_grad_rows(const LossJob &job, int y0, int y1, int first, int end, int64_t at, int n, LossScratch &s, const float *maps, float *grad) {
    const int64_t size = (int64_t)job.width * 3, stride = (int64_t)row_floats(job.width) + 2 * kPad, plane = stride * (end - first);
    auto weights = [&](int y) { weight_piece(job.weight ? job.weight + (int64_t)y * job.width : nullptr, job.width, at, n, s.weight); };
    weights(y0);
    for (int y = y0 - kRadius; y < y1 + kRadius; ++y) {
        const int place = (y - y0 + kRadius) % kTaps;
        for (int q = 0; q < 3; ++q) {
            if (y < first || y >= end) memset(s.ring[q][place], 0, sizeof(float) * (size_t)n);
            else blur_row(maps + q * plane + (y - first) * stride + kPad + at, s.ring[q][place], n);
        }
        const int c = y - kRadius;
        if (c < y0) continue;
        const float *rows[3][kTaps];
        for (int q = 0; q < 3; ++q)
            for (int k = 0; k < kTaps; ++k) rows[q][k] = s.ring[q][(c - y0 + k) % kTaps];
        const float *p_row = piece(job.pred + c * size, size, at, n, s.row[0]) + kPad, *t_row = piece(job.target + c * size, size, at, n, s.row[1]) + kPad;
        if (job.weight) weights(c);
        for (int i = 0; i < n; i += W) {
            VF p = load(p_row + i), t = load(t_row + i), d = p - t, w = load(s.weight + i) * set1(job.l1_scale);
            VF g = fma(p, blur_column(rows[1], i), fma(t, blur_column(rows[2], i), blur_column(rows[0], i)));
            g += keep(d > zero(), w);
            g = g - keep(d < zero(), w);
            store(s.row[2] + i, g);
        }
        memcpy(grad + c * size + at, s.row[2], sizeof(float) * (size_t)(size - at < n ? size - at : n));
    }
}

// Strip number `strip`: sums, and the gradient of its rows where `grad` is given. The rows around it are computed again instead of stored for the neighbours:
// everything between photo and gradient stays in the cache.
inline void loss_strip(const LossJob &job, int strip, float *scratch, double *sums, float *grad) {
    const int y0 = strip * kStrip, y1 = y0 + kStrip < job.height ? y0 + kStrip : job.height;
    const int first = y0 > kRadius && grad ? y0 - kRadius : (grad ? 0 : y0), end = !grad ? y1 : (y1 + kRadius < job.height ? y1 + kRadius : job.height);
    const int64_t floats = (int64_t)row_floats(job.width);
    LossScratch &s = *reinterpret_cast<LossScratch *>(scratch);
    float *maps = grad ? scratch + sizeof(LossScratch) / sizeof(float) : nullptr;
    for (int64_t row = 0, stride = floats + 2 * kPad; grad && row < 3 * (end - first); ++row) {
        memset(maps + row * stride, 0, kPad * sizeof(float));
        memset(maps + row * stride + kPad + floats, 0, kPad * sizeof(float));
    }
    auto columns = [&](int64_t at) { return (int)(floats - at < kColumns ? floats - at : kColumns); };
    for (int64_t at = 0; at < floats; at += kColumns) ssim_rows(job, first, end, y0, y1, at, columns(at), s, maps, sums);
    for (int64_t at = 0; grad && at < floats; at += kColumns) loss_grad_rows(job, y0, y1, first, end, at, columns(at), s, maps, grad);
}

// floats that loss_strip needs
inline size_t loss_scratch(int width) { return sizeof(LossScratch) / sizeof(float) + 3 * (kStrip + 2 * kRadius) * (row_floats(width) + 2 * kPad); }
inline int loss_strips(int height) { return (height + kStrip - 1) / kStrip; }

}  // namespace HANDFUL_NS
}  // namespace handful
