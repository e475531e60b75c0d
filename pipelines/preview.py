"""The picture that tells at a glance how a reconstruction went."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.atomic import write_bytes
from ..data.image_io import encode_png
from ..recon.camera import Cameras
from ..recon.colormap import colorize_depth
from ..recon.scene import SplatScene

__all__ = ["halfway", "write_preview"]

ROWS = 4  # photos shown at most


def write_preview(path: Path, scene: SplatScene, images: Float[Tensor, "V H W 3"]) -> None:
    """Per photo a row: photo, render, depth, and a render from half way to the next photo (which no photo shows)."""
    count = len(scene.cameras)
    shown = sorted({round(i * (count - 1) / max(1, ROWS - 1)) for i in range(ROWS)}) if count > ROWS else list(range(count))
    rows = []
    for i in shown:
        out = scene.render(scene.cameras[i])
        new = scene.render(halfway(scene.cameras, i, (i + 1) % count))
        rows.append(torch.cat([images[i], out.color[0].cpu(), colorize_depth(out.depth[0].cpu()), new.color[0].cpu()], 1))
    write_bytes(path, encode_png(torch.cat(rows, 0)))


def halfway(cameras: Cameras, i: int, j: int) -> Cameras:
    """The camera between two: centre in the middle, rotation halfway along the shortest arc."""
    a, b = cameras.cam_from_world[i], cameras.cam_from_world[j]
    mean = a[:3, :3] + b[:3, :3]
    u, _, vt = torch.linalg.svd(mean)
    R = u @ torch.diag(torch.tensor([1.0, 1.0, torch.linalg.det(u @ vt).sign().item()], dtype=a.dtype, device=a.device)) @ vt
    center = (cameras.centers[i] + cameras.centers[j]) / 2
    pose = torch.eye(4, dtype=a.dtype, device=a.device)
    pose[:3, :3], pose[:3, 3] = R, -R @ center
    return replace(cameras, cam_from_world=pose[None], K=cameras.K[i : i + 1])
