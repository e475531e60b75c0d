"""Exports of coloured points, the splats' centres or other ones that the scene names, for programs that know points only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..recon.errors import BackendUnavailable
from ..recon.gaussians import Gaussians
from ..recon.points import PointCloud
from ..recon.sh import rgb_from_sh_dc
from .atomic import atomic_file
from .export import ExportScene
from .las_file import laspy_module
from .ply import write_points
from .splat_rows import FiniteRows

__all__ = ["centers_as_points", "las", "points", "points_of"]

_OPAQUE = 0.1  # fainter splats are haze, not surface


def points(path: Path, scene: ExportScene) -> None:
    write_points(path, points_of(scene))


def las(path: Path, scene: ExportScene) -> None:
    """LAS 1.4, point format 7 (16-bit colours), in the scene's own units and axes, without normals; .laz where lazrs is installed, too."""
    laspy = laspy_module()
    cloud = points_of(scene)
    xyz = cloud.xyz.double().numpy()
    header = laspy.LasHeader(point_format=7, version="1.4")
    if len(xyz):
        header.offsets = xyz.min(axis=0)
        header.scales = np.maximum((xyz.max(axis=0) - xyz.min(axis=0)) / 2**30, 1e-9)  # positions are 32-bit integers
    data = laspy.LasData(header)
    data.x, data.y, data.z = xyz.T
    assert cloud.rgb is not None
    data.red, data.green, data.blue = (cloud.rgb * 65535).round().numpy().astype(np.uint16).T
    try:
        with atomic_file(path) as f:
            data.write(f, do_compress=path.suffix.lower() == ".laz")
    except laspy.errors.LaspyException as e:
        raise BackendUnavailable(f"Cannot write {path}: {str(e).splitlines()[0]} A .laz needs lazrs: pip install lazrs; or write a .las.") from e


def points_of(scene: ExportScene, most: int | None = None) -> PointCloud:
    """Those that it names, else the splats' centres; at most `most`, evenly taken."""
    cloud = scene.points
    if cloud is None:
        return centers_as_points(scene.gaussians, most)
    if most is None or len(cloud) <= most:
        return cloud
    every = slice(None, None, -(-len(cloud) // most))
    rest = (None if t is None else t[every] for t in (cloud.rgb, cloud.confidence, cloud.intensity, cloud.normals))
    return PointCloud(cloud.xyz[every], *rest)


def centers_as_points(gaussians: Gaussians, most: int | None = None) -> PointCloud:
    """The centres of the more opaque splats with their mean colour; at most `most`, evenly taken."""
    rows = FiniteRows.of(gaussians)
    rows = rows.in_order((rows.column(lambda g: g.opacities) > _OPAQUE).nonzero()[:, 0])
    if most is not None:
        rows = rows.in_order(torch.arange(len(rows))[:: max(1, -(-len(rows) // most))])
    table = rows.column(lambda g: torch.cat([g.means, rgb_from_sh_dc(g.sh[:, 0]).clamp(0, 1)], dim=1))
    return PointCloud(table[:, :3], table[:, 3:])
