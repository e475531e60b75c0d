// The gradient of projection and colour: from sums over a splat's pixels to the raw parameters and the camera.
namespace handful {
namespace HANDFUL_NS {

// The camera's gradient, one vector of partial sums per number.
struct CamAccumulator {
    VF R[9], t[3], fx, fy, cx, cy, center[3];
    CamAccumulator() { memset(this, 0, sizeof *this); }
    void store_to(float *out) const {
        for (int i = 0; i < 9; ++i) out[kCamR + i] = hsum(R[i]);
        for (int i = 0; i < 3; ++i) out[kCamT + i] = hsum(t[i]), out[kCamCenter + i] = hsum(center[i]);
        out[kCamK] = hsum(fx), out[kCamK + 1] = hsum(fy), out[kCamK + 2] = hsum(cx), out[kCamK + 3] = hsum(cy), out[kCamGrad - 1] = 0.0f;
    }
};

// x/z was clamped to [-neg, pos], neg = cx/fx + margin, pos = (size - cx)/fx + margin: what the clamped lanes pass on to fx and cx.
inline void clamp_grad(VF v, VF unclamped, float neg, float pos, float f, VF &v_ratio, VF &v_f, VF &v_c) {
    VM below = unclamped < set1(-neg), above = unclamped > set1(pos);
    v_ratio = keep(!(below | above), v);
    VF lo = keep(below, v), hi = keep(above, v), rf = set1(1.0f / f);
    v_f += rf * (lo * set1(neg) - hi * set1(pos));
    v_c = v_c - rf * (lo + hi);
}

// From gradients of the centre in the camera's frame and of cam_from_gaussian to the raw parameters but scales, and the camera's frame.
inline void parameter_grad(const Camera &cam, const Geometry &g, const VF *v, const VF *v_cam, const VF (*v_M)[3], const VF *v_dir, VF *out, CamAccumulator &cam_v) {
    const VF p[3] = {g.px, g.py, g.pz};
    const float *R = cam.R;
    VF v_Q[3][3];
    for (int j = 0; j < 3; ++j) {
        out[j] = fma(set1(R[j]), v_cam[0], fma(set1(R[3 + j]), v_cam[1], fma(set1(R[6 + j]), v_cam[2], v_dir[j])));
        for (int k = 0; k < 3; ++k) v_Q[j][k] = fma(set1(R[j]), v_M[0][k], fma(set1(R[3 + j]), v_M[1][k], set1(R[6 + j]) * v_M[2][k]));
    }
    for (int i = 0; i < 3; ++i) {
        cam_v.t[i] += v_cam[i];
        cam_v.center[i] = cam_v.center[i] - v_dir[i];
        for (int j = 0; j < 3; ++j)
            cam_v.R[3 * i + j] += fma(v_cam[i], p[j], fma(v_M[i][0], g.Q[j][0], fma(v_M[i][1], g.Q[j][1], v_M[i][2] * g.Q[j][2])));
    }
    VF two = set1(2.0f), w = g.q[0], x = g.q[1], y = g.q[2], z = g.q[3];
    VF vq[4];
    vq[0] = two * (x * (v_Q[2][1] - v_Q[1][2]) + y * (v_Q[0][2] - v_Q[2][0]) + z * (v_Q[1][0] - v_Q[0][1]));
    vq[1] = two * (w * (v_Q[2][1] - v_Q[1][2]) + y * (v_Q[0][1] + v_Q[1][0]) + z * (v_Q[0][2] + v_Q[2][0]) - two * x * (v_Q[1][1] + v_Q[2][2]));
    vq[2] = two * (w * (v_Q[0][2] - v_Q[2][0]) + x * (v_Q[0][1] + v_Q[1][0]) + z * (v_Q[1][2] + v_Q[2][1]) - two * y * (v_Q[0][0] + v_Q[2][2]));
    vq[3] = two * (w * (v_Q[1][0] - v_Q[0][1]) + x * (v_Q[0][2] + v_Q[2][0]) + y * (v_Q[1][2] + v_Q[2][1]) - two * z * (v_Q[0][0] + v_Q[1][1]));
    VF along = w * vq[0] + x * vq[1] + y * vq[2] + z * vq[3];
    for (int k = 0; k < 4; ++k) out[3 + k] = g.rlen * fnma(g.q[k], along, vq[k]);
    out[10] = v[kG1] * g.transparency;
}

// v: the summed PairGrad of W Gaussians (v[k] = lanes), zero where nothing was drawn. Gradients of the raw parameters into out[0..10]: means, quats, log
// scales, logit; v_mean2d; the camera's part is added to `cam_v`. v_dir: gradient to the view direction of the colour.
inline void geometry_grad(const Camera &cam, const Options &opt, const Geometry &g, const VF *v, const VF *v_dir, VM hit, VF *out,
                          VF *v_mean2d, CamAccumulator &cam_v) {
    const VF half = set1(0.5f), blur = set1(kBlur), fx = set1(cam.fx), fy = set1(cam.fy);
    VF rdet = set1(1.0f) / g.det;
    VF ca = (g.c + blur) * rdet, cb = zero() - g.b * rdet, cc = (g.a + blur) * rdet;
    // centre and inverse covariance: alpha = opacity exp(-(ca dx^2 + cc dy^2) / 2 - cb dx dy)
    VF v_mx = fma(ca, v[kGx], cb * v[kGy]), v_my = fma(cb, v[kGx], cc * v[kGy]);
    VF pa = zero() - half * v[kGxx], pb = zero() - half * v[kGxy], pc = zero() - half * v[kGyy];  // symmetric dL/dconic
    v_mean2d[0] = v_mx, v_mean2d[1] = v_my;
    // Back through conic = (c, -b, a) / det with det = |n|^2 + blur (a + c) + blur^2, n = T0 x T1. The shorter dL/dcov = -conic dL/dconic conic cancels
    // catastrophically where a splat is a needle: the gradient along its long axis would be rounding noise.
    VF v_det = zero() - rdet * (fma(ca, pa, cc * pc) + set1(2.0f) * cb * pb), vn = set1(2.0f) * v_det;
    if (opt.antialiased) {  // log opacity holds (log det0 - log det) / 2, det0 = |n|^2
        v_det = v_det - half * v[kG1] * rdet;
        vn = set1(2.0f) * v_det + v[kG1] / select(hit, g.det0, set1(1.0f));
    }
    VF v_c = fma(blur, v_det, pa * rdet), v_a = fma(blur, v_det, pc * rdet), v_b = zero() - set1(2.0f) * pb * rdet;
    VF n[3], v_n0[3], v_n1[3];
    for (int k = 0; k < 3; ++k) n[k] = g.T0[(k + 1) % 3] * g.T1[(k + 2) % 3] - g.T0[(k + 2) % 3] * g.T1[(k + 1) % 3];
    for (int k = 0; k < 3; ++k) {
        v_n0[k] = vn * (g.T1[(k + 1) % 3] * n[(k + 2) % 3] - g.T1[(k + 2) % 3] * n[(k + 1) % 3]);
        v_n1[k] = vn * (n[(k + 1) % 3] * g.T0[(k + 2) % 3] - n[(k + 2) % 3] * g.T0[(k + 1) % 3]);
    }
    VF v_M[3][3], v_xz = zero(), v_yz = zero(), v_jx = zero(), v_jy = zero();
    VF jx = fx * g.rz, jy = fy * g.rz;
    for (int k = 0; k < 3; ++k) {
        VF v_T0 = fma(v_a + v_a, g.T0[k], fma(v_b, g.T1[k], v_n0[k])), v_T1 = fma(v_c + v_c, g.T1[k], fma(v_b, g.T0[k], v_n1[k]));
        VF t0 = g.T0[k] * v_T0, t1 = g.T1[k] * v_T1;
        out[7 + k] = t0 + t1;
        v_jx += t0, v_jy += t1;
        VF u0 = g.s[k] * jx * v_T0, u1 = g.s[k] * jy * v_T1;
        v_M[0][k] = u0, v_M[1][k] = u1;
        v_M[2][k] = zero() - fma(g.xz, u0, g.yz * u1);
        v_xz = fnma(g.M[2][k], u0, v_xz), v_yz = fnma(g.M[2][k], u1, v_yz);
    }
    if (opt.normal) {
        VM axis[3];
        VF sign, normal[3];
        normal_axis(g, axis, sign, normal);
        for (int i = 0; i < 3; ++i)
            for (int k = 0; k < 3; ++k) v_M[i][k] += keep(axis[k], sign * v[kGnx + i]);
    }
    VF rx = g.x * g.rz, ry = g.y * g.rz;
    VF v_rx, v_ry;
    clamp_grad(v_xz, rx, cam.lim_x_neg, cam.lim_x_pos, cam.fx, v_rx, cam_v.fx, cam_v.cx);
    clamp_grad(v_yz, ry, cam.lim_y_neg, cam.lim_y_pos, cam.fy, v_ry, cam_v.fy, cam_v.cy);
    v_rx = fma(v_mx, fx, v_rx), v_ry = fma(v_my, fy, v_ry);
    cam_v.fx += fma(v_mx, rx, v_jx / fx), cam_v.fy += fma(v_my, ry, v_jy / fy);  // v_jx here is dL/dlog(jx)
    cam_v.cx += v_mx, cam_v.cy += v_my;
    VF v_cam[3] = {v_rx * g.rz, v_ry * g.rz, v[kGz] - g.rz * (fma(v_rx, rx, v_ry * ry) + v_jx + v_jy)};
    parameter_grad(cam, g, v, v_cam, v_M, v_dir, out, cam_v);
}

// As geometry_grad: from the summed PairGrad to the raw parameters and the camera.
inline void surfel_grad(const Camera &cam, Geometry &g, const VF *v, const VF *v_dir, VF *out, VF *v_mean2d, CamAccumulator &cam_v) {
    const Surfel f = surfel(cam, g);
    const VF rfx = set1(1.0f / cam.fx), rfy = set1(1.0f / cam.fy), a = v[kGxx], b = v[kGxy], c = v[kGyy];
    const VF v_mx = v[kGx] - f.w[0] * v[kGw], v_my = v[kGy] - f.w[1] * v[kGw];
    v_mean2d[0] = v_mx, v_mean2d[1] = v_my;
    // alpha = opacity exp(-(form) / w^2): gradients of u, v are minus those sums times u, v
    VF v_u[2] = {zero() - fma(a, f.u[0], b * f.u[1]), zero() - fma(c, f.u[1], b * f.u[0])};
    VF v_v[2] = {zero() - fma(a, f.v[0], b * f.v[1]), zero() - fma(c, f.v[1], b * f.v[0])};
    const VF v_w[2] = {v[kGwx], v[kGwy]};
    const VF du = fma(v_u[0], f.u[0], v_u[1] * f.u[1]), dv = fma(v_v[0], f.v[0], v_v[1] * f.v[1]);
    out[7] = zero() - du, out[8] = zero() - dv, out[9] = zero();
    const VF v_lk = du + dv + fma(v_w[0], f.w[0], v_w[1] * f.w[1]);  // of log k
    const VF ku = f.k / g.s[0], kv = f.k / g.s[1];
    const VF r0 = v_u[0] * ku * rfx, r1 = v_u[1] * ku * rfy, s0 = v_v[0] * kv * rfx, s1 = v_v[1] * kv * rfy;
    const VF v_pn = zero() - v_lk / f.pn, tx = g.M[0][0], ty = g.M[1][0], tz = g.M[2][0], bx = g.M[0][1], by = g.M[1][1], bz = g.M[2][1];
    VF v_M[3][3];
    v_M[0][0] = s1 * g.z, v_M[1][0] = zero() - s0 * g.z, v_M[2][0] = s0 * g.y - s1 * g.x;
    v_M[0][1] = zero() - r1 * g.z, v_M[1][1] = r0 * g.z, v_M[2][1] = r1 * g.x - r0 * g.y;
    const VF sign = select(f.pn > zero(), set1(-1.0f), set1(1.0f));
    const VF p[3] = {g.x, g.y, g.z};
    VF v_n[3] = {fma(v_pn, p[0], v_w[0] * f.k * rfx), fma(v_pn, p[1], v_w[1] * f.k * rfy), v_pn * p[2]};
    for (int i = 0; i < 3; ++i) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        v_M[i][0] += g.M[j][1] * v_n[k] - g.M[k][1] * v_n[j];
        v_M[i][1] += v_n[j] * g.M[k][0] - v_n[k] * g.M[j][0];
        v_M[i][2] = sign * v[kGnx + i];
    }
    const VF ax = v_mx * set1(cam.fx) * g.rz, ay = v_my * set1(cam.fy) * g.rz;
    VF v_cam[3];
    v_cam[0] = ax + r1 * bz - s1 * tz + v_pn * f.n[0];
    v_cam[1] = ay - r0 * bz + s0 * tz + v_pn * f.n[1];
    v_cam[2] = v[kGz] - g.rz * fma(ax, g.x, fma(ay, g.y, zero() - v_lk)) + r0 * by - r1 * bx - s0 * ty + s1 * tx + v_pn * f.n[2];
    cam_v.fx += fma(v_mx, g.x * g.rz, zero() - rfx * fma(v_u[0], f.u[0], fma(v_v[0], f.v[0], v_w[0] * f.w[0])));
    cam_v.fy += fma(v_my, g.y * g.rz, zero() - rfy * fma(v_u[1], f.u[1], fma(v_v[1], f.v[1], v_w[1] * f.w[1])));
    cam_v.cx += v_mx, cam_v.cy += v_my;
    parameter_grad(cam, g, v, v_cam, v_M, v_dir, out, cam_v);
}

// Colour: gradient to the coefficients of one Gaussian, and to its basis values (v_basis[k * W]).
inline void sh_grad(const float *sh, const float *basis, int count, int sh_k, const float *v_rgb, bool accumulate, float *v_sh, float *v_basis) {
    for (int k = 0; k < count; ++k) {
        float w = basis[k * W];
        v_basis[k * W] = v_rgb[0] * sh[3 * k] + v_rgb[1] * sh[3 * k + 1] + v_rgb[2] * sh[3 * k + 2];
        for (int c = 0; c < 3; ++c) v_sh[3 * k + c] = (accumulate ? v_sh[3 * k + c] : 0.0f) + w * v_rgb[c];
    }
    if (!accumulate && count < sh_k) memset(v_sh + 3 * count, 0, sizeof(float) * 3 * (size_t)(sh_k - count));
}

// Sums the pairs' gradients of n Gaussians in the order of their slots: lanes[k][l]. Bit l of the result: Gaussian l was drawn somewhere, and its sum is finite.
inline unsigned sum_pairs(const uint32_t *slot_begin, const uint8_t *hit_slot, const float *pair_grads, int n, float (*lanes)[W]) {
    constexpr int kParts = kGrad / W;
    alignas(64) float sum[kGrad];
    unsigned drawn = 0;
    memset(lanes, 0, sizeof(float) * kGrad * W);
    for (int l = 0; l < n; ++l) {
        VF s[kParts];
        bool any_pair = false;
        for (int k = 0; k < kParts; ++k) s[k] = zero();
        for (uint32_t slot = slot_begin[l]; slot < slot_begin[l + 1]; ++slot) {
            if (!hit_slot[slot]) continue;
            any_pair = true;
            for (int k = 0; k < kParts; ++k) s[k] += load(pair_grads + (size_t)slot * kGrad + k * W);
        }
        if (!any_pair) continue;
        float bad = 0.0f;
        for (int k = 0; k < kParts; ++k) store(sum + k * W, s[k]), bad += hsum(s[k] * zero());
        if (bad != 0.0f) continue;
        drawn |= 1u << l;
        for (int k = 0; k < kGrad; ++k) lanes[k][l] = sum[k];
    }
    return drawn;
}

inline VM mask_from_bits(unsigned m) {
    alignas(64) float flag[W];
    for (int l = 0; l < W; ++l) flag[l] = m >> l & 1 ? 1.0f : 0.0f;
    return load(flag) > zero();
}

// Colour: gradients to the coefficients of the drawn lanes, which are written, and to their view directions.
inline void color_grad(const Scene &in, const Camera &cam, const Options &opt, const Splat *splats, const Geometry &g, int64_t base, unsigned drawn,
                       float (*lanes)[W], bool accumulate, float *v_sh, VF *v_dir) {
    const int count = (opt.sh_degree + 1) * (opt.sh_degree + 1), size = in.sh_k * 3;
    alignas(64) float basis[16 * W], v_basis[16 * W];
    VF d[3], rdist, b[16];
    view_direction(g, cam, d, rdist);
    sh_basis(opt.sh_degree, d[0], d[1], d[2], b);
    for (int k = 0; k < count; ++k) store(basis + k * W, b[k]), store(v_basis + k * W, zero());
    for (unsigned m = drawn; m; m &= m - 1) {
        const int l = __builtin_ctz(m);
        const Splat &s = splats[base + l];  // a channel clamped at 0 passes no gradient
        const float v_rgb[3] = {s.r > 0.0f ? lanes[kGr][l] : 0.0f, s.g > 0.0f ? lanes[kGg][l] : 0.0f, s.b > 0.0f ? lanes[kGb][l] : 0.0f};
        sh_grad(in.sh + (base + l) * size, basis + l, count, in.sh_k, v_rgb, accumulate, v_sh + (base + l) * size, v_basis + l);
    }
    v_dir[0] = v_dir[1] = v_dir[2] = zero();
    if (opt.sh_degree == 0) return;
    VF vb[16], v_unit[3];
    for (int k = 0; k < count; ++k) vb[k] = load(v_basis + k * W);
    sh_basis_grad(opt.sh_degree, d[0], d[1], d[2], vb, v_unit[0], v_unit[1], v_unit[2]);
    const VF along = d[0] * v_unit[0] + d[1] * v_unit[1] + d[2] * v_unit[2];
    const VM mask = mask_from_bits(drawn);
    for (int i = 0; i < 3; ++i) v_dir[i] = keep(mask, rdist * fnma(d[i], along, v_unit[i]));
}

constexpr int kResults = 13;  // means, quats, log scales, logit, 2D centre

// W Gaussians from `base` on; results[k][l]. Bit l of the returned mask: lane l has a gradient. One that overflows is dropped: it poisons neither cameras nor
// optimiser.
inline unsigned grad_lanes(const Scene &in, const Camera &cam, const Options &opt, const Splat *splats, int64_t base, int n, unsigned drawn, float (*lanes)[W],
                           const SceneGrads &out, float (*results)[W], CamAccumulator &cam_v) {
    Geometry g;
    place(in, cam, opt, base, n, g);
    if (!opt.surfels && any(g.valid)) flatten(cam, opt, g);
    VF v_dir[3], v[kGrad], r[kResults];
    color_grad(in, cam, opt, splats, g, base, drawn, lanes, out.accumulate, out.sh, v_dir);
    for (int k = 0; k < kGrad; ++k) v[k] = load(lanes[k]);
    CamAccumulator part;
    // lanes that are not drawn may hold anything
    if (opt.surfels) surfel_grad(cam, g, v, v_dir, r, r + 11, part);
    else geometry_grad(cam, opt, g, v, v_dir, mask_from_bits(drawn), r, r + 11, part);
    constexpr size_t kParts = sizeof(CamAccumulator) / sizeof(VF);
    const VF *from = (const VF *)&part;
    VF *to = (VF *)&cam_v, bad = zero();
    for (int k = 0; k < kResults; ++k) bad += r[k] * zero(), store(results[k], r[k]);
    for (size_t k = 0; k < kParts; ++k) bad += from[k] * zero();
    const VM good = mask_from_bits(drawn) & (bad == zero());
    if (out.camera)
        for (size_t k = 0; k < kParts; ++k) to[k] += keep(good, from[k]);
    return bits(good);
}

inline void put(float *out, const float (*results)[W], int first, int count, int lane, bool accumulate) {
    for (int k = 0; k < count; ++k) out[k] = accumulate ? out[k] + results[first + k][lane] : results[first + k][lane];
}

// Gaussians [begin, end): sums their pairs' gradients (slots slot_begin[i] .. slot_begin[i + 1]) and carries them to the parameters and the camera.
inline void project_grad(const Scene &in, const Camera &cam, const Options &opt, const Splat *splats, const uint32_t *slot_begin, const uint8_t *hit_slot,
                         const float *pair_grads, int64_t begin, int64_t end, SceneGrads out, float *cam_grads) {
    const size_t sh_size = (size_t)in.sh_k * 3;
    alignas(64) float lanes[kGrad][W], results[kResults][W];
    CamAccumulator cam_v;
    for (int64_t base = begin; base < end; base += W) {
        const int n = end - base < W ? (int)(end - base) : W;
        const unsigned drawn = sum_pairs(slot_begin + base, hit_slot, pair_grads, n, lanes);
        const unsigned good = drawn ? grad_lanes(in, cam, opt, splats, base, n, drawn, lanes, out, results, cam_v) : 0;
        for (int l = 0; l < n; ++l) {
            const int64_t i = base + l;
            if (good >> l & 1) {
                put(out.means + 3 * i, results, 0, 3, l, out.accumulate);
                put(out.quats + 4 * i, results, 3, 4, l, out.accumulate);
                put(out.log_scales + 3 * i, results, 7, 3, l, out.accumulate);
                put(out.logits + i, results, 10, 1, l, out.accumulate);
                put(out.means2d + 2 * i, results, 11, 2, l, false);
                continue;
            }
            memset(out.means2d + 2 * i, 0, 2 * sizeof(float));
            if (out.accumulate) continue;
            memset(out.means + 3 * i, 0, 3 * sizeof(float)), memset(out.quats + 4 * i, 0, 4 * sizeof(float));
            memset(out.log_scales + 3 * i, 0, 3 * sizeof(float)), out.logits[i] = 0.0f;
            memset(out.sh + (size_t)i * sh_size, 0, sizeof(float) * sh_size);
        }
    }
    cam_v.store_to(cam_grads);
}

}  // namespace HANDFUL_NS
}  // namespace handful
