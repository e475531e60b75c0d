// Real spherical harmonics, degree 0 to 3, in the order and with the signs of the 3DGS PLY layout (docs/conventions.md).
namespace handful {
namespace HANDFUL_NS {

constexpr float kSh0 = 0.28209479177387814f, kSh1 = 0.4886025119029199f;
constexpr float kSh2a = 1.0925484305920792f, kSh2b = 0.31539156525252005f, kSh2c = 0.5462742152960396f;
constexpr float kSh3a = 0.5900435899266435f, kSh3b = 2.890611442640554f, kSh3c = 0.4570457994644658f, kSh3d = 0.3731763325901154f,
                kSh3e = 1.445305721320277f;

// basis[0 .. (degree+1)^2) at the unit direction (x, y, z)
inline void sh_basis(int degree, VF x, VF y, VF z, VF *basis) {
    basis[0] = set1(kSh0);
    if (degree < 1) return;
    basis[1] = set1(-kSh1) * y;
    basis[2] = set1(kSh1) * z;
    basis[3] = set1(-kSh1) * x;
    if (degree < 2) return;
    VF xx = x * x, yy = y * y, zz = z * z;
    basis[4] = set1(kSh2a) * x * y;
    basis[5] = set1(-kSh2a) * y * z;
    basis[6] = set1(kSh2b) * (zz + zz - xx - yy);
    basis[7] = set1(-kSh2a) * x * z;
    basis[8] = set1(kSh2c) * (xx - yy);
    if (degree < 3) return;
    VF three = set1(3.0f), f = set1(4.0f) * zz - xx - yy;
    basis[9] = set1(-kSh3a) * y * (three * xx - yy);
    basis[10] = set1(kSh3b) * x * y * z;
    basis[11] = set1(-kSh3c) * y * f;
    basis[12] = set1(kSh3d) * z * (zz + zz - three * (xx + yy));
    basis[13] = set1(-kSh3c) * x * f;
    basis[14] = set1(kSh3e) * z * (xx - yy);
    basis[15] = set1(-kSh3a) * x * (xx - three * yy);
}

// dL/d(x, y, z) from v[k] = dL/dbasis[k]
inline void sh_basis_grad(int degree, VF x, VF y, VF z, const VF *v, VF &vx, VF &vy, VF &vz) {
    vx = vy = vz = zero();
    if (degree < 1) return;
    vy = set1(-kSh1) * v[1];
    vz = set1(kSh1) * v[2];
    vx = set1(-kSh1) * v[3];
    if (degree < 2) return;
    VF a4 = set1(kSh2a) * v[4], a5 = set1(-kSh2a) * v[5], a6 = set1(2.0f * kSh2b) * v[6], a7 = set1(-kSh2a) * v[7], a8 = set1(2.0f * kSh2c) * v[8];
    vx += a4 * y + a7 * z + (a8 - a6) * x;
    vy += a4 * x + a5 * z - (a8 + a6) * y;
    vz += a5 * y + a7 * x + (a6 + a6) * z;
    if (degree < 3) return;
    VF xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z;
    VF two = set1(2.0f), three = set1(3.0f), six = set1(6.0f), eight = set1(8.0f), f = set1(4.0f) * zz - xx - yy;
    VF b9 = set1(-kSh3a) * v[9], b10 = set1(kSh3b) * v[10], b11 = set1(-kSh3c) * v[11], b12 = set1(kSh3d) * v[12];
    VF b13 = set1(-kSh3c) * v[13], b14 = set1(kSh3e) * v[14], b15 = set1(-kSh3a) * v[15];
    vx += b9 * six * xy + b10 * yz - b11 * two * xy - b12 * six * xz + b13 * (f - two * xx) + b14 * two * xz + b15 * three * (xx - yy);
    vy += b9 * three * (xx - yy) + b10 * xz + b11 * (f - two * yy) - b12 * six * yz - b13 * two * xy - b14 * two * yz - b15 * six * xy;
    vz += b10 * xy + b11 * eight * yz + b12 * (six * zz - three * (xx + yy)) + b13 * eight * xz + b14 * (xx - yy);
}

}  // namespace HANDFUL_NS
}  // namespace handful
