// Surfels: flat Gaussians, met by the ray of each pixel (2D Gaussian splatting: Huang et al. 2024, section 4).
//
// The point u, v (standard deviations along the first two axes t_u, t_v) of a surfel with centre p is seen at the pixel x with (u, v, 1) / z = H^-1 K^-1 (x, y, 1),
// H = [s_u t_u, s_v t_v, p]. Written from the projected centre, d = x - centre: u / z and v / z are linear in d without a constant, and 1 / z is 1 / z_p + linear. So
// u^2 + v^2 = (a form like that of any splat) / w^2, w = z_p / z = 1 + wx dx + wy dy: projection leaves a Splat, and compositing differs by one division.
namespace handful {
namespace HANDFUL_NS {

struct Surfel {
    VF r[2], s[2];        // t_v x p, p x t_u: x and y
    VF u[2], v[2], w[2];  // z_p times the change of u/z, v/z and 1/z by pixel in x and in y
    VF n[3], k, pn;       // t_u x t_v, z_p / (p . n), p . n
};

// From the loaded geometry; `valid` loses what is seen edge on, or is not finite.
inline Surfel surfel(const Camera &cam, Geometry &g) {
    Surfel f;
    const VF rfx = set1(1.0f / cam.fx), rfy = set1(1.0f / cam.fy);
    f.r[0] = g.M[1][1] * g.z - g.M[2][1] * g.y, f.r[1] = g.M[2][1] * g.x - g.M[0][1] * g.z;
    f.s[0] = g.y * g.M[2][0] - g.z * g.M[1][0], f.s[1] = g.z * g.M[0][0] - g.x * g.M[2][0];
    for (int i = 0; i < 3; ++i) f.n[i] = g.M[(i + 1) % 3][0] * g.M[(i + 2) % 3][1] - g.M[(i + 2) % 3][0] * g.M[(i + 1) % 3][1];
    f.pn = fma(f.n[0], g.x, fma(f.n[1], g.y, f.n[2] * g.z));
    const VF far2 = fma(g.x, g.x, fma(g.y, g.y, g.z * g.z));
    g.valid = g.valid & (f.pn * f.pn >= set1(kSurfelGrazing * kSurfelGrazing) * far2);
    f.pn = select(g.valid, f.pn, set1(1.0f));
    f.k = g.z / f.pn;
    const VF ku = f.k / g.s[0], kv = f.k / g.s[1];
    f.u[0] = ku * f.r[0] * rfx, f.u[1] = ku * f.r[1] * rfy;
    f.v[0] = kv * f.s[0] * rfx, f.v[1] = kv * f.s[1] * rfy;
    f.w[0] = f.k * f.n[0] * rfx, f.w[1] = f.k * f.n[1] * rfy;
    return f;
}

// The form of the exponent (log2, as in Splat), and its determinant 4 qa qc - qb^2, in which nothing cancels: u x v = k z / (s_u s_v fx fy).
inline void surfel_form(const Camera &cam, Geometry &g, const Surfel &f, VF *q, VF &det) {
    const VF half = set1(0.5f * kLog2E);
    q[0] = half * fma(f.u[0], f.u[0], f.v[0] * f.v[0]);
    q[1] = (half + half) * fma(f.u[0], f.u[1], f.v[0] * f.v[1]);
    q[2] = half * fma(f.u[1], f.u[1], f.v[1] * f.v[1]);
    const VF cross = f.k * g.z * g.z * set1(kLog2E / (cam.fx * cam.fy)) / (g.s[0] * g.s[1]);
    det = cross * cross;
    g.valid = g.valid & finite(q[0] + q[1] + q[2] + det + f.w[0] + f.w[1]);
}

// Where the form over w^2 is at most `reach` in front of the camera lies an ellipse, if all of that does: form - reach w^2 <= 0 is its equation.
struct SurfelBounds {
    Splat ellipse, circle;  // their forms and centres
    float ellipse_reach, reach;
    float x0, x1, y0, y1;  // a box around both, pixels
    bool whole;            // no ellipse: the surfel passes the camera's plane
};
inline SurfelBounds surfel_bounds(const Splat &s, float reach, float det) {
    SurfelBounds b;
    const float radius = sqrtf(reach / (kSurfelBlur * kLog2E));
    b.circle = b.ellipse = s, b.reach = reach, b.ellipse_reach = reach;
    b.circle.qa = b.circle.qc = kSurfelBlur * kLog2E, b.circle.qb = 0.0f;
    b.x0 = s.mx - radius, b.x1 = s.mx + radius, b.y0 = s.my - radius, b.y1 = s.my + radius;
    Splat &e = b.ellipse;
    e.qa = s.qa - reach * s.wx * s.wx, e.qb = s.qb - 2.0f * reach * s.wx * s.wy, e.qc = s.qc - reach * s.wy * s.wy;
    const float left = det - 4.0f * reach * (s.qa * s.wy * s.wy + s.qc * s.wx * s.wx - s.qb * s.wx * s.wy);
    b.whole = !(e.qa > 0.0f && e.qc > 0.0f && left > 1e-3f * det);
    if (b.whole) return b;
    const float dx = 2.0f * reach * (2.0f * e.qc * s.wx - e.qb * s.wy) / left, dy = 2.0f * reach * (2.0f * e.qa * s.wy - e.qb * s.wx) / left;
    b.ellipse_reach = reach * (1.0f + s.wx * dx + s.wy * dy);
    e.mx += dx, e.my += dy;
    const float rx = sqrtf(4.0f * b.ellipse_reach * e.qc / left), ry = sqrtf(4.0f * b.ellipse_reach * e.qa / left);
    b.x0 = e.mx - rx < b.x0 ? e.mx - rx : b.x0, b.x1 = e.mx + rx > b.x1 ? e.mx + rx : b.x1;
    b.y0 = e.my - ry < b.y0 ? e.my - ry : b.y0, b.y1 = e.my + ry > b.y1 ? e.my + ry : b.y1;
    return b;
}

inline bool in_image(const SurfelBounds &b, const Camera &cam) {
    return b.whole || (b.x1 > 0.0f && b.x0 < (float)cam.width && b.y1 > 0.0f && b.y0 < (float)cam.height);
}

// Half the longer side of the box, pixels.
inline float surfel_radius(const SurfelBounds &b, const Camera &cam) {
    if (b.whole) return (float)(cam.width > cam.height ? cam.width : cam.height);
    return 0.5f * (b.x1 - b.x0 > b.y1 - b.y0 ? b.x1 - b.x0 : b.y1 - b.y0);
}

// Appends the surfel's pairs; returns how many.
inline uint32_t emit_surfel_pairs(const SurfelBounds &b, const Camera &cam, PairBuffer &out) {
    int tx0 = 0, tx1 = cam.tiles_x, ty0 = 0, ty1 = cam.tiles_y;
    if (!b.whole) {
        tx0 = clamp_tile(b.x0, cam.tiles_x), tx1 = clamp_tile(b.x1 + kTile, cam.tiles_x);
        ty0 = clamp_tile(b.y0, cam.tiles_y), ty1 = clamp_tile(b.y1 + kTile, cam.tiles_y);
    }
    const size_t most = (size_t)(tx1 - tx0) * (size_t)(ty1 - ty0), first = out.size;
    if (out.capacity - out.size < most) grow(out, most);
    for (int ty = ty0; ty < ty1; ++ty)
        for (int tx = tx0; tx < tx1; ++tx) {
            const float x0 = (float)(tx * kTile), y0 = (float)(ty * kTile);
            const unsigned mask = b.whole ? 0xffffu : block_mask(b.ellipse, b.ellipse_reach, x0, y0) | block_mask(b.circle, b.reach, x0, y0);
            out.tile[out.size] = (uint32_t)(ty * cam.tiles_x + tx);
            out.mask[out.size] = (uint16_t)mask;
            out.size += mask != 0;
        }
    return (uint32_t)(out.size - first);
}

// What a ray meets: log2 of alpha before its cap, the depth over that of the centre, and whether it is the surfel (else its least footprint, at the centre's depth).
struct Meeting {
    VF e, h, rho;
    VM plane;
};
inline Meeting meet(const Splat &s, VF dx, VF dy) {
    const VF w = fma(set1(s.wx), dx, fma(set1(s.wy), dy, set1(1.0f)));
    const VM front = w > zero();
    VF h = set1(1.0f) / select(front, w, set1(1.0f));
    const VF form = fma(dx, fma(set1(s.qa), dx, set1(s.qb) * dy), set1(s.qc) * dy * dy);
    VF rho = max(form, zero()) * h * h;  // below 0 only by rounding
    const VF least = set1(kSurfelBlur * kLog2E) * fma(dx, dx, dy * dy);
    const VM plane = front & (rho <= least);
    rho = select(plane, rho, least), h = select(plane, h, set1(1.0f));
    return {set1(s.lop) - rho, h, rho, plane};
}

// Adds a pixel's part to the pair's gradient. ga: dL/dalpha * alpha; vz: dL / d(depth of this surfel here).
//
// Of the form's coefficients as in PairGrad, but with g over w^2; kGx, kGy: of the centre through alpha; kGw: of w, kGwx, kGwy: of its coefficients.
inline void meeting_grad(const Splat &s, const Meeting &m, VF dx, VF dy, VF ga, VF vz, VF *g) {
    const VF gp = keep(m.plane, ga) * m.h * m.h, gx = gp * dx, gy = gp * dy, ln2 = set1(kLn2), two = set1(2.0f);
    const VF gc = set1(2.0f * kSurfelBlur) * (ga - keep(m.plane, ga));
    g[kG1] += ga, g[kGz] = fma(vz, m.h, g[kGz]);
    g[kGxx] = fma(gx, dx, g[kGxx]), g[kGxy] = fma(gx, dy, g[kGxy]), g[kGyy] = fma(gy, dy, g[kGyy]);
    g[kGx] += fma(ln2, fma(set1(2.0f * s.qa), gx, set1(s.qb) * gy), gc * dx);
    g[kGy] += fma(ln2, fma(set1(2.0f * s.qc), gy, set1(s.qb) * gx), gc * dy);
    const VF vw = keep(m.plane, m.h * (two * ln2 * m.rho * ga - vz * set1(s.z) * m.h));
    g[kGw] += vw, g[kGwx] = fma(vw, dx, g[kGwx]), g[kGwy] = fma(vw, dy, g[kGwy]);
}

}  // namespace HANDFUL_NS
}  // namespace handful
