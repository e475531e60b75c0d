// From Gaussians to splats: projection, colour, pairs.
namespace handful {
namespace HANDFUL_NS {

typedef float Four __attribute__((vector_size(16)));
inline Four load4(const float *p) {
    Four v;
    memcpy(&v, p, sizeof v);
    return v;
}

// Colour of one Gaussian from its basis values (basis[k * W]); false: a coefficient was not finite. Three channels go as a vector of four (the fourth is the next
// coefficient's first, and means nothing), in two sums, so that neither waits for the other.
inline bool sh_color(const float *sh, const float *basis, int count, int sh_k, float *rgb) {
    Four even = {0.5f, 0.5f, 0.5f, 0.0f}, odd = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int k = 0; k + 1 < count; k += 2) {
        even += basis[k * W] * load4(sh + 3 * k);
        if (k + 2 < count) odd += basis[(k + 1) * W] * load4(sh + 3 * k + 3);
    }
    const int last = 3 * (count - 1);  // its fourth float would be another Gaussian's, or nobody's
    const Four end = {sh[last], sh[last + 1], sh[last + 2], 0.0f};
    even += odd + basis[(count - 1) * W] * end;
    float bad = (even[0] + even[1] + even[2]) * 0.0f;
    for (int k = 3 * count; k < 3 * sh_k; ++k) bad += sh[k] * 0.0f;  // also those that are not used must be finite
    for (int c = 0; c < 3; ++c) rgb[c] = even[c] > 0.0f ? even[c] : 0.0f;
    return bad == 0.0f;
}

// What emitting W splats needs beside them, lane by lane: see `footprints`.
struct Lanes {
    enum { kMx, kMy, kQa, kQb, kQc, kLop, kZ, kNx, kNy, kNz, kWx, kWy, kReach, kRx, kRy, kRadius, kDet, kCount };
    alignas(64) float at[kCount][W];
    void put(int k, VF v) { store(at[k], v); }
};

// Splats of what was placed, into `lanes`; which of them may be seen, as bits.
inline unsigned footprints(const Camera &cam, const Options &opt, Geometry &g, Lanes &lanes) {
    VF normal[3] = {zero(), zero(), zero()}, q[3], w[2] = {zero(), zero()}, det = zero();
    const VF mx = fma(set1(cam.fx), g.x * g.rz, set1(cam.cx)), my = fma(set1(cam.fy), g.y * g.rz, set1(cam.cy));
    if (opt.surfels) {
        const Surfel f = surfel(cam, g);
        surfel_form(cam, g, f, q, det);
        const VF sign = select(f.pn > zero(), set1(-1.0f), set1(1.0f));
        for (int i = 0; i < 3; ++i) normal[i] = sign * g.M[i][2];
        w[0] = f.w[0], w[1] = f.w[1];
    } else {
        flatten(cam, opt, g);
        const VF half = set1(0.5f * kLog2E) / g.det;
        q[0] = half * (g.c + set1(kBlur)), q[1] = zero() - (half + half) * g.b, q[2] = half * (g.a + set1(kBlur));
    }
    const VF lop = log2(max(g.opacity, set1(1e-30f))), reach = lop - set1(kLog2AlphaMin);
    VM seen = g.valid & (g.opacity >= set1(kAlphaMin));
    if (!opt.surfels) {
        const VF cov_a = g.a + set1(kBlur), cov_c = g.c + set1(kBlur), spread = max(set1(2.0f * kLn2) * reach, zero());
        const VF rx = max(sqrt(spread * cov_a), set1(1e-30f)), ry = max(sqrt(spread * cov_c), set1(1e-30f));
        seen = seen & (mx + rx > zero()) & (mx - rx < set1((float)cam.width)) & (my + ry > zero()) & (my - ry < set1((float)cam.height));
        const VF grown = spread + set1(2.0f * kLn2 * kCutMargin);
        lanes.put(Lanes::kRx, sqrt(grown * cov_a)), lanes.put(Lanes::kRy, sqrt(grown * cov_c)), lanes.put(Lanes::kRadius, max(rx, ry));
        if (opt.normal && any(seen)) {
            VM axis[3];
            VF sign;
            normal_axis(g, axis, sign, normal);
        }
    }
    const VF fields[13] = {mx, my, q[0], q[1], q[2], lop, g.z, normal[0], normal[1], normal[2], w[0], w[1], reach + set1(kCutMargin)};
    for (int k = 0; k < 13; ++k) lanes.put(k, fields[k]);
    lanes.put(Lanes::kDet, det);
    return bits(seen);
}

// Gaussians [begin, end): splats, 2D centres, radii, visible list, pairs.
inline void project(const Scene &in, const Camera &cam, const Options &opt, int64_t begin, int64_t end, ProjectOut &out, PairBuffer &pairs) {
    const int count = (opt.sh_degree + 1) * (opt.sh_degree + 1);
    alignas(64) float basis[16 * W];
    Lanes lanes;
    out.visible = 0;
    for (int64_t base = begin; base < end; base += W) {
        const int n = end - base < W ? (int)(end - base) : W;
        Geometry g;
        place(in, cam, opt, base, n, g);
        const unsigned todo = any(g.valid) ? footprints(cam, opt, g, lanes) : 0;
        if (todo) {
            VF d[3], rdist, b[16];
            view_direction(g, cam, d, rdist);
            sh_basis(opt.sh_degree, d[0], d[1], d[2], b);
            for (int k = 0; k < count; ++k) store(basis + k * W, b[k]);
        }
        for (int l = 0; l < n; ++l) {
            const int64_t i = base + l;
            float rgb[3];
            out.radii[i] = out.means2d[2 * i] = out.means2d[2 * i + 1] = 0.0f;
            out.pair_count[i] = 0;
            if (!(todo >> l & 1) || !sh_color(in.sh + i * in.sh_k * 3, basis + l, count, in.sh_k, rgb)) continue;
            auto lane = [&](int k) { return lanes.at[k][l]; };
            Splat &s = out.splats[i];
            s = {lane(Lanes::kMx), lane(Lanes::kMy), lane(Lanes::kQa), lane(Lanes::kQb), lane(Lanes::kQc), lane(Lanes::kLop), rgb[0], rgb[1],
                 rgb[2], lane(Lanes::kZ), lane(Lanes::kNx), lane(Lanes::kNy), lane(Lanes::kNz), 0.0f, lane(Lanes::kWx), lane(Lanes::kWy)};
            const float reach = lane(Lanes::kReach);
            if (opt.surfels) {
                const SurfelBounds bounds = surfel_bounds(s, reach, lane(Lanes::kDet));
                if (!in_image(bounds, cam)) continue;
                out.radii[i] = surfel_radius(bounds, cam);
                out.pair_count[i] = emit_surfel_pairs(bounds, cam, pairs);
            } else {
                out.radii[i] = lane(Lanes::kRadius);
                out.pair_count[i] = emit_pairs(s, reach, lane(Lanes::kRx), lane(Lanes::kRy), cam, pairs);
            }
            out.means2d[2 * i] = s.mx, out.means2d[2 * i + 1] = s.my;
            memcpy(&out.keys[begin + out.visible], &s.z, 4);
            out.ids[begin + out.visible++] = (uint32_t)i;
        }
    }
}

}  // namespace HANDFUL_NS
}  // namespace handful
