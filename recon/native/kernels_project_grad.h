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

// v: the summed PairGrad of W Gaussians (v[k] = lanes), zero where nothing was drawn. Gradients of the raw parameters into out[0..10]: means, quats, log
// scales, logit; v_mean2d; the camera's part is added to `cam_v`. v_dir: gradient to the view direction of the colour.
inline void geometry_grad(const Scene &, const Camera &cam, const Options &opt, const Geometry &g, const VF *v, const VF *v_dir, VM hit, VF *out,
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

// Colour: gradient to the coefficients of one Gaussian, and to its basis values (v_basis[k * W]).
inline void sh_grad(const float *sh, const float *basis, int count, int sh_k, const float *v_rgb, bool accumulate, float *v_sh, float *v_basis) {
    for (int k = 0; k < count; ++k) {
        float w = basis[k * W];
        v_basis[k * W] = v_rgb[0] * sh[3 * k] + v_rgb[1] * sh[3 * k + 1] + v_rgb[2] * sh[3 * k + 2];
        for (int c = 0; c < 3; ++c) v_sh[3 * k + c] = (accumulate ? v_sh[3 * k + c] : 0.0f) + w * v_rgb[c];
    }
    if (!accumulate && count < sh_k) memset(v_sh + 3 * count, 0, sizeof(float) * 3 * (size_t)(sh_k - count));
}

inline void put(float *out, float value, bool accumulate) { *out = accumulate ? *out + value : value; }

// Gaussians [begin, end): sums their pairs' gradients (slots slot_begin[i] .. slot_begin[i + 1]) in order and carries them to the parameters.
inline void project_grad(const Scene &in, const Camera &cam, const Options &opt, const Splat *splats, const uint32_t *slot_begin, const uint8_t *hit_slot,
                         const float *pair_grads, int64_t begin, int64_t end, SceneGrads out, float *cam_grads) {
    const int count = (opt.sh_degree + 1) * (opt.sh_degree + 1), sh_size = in.sh_k * 3;
    alignas(64) float sum[W][kGrad], v_lane[kGrad][W], basis[16 * W], v_basis[16 * W], result[13][W];
    CamAccumulator cam_v;
    for (int64_t base = begin; base < end; base += W) {
        const int n = end - base < W ? (int)(end - base) : W;
        unsigned hit = 0;
        for (int l = 0; l < n; ++l) {
            VF s[kGrad / W];
            for (int k = 0; k < kGrad / W; ++k) s[k] = zero();
            for (uint32_t slot = slot_begin[base + l]; slot < slot_begin[base + l + 1]; ++slot) {
                if (!hit_slot[slot]) continue;
                hit |= 1u << l;
                for (int k = 0; k < kGrad / W; ++k) s[k] += load(pair_grads + (size_t)slot * kGrad + k * W);
            }
            for (int k = 0; k < kGrad / W; ++k) store(sum[l] + k * W, s[k]);
        }
        if (hit) {
            Geometry g;
            geometry(in, cam, opt, base, n, g);
            for (int l = 0; l < W; ++l) {
                const bool drawn = hit >> l & 1;
                for (int k = 0; k < kGrad; ++k) v_lane[k][l] = drawn ? sum[l][k] : 0.0f;
                if (!drawn) continue;
                const Splat &s = splats[base + l];  // a colour clamped at 0 passes no gradient
                if (!(s.r > 0.0f)) v_lane[kGr][l] = 0.0f;
                if (!(s.g > 0.0f)) v_lane[kGg][l] = 0.0f;
                if (!(s.b > 0.0f)) v_lane[kGb][l] = 0.0f;
            }
            VF d[3], rdist, b[16], v_dir[3] = {zero(), zero(), zero()};
            view_direction(g, cam, d, rdist);
            sh_basis(opt.sh_degree, d[0], d[1], d[2], b);
            for (int k = 0; k < count; ++k) store(basis + k * W, b[k]), store(v_basis + k * W, zero());
            for (int l = 0; l < n; ++l) {
                if (!(hit >> l & 1)) continue;
                const float v_rgb[3] = {v_lane[kGr][l], v_lane[kGg][l], v_lane[kGb][l]};
                sh_grad(in.sh + (base + l) * sh_size, basis + l, count, in.sh_k, v_rgb, out.accumulate, out.sh + (base + l) * sh_size, v_basis + l);
            }
            VM drawn = mask_first(0);
            {
                alignas(64) float flag[W];
                for (int l = 0; l < W; ++l) flag[l] = hit >> l & 1 ? 1.0f : 0.0f;
                drawn = load(flag) > zero();
            }
            if (opt.sh_degree > 0) {
                VF vb[16], v_unit[3];
                for (int k = 0; k < count; ++k) vb[k] = load(v_basis + k * W);
                sh_basis_grad(opt.sh_degree, d[0], d[1], d[2], vb, v_unit[0], v_unit[1], v_unit[2]);
                VF along = d[0] * v_unit[0] + d[1] * v_unit[1] + d[2] * v_unit[2];
                for (int i = 0; i < 3; ++i) v_dir[i] = keep(drawn, rdist * fnma(d[i], along, v_unit[i]));
            }
            VF v[kGrad], r[11], v2d[2];
            for (int k = 0; k < kGrad; ++k) v[k] = load(v_lane[k]);
            // lanes that are not drawn may hold anything, also NaN, and are dropped below
            CamAccumulator part;
            geometry_grad(in, cam, opt, g, v, v_dir, drawn, r, v2d, part);
            if (out.camera) {
                const VF *from = (const VF *)&part;
                VF *to = (VF *)&cam_v;
                for (size_t k = 0; k < sizeof(CamAccumulator) / sizeof(VF); ++k) to[k] += keep(drawn, from[k]);
            }
            for (int k = 0; k < 11; ++k) store(result[k], r[k]);
            store(result[11], v2d[0]), store(result[12], v2d[1]);
        }
        for (int l = 0; l < n; ++l) {
            const int64_t i = base + l;
            const bool drawn = hit >> l & 1;
            out.means2d[2 * i] = drawn ? result[11][l] : 0.0f, out.means2d[2 * i + 1] = drawn ? result[12][l] : 0.0f;
            if (!drawn) {
                if (out.accumulate) continue;
                memset(out.means + 3 * i, 0, 3 * sizeof(float)), memset(out.quats + 4 * i, 0, 4 * sizeof(float));
                memset(out.log_scales + 3 * i, 0, 3 * sizeof(float)), out.logits[i] = 0.0f;
                memset(out.sh + i * sh_size, 0, sizeof(float) * (size_t)sh_size);
                continue;
            }
            for (int k = 0; k < 3; ++k) put(out.means + 3 * i + k, result[k][l], out.accumulate);
            for (int k = 0; k < 4; ++k) put(out.quats + 4 * i + k, result[3 + k][l], out.accumulate);
            for (int k = 0; k < 3; ++k) put(out.log_scales + 3 * i + k, result[7 + k][l], out.accumulate);
            put(out.logits + i, result[10][l], out.accumulate);
        }
    }
    cam_v.store_to(cam_grads);
}

}  // namespace HANDFUL_NS
}  // namespace handful
