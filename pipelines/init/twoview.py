"""Hypotheses of how two photos stand to each other. Several per pair: repeated texture and planes make the best-supported one wrong at times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ...data.pycolmap_bridge import homography, relative_pose

__all__ = ["PairPose", "epipolar_agreement", "pair_hypotheses", "planar_poses", "ray_angles"]


_ENOUGH = 400


@dataclass(frozen=True)
class PairPose:
    """Second camera from first: rotation, unit translation; which matches agree."""

    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, "3"]
    inliers: Bool[np.ndarray, "M"]


def pair_hypotheses(
    uv0: Float[np.ndarray, "M 2"], uv1: Float[np.ndarray, "M 2"], size: tuple[int, int], focals: tuple[float, float], error_px: float, seed: int
) -> list[PairPose]:
    """Essential matrix of all matches, of those that do not fit it (repeated texture), and the two poses a plane allows.

    At most four, without near-duplicates, the best supported first. Of many matches `_ENOUGH` spread ones propose, all of them vote.
    """
    found: list[PairPose] = []
    rest = np.arange(len(uv0))
    for least in (8, 12):
        pick = rest[np.linspace(0, len(rest) - 1, min(len(rest), _ENOUGH)).astype(int)]
        pose = relative_pose(uv0[pick], uv1[pick], size, focals, error_px, seed)
        if pose is None or pose[2].sum() < least:
            break
        agree = epipolar_agreement(pose[0], pose[1], uv0, uv1, size, focals, error_px)
        found.append(PairPose(pose[0], pose[1], agree))
        rest = np.flatnonzero(~agree)
        if len(rest) < 16:
            break
    H = homography(uv0, uv1, error_px, seed)
    if H is not None and H[1].sum() >= max(12, 0.4 * len(uv0)):
        for R, t in planar_poses(H[0], size, focals, uv0[H[1]]):
            found.append(PairPose(R, t, epipolar_agreement(R, t, uv0, uv1, size, focals, error_px)))
    found.sort(key=lambda p: -int(p.inliers.sum()))
    kept: list[PairPose] = []
    for p in found:
        if p.inliers.sum() >= 8 and not any(_close(p, q) for q in kept):
            kept.append(p)
    return kept[:4]


def planar_poses(
    H: Float[np.ndarray, "3 3"], size: tuple[int, int], focals: tuple[float, float], uv0: Float[np.ndarray, "M 2"]
) -> list[tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]]:
    """Rotations and unit translations of a plane's homography (Ma, Soatto, Kosecka and Sastry, "An Invitation to 3-D Vision", section 5.3),
    those that put the plane's points in front of the first camera."""
    K0, K1 = (np.array([[f, 0, size[0] / 2], [0, f, size[1] / 2], [0, 0, 1.0]]) for f in focals)
    A = np.linalg.inv(K1) @ H @ K0
    A = A / np.linalg.svd(A, compute_uv=False)[1]
    x = np.concatenate([uv0, np.ones((len(uv0), 1))], 1) @ np.linalg.inv(K0).T
    y = np.concatenate([uv0, np.ones((len(uv0), 1))], 1) @ (np.linalg.inv(K1) @ H).T
    if (x * y).sum() < 0:
        A = -A
    s2, V = np.linalg.eigh(A.T @ A)
    v1, v2, v3 = V[:, 2], V[:, 1], V[:, 0]
    a, c = s2[2], s2[0]
    if a - c < 1e-6:  # a rotation alone
        return []
    p, q = np.sqrt(max(1 - c, 0.0)), np.sqrt(max(a - 1, 0.0))
    poses = []
    for u in ((p * v1 + q * v3) / np.sqrt(a - c), (p * v1 - q * v3) / np.sqrt(a - c)):
        w2, wu = np.cross(v2, u), np.cross(A @ v2, A @ u)
        U, W = np.stack([v2, u, w2], 1), np.stack([A @ v2, A @ u, wu], 1)
        R = W @ U.T
        n = np.cross(v2, u)
        t = (A - R) @ n
        if np.median(x @ n) < 0:
            t = -t
        left, _, right = np.linalg.svd(R)
        R = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
        if np.linalg.norm(t) > 1e-6:
            poses.append((R, t / np.linalg.norm(t)))
    return poses


def epipolar_agreement(
    R: np.ndarray, t: np.ndarray, uv0: np.ndarray, uv1: np.ndarray, size: tuple[int, int], focals: tuple[float, float], error_px: float
) -> np.ndarray:
    """Matches within `error_px` of their epipolar lines (Sampson distance) and in front of both cameras."""
    c = np.array(size) / 2
    x = np.concatenate([(uv0 - c) / focals[0], np.ones((len(uv0), 1))], 1)
    y = np.concatenate([(uv1 - c) / focals[1], np.ones((len(uv1), 1))], 1)
    E = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ R
    l1, l0 = x @ E.T, y @ E
    sampson = np.abs((y * l1).sum(1)) / np.sqrt((l1[:, :2] ** 2).sum(1) + (l0[:, :2] ** 2).sum(1) + 1e-30) * np.sqrt(focals[0] * focals[1])
    a = x @ R.T  # z a + t ~ y: depth in the first camera by the component across y
    cross_a, cross_t = np.cross(y, a), np.cross(y, np.broadcast_to(t, y.shape))
    z0 = -(cross_a * cross_t).sum(1) / ((cross_a**2).sum(1) + 1e-30)
    z1 = z0 * a[:, 2] + t[2]
    return (sampson < error_px) & (z0 > 0) & (z1 > 0)


def ray_angles(
    R: np.ndarray, uv0: np.ndarray, uv1: np.ndarray, size: tuple[int, int], focals: tuple[float, float]
) -> Float[np.ndarray, "M"]:
    """Angle, radians, between the two viewing rays of each match."""
    c = np.array(size) / 2
    x = np.concatenate([(uv0 - c) / focals[0], np.ones((len(uv0), 1))], 1) @ R.T
    y = np.concatenate([(uv1 - c) / focals[1], np.ones((len(uv1), 1))], 1)
    cos = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    return np.arccos(np.clip(cos, -1, 1))


def _close(p: PairPose, q: PairPose) -> bool:
    angle = np.arccos(np.clip((np.trace(p.R @ q.R.T) - 1) / 2, -1, 1))
    return bool(angle < np.radians(4) and p.t @ q.t > np.cos(np.radians(12)))
