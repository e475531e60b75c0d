"""From a pair of photos to all of them: register, triangulate, adjust, score. One hypothesis at a time, cheap enough to try many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ...data.pycolmap_bridge import absolute_pose
from .bundle import BundleOptions
from .geometry import Rig, project
from .model import AGREE, Model, evaluate, plausibility, settle
from .subpixel import SHARP_PX
from .tracks import MatchGraph, Tracks
from .twoview import PairPose, epipolar_agreement, pair_hypotheses, ray_angles
from .witness import refutes

__all__ = ["Scene", "doubtful", "grow"]


class Scene:
    """What all hypotheses about one capture share: links, tracks, photos, and relative poses of pairs, found when first asked for."""

    def __init__(
        self,
        graph: MatchGraph,
        tracks: Tracks,
        size: tuple[int, int],
        camera_of: np.ndarray,
        error_px: float,
        seed: int,
        grey: Sequence[Tensor] = (),
    ) -> None:
        """`grey`: the photos, H,W each; without them no place is checked against what the photo shows."""
        self.graph, self.tracks, self.size, self.camera_of, self.error_px, self.seed, self.grey = graph, tracks, size, camera_of, error_px, seed, grey
        self.pair_index = {p: n for n, p in enumerate(graph.pairs)}
        self.fine = self._fine_links()
        self._poses: dict[tuple[int, int, float, float], list[PairPose]] = {}

    def links(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of the links of two photos, in that order; empty when they have none."""
        n = self.pair_index.get((min(i, j), max(i, j)))
        if n is None:
            return np.zeros((0, 2)), np.zeros((0, 2))
        a, b = self.graph.links[n].T
        uv = self.graph.uv[min(i, j)][a], self.graph.uv[max(i, j)][b]
        return uv if i < j else (uv[1], uv[0])

    def _fine_links(self) -> np.ndarray:
        """Per pair: links whose two keypoints are one track and could be aligned. Photos that only seem to show the same thing have few."""
        node = [np.full(len(u), -1) for u in self.graph.uv]
        for v in range(len(node)):
            mine = self.tracks.view == v
            node[v][self.tracks.keypoint[mine]] = self.tracks.track[mine]
        counts = []
        for (i, j), link in zip(self.graph.pairs, self.graph.links, strict=True):
            a, b = link.T
            fine = np.maximum(self.graph.sigma[i][a], self.graph.sigma[j][b]) <= SHARP_PX
            counts.append(int((fine & (node[i][a] == node[j][b]) & (node[i][a] >= 0)).sum()))
        return np.array(counts, dtype=int)

    def firm(self, i: int, j: int) -> bool:
        """Whether the two photos surely show the same thing: many links, and enough of them alike pixel for pixel."""
        n = self.pair_index.get((min(i, j), max(i, j)))
        return n is not None and self.fine[n] >= 40 and self.fine[n] >= 0.25 * len(self.graph.links[n])

    def poses(self, i: int, j: int, focals: tuple[float, float]) -> list[PairPose]:
        """Hypotheses of photo j from photo i for focal lengths near these (steps of 4 %)."""
        near = tuple(float(np.exp(np.round(np.log(f) / 0.04) * 0.04)) for f in focals)
        key = (i, j, near[0], near[1])
        if key not in self._poses:
            uv0, uv1 = self.links(i, j)
            self._poses[key] = pair_hypotheses(uv0, uv1, self.size, (near[0], near[1]), self.error_px, self.seed)
        return self._poses[key]


def grow(model: Model, scene: Scene, tracks: Tracks, options: BundleOptions, min_inliers: int = 12, most: int = 1000) -> Model:
    """Adds photo after photo, the best supported first, until none can be added or `most` are placed.

    Args:
        tracks: those to use (a selection of the scene's, to be quick).
    """
    refused: set[int] = set()
    while model.placed < most:
        proposals = [p for v in _candidates(model, scene, refused) for p in _poses_of(model, scene, tracks, v) if p[0] >= min_inliers]
        if not proposals:
            return model
        proposals.sort(key=lambda p: -p[0])
        grown = _first_that_holds(model, scene, tracks, options, proposals[:6], min_inliers)
        if grown is None:
            refused |= {p[1] for p in proposals}
        else:
            model, refused = grown, set()
    return model


def _first_that_holds(
    model: Model, scene: Scene, tracks: Tracks, options: BundleOptions, proposals: list[tuple[float, int, np.ndarray, np.ndarray]], min_inliers: int
) -> Model | None:
    """The first proposal that raises the score, keeps its photo's support, and is not refuted by what the photos show."""
    for _, view, R, t in proposals:
        grown = settle(evaluate(model.rig.with_pose(view, R, t), tracks), tracks, options, scene.camera_of, (3 * AGREE, AGREE))
        if grown.score <= model.score or grown.support[view] < min_inliers:
            continue
        if not doubtful(grown, view, scene):
            return grown
    return None


def doubtful(model: Model, view: int, scene: Scene) -> bool:
    """Whether the photos refute a place that no firm pair vouches for."""
    if not scene.grey:
        return False
    for a in np.flatnonzero(model.rig.placed):
        if a != view and scene.firm(int(a), view) and _agreeing(model.rig, scene, int(a), view).mean() > 0.6:
            return False
    return refutes(model, view, scene.grey)


def _agreeing(rig: Rig, scene: Scene, a: int, view: int) -> np.ndarray:
    """Which links of two placed photos agree with their cameras."""
    uv0, uv1 = scene.links(a, view)
    R = rig.R[view] @ rig.R[a].T
    t = rig.t[view] - R @ rig.t[a]
    return epipolar_agreement(R, t, uv0, uv1, scene.size, (float(rig.focal[a]), float(rig.focal[view])), scene.error_px)


def _candidates(model: Model, scene: Scene, refused: set[int], most: int = 3) -> list[int]:
    """Photos not placed, by the number of their links with placed ones; at most `most`."""
    counts = np.zeros(len(model.rig.t), dtype=int)
    for (i, j), link in zip(scene.graph.pairs, scene.graph.links, strict=True):
        for v, other in ((i, j), (j, i)):
            if model.rig.placed[other] and not model.rig.placed[v]:
                counts[v] += len(link)
    return [int(v) for v in np.argsort(-counts, kind="stable") if counts[v] > 0 and int(v) not in refused][:most]


def _poses_of(model: Model, scene: Scene, tracks: Tracks, view: int, most: int = 3) -> list[tuple[float, int, np.ndarray, np.ndarray]]:
    """(support, view, R, t) of the best supported places of a photo, those alike counted once.

    They come from the points it sees; from its relative poses to pairs of placed photos (where every pair sees other things, the directions to two placed
    photos still cross in one place); and from its relative pose to one placed photo (only the distance is then unknown, and a few points tell it).
    Support = links with placed photos that agree, and known points found in their place.
    """
    pick, xyz = _known_points(model, tracks, view)
    uv = tracks.uv[pick]
    proposals = _by_points(model, scene, uv, xyz, view) + _by_directions(model, scene, view) + _by_one_photo(model, scene, uv, xyz, view)
    ranked = []
    for R, t in proposals:
        there, _ = project(model.rig.with_pose(view, R, t), np.full(len(pick), view), xyz)
        hits = int((np.linalg.norm(there - uv, axis=1) < 1.5 * scene.error_px).sum())
        ranked.append((_link_support(model.rig, scene, view, R, t) + hits, view, R, t))
    ranked.sort(key=lambda p: -p[0])
    kept: list[tuple[float, int, np.ndarray, np.ndarray]] = []
    spread = max(float(np.ptp(model.rig.centers[model.rig.placed], axis=0).max()), 1e-9)
    for p in ranked:
        c = -p[2].T @ p[3]
        near = [q for q in kept if np.trace(p[2] @ q[2].T) > 1 + 2 * np.cos(np.radians(5)) and np.linalg.norm(c + q[2].T @ q[3]) < 0.1 * spread]
        if not near:
            kept.append(p)
    return kept[:most]


def _link_support(rig: Rig, scene: Scene, view: int, R: np.ndarray, t: np.ndarray) -> float:
    """Links with placed photos that agree with this place, each by how plausible it is that it was recognised from there."""
    there, total = rig.with_pose(view, R, t), 0.0
    for a in np.flatnonzero(rig.placed):
        uv0, uv1 = scene.links(int(a), view)
        if len(uv0):
            fits = _agreeing(there, scene, int(a), view)
            angles = ray_angles(R @ rig.R[a].T, uv0[fits], uv1[fits], scene.size, (float(rig.focal[a]), float(rig.focal[view])))
            total += float(plausibility(angles).sum())
    return total


def _known_points(model: Model, tracks: Tracks, view: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations of a photo (indices into `tracks`) whose point the model knows, and the points."""
    span = int(tracks.keypoint.max(initial=0)) + 1
    key = tracks.view.astype(np.int64) * span + tracks.keypoint
    order = np.argsort(key)
    mine = model.tracks.view.astype(np.int64) * span + model.tracks.keypoint
    at = order[np.searchsorted(key[order], mine)]  # the model numbers its tracks anew; (view, keypoint) is unique
    xyz = np.full((tracks.count, 3), np.nan)
    xyz[tracks.track[at]] = model.points[model.tracks.track]
    pick = np.flatnonzero((tracks.view == view) & np.isfinite(xyz[tracks.track]).all(1))
    return pick, xyz[tracks.track[pick]]


def _by_points(model: Model, scene: Scene, uv: np.ndarray, xyz: np.ndarray, view: int, most: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    """Poses from known points: of all, then of those that do not fit the first pose, ..."""
    poses: list[tuple[np.ndarray, np.ndarray]] = []
    while len(poses) < most:
        found = absolute_pose(uv, xyz, scene.size, float(model.rig.focal[view]), 1.5 * scene.error_px, scene.seed)
        if found is None or found[2].sum() < 8:
            break
        poses.append((found[0], found[1]))
        uv, xyz = uv[~found[2]], xyz[~found[2]]
    return poses


def _by_one_photo(model: Model, scene: Scene, uv: np.ndarray, xyz: np.ndarray, view: int, most: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    """Relative pose to a placed photo; its unknown distance is the one at which most known points come to lie where they are seen."""
    rig, poses = model.rig, []
    placed = sorted((int(a) for a in np.flatnonzero(rig.placed)), key=lambda a: -len(scene.links(a, view)[0]))[:most]
    focal, (w, h) = float(rig.focal[view]), scene.size
    ray = np.concatenate([(uv - [w / 2, h / 2]) / focal, np.ones((len(uv), 1))], 1)
    for a in placed:
        if len(scene.links(a, view)[0]) < 20 or len(uv) < 4:
            continue
        for pose in scene.poses(a, view, (float(rig.focal[a]), focal))[:2]:
            R = pose.R @ rig.R[a]
            inside = (xyz @ rig.R[a].T + rig.t[a]) @ pose.R.T  # the point in the view's axes, but for s t
            # ray x (inside + s t) = 0: one s per point
            c0, ct = np.cross(ray, inside), np.cross(ray, np.broadcast_to(pose.t, ray.shape))
            s = -(c0 * ct).sum(1) / np.maximum((ct**2).sum(1), 1e-12)
            residual = np.linalg.norm(c0 + s[:, None] * ct, axis=1) / np.maximum(np.linalg.norm(ray, axis=1) * np.linalg.norm(inside, axis=1), 1e-12)
            s = s[(s > 1e-9) & (residual * focal < 1.5 * scene.error_px)]
            if len(s) < 4:
                continue
            votes = (np.abs(np.log(s)[:, None] - np.log(s)[None]) < 0.1).sum(1)
            best = int(votes.argmax())
            if votes[best] >= 4:
                scale = float(np.median(s[np.abs(np.log(s) - np.log(s[best])) < 0.1]))
                poses.append((R, pose.R @ rig.t[a] + scale * pose.t))
    return poses


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
