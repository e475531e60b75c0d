"""Made-up cameras around made-up points, as the primitives take them; and slow, plain twins of what they compute."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from handful.pipelines.init.geometry import Rig, project, rotation_exp
from handful.pipelines.init.tracks import Tracks

SIZE = (640, 480)


def rig_around(views: int = 4, focal: float = 500.0, k1: float = 0.0, spread: float = 40.0, seed: int = 0) -> Rig:
    """Cameras on an arc of `spread` degrees, about 5 units from the origin, all looking at it, a little shaken; y is down, as in photos."""
    rng = np.random.default_rng(seed)
    R, t = np.zeros((views, 3, 3)), np.zeros((views, 3))
    for v, a in enumerate(np.radians(np.linspace(-spread / 2, spread / 2, views))):
        center = 5 * np.array([math.sin(a), 0.15 * rng.uniform(-1, 1), -math.cos(a)]) * rng.uniform(0.9, 1.1)
        z = -center / np.linalg.norm(center)
        x = np.cross([0, 1, 0], z)
        x /= np.linalg.norm(x)
        R[v] = rotation_exp(rng.normal(0, 0.03, (1, 3)))[0] @ np.stack([x, np.cross(z, x), z])
        t[v] = -R[v] @ center
    all_views = np.ones(views)
    return Rig(R, t, all_views > 0, focal * all_views, k1 * all_views, np.tile(np.array(SIZE) / 2, (views, 1)), all_views)


def points_inside(count: int = 60, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3))


def seen_by(rig: Rig, xyz: np.ndarray, noise: float = 0.0, share: float = 1.0, sigma: float = 1.0, seed: int = 2) -> Tracks:
    """Each photo sees each point with probability `share` (two photos always do), `noise` pixels off."""
    rng = np.random.default_rng(seed)
    views = len(rig.t)
    seen = rng.random((len(xyz), views)) < share
    for row in seen:
        row[rng.permutation(views)[:2]] = True
    track, view = np.nonzero(seen)
    uv = project(rig, view, xyz[track])[0] + noise * rng.normal(size=(len(track), 2))
    return Tracks(view, track.copy(), track, uv, np.full(len(track), sigma), len(xyz))


def with_outliers(tracks: Tracks, share: float, pixels: float, seed: int = 3) -> tuple[Tracks, np.ndarray]:
    """A share of the observations moved by `pixels` in a random direction; which they are. At most one in a track, none in tracks of two."""
    rng = np.random.default_rng(seed)
    length = np.bincount(tracks.track, minlength=tracks.count)
    wrong = np.zeros(len(tracks.view), dtype=bool)
    spoilt: set[int] = set()
    for o in rng.permutation(len(wrong)):
        t = int(tracks.track[o])
        if wrong.sum() < share * len(wrong) and length[t] >= 4 and t not in spoilt:
            wrong[o] = True
            spoilt.add(t)
    a = rng.uniform(0, 2 * np.pi, len(wrong))
    return replace(tracks, uv=tracks.uv + wrong[:, None] * pixels * np.stack([np.cos(a), np.sin(a)], 1)), wrong


def shaken(rig: Rig, degrees: float, shift: float, seed: int = 4, first: int = 1) -> Rig:
    """The same cameras with the poses from `first` on turned and moved at random."""
    rng = np.random.default_rng(seed)
    n = len(rig.t)
    turn, move = np.radians(degrees) * rng.uniform(-1, 1, (n, 3)), shift * rng.uniform(-1, 1, (n, 3))
    turn[:first], move[:first] = 0, 0
    E = rotation_exp(turn)
    return replace(rig, R=E @ rig.R, t=np.einsum("vij,vj->vi", E, rig.t) + move)


def pixel_of(rig: Rig, v: int, X: np.ndarray) -> tuple[float, float, float]:
    """Pixel and depth of one point, written out by hand; infinite pixels behind the camera."""
    p = [sum(float(rig.R[v, i, j]) * float(X[j]) for j in range(3)) + float(rig.t[v, i]) for i in range(3)]
    if not p[2] > 0:
        return math.inf, math.inf, p[2]
    a, b = p[0] / p[2], p[1] / p[2]
    bend = 1 + float(rig.k1[v]) * (a * a + b * b)
    f = float(rig.focal[v])
    return f * bend * a + float(rig.center[v, 0]), f * float(rig.aspect[v]) * bend * b + float(rig.center[v, 1]), p[2]


def rms_px(rig: Rig, tracks: Tracks, points: np.ndarray) -> float:
    d = project(rig, tracks.view, points[tracks.track])[0] - tracks.uv
    return float(np.sqrt((d * d).sum(1).mean()))


def turn_between(A: np.ndarray, B: np.ndarray) -> float:
    """Angle between two rotations, degrees (exact near zero, where the trace is not)."""
    return float(np.degrees(2 * np.arcsin(min(1.0, np.linalg.norm(A - B) / np.sqrt(8)))))


def relative(rig: Rig, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Photo j from photo i: rotation and unit translation."""
    R = rig.R[j] @ rig.R[i].T
    t = rig.t[j] - R @ rig.t[i]
    return R, t / np.linalg.norm(t)
