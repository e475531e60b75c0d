"""Cameras and points as numpy arrays while cameras are being found: projection, triangulation, pose gain. Float64, vectorised."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from .tracks import Tracks

__all__ = ["Rig", "nearest_angles", "project", "rotation_exp", "triangulate", "triangulation_angles"]


@dataclass(frozen=True)
class Rig:
    """Cameras of all photos; those of photos that are not placed mean nothing.

    Attributes:
        R, t: world to camera.
        placed: which photos have a camera.
        focal: horizontal, pixels, per photo (equal for photos of one camera).
        k1: radial distortion of normalised coordinates, per photo; 0 for a pinhole.
        center: principal points, pixels.
        aspect: vertical over horizontal focal length, per photo.
    """

    R: Float[np.ndarray, "V 3 3"]
    t: Float[np.ndarray, "V 3"]
    placed: Bool[np.ndarray, "V"]
    focal: Float[np.ndarray, "V"]
    k1: Float[np.ndarray, "V"]
    center: Float[np.ndarray, "V 2"]
    aspect: Float[np.ndarray, "V"]

    @property
    def centers(self) -> Float[np.ndarray, "V 3"]:
        return -np.einsum("vji,vj->vi", self.R, self.t)

    def scale(self, view: np.ndarray) -> Float[np.ndarray, "O 2"]:
        """Horizontal and vertical focal length per observation."""
        return np.stack([self.focal[view], self.focal[view] * self.aspect[view]], -1)

    def with_pose(self, view: int, R: np.ndarray, t: np.ndarray) -> Rig:
        Rs, ts, placed = self.R.copy(), self.t.copy(), self.placed.copy()
        Rs[view], ts[view], placed[view] = R, t, True
        return replace(self, R=Rs, t=ts, placed=placed)


def rotation_exp(omega: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3 3"]:
    """Rodrigues' formula."""
    angle = np.linalg.norm(omega, axis=-1)[:, None, None]
    S = np.zeros((len(omega), 3, 3))
    S[:, 0, 1], S[:, 0, 2], S[:, 1, 2] = -omega[:, 2], omega[:, 1], -omega[:, 0]
    S = S - S.transpose(0, 2, 1)
    small = angle < 1e-8
    safe = np.where(small, 1.0, angle)
    a = np.where(small, 1.0, np.sin(safe) / safe)
    b = np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    return np.eye(3) + a * S + b * (S @ S)


def project(rig: Rig, view: np.ndarray, xyz: Float[np.ndarray, "O 3"]) -> tuple[Float[np.ndarray, "O 2"], Float[np.ndarray, "O"]]:
    """Pixels and z-depth of one point per observation; behind the camera the pixel is infinitely far away."""
    p = np.einsum("oij,oj->oi", rig.R[view], xyz) + rig.t[view]
    z = p[:, 2]
    n = p[:, :2] / np.where(z > 1e-9, z, 1e-9)[:, None]
    d = 1 + rig.k1[view] * (n * n).sum(1)
    uv = rig.scale(view) * d[:, None] * n + rig.center[view]
    return np.where((z > 1e-9)[:, None], uv, 1e9), z


def _rays(rig: Rig, tracks: Tracks) -> np.ndarray:
    """Unit viewing directions in the world, one per observation; distortion inverted by fixed point."""
    q = (tracks.uv - rig.center[tracks.view]) / rig.scale(tracks.view)
    n = q
    for _ in range(5):
        n = q / (1 + rig.k1[tracks.view] * (n * n).sum(1))[:, None]
    rays = np.einsum("oji,oj->oi", rig.R[tracks.view], np.concatenate([n, np.ones((len(n), 1))], 1))
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _pair_hypotheses(tracks: Tracks, most: int | None = 8) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of observations of the same track: all of them for short tracks (or without `most`), `most` spread ones for long tracks."""
    start = np.searchsorted(tracks.track, np.arange(tracks.count))
    length = np.bincount(tracks.track, minlength=tracks.count)
    first, second = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for n in np.unique(length):
        ids = start[length == n]
        i, j = np.triu_indices(int(n), 1)
        if most is not None and len(i) > most:  # the pairs farthest apart in photo order come first, then evenly over the rest
            pick = np.argsort(-(j - i), kind="stable")[np.linspace(0, len(i) - 1, most).astype(int)]
            i, j = i[pick], j[pick]
        first.append((ids[:, None] + i).ravel())
        second.append((ids[:, None] + j).ravel())
    return np.concatenate(first), np.concatenate(second)


def triangulate(
    rig: Rig, tracks: Tracks, threshold: float = 4.0, min_angle: float = 0.0
) -> tuple[Float[np.ndarray, "T 3"], Bool[np.ndarray, "O"]]:
    """Robust points: each track's best two-ray hypothesis (most agreeing observations), then Gauss-Newton on what agrees.

    Args:
        threshold: an observation agrees when its error is below this many sigmas.
        min_angle: radians; points whose widest pair of agreeing rays is narrower have no agreeing observation.

    Returns:
        Points (NaN where there is none) and which observations agree. All views of `tracks` must be placed.
    """
    if tracks.count == 0:
        return np.zeros((0, 3)), np.zeros(0, dtype=bool)
    rays, centers = _rays(rig, tracks), rig.centers[tracks.view]
    a, b = _pair_hypotheses(tracks)
    xyz, fine = _midpoint(centers[a], rays[a], centers[b], rays[b])
    # every hypothesis against every observation of its track
    start = np.searchsorted(tracks.track, np.arange(tracks.count))
    length = np.bincount(tracks.track, minlength=tracks.count)
    owner = tracks.track[a]
    reps = length[owner]
    hyp = np.repeat(np.arange(len(a)), reps)
    obs = start[owner][hyp] + (np.arange(len(hyp)) - np.repeat(np.cumsum(reps) - reps, reps))
    gain = 1 - np.minimum((_errors(rig, tracks, obs, xyz[hyp]) / threshold) ** 2, 1)
    total = np.bincount(hyp, weights=gain, minlength=len(a)) * fine
    order = np.lexsort((-total, owner))
    best = order[np.searchsorted(owner[order], np.arange(tracks.count))]
    points = np.where((total[best] > 0)[:, None], xyz[best], np.nan)
    everything = np.arange(len(tracks.view))
    good = _errors(rig, tracks, everything, points[tracks.track]) < threshold
    points = _polish(rig, tracks, points, good)
    good = _errors(rig, tracks, everything, points[tracks.track]) < threshold
    good &= np.bincount(tracks.track[good], minlength=tracks.count)[tracks.track] >= 2
    if min_angle > 0:
        good &= (triangulation_angles(rig, tracks, points, good) >= min_angle)[tracks.track]
    points[np.bincount(tracks.track[good], minlength=tracks.count) < 2] = np.nan
    return points, good


def triangulation_angles(rig: Rig, tracks: Tracks, points: np.ndarray, good: np.ndarray) -> Float[np.ndarray, "T"]:
    """Largest angle, radians, between two agreeing rays of a point (over its neighbouring pairs and the extremes); 0 without two."""
    d = rig.centers[tracks.view] - points[tracks.track]
    d = d / np.linalg.norm(d, axis=1, keepdims=True)
    a, b = _pair_hypotheses(tracks)
    cos = np.where(good[a] & good[b], (d[a] * d[b]).sum(1), 1.0)
    cos = np.where(np.isfinite(cos), cos, 1.0)
    least = np.ones(tracks.count)
    np.minimum.at(least, tracks.track[a], cos)
    return np.arccos(np.clip(least, -1, 1))


def nearest_angles(rig: Rig, tracks: Tracks, points: np.ndarray, good: np.ndarray) -> Float[np.ndarray, "O"]:
    """Per observation the smallest angle, radians, to another agreeing ray of its point; pi where there is none."""
    d = rig.centers[tracks.view] - points[tracks.track]
    d = d / np.linalg.norm(d, axis=1, keepdims=True)
    a, b = _pair_hypotheses(tracks, most=None)  # all: the nearest ray is any of them
    cos = (d[a] * d[b]).sum(1)
    cos = np.where(good[a] & good[b] & np.isfinite(cos), cos, -1.0)
    best = np.full(len(tracks.view), -1.0)
    np.maximum.at(best, a, cos)
    np.maximum.at(best, b, cos)
    return np.arccos(np.clip(best, -1, 1))


def _midpoint(ca: np.ndarray, da: np.ndarray, cb: np.ndarray, db: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The point nearest to two rays, and whether it lies in front of both and the rays are not parallel."""
    w = cb - ca
    cos = (da * db).sum(1)
    det = 1 - cos * cos
    safe = np.where(det > 1e-12, det, 1.0)
    s = ((w * da).sum(1) - cos * (w * db).sum(1)) / safe
    u = (cos * (w * da).sum(1) - (w * db).sum(1)) / safe
    return (ca + s[:, None] * da + cb + u[:, None] * db) / 2, (det > 1e-12) & (s > 0) & (u > 0)


def _errors(rig: Rig, tracks: Tracks, obs: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """Reprojection error in sigmas; infinite for missing points."""
    uv, _ = project(rig, tracks.view[obs], xyz)
    e = np.linalg.norm(uv - tracks.uv[obs], axis=1) / tracks.sigma[obs]
    return np.where(np.isfinite(e), e, np.inf)


def _polish(rig: Rig, tracks: Tracks, points: np.ndarray, good: np.ndarray, steps: int = 3) -> np.ndarray:
    """Gauss-Newton on the points alone over the agreeing observations (the distortion's derivative is left out: it is tiny)."""
    view, track = tracks.view[good], tracks.track[good]
    for _ in range(steps):
        p = np.einsum("oij,oj->oi", rig.R[view], points[track]) + rig.t[view]
        uv, z = project(rig, view, points[track])
        r = (uv - tracks.uv[good]) / tracks.sigma[good][:, None]
        scale = rig.scale(view) / (np.where(z > 1e-9, z, 1e-9) * tracks.sigma[good])[:, None]
        J = scale[:, :, None] * (rig.R[view][:, :2] - (p[:, :2] / np.where(z > 1e-9, z, 1e-9)[:, None])[:, :, None] * rig.R[view][:, 2:])
        ok = np.isfinite(r).all(1) & (z > 1e-9)
        H, g = np.zeros((tracks.count, 3, 3)), np.zeros((tracks.count, 3))
        JJ, Jr = np.einsum("oki,okj->oij", J[ok], J[ok]), np.einsum("oki,ok->oi", J[ok], r[ok])
        for i in range(3):
            g[:, i] = np.bincount(track[ok], weights=Jr[:, i], minlength=tracks.count)
            for j in range(3):
                H[:, i, j] = np.bincount(track[ok], weights=JJ[:, i, j], minlength=tracks.count)
        trace = np.trace(H, axis1=1, axis2=2)
        H += (1e-9 * trace + 1e-30)[:, None, None] * np.eye(3)
        step = np.linalg.solve(H, g[..., None])[..., 0]
        depth = np.full(tracks.count, np.inf)
        np.minimum.at(depth, track, np.where(z > 0, z, np.inf))
        limit = 0.3 * depth / np.maximum(np.linalg.norm(step, axis=1), 1e-30)  # never through a camera
        points = points - np.minimum(limit, 1.0)[:, None] * np.where(np.isfinite(step), step, 0.0)
    return points
