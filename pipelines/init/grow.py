"""From a pair of photos to all of them: register, triangulate, adjust, score. One hypothesis at a time, cheap enough to try many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ...data.pycolmap_bridge import absolute_pose
from .bundle import BundleOptions, adjust
from .geometry import Rig, project, triangulate
from .tracks import MatchGraph, Tracks
from .twoview import PairPose, epipolar_agreement, pair_hypotheses

__all__ = ["Model", "Scene", "evaluate", "grow", "settle", "start_rig"]

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


class Scene:
    """What all hypotheses about one capture share: links, tracks, and relative poses of pairs, found when first asked for."""

    def __init__(self, graph: MatchGraph, tracks: Tracks, size: tuple[int, int], camera_of: np.ndarray, error_px: float, seed: int) -> None:
        self.graph, self.tracks, self.size, self.camera_of, self.error_px, self.seed = graph, tracks, size, camera_of, error_px, seed
        self.pair_index = {p: n for n, p in enumerate(graph.pairs)}
        self._poses: dict[tuple[int, int, float, float], list[PairPose]] = {}

    def links(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of the links of two photos, in that order; empty when they have none."""
        n = self.pair_index.get((min(i, j), max(i, j)))
        if n is None:
            return np.zeros((0, 2)), np.zeros((0, 2))
        a, b = self.graph.links[n].T
        uv = self.graph.uv[min(i, j)][a], self.graph.uv[max(i, j)][b]
        return uv if i < j else uv[::-1]

    def poses(self, i: int, j: int, focals: tuple[float, float]) -> list[PairPose]:
        """Hypotheses of photo j from photo i for focal lengths near these (steps of 4 %)."""
        near = tuple(float(np.exp(np.round(np.log(f) / 0.04) * 0.04)) for f in focals)
        key = (i, j, near[0], near[1])
        if key not in self._poses:
            uv0, uv1 = self.links(i, j)
            self._poses[key] = pair_hypotheses(uv0, uv1, self.size, (near[0], near[1]), self.error_px, self.seed)
        return self._poses[key]


def start_rig(views: int, size: tuple[int, int], focals: np.ndarray, i: int, j: int, R: np.ndarray, t: np.ndarray) -> Rig:
    """Photo i at the origin, photo j by the pair's pose."""
    w, h = size
    center = np.tile([w / 2, h / 2], (views, 1))
    rig = Rig(np.tile(np.eye(3), (views, 1, 1)), np.zeros((views, 3)), np.zeros(views, dtype=bool), focals, np.zeros(views), center, np.ones(views))
    return rig.with_pose(i, np.eye(3), np.zeros(3)).with_pose(j, R, t)


def evaluate(rig: Rig, tracks: Tracks, agree: float = AGREE) -> Model:
    """Triangulates the tracks of the placed photos and scores.

    The score sums, over points, (2n - 3) x mean quality, with n agreeing observations and quality 1 - (error / limit)^2: 2n - 3 counts the measurements
    beyond those that the point itself uses up, so a point seen by three photos is worth three times one that two photos see.
    """
    t = tracks.select(rig.placed[tracks.view])
    points, good = triangulate(rig, t, agree, MIN_ANGLE)
    uv, _ = project(rig, t.view, points[t.track])
    e = np.linalg.norm(uv - t.uv, axis=1) / t.sigma
    quality = np.where(good, 1 - np.minimum(e / agree, 1) ** 2, 0.0)
    n = np.bincount(t.track[good], minlength=t.count)
    total = np.bincount(t.track, weights=np.nan_to_num(quality), minlength=t.count)
    return Model(rig, t, points, good, float((total * np.maximum(2 * n - 3, 0) / np.maximum(n, 1)).sum()))


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


def grow(model: Model, scene: Scene, tracks: Tracks, options: BundleOptions, min_inliers: int = 12, most: int = 1000) -> Model:
    """Adds photo after photo, the best supported first, until none can be added or `most` are placed.

    Args:
        tracks: those to use (a selection of the scene's, to be quick).
    """
    refused: set[int] = set()
    while model.placed < most:
        found = [(n, v, R, t) for v in _candidates(model, scene, refused) for n, R, t in [_best_pose(model, scene, tracks, v)] if n >= min_inliers]
        if not found:
            return model
        _, view, R, t = max(found, key=lambda f: f[0])
        grown = settle(evaluate(model.rig.with_pose(view, R, t), tracks), tracks, options, scene.camera_of, (3 * AGREE, AGREE))
        if grown.score > model.score and grown.support[view] >= min_inliers:
            model, refused = grown, set()
        else:
            refused.add(view)
    return model


def _candidates(model: Model, scene: Scene, refused: set[int], most: int = 3) -> list[int]:
    """Photos not placed, by the number of their links with placed ones; at most `most`."""
    counts = np.zeros(len(model.rig.t), dtype=int)
    for (i, j), link in zip(scene.graph.pairs, scene.graph.links, strict=True):
        for v, other in ((i, j), (j, i)):
            if model.rig.placed[other] and not model.rig.placed[v]:
                counts[v] += len(link)
    return [int(v) for v in np.argsort(-counts, kind="stable") if counts[v] > 0 and int(v) not in refused][:most]


def _best_pose(model: Model, scene: Scene, tracks: Tracks, view: int) -> tuple[int, np.ndarray, np.ndarray]:
    """The best supported pose of a photo: from the points it sees, and from its relative poses to pairs of placed photos.

    Support = links with placed photos that agree with it. The second kind needs no point seen three times: where every pair sees other things, the
    directions to two placed photos still cross in one place.
    """
    proposals = _by_points(model, scene, tracks, view) + _by_directions(model, scene, view)
    best = (0, np.eye(3), np.zeros(3))
    for R, t in proposals:
        n = _link_support(model.rig, scene, view, R, t)
        if n > best[0]:
            best = (n, R, t)
    return best


def _link_support(rig: Rig, scene: Scene, view: int, R: np.ndarray, t: np.ndarray) -> int:
    total = 0
    for a in np.flatnonzero(rig.placed):
        uv0, uv1 = scene.links(int(a), view)
        if len(uv0):
            rel = R @ rig.R[a].T
            total += int(epipolar_agreement(rel, t - rel @ rig.t[a], uv0, uv1, scene.size, (rig.focal[a], rig.focal[view]), scene.error_px).sum())
    return total


def _by_points(model: Model, scene: Scene, tracks: Tracks, view: int) -> list[tuple[np.ndarray, np.ndarray]]:
    span = int(tracks.keypoint.max(initial=0)) + 1
    key = tracks.view.astype(np.int64) * span + tracks.keypoint
    order = np.argsort(key)
    mine = model.tracks.view.astype(np.int64) * span + model.tracks.keypoint
    at = order[np.searchsorted(key[order], mine)]  # the model numbers its tracks anew; (view, keypoint) is unique
    xyz = np.full((tracks.count, 3), np.nan)
    xyz[tracks.track[at]] = model.points[model.tracks.track]
    pick = np.flatnonzero((tracks.view == view) & np.isfinite(xyz[tracks.track]).all(1))
    found = absolute_pose(tracks.uv[pick], xyz[tracks.track[pick]], scene.size, float(model.rig.focal[view]), 1.5 * scene.error_px, scene.seed)
    return [] if found is None else [(found[0], found[1])]


def _by_directions(model: Model, scene: Scene, view: int, most: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    rig = model.rig
    placed = sorted((int(a) for a in np.flatnonzero(rig.placed)), key=lambda a: -len(scene.links(a, view)[0]))[:most]
    rays = []  # (placed photo, rotation of the view, direction to its centre)
    for a in placed:
        for h in scene.poses(a, view, (float(rig.focal[a]), float(rig.focal[view]))) if len(scene.links(a, view)[0]) >= 12 else []:
            rays.append((a, h.R @ rig.R[a], -rig.R[a].T @ h.R.T @ h.t))
    proposals = []
    for x in range(len(rays)):
        for y in range(x + 1, len(rays)):
            (a, Ra, da), (b, Rb, db) = rays[x], rays[y]
            if a == b or np.trace(Ra @ Rb.T) < 1 + 2 * np.cos(np.radians(8)):
                continue
            center = _crossing(rig.centers[a], da, rig.centers[b], db)
            if center is not None:
                proposals.extend((R, -R @ center) for R in (Ra, Rb))
    return proposals


def _crossing(ca: np.ndarray, da: np.ndarray, cb: np.ndarray, db: np.ndarray) -> np.ndarray | None:
    """Where two rays pass nearest to each other; None when they are near-parallel or point apart."""
    w, cos = cb - ca, float(da @ db)
    det = 1 - cos * cos
    if det < np.sin(np.radians(4)) ** 2:
        return None
    s, u = (w @ da - cos * (w @ db)) / det, (cos * (w @ da) - w @ db) / det
    return (ca + s * da + cb + u * db) / 2 if s > 0 and u > 0 else None
