"""Rotations, rigid motions and similarities: quaternions (wxyz, Hamilton), exponential and logarithm, alignment.

Exponentials, logarithms and quaternions are batched over leading dimensions, differentiable (also at the identity) and keep the dtype. Tangent vectors are (translation part,
rotation vector) and, for Sim(3), (translation part, rotation vector, log scale); exp is the matrix exponential of the 4x4 they form
(Eade 2013, "Lie groups for 2D and 3D transformations"). To move a camera by a small body motion: ``se3_exp(xi) @ cam_from_world``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from .camera import Cameras
from .errors import ShapeError

__all__ = [
    "Similarity",
    "align_cameras",
    "hat",
    "matrix_from_quat",
    "mean_rotation",
    "quat_from_matrix",
    "quat_multiply",
    "rotation_angle",
    "se3_exp",
    "se3_log",
    "sim3_exp",
    "sim3_log",
    "so3_exp",
    "so3_log",
    "turn_to",
    "umeyama",
]


def matrix_from_quat(quats_wxyz: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of quaternions of any non-zero length (a zero one gives NaN)."""
    w, x, y, z = (quats_wxyz / torch.linalg.vector_norm(quats_wxyz, dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def quat_from_matrix(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternions wxyz with w >= 0 of rotation matrices.

    4 q q^T is linear in R; its row with the largest diagonal entry, normalised, is the quaternion without cancellation (Shepperd 1978).
    """
    m = R.flatten(-2).unbind(-1)
    xx, yy, zz = m[0], m[4], m[8]
    wx, wy, wz = m[7] - m[5], m[2] - m[6], m[3] - m[1]
    xy, xz, yz = m[1] + m[3], m[2] + m[6], m[5] + m[7]
    outer = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, wx, wy, wz], -1),
            torch.stack([wx, 1 + xx - yy - zz, xy, xz], -1),
            torch.stack([wy, xy, 1 - xx + yy - zz, yz], -1),
            torch.stack([wz, xz, yz, 1 - xx - yy + zz], -1),
        ],
        -2,
    )
    best = torch.diagonal(outer, dim1=-2, dim2=-1).max(-1).indices  # on a CPU five times as fast as argmax
    row = torch.gather(outer, -2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    q = torch.nn.functional.normalize(row, dim=-1)
    return torch.where(q[..., :1] < 0, -q, q)


def quat_multiply(a: Float[Tensor, "*batch 4"], b: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Hamilton product: matrix_from_quat(a b) = matrix_from_quat(a) @ matrix_from_quat(b)."""
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    w = aw * bw - (av * bv).sum(-1, keepdim=True)
    return torch.cat([w, aw * bv + bw * av + torch.linalg.cross(av, bv)], -1)


def hat(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The skew matrix with hat(v) @ u = v x u."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


def so3_exp(omega: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a rotation vector (axis times angle, radians)."""
    return torch.linalg.matrix_exp(hat(omega))


def so3_log(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vector with angle in [0, pi]. At exactly pi the sign of the axis is arbitrary."""
    q = quat_from_matrix(R)
    w, v = q[..., :1], q[..., 1:]
    s2 = (v * v).sum(-1, keepdim=True)
    small = s2 < 1e-8
    s = torch.where(small, torch.ones_like(s2), s2).sqrt()
    # angle / sin(angle / 2); near the identity asin's series 2 (1 + s^2 / 6), which has a gradient there
    return v * torch.where(small, 2 + s2 / 3, 2 * torch.atan2(s, w) / s)


def turn_to(source: Float[Tensor, "3"], target: tuple[float, float, float]) -> Float[Tensor, "3 3"]:
    """The rotation (float64) by the shortest way that brings the direction `source` to the unit vector `target`; half a turn about an axis of the frame's choice
    where they are opposite."""
    a, b = torch.nn.functional.normalize(source.detach().cpu().double(), dim=0), torch.tensor(target, dtype=torch.float64)
    axis, cosine = torch.linalg.cross(a, b), a @ b
    sine = torch.linalg.vector_norm(axis)
    if float(sine) < 1e-9:
        across = torch.linalg.cross(b, torch.eye(3, dtype=torch.float64)[int(b.abs().argmin())])
        axis = torch.nn.functional.normalize(across, dim=0) * (torch.pi if float(cosine) < 0 else 0.0)
    else:
        axis = axis / sine * torch.atan2(sine, cosine)
    return so3_exp(axis)


def rotation_angle(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Angle of a rotation in radians, accurate for tiny ones too (unlike acos of the trace)."""
    return torch.linalg.vector_norm(so3_log(R), dim=-1)


def _algebra(rho: Tensor, omega: Tensor, sigma: Tensor) -> Float[Tensor, "*batch 4 4"]:
    eye = torch.eye(3, dtype=rho.dtype, device=rho.device)
    top = torch.cat([hat(omega) + sigma[..., None] * eye, rho[..., None]], -1)
    return torch.cat([top, torch.zeros_like(top[..., :1, :])], -2)


def sim3_exp(xi: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 4 4"]:
    """4x4 similarity [[s R, t], [0, 1]] of a tangent vector (translation part 3, rotation vector 3, log scale 1)."""
    return torch.linalg.matrix_exp(_algebra(xi[..., :3], xi[..., 3:6], xi[..., 6:]))


def se3_exp(xi: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """4x4 rigid motion of a tangent vector (translation part 3, rotation vector 3)."""
    return torch.linalg.matrix_exp(_algebra(xi[..., :3], xi[..., 3:6], torch.zeros_like(xi[..., :1])))


def sim3_log(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 7"]:
    """Inverse of sim3_exp for rotations below pi."""
    sR, t = T[..., :3, :3], T[..., :3, 3]
    sigma = torch.linalg.det(sR).log()[..., None] / 3
    omega = so3_log(sR * torch.exp(-sigma)[..., None])
    # t = V rho with V = integral of exp(u A) over u in [0, 1], A = hat(omega) + sigma I; V is the upper right block of exp([[A, I], [0, 0]])
    eye = torch.eye(3, dtype=T.dtype, device=T.device).expand_as(sR)
    A = hat(omega) + sigma[..., None] * eye
    upper = torch.cat([A, eye], -1)
    V = torch.linalg.matrix_exp(torch.cat([upper, torch.zeros_like(upper)], -2))[..., :3, 3:]
    rho = torch.linalg.solve(V, t[..., None])[..., 0]
    return torch.cat([rho, omega, sigma], -1)


def se3_log(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6"]:
    """Inverse of se3_exp for rotations below pi."""
    return sim3_log(T)[..., :6]


@dataclass(frozen=True)
class Similarity:
    """target_from_source: x_target = scale * R @ x_source + t."""

    scale: Float[Tensor, ""]
    R: Float[Tensor, "3 3"]
    t: Float[Tensor, "3"]

    @property
    def matrix(self) -> Float[Tensor, "4 4"]:
        bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=self.t.dtype, device=self.t.device)
        return torch.cat([torch.cat([self.scale * self.R, self.t[:, None]], 1), bottom])

    def apply(self, xyz: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points of the source frame in the target frame."""
        return self.scale * (xyz @ self.R.T) + self.t

    def inverse(self) -> Similarity:
        return Similarity(1 / self.scale, self.R.T, -(self.R.T @ self.t) / self.scale)

    def apply_to_cameras(self, cameras: Cameras) -> Cameras:
        """The same cameras posed in the target frame; they see the moved points at the same pixels."""
        R = cameras.cam_from_world[:, :3, :3] @ self.R.T
        moved = cameras.cam_from_world.clone()
        moved[:, :3, :3] = R
        moved[:, :3, 3] = -(R @ self.apply(cameras.centers)[..., None])[..., 0]
        return replace(cameras, cam_from_world=moved)


def _nearest_rotation(M: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    U, _, Vh = torch.linalg.svd(M)
    D = torch.ones(3, dtype=M.dtype, device=M.device)
    D[2] = torch.sign(torch.linalg.det(U @ Vh))
    return (U * D) @ Vh


def mean_rotation(R: Float[Tensor, "N 3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation nearest to all of them (least squares of the matrices' entries)."""
    return _nearest_rotation(R.mean(0))


def umeyama(
    source: Float[Tensor, "N 3"], target: Float[Tensor, "N 3"], weights: Float[Tensor, "N"] | None = None, *, with_scale: bool = True
) -> Similarity:
    """The similarity that minimises sum w |target - (s R source + t)|^2 (Umeyama 1991, eq. 40-42), target_from_source.

    Fewer than three points, or points on a line, leave the rotation about that line open: any minimiser comes back.
    Raises ShapeError when the point sets do not fit together or are empty.
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or source.shape[0] == 0:
        raise ShapeError(f"umeyama needs two sets (N,3) of the same N >= 1 points; got {tuple(source.shape)} and {tuple(target.shape)}.")
    w = torch.ones_like(source[:, 0]) if weights is None else weights
    w = (w / w.sum())[:, None]
    mean_s, mean_t = (w * source).sum(0), (w * target).sum(0)
    s0, t0 = source - mean_s, target - mean_t
    R = _nearest_rotation((w * t0).T @ s0)
    scale = torch.ones_like(mean_s[0])
    if with_scale:
        spread = (w * s0 * s0).sum()
        # one point (or coinciding ones) says nothing about scale
        scale = torch.where(spread > 0, (w * t0 * (s0 @ R.T)).sum() / spread.clamp_min(torch.finfo(spread.dtype).tiny), scale)
    return Similarity(scale, R, mean_t - scale * (R @ mean_s))


def align_cameras(source: Cameras, target: Cameras) -> Similarity:
    """target_from_source for the same cameras in two frames, also for two cameras or cameras on a line.

    Rotation from the orientations (chordal mean; Hartley et al. 2013, "Rotation averaging", section 5.3), then scale and translation from the
    centres by least squares. Umeyama on the centres alone leaves a rotation open in just the cases a handful of photos gives.
    Raises ShapeError unless both hold the same number of cameras, at least one.
    """
    if len(source) != len(target) or len(source) == 0:
        raise ShapeError(f"align_cameras needs the same cameras twice; got {len(source)} and {len(target)}.")
    Rs, Rt = source.cam_from_world[:, :3, :3], target.cam_from_world[:, :3, :3]
    R = _nearest_rotation((Rt.transpose(1, 2) @ Rs).sum(0))
    cs, ct = source.centers, target.centers
    ms, mt = cs.mean(0), ct.mean(0)
    s0, t0 = (cs - ms) @ R.T, ct - mt
    spread = (s0 * s0).sum()
    # cameras that share a centre, or opposed motions, say nothing usable about scale
    scale = torch.where(spread > 0, (s0 * t0).sum() / spread.clamp_min(torch.finfo(spread.dtype).tiny), torch.ones_like(spread))
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return Similarity(scale, R, mt - scale * (R @ ms))
