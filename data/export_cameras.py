"""Exports that hold the cameras, for other reconstruction programs."""

from __future__ import annotations

from pathlib import Path

import torch

from ..recon.camera import Cameras
from ..recon.errors import ConfigError
from ..recon.gaussians import Gaussians
from ..recon.points import PointCloud
from .colmap import write_model
from .export import ExportScene
from .nerfstudio_json import write_transforms
from .ply import finite_gaussians
from .splat_file import SH_C0

__all__ = ["colmap", "nerfstudio"]

MAX_POINTS = 200_000  # enough to start another program from; COLMAP's file takes 51 bytes a point


def _cameras(scene: ExportScene) -> Cameras:
    if scene.cameras is None or len(scene.cameras) != len(scene.names):
        raise ConfigError("This scene has no cameras with photo names, so only splat formats (ply, splat, spz) can be written.")
    return scene.cameras


def colmap(path: Path, scene: ExportScene) -> None:
    write_model(path / "sparse" / "0", _cameras(scene), scene.names, centers_as_points(scene.gaussians))


def nerfstudio(path: Path, scene: ExportScene) -> None:
    file = path if path.suffix == ".json" else path / "transforms.json"
    write_transforms(file, _cameras(scene), [n if n.startswith("images/") else f"images/{n}" for n in scene.names])


def centers_as_points(gaussians: Gaussians) -> PointCloud:
    """The centres of the more opaque splats with their mean colour, at most MAX_POINTS, evenly taken."""
    g = finite_gaussians(gaussians)
    g = g[g.opacities > 0.1]
    g = g[torch.arange(len(g))[:: max(1, -(-len(g) // MAX_POINTS))]]
    return PointCloud(g.means, (0.5 + SH_C0 * g.sh[:, 0]).clamp(0, 1))
