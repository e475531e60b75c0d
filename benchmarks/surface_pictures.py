"""One sheet per run, to look at: photo, splats, mesh in grey, its normals, and how far its depth is off, from a training view and from novel ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.colormap import colorize_depth, colorize_normal, inverse_depth_range, rainbow
from ..recon.mesh import Mesh
from ..recon.scene import SplatScene
from .surface_judges import Look
from .surface_scores import Surface, mesh_depth

__all__ = ["shaded", "sheet", "write_sheet"]

WORST = 0.05  # relative error of depth that is drawn red
LABEL = 16  # pixels of a label above each picture
EMPTY = (0.12, 0.14, 0.25)  # where the mesh is not


def shaded(normals: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """Grey by the angle between the normal (camera frame) and a lamp above the camera's left shoulder; EMPTY where there is none."""
    lamp = torch.nn.functional.normalize(torch.tensor([-0.4, -0.5, -1.0]), dim=0)
    grey = 0.12 + 0.85 * (normals @ lamp).clamp(min=0)
    return torch.where((normals.abs().sum(-1) > 0)[..., None], grey[..., None], torch.tensor(EMPTY))


def _facing(surface: Surface, look: Look, triangle: Tensor) -> Float[Tensor, "H W 3"]:
    """Camera-frame normals of what is seen, turned towards the camera; 0 where nothing is."""
    n = torch.from_numpy(surface.normals).float()[triangle.clamp(min=0)] @ look.camera.cam_from_world[0, :3, :3].float().T
    _, rays = look.camera.to("cpu", torch.float32).rays()
    away = (n * (rays[0] @ look.camera.cam_from_world[0, :3, :3].float().T)).sum(-1, keepdim=True) > 0
    return torch.where(away, -n, n) * (triangle >= 0)[..., None]


def _off(depth: Float[Tensor, "H W"], truth: Float[Tensor, "H W"]) -> Float[Tensor, "H W 3"]:
    """Blue: exact, red: off by WORST or more; black where the truth has none, white where only the mesh has none."""
    error = rainbow(((depth - truth).abs() / truth.clamp(min=1e-9) / WORST).clamp(0, 1))
    error = torch.where((depth > 0)[..., None], error, torch.ones(3))
    return error * (truth > 0)[..., None]


def sheet(looks: Sequence[Look], scene: SplatScene, mesh: Mesh) -> Float[Tensor, "H W 3"]:
    """A row per look."""
    surface, rows = Surface.of(mesh), []
    for look in looks:
        depth, triangle = (x[0] for x in mesh_depth(surface, look.camera))
        normals = _facing(surface, look, triangle)
        pictures = {
            look.name: look.photo,
            "splats": scene.render(look.camera.to(dtype=torch.float32)).color[0].cpu().nan_to_num(0.0),
            "mesh": shaded(normals),
            "mesh, normals": colorize_normal(normals),
        }
        if look.depth is None:
            pictures["mesh, depth"] = colorize_depth(depth, inverse_depth_range(depth))
        else:
            pictures[f"mesh, depth: blue exact, red {WORST:.0%} off, white none"] = _off(depth, look.depth)
        rows.append(torch.cat([_labelled(text, picture) for text, picture in pictures.items()], 1))
    return torch.cat(rows).clamp(0, 1)


def _labelled(text: str, picture: Float[Tensor, "H W 3"]) -> Float[Tensor, "L W 3"]:
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (picture.shape[1], LABEL), (255, 255, 255))
    ImageDraw.Draw(strip).text((3, 2), text, fill=(0, 0, 0))
    return torch.cat([torch.from_numpy(np.asarray(strip).copy()).float() / 255, picture.float()])


def write_sheet(file: Path, looks: Sequence[Look], scene: SplatScene, mesh: Mesh) -> None:
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet(looks, scene, mesh) * 255 + 0.5).to(torch.uint8).numpy()).save(file)
