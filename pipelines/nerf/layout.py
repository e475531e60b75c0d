"""Which part of the world the field covers, told from the cameras."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.field.contracted import ContractedSpace
from ...recon.field.scene import FieldScene
from ...recon.field.space import BoxSpace, FrustumSpace, Space
from ...recon.framing import frame_scene
from ...recon.se3 import mean_rotation
from ..methods.photos import Photos

__all__ = ["choose_space", "seen_surface", "tightened"]

ONE_WAY = 40.0  # degrees from the mean viewing axis, up to which photos look one way
NEAREST = 0.02  # quantile of the measured depth, before which the near plane lies
BEFORE = 0.7  # at this share of it
INSIDE = 0.5  # the contraction begins at this share of the way from the focus to the furthest camera: what is looked at gets most of the grid
FEWEST = 0.1  # but no nearer than at this share of the median depth: photos from one spot meet where they were taken
STRAY, MARGIN = 0.002, 0.05  # quantile of the points seen at a first look, on each side, and what is added there


def choose_space(photos: Photos, rule: Literal["auto", "box", "frustum", "contracted"], alone: bool) -> Space:
    """A frustum where the photos look one way, else all of the world, contracted; a box where what they look at is all there is (`alone`: an object on nothing)."""
    cameras = photos.cameras.to("cpu", torch.float32)
    axes = cameras.cam_from_world[:, 2, :3]
    mean = torch.nn.functional.normalize(axes.mean(0), dim=0)
    spread = math.degrees(float((axes @ mean).clamp(-1, 1).acos().max()))
    if rule == "frustum" or (rule == "auto" and not alone and spread <= ONE_WAY):
        return _frustum(photos, cameras)
    if rule == "contracted" or (rule == "auto" and not alone):
        return _contracted(photos, cameras)
    return _box(cameras)


def seen_surface(scene: FieldScene) -> Float[Tensor, "N 3"]:
    """Places in the world where the photos' cameras see a surface in the scene; some 200,000 at most."""
    points = []
    for k in range(len(scene.cameras)):
        small = scene.cameras[k].resized(max(1, scene.cameras.width // 2), max(1, scene.cameras.height // 2))
        out = scene.render(small)
        points.append(small.unproject_depth(out.depth)[out.alpha > 0.5])
    seen = torch.cat(points)
    return seen[:: max(1, len(seen) // 200_000)]


def tightened(seen: Float[Tensor, "N 3"], box: BoxSpace) -> BoxSpace:
    """The smallest cube, and MARGIN beyond it, around the surfaces seen; the box itself where hardly any are."""
    if len(seen) < 100:
        return box
    low, high = seen.quantile(STRAY, 0), seen.quantile(1 - STRAY, 0)
    size = min(box.size, (1 + 2 * MARGIN) * float((high - low).max()))
    return BoxSpace(((low + high) / 2).to(box.center), size)


def _frustum(photos: Photos, cameras: Cameras) -> FrustumSpace:
    """Of a camera in the middle of all that sees what any of them sees."""
    R = mean_rotation(cameras.cam_from_world[:, :3, :3].double()).float()
    T = torch.eye(4)
    T[:3, :3], T[:3, 3] = R, -R @ cameras.centers.mean(0)
    depths = torch.cat([d.depth[d.valid] for d in photos.depth]) if any(bool(d.valid.any()) for d in photos.depth) else torch.tensor([photos.scene_depth])
    depths = depths.cpu()
    back = float((cameras.centers @ T[2, :3] + T[2, 3]).min())  # of the camera furthest behind
    near = max(BEFORE * float(depths[:: max(1, len(depths) // 100_000)].quantile(NEAREST)) + min(back, 0.0), 0.05 * photos.scene_depth)
    return FrustumSpace(Cameras(T[None], cameras.K.mean(0, keepdim=True), cameras.width, cameras.height), near)


def _contracted(photos: Photos, cameras: Cameras) -> ContractedSpace:
    """Around what the photos look at."""
    focus = frame_scene(cameras).focus.float()
    distance = torch.linalg.vector_norm(cameras.centers - focus, dim=1)
    return ContractedSpace(focus, max(INSIDE * float(distance.max()), FEWEST * photos.scene_depth))


def _box(cameras: Cameras) -> BoxSpace:
    """Around what the photos look at, as wide as the widest of them sees there."""
    focus = frame_scene(cameras).focus.float()
    distance = torch.linalg.vector_norm(cameras.centers - focus, dim=1)
    half = torch.stack([cameras.width / cameras.K[:, 0, 0], cameras.height / cameras.K[:, 1, 1]], 1).amax(1) / 2
    return BoxSpace(focus, 2 * float((distance * half).max()))
