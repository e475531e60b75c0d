"""A hypothesis about where the cameras stand: its points, which observations agree, how much the photos support it; and its adjustment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from .bundle import BundleOptions, adjust
from .geometry import Rig, nearest_angles, project, triangulate
from .tracks import Tracks

__all__ = ["AGREE", "Model", "disagreement", "evaluate", "plausibility", "settle", "start_rig"]

AGREE = 4.0  # sigmas: an observation farther from its point does not count
MIN_ANGLE = np.radians(0.5)


@dataclass(frozen=True)
class Model:
    """A hypothesis with its points.

    Attributes:
        rig: cameras.
        tracks: the observations of placed photos.
        points: one per track, NaN where there is none; `good` observations agree with their point.
        score: how much the photos support it, see `evaluate`.
    """

    rig: Rig
    tracks: Tracks
    points: Float[np.ndarray, "T 3"]
    good: Bool[np.ndarray, "O"]
    score: float

    @property
    def support(self) -> np.ndarray:
        """Agreeing observations per photo."""
        return np.bincount(self.tracks.view[self.good], minlength=len(self.rig.t))

    @property
    def placed(self) -> int:
        return int(self.rig.placed.sum())


def start_rig(views: int, size: tuple[int, int], focals: np.ndarray, i: int, j: int, R: np.ndarray, t: np.ndarray) -> Rig:
    """Photo i at the origin, photo j by the pair's pose."""
    w, h = size
    center = np.tile([w / 2, h / 2], (views, 1))
    rig = Rig(np.tile(np.eye(3), (views, 1, 1)), np.zeros((views, 3)), np.zeros(views, dtype=bool), focals, np.zeros(views), center, np.ones(views))
    return rig.with_pose(i, np.eye(3), np.zeros(3)).with_pose(j, R, t)


def evaluate(rig: Rig, tracks: Tracks, agree: float = AGREE) -> Model:
    """Triangulates the tracks of the placed photos and scores.

    The score sums, over points, (2n - 3) x mean quality, with n agreeing observations and quality 1 - (error / limit)^2: 2n - 3 counts the measurements
    beyond those that the point itself uses up, so a point seen by three photos is worth three times one that two photos see. Observations from directions
    so far apart that no matcher recognises a point (`plausibility`) count little: in a wrong place repeated things seem to be recognised from anywhere.
    """
    t = tracks.select(rig.placed[tracks.view])
    points, good = triangulate(rig, t, agree, MIN_ANGLE)
    uv, _ = project(rig, t.view, points[t.track])
    e = np.linalg.norm(uv - t.uv, axis=1) / t.sigma
    quality = np.where(good, 1 - np.minimum(e / agree, 1) ** 2, 0.0) * plausibility(nearest_angles(rig, t, points, good))
    n = np.bincount(t.track[good], minlength=t.count)
    total = np.bincount(t.track, weights=np.nan_to_num(quality), minlength=t.count)
    return Model(rig, t, points, good, float((total * np.maximum(2 * n - 3, 0) / np.maximum(n, 1)).sum()))


def plausibility(angle: np.ndarray) -> np.ndarray:
    """How likely a matcher recognises a point from directions `angle` radians apart: up to 80 degrees as well as from near, hardly from 120 on."""
    return np.clip((120 - np.degrees(angle)) / 40, 0.15, 1.0)


def disagreement(model: Model, limit: float = AGREE) -> float:
    """Mean over all observations of half the squared error in sigmas, cut off at `limit`: unlike the adjustment's cost it counts what does not fit."""
    uv, _ = project(model.rig, model.tracks.view, model.points[model.tracks.track])
    e = np.linalg.norm(uv - model.tracks.uv, axis=1) / model.tracks.sigma
    return float(0.5 * (np.minimum(np.where(np.isfinite(e), e, limit), limit) ** 2).mean()) if len(e) else np.inf


def settle(model: Model, tracks: Tracks, options: BundleOptions, camera_of: np.ndarray, limits: tuple[float, ...] = (AGREE,)) -> Model:
    """Adjusts and triangulates anew, once per limit; wide limits first let a wrong scale heal that a narrow limit would freeze."""
    for limit in limits:
        wide = model if limit == AGREE else evaluate(model.rig, tracks, limit)
        if wide.good.sum() < 8:
            return model
        kept = wide.tracks.select(wide.good)
        has = np.bincount(wide.tracks.track[wide.good], minlength=wide.tracks.count) >= 2
        rig, _, _ = adjust(wide.rig, kept, wide.points[has], options, camera_of)
        model = evaluate(rig, tracks)
    return model
