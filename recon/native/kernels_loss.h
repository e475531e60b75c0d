// L1 and structural similarity of interleaved RGB rows (Wang et al. 2004; 11 x 11 Gaussian window, sigma 1.5, zero padding), with gradient.
//
// A row of W pixels is 3 W floats; the horizontal window steps by 3, so nothing is taken apart. Window sums go through a ring of the last 11 rows.
namespace handful {
namespace HANDFUL_NS {

constexpr int kRadius = 5, kTaps = 2 * kRadius + 1, kPad = 16;  // kPad floats of zeros on both sides of a row: 3 * 5 are needed
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;
// exp(-k^2 / (2 * 1.5^2)), normalised over k = -5..5
constexpr float kWindow[kRadius + 1] = {0.26601172f, 0.21300554f, 0.10936069f, 0.036000773f, 0.0075987582f, 0.0010283801f};

inline size_t row_floats(int width) { return ((size_t)width * 3 + 15) / 16 * 16; }  // whole vectors
inline size_t padded(int width) { return row_floats(width) + 2 * kPad; }

// out = window * in along the row; `in` points behind its padding.
inline void blur_row(const float *in, float *out, size_t n) {
    for (size_t i = 0; i < n; i += W) {
        VF s = set1(kWindow[0]) * load(in + i);
        for (int k = 1; k <= kRadius; ++k) s = fma(set1(kWindow[k]), load(in + i - 3 * k) + load(in + i + 3 * k), s);
        store(out + i, s);
    }
}

// The window's sum down the ring at float i; rows[kRadius] is the centre.
inline VF blur_column(const float *const *rows, size_t i) {
    VF s = set1(kWindow[0]) * load(rows[kRadius] + i);
    for (int k = 1; k <= kRadius; ++k) s = fma(set1(kWindow[k]), load(rows[kRadius - k] + i) + load(rows[kRadius + k] + i), s);
    return s;
}

// One row, padded with zeros; a row outside the image is all zeros.
inline void copy_row(const float *image, int y, int width, int height, float *out) {
    size_t n = row_floats(width), used = (size_t)width * 3;
    if (y < 0 || y >= height) {
        memset(out, 0, n * sizeof(float));
        return;
    }
    memcpy(out, image + (size_t)y * used, used * sizeof(float));
    memset(out + used, 0, (n - used) * sizeof(float));
}

// Each pixel's weight three times; 0 behind the end.
inline void weight_row(const float *weight, int y, int width, float *out) {
    for (int x = 0; x < width; ++x) out[3 * x] = out[3 * x + 1] = out[3 * x + 2] = weight ? weight[(size_t)y * width + x] : 1.0f;
    memset(out + 3 * (size_t)width, 0, (row_floats(width) - 3 * (size_t)width) * sizeof(float));
}

// Rows [y0, y1): adds sum(weight * |p - t|) and sum(weight * ssim) of rows [from, to) to sums; with maps (3 planes of y1 - y0 rows), writes what the gradient
// needs.
inline void ssim_rows(const LossJob &job, int y0, int y1, int from, int to, float *scratch, float *maps, double *sums) {
    const size_t n = row_floats(job.width), stride = padded(job.width), plane = n * (size_t)(y1 - y0);
    float *row[4], *ring = scratch + 5 * stride, *weight = scratch + 4 * stride;
    memset(scratch, 0, 5 * stride * sizeof(float));
    for (int q = 0; q < 4; ++q) row[q] = scratch + q * stride + kPad;
    for (int y = y0 - kRadius; y < y1 + kRadius; ++y) {
        const int place = (y - y0 + kRadius) % kTaps;
        if (y < 0 || y >= job.height) {
            for (int q = 0; q < 4; ++q) memset(ring + (size_t)(q * kTaps + place) * n, 0, n * sizeof(float));
        } else {
            copy_row(job.pred, y, job.width, job.height, row[0]);
            copy_row(job.target, y, job.width, job.height, row[1]);
            for (size_t i = 0; i < n; i += W) {
                VF p = load(row[0] + i), t = load(row[1] + i);
                store(row[2] + i, fma(p, p, t * t));
                store(row[3] + i, p * t);
            }
            for (int q = 0; q < 4; ++q) blur_row(row[q], ring + (size_t)(q * kTaps + place) * n, n);
        }
        const int c = y - kRadius;  // the row whose window is complete
        if (c < y0) continue;
        const float *rows[4][kTaps];
        for (int q = 0; q < 4; ++q)
            for (int k = 0; k < kTaps; ++k) rows[q][k] = ring + (size_t)(q * kTaps + (c - y0 + k) % kTaps) * n;
        weight_row(job.weight, c, job.width, weight);
        copy_row(job.pred, c, job.width, job.height, row[0]);
        copy_row(job.target, c, job.width, job.height, row[1]);
        VF l1 = zero(), total = zero();
        for (size_t i = 0; i < n; i += W) {
            VF w = load(weight + i);
            VF mp = blur_column(rows[0], i), mt = blur_column(rows[1], i), squares = blur_column(rows[2], i), product = blur_column(rows[3], i);
            VF mm = mp * mt, sq = fma(mp, mp, mt * mt);
            VF a1 = fma(set1(2.0f), mm, set1(kC1)), a2 = fma(set1(2.0f), product - mm, set1(kC2));
            VF b1 = sq + set1(kC1), b2 = squares - sq + set1(kC2);
            VF r1 = set1(1.0f) / b1, r2 = set1(1.0f) / b2;
            VF s = a1 * a2 * r1 * r2;
            total = fma(w, s, total);
            l1 = fma(w, abs(load(row[0] + i) - load(row[1] + i)), l1);
            if (!maps) continue;
            VF ds_product = set1(2.0f) * a1 * r1 * r2, ds_squares = zero() - s * r2;
            VF ds_mean = set1(2.0f) * (mt * a2 * r1 * r2 - mp * s * r1) - set1(2.0f) * mp * ds_squares - mt * ds_product;
            w = w * set1(job.ssim_scale);
            float *out = maps + (size_t)(c - y0) * n + i;
            store(out, w * ds_mean), store(out + plane, set1(2.0f) * w * ds_squares), store(out + 2 * plane, w * ds_product);
        }
        if (c >= from && c < to) sums[0] += hsum(l1), sums[1] += hsum(total);
    }
}

// Rows [y0, y1) of the gradient: window * map0 + p (window * map1) + t (window * map2) + l1_scale * weight * sign(p - t)
// of maps of the rows [first, end), which reach kRadius beyond y0 and y1 where the image does.
inline void loss_grad_rows(const LossJob &job, int y0, int y1, int first, int end, float *scratch, const float *maps, float *grad) {
    const size_t n = row_floats(job.width), stride = padded(job.width), plane = n * (size_t)(end - first), used = (size_t)job.width * 3;
    float *in = scratch + kPad, *p_row = in + stride, *t_row = p_row + stride, *weight = t_row + stride, *ring = scratch + 5 * stride;
    memset(scratch, 0, 5 * stride * sizeof(float));
    for (int y = y0 - kRadius; y < y1 + kRadius; ++y) {
        const int place = (y - y0 + kRadius) % kTaps;
        for (int q = 0; q < 3; ++q) {
            float *out = ring + (size_t)(q * kTaps + place) * n;
            if (y < first || y >= end) {
                memset(out, 0, n * sizeof(float));
                continue;
            }
            memcpy(in, maps + q * plane + (size_t)(y - first) * n, n * sizeof(float));
            blur_row(in, out, n);
        }
        const int c = y - kRadius;
        if (c < y0) continue;
        const float *rows[3][kTaps];
        for (int q = 0; q < 3; ++q)
            for (int k = 0; k < kTaps; ++k) rows[q][k] = ring + (size_t)(q * kTaps + (c - y0 + k) % kTaps) * n;
        weight_row(job.weight, c, job.width, weight);
        copy_row(job.pred, c, job.width, job.height, p_row);
        copy_row(job.target, c, job.width, job.height, t_row);
        for (size_t i = 0; i < n; i += W) {
            VF p = load(p_row + i), t = load(t_row + i), d = p - t, w = load(weight + i) * set1(job.l1_scale);
            VF g = fma(p, blur_column(rows[1], i), fma(t, blur_column(rows[2], i), blur_column(rows[0], i)));
            g += keep(d > zero(), w);
            g = g - keep(d < zero(), w);
            store(p_row + i, g);
        }
        memcpy(grad + (size_t)c * used, p_row, used * sizeof(float));
    }
}

constexpr int kStrip = 48;  // rows of a task; fixed, so that sums do not depend on the number of threads

// Strip number `strip`: sums, and the gradient of its rows where `grad` is given. The rows around it are computed again instead of stored for the neighbours:
// everything between photo and gradient stays in the cache.
inline void loss_strip(const LossJob &job, int strip, float *scratch, double *sums, float *grad) {
    const int y0 = strip * kStrip, y1 = y0 + kStrip < job.height ? y0 + kStrip : job.height;
    if (!grad) return ssim_rows(job, y0, y1, y0, y1, scratch, nullptr, sums);
    const int first = y0 > kRadius ? y0 - kRadius : 0, end = y1 + kRadius < job.height ? y1 + kRadius : job.height;
    float *maps = scratch + 5 * padded(job.width) + 4 * kTaps * row_floats(job.width);
    ssim_rows(job, first, end, y0, y1, scratch, maps, sums);
    loss_grad_rows(job, y0, y1, first, end, scratch, maps, grad);
}

// floats that loss_strip needs
inline size_t loss_scratch(int width) { return 5 * padded(width) + (4 * kTaps + 3 * (kStrip + 2 * kRadius)) * row_floats(width); }
inline int loss_strips(int height) { return (height + kStrip - 1) / kStrip; }

}  // namespace HANDFUL_NS
}  // namespace handful
