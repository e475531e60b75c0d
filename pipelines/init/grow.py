"""From a pair of photos to all of them: register, triangulate, adjust, score. One hypothesis at a time, cheap enough to try many."""

from __future__ import annotations

import numpy as np

from ...data.pycolmap_bridge import absolute_pose
from .bundle import BundleOptions
from .evidence import doubtful
from .geometry import Rig, project
from .model import AGREE, Model, evaluate, plausibility, settle
from .scene import Scene, agreeing
from .tracks import Tracks
from .twoview import ray_angles

PLENTY = 100  # known points found in their place: no other way to place the photo need be tried

__all__ = ["grow"]


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

    def hits(R: np.ndarray, t: np.ndarray) -> int:
        there, _ = project(model.rig.with_pose(view, R, t), np.full(len(pick), view), xyz)
        return int((np.linalg.norm(there - uv, axis=1) < 1.5 * scene.error_px).sum())

    proposals = _by_points(model, scene, uv, xyz, view)
    if max((hits(R, t) for R, t in proposals), default=0) < PLENTY:
        proposals += _by_directions(model, scene, view) + _by_one_photo(model, scene, uv, xyz, view)
    ranked = []
    for R, t in proposals:
        ranked.append((_link_support(model.rig, scene, view, R, t) + hits(R, t), view, R, t))
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
            fits = agreeing(there, scene, int(a), view)
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
