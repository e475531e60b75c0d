"""The world frame of estimated cameras, their points as they travel, and the numbers of the report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ...recon.camera import Cameras
from ...recon.capture import Capture
from ...recon.points import PointCloud
from ...recon.se3 import Similarity
from .geometry import Rig, project, triangulation_angles
from .model import Model

__all__ = ["MEDIAN_DEPTH", "cameras_of", "level", "level_cameras", "point_cloud", "relative_baseline", "reprojection_px"]

MEDIAN_DEPTH = 3.0


def level(model: Model) -> Model:
    """Moves the model into the world frame of estimated cameras.

    y points down (the mean of the photos' own down, so that the scene stands upright), z along the mean viewing direction where there is one (else along the
    first photo's), the origin is the median point, and the median depth of the points is `MEDIAN_DEPTH` units.
    """
    rig, placed = model.rig, np.flatnonzero(model.rig.placed)
    world = _upright(rig.R[placed])
    has = np.isfinite(model.points).all(1)
    origin = np.median(model.points[has], 0) if has.any() else rig.centers[placed].mean(0)
    _, depth = project(rig, model.tracks.view[model.good], model.points[model.tracks.track[model.good]])
    scale = MEDIAN_DEPTH / float(np.median(depth)) if len(depth) else 1.0
    R = rig.R @ world.T
    t = (rig.t + np.einsum("vij,j->vi", rig.R, origin)) * scale
    return Model(replace(rig, R=R, t=t), model.tracks, (model.points - origin) @ world.T * scale, model.good, model.score)


def level_cameras(cameras: Cameras, points: PointCloud) -> tuple[Cameras, PointCloud]:
    """`level` for cameras and points of any similar frame. Points that a camera does not see have no part in the median depth."""
    world = torch.from_numpy(_upright(cameras.cam_from_world[:, :3, :3].double().numpy()))
    uv, depth = cameras.project(points.xyz)
    seen = (depth > 0) & (uv >= 0).all(-1) & (uv < torch.tensor([cameras.width, cameras.height])).all(-1)
    scale = MEDIAN_DEPTH / depth[seen].double().median() if bool(seen.any()) else torch.ones((), dtype=torch.float64)
    frame = Similarity(scale, world, -scale * (world @ points.xyz.double().median(0).values))
    levelled = frame.apply_to_cameras(cameras.to(dtype=torch.float64)).to(dtype=torch.float32)
    return levelled.validate(), replace(points, xyz=frame.apply(points.xyz.double()).float())


def _upright(R: np.ndarray) -> np.ndarray:
    """New axes (rows) in the old world, from the rotations of the placed cameras."""
    down = _unit(R[:, 1].mean(0), R[0, 1])
    forward = R[:, 2].mean(0)
    if np.linalg.norm(forward - (forward @ down) * down) < 0.2:  # photos all around: no common direction
        forward = R[0, 2]
    z = _unit(forward - (forward @ down) * down, np.cross(R[0, 0], down))
    return np.stack([np.cross(down, z), down, z])


def cameras_of(rig: Rig, size: tuple[int, int]) -> Cameras:
    """The placed cameras, in photo order."""
    placed = np.flatnonzero(rig.placed)
    T = np.tile(np.eye(4), (len(placed), 1, 1))
    T[:, :3, :3], T[:, :3, 3] = rig.R[placed], rig.t[placed]
    K = np.tile(np.eye(3), (len(placed), 1, 1))
    K[:, [0, 1], [0, 1]] = rig.scale(placed)
    K[:, :2, 2] = rig.center[placed]
    return Cameras(torch.from_numpy(T).float(), torch.from_numpy(K).float(), *size).validate()


def point_cloud(model: Model, capture: Capture) -> PointCloud:
    """Points with the mean colour of the photos that see them.

    Confidence falls with the reprojection error and with a narrow triangulation angle (half at 2 degrees).

    Args:
        capture: all photos, in the order of the rig.
    """
    t, good = model.tracks, model.good
    seen = np.bincount(t.track[good], minlength=t.count)
    keep = np.isfinite(model.points).all(1) & (seen >= 2)
    rgb = np.zeros((t.count, 3))
    for v in np.flatnonzero(model.rig.placed):
        pick = np.flatnonzero(good & (t.view == v))
        image = capture.views[v].image.load().numpy()
        x = np.clip(t.uv[pick].astype(int), 0, [image.shape[1] - 1, image.shape[0] - 1])
        np.add.at(rgb, t.track[pick], image[x[:, 1], x[:, 0]])
    rgb = rgb / np.maximum(seen, 1)[:, None]
    uv, _ = project(model.rig, t.view[good], model.points[t.track[good]])
    error = np.bincount(t.track[good], weights=np.linalg.norm(uv - t.uv[good], axis=1) / t.sigma[good], minlength=t.count) / np.maximum(seen, 1)
    angle = np.degrees(triangulation_angles(model.rig, t, model.points, good))
    confidence = np.exp(-0.5 * (error / 2) ** 2) * angle / (angle + 2.0)
    as_tensor = [torch.from_numpy(a[keep]).float() for a in (model.points, rgb, confidence)]
    return PointCloud(as_tensor[0], as_tensor[1].clamp(0, 1), as_tensor[2].clamp(0, 1))


def reprojection_px(model: Model) -> float | None:
    """Mean distance between agreeing observations and their projected points, pixels; None where nothing agrees."""
    uv, _ = project(model.rig, model.tracks.view[model.good], model.points[model.tracks.track[model.good]])
    return float(np.linalg.norm(uv - model.tracks.uv[model.good], axis=1).mean()) if model.good.any() else None


def relative_baseline(model: Model) -> float | None:
    """Largest distance between two placed cameras over the median depth of the points; None without points."""
    c = model.rig.centers[model.rig.placed]
    _, depth = project(model.rig, model.tracks.view[model.good], model.points[model.tracks.track[model.good]])
    return float(np.linalg.norm(c[:, None] - c[None], axis=-1).max() / np.median(depth)) if len(depth) else None


def _unit(v: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    n = np.linalg.norm(v)
    return v / n if n > 0.05 else otherwise / np.linalg.norm(otherwise)
