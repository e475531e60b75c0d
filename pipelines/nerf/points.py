"""A field's surface as points: what its photos' cameras see of it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...recon.field.scene import FieldScene
from ...recon.field.surface import at_matter, level_density
from ...recon.framing import frame_scene
from ...recon.points import PointCloud
from ..mesh import SOLID, believed

__all__ = ["MOST_POINTS", "field_points", "typical_depth"]

MOST_POINTS = 2_000_000
REACH = 10.0  # times the typical depth: further away is no surface but sky
EMPTY = 0.01  # opacity of one sample below which there is no surface: a mean depth of something half clear and what lies behind it is at neither
GLANCE = 64  # pixels of the longer side, to tell that depth


def field_points(scene: FieldScene, most: int = MOST_POINTS, progress: Callable[[float], None] | None = None) -> PointCloud:
    """One point for each pixel of each photo where the field is solid, its depth does not jump, and there is matter at it; in the field's world: at the depth that is
    rendered there, with the colour that is (without background) and the normal of the density, towards the camera.

    Args:
        most: cameras with more pixels than this, all together, are looked through at a lower resolution.
        progress: called with the share that is done.
    """
    cameras = scene.cameras.to("cpu", torch.float32)
    shrink = max(1.0, (len(cameras) * cameras.width * cameras.height / most) ** 0.5)
    cameras = cameras.resized(max(1, int(cameras.width / shrink)), max(1, int(cameras.height / shrink)))
    farthest, background = REACH * typical_depth(scene), torch.tensor(scene.background)
    parts = []
    for k in range(len(cameras)):
        out = scene.render(cameras[k], normal=True)
        assert out.normal is not None
        color, alpha, depth, normal = (t[0].cpu() for t in (out.color, out.alpha, out.depth, out.normal))
        sure = believed(depth, alpha, cameras[k], farthest)
        xyz = cameras[k].unproject_depth(depth[None])[0]
        ahead = torch.nn.functional.normalize(xyz[sure] - cameras[k].centers, dim=1)
        device = scene.cells.device
        sure[sure.clone()] = at_matter(scene, xyz[sure].to(device), ahead.to(device), level_density(scene, EMPTY)).cpu()
        a = alpha[sure][:, None]
        rgb = ((color[sure] - (1 - a) * background) / a).clamp(0, 1)
        in_world = torch.nn.functional.normalize(normal[sure] @ cameras[k].cam_from_world[0, :3, :3], dim=1)
        parts.append((xyz[sure], rgb, in_world))
        if progress is not None:
            progress((k + 1) / len(cameras))
    xyz, rgb, normals = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return PointCloud(xyz, rgb, normals=normals)


def typical_depth(scene: FieldScene) -> float:
    """The median depth of what the photos' cameras see of the field; where that is nothing, what the cameras alone tell (of parallel ones, little)."""
    cameras = scene.cameras.to("cpu", torch.float32)
    shrink = max(1.0, max(cameras.width, cameras.height) / GLANCE)
    small = cameras.resized(max(1, round(cameras.width / shrink)), max(1, round(cameras.height / shrink)))
    out = scene.render(small)
    seen = out.depth[(out.alpha > SOLID) & torch.isfinite(out.depth) & (out.depth > 0)]
    return float(seen.median()) if len(seen) else frame_scene(cameras).depth
