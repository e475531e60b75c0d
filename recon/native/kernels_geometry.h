// Where Gaussians lie before a camera, their 2D covariance (EWA splatting: Zwicker et al. 2001; 3D Gaussians: Kerbl et al. 2023, section 4), and the tiles and blocks that
// each splat can reach.
namespace handful {
namespace HANDFUL_NS {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kLog2AlphaMin = -7.994353436858858f;  // log2(1/255)
constexpr float kQuatMin = 1e-12f;  // a quaternion without a larger entry counts as zero
constexpr float kCutMargin = 0.004f;  // added to the reach of a splat (log2 of alpha), so that rounding never drops a pixel that the exact test would draw

// Everything the projection of W Gaussians needs again in the backward pass.
struct Geometry {
    VF px, py, pz;              // centre, world
    VF x, y, z, rz;             // centre, camera frame; 1/z
    VF q[4], rlen;              // unit quaternion, 1 / length
    VF Q[3][3], M[3][3];        // world_from_gaussian, cam_from_gaussian
    VF s[3], log_s[3];          // standard deviations
    VF xz, yz;                  // x/z, y/z, clamped
    VF T0[3], T1[3];            // the two rows of J cam_from_gaussian diag(s)
    VF a, b, c, det0, det;      // 2D covariance without blur; its determinant without and with blur
    VF opacity, transparency;   // with all factors; 1 - sigmoid(logit)
    VM valid;
};

inline VM finite(VF a) { return a * zero() == zero(); }

inline void rotation(const VF *q, VF (*R)[3]) {
    VF one = set1(1.0f), two = set1(2.0f);
    VF w = q[0], x = q[1], y = q[2], z = q[3];
    R[0][0] = fnma(two, y * y + z * z, one), R[0][1] = two * (x * y - w * z), R[0][2] = two * (x * z + w * y);
    R[1][0] = two * (x * y + w * z), R[1][1] = fnma(two, x * x + z * z, one), R[1][2] = two * (y * z - w * x);
    R[2][0] = two * (x * z - w * y), R[2][1] = two * (y * z + w * x), R[2][2] = fnma(two, x * x + y * y, one);
}

// Loads n <= W Gaussians from `base` on into the camera's frame. `valid` is false for what is never drawn: not finite, no orientation, behind the near plane.
inline void place(const Scene &in, const Camera &cam, const Options &opt, int64_t base, int n, Geometry &g) {
    const float *m = in.means + 3 * base, *q = in.quats + 4 * base, *s = in.log_scales + 3 * base;
    g.px = load_strided(m, 3, n), g.py = load_strided(m + 1, 3, n), g.pz = load_strided(m + 2, 3, n);
    VF bad = (g.px + g.py + g.pz) * zero();
    VF largest = zero();
    for (int k = 0; k < 4; ++k) {
        g.q[k] = load_strided(q + k, 4, n);
        bad += g.q[k] * zero();
        largest = max(abs(g.q[k]), largest);
    }
    VM nonzero = largest > set1(kQuatMin);
    VF shrink = set1(1.0f) / select(nonzero, largest, set1(1.0f));  // so that the squares neither overflow nor vanish
    VF len2 = zero();
    for (int k = 0; k < 4; ++k) g.q[k] = g.q[k] * shrink, len2 = fma(g.q[k], g.q[k], len2);
    VF rl = set1(1.0f) / sqrt(select(nonzero, len2, set1(1.0f)));
    for (int k = 0; k < 4; ++k) g.q[k] = g.q[k] * rl;
    g.rlen = rl * shrink;
    for (int k = 0; k < 3; ++k) {
        g.log_s[k] = load_strided(s + k, 3, n);
        bad += g.log_s[k] * zero();
        g.s[k] = exp(g.log_s[k]);
    }
    VF logit = load_strided(in.logits + base, 1, n);
    bad += logit * zero();
    VF e = exp(zero() - logit);
    g.opacity = set1(1.0f) / (set1(1.0f) + e);
    g.transparency = e * g.opacity;  // 1 - sigmoid, exact also where that is small
    if (in.opacity_scale) g.opacity = g.opacity * load_strided(in.opacity_scale + base, 1, n);

    const float *R = cam.R;
    g.x = fma(set1(R[0]), g.px, fma(set1(R[1]), g.py, fma(set1(R[2]), g.pz, set1(cam.t[0]))));
    g.y = fma(set1(R[3]), g.px, fma(set1(R[4]), g.py, fma(set1(R[5]), g.pz, set1(cam.t[1]))));
    g.z = fma(set1(R[6]), g.px, fma(set1(R[7]), g.py, fma(set1(R[8]), g.pz, set1(cam.t[2]))));
    g.valid = mask_first(n) & (bad == zero()) & nonzero & (g.z > set1(opt.near_plane > 0.0f ? opt.near_plane : 0.0f));
    if (!any(g.valid)) return;

    rotation(g.q, g.Q);
    for (int i = 0; i < 3; ++i)
        for (int k = 0; k < 3; ++k)
            g.M[i][k] = fma(set1(R[3 * i]), g.Q[0][k], fma(set1(R[3 * i + 1]), g.Q[1][k], set1(R[3 * i + 2]) * g.Q[2][k]));
    g.rz = set1(1.0f) / select(g.valid, g.z, set1(1.0f));
}

// The 2D covariance of what was placed; `valid` loses what is not finite.
inline void flatten(const Camera &cam, const Options &opt, Geometry &g) {
    g.xz = clamp(g.x * g.rz, set1(-cam.lim_x_neg), set1(cam.lim_x_pos));
    g.yz = clamp(g.y * g.rz, set1(-cam.lim_y_neg), set1(cam.lim_y_pos));
    VF jx = set1(cam.fx) * g.rz, jy = set1(cam.fy) * g.rz;
    g.a = g.b = g.c = zero();
    for (int k = 0; k < 3; ++k) {
        g.T0[k] = g.s[k] * jx * fnma(g.xz, g.M[2][k], g.M[0][k]);
        g.T1[k] = g.s[k] * jy * fnma(g.yz, g.M[2][k], g.M[1][k]);
        g.a = fma(g.T0[k], g.T0[k], g.a), g.b = fma(g.T0[k], g.T1[k], g.b), g.c = fma(g.T1[k], g.T1[k], g.c);
    }
    // Lagrange's identity: the determinant as a sum of squares, so that nothing cancels
    VF d0 = g.T0[1] * g.T1[2] - g.T0[2] * g.T1[1], d1 = g.T0[2] * g.T1[0] - g.T0[0] * g.T1[2], d2 = g.T0[0] * g.T1[1] - g.T0[1] * g.T1[0];
    g.det0 = fma(d0, d0, fma(d1, d1, d2 * d2));
    g.det = g.det0 + fma(set1(kBlur), g.a + g.c, set1(kBlur * kBlur));
    if (opt.antialiased) g.opacity = g.opacity * sqrt(g.det0 / g.det);
    g.valid = g.valid & finite(g.det);
}

// Which axis is the shortest (the first of equals), and +1 or -1 so that it faces the camera.
inline void normal_axis(const Geometry &g, VM *axis, VF &sign, VF *normal) {
    axis[0] = (g.log_s[0] <= g.log_s[1]) & (g.log_s[0] <= g.log_s[2]);
    axis[1] = (!axis[0]) & (g.log_s[1] <= g.log_s[2]);
    axis[2] = (!axis[0]) & (!axis[1]);
    for (int i = 0; i < 3; ++i) normal[i] = select(axis[0], g.M[i][0], select(axis[1], g.M[i][1], g.M[i][2]));
    VF facing = normal[0] * g.x + normal[1] * g.y + normal[2] * g.z;
    sign = select(facing > zero(), set1(-1.0f), set1(1.0f));
    for (int i = 0; i < 3; ++i) normal[i] = normal[i] * sign;
}

// Unit direction from the camera's centre to the Gaussian, and 1 / distance.
inline void view_direction(const Geometry &g, const Camera &cam, VF *d, VF &rdist) {
    d[0] = g.px - set1(cam.center[0]), d[1] = g.py - set1(cam.center[1]), d[2] = g.pz - set1(cam.center[2]);
    rdist = set1(1.0f) / sqrt(max(d[0] * d[0] + d[1] * d[1] + d[2] * d[2], set1(1e-24f)));
    for (int i = 0; i < 3; ++i) d[i] = d[i] * rdist;
}

alignas(64) constexpr float kBlockX[16] = {0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12};
alignas(64) constexpr float kBlockY[16] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};

// The blocks of the tile at (x0, y0) in which some pixel centre can have alpha >= 1/255: the quadratic form's minimum over each block's rectangle of
// pixel centres lies on its nearest vertical or nearest horizontal line.
inline unsigned block_mask(const Splat &s, float reach, float x0, float y0) {
    VF ax = set1(s.qa), by = set1(s.qb), cy = set1(s.qc);
    VF fx = set1(-0.5f * s.qb / s.qa), fy = set1(-0.5f * s.qb / s.qc);
    unsigned mask = 0;
    for (int l = 0; l < 16; l += W) {
        VF left = load(kBlockX + l) + set1(x0 + 0.5f - s.mx), right = left + set1(kBlock - 1.0f);
        VF top = load(kBlockY + l) + set1(y0 + 0.5f - s.my), bottom = top + set1(kBlock - 1.0f);
        VF nx = clamp(zero(), left, right), ny = clamp(zero(), top, bottom);
        VF vy = clamp(fy * nx, top, bottom), hx = clamp(fx * ny, left, right);
        VF on_vertical = fma(vy, fma(by, nx, cy * vy), ax * nx * nx);
        VF on_horizontal = fma(hx, fma(by, ny, ax * hx), cy * ny * ny);
        mask |= bits(min(on_vertical, on_horizontal) <= set1(reach)) << l;
    }
    return mask;
}

inline int clamp_tile(float pixel, int tiles) {  // pixel may be anything; NaN never comes here
    float tile = pixel * (1.0f / kTile);
    if (!(tile > 0.0f)) return 0;
    return tile >= (float)tiles ? tiles : (int)tile;
}

// Appends the splat's pairs; returns how many.
inline uint32_t emit_pairs(const Splat &s, float reach, float rx, float ry, const Camera &cam, PairBuffer &out) {
    int tx0 = clamp_tile(s.mx - rx, cam.tiles_x), tx1 = clamp_tile(s.mx + rx + kTile, cam.tiles_x);
    int ty0 = clamp_tile(s.my - ry, cam.tiles_y), ty1 = clamp_tile(s.my + ry + kTile, cam.tiles_y);
    size_t most = (size_t)(tx1 - tx0) * (size_t)(ty1 - ty0), first = out.size;
    if (out.capacity - out.size < most) grow(out, most);
    for (int ty = ty0; ty < ty1; ++ty)
        for (int tx = tx0; tx < tx1; ++tx) {
            unsigned mask = block_mask(s, reach, (float)(tx * kTile), (float)(ty * kTile));
            out.tile[out.size] = (uint32_t)(ty * cam.tiles_x + tx);
            out.mask[out.size] = (uint16_t)mask;
            out.size += mask != 0;
        }
    return (uint32_t)(out.size - first);
}

}  // namespace HANDFUL_NS
}  // namespace handful
