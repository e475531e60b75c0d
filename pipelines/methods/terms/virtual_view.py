"""Consistency with a shifted virtual camera (Han et al. 2024, Binocular3DGS, section 3.1).

The photo's own rendered depth carries each of its pixels into a camera moved sideways; the render there must show the photo's colour.
Gradients reach the colours of the shifted render and, through the sampling position, the depth.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ....recon.camera import Cameras
from ..config import TermsConfig
from .protocol import StepContext

OCCLUDED = 0.03  # a sample lying this much (relative) behind the virtual camera's surface is hidden there


def virtual_view(context: StepContext, config: TermsConfig) -> Tensor | None:
    if config.virtual <= 0 or context.progress < config.virtual_from or context.step % config.virtual_every:
        return None
    camera = shifted(context.camera, config.virtual_shift * context.neighbour, context.rng)
    out = context.render(camera)
    depth = context.out.depth
    h, w = depth.shape[1:]
    uv, z = camera.project(context.camera.unproject_depth(depth).reshape(-1, 3))
    grid = torch.stack([uv[0, :, 0] / w, uv[0, :, 1] / h], -1) * 2 - 1
    grid = grid.reshape(1, h, w, 2)
    channels = torch.cat([out.color[0], out.depth[0, ..., None]], -1).permute(2, 0, 1)[None]
    sampled = grid_sample(channels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    seen = z.reshape(h, w).detach() < sampled[3].detach() * (1 + OCCLUDED)
    weight = (seen & (grid[0].detach().abs() < 1).all(-1) & (depth[0].detach() > 0)).float()
    if context.mask is not None:
        weight = weight * context.mask
    error = (sampled[:3].permute(1, 2, 0) - context.image).abs().mean(-1)
    return config.virtual * (weight * error).mean()


def shifted(camera: Cameras, distance: float, rng: torch.Generator) -> Cameras:
    """The camera moved by up to `distance` in a random direction of its image plane, looking the same way."""
    angle, length = (torch.rand(2, generator=rng) * torch.tensor([2 * torch.pi, distance])).tolist()
    move = torch.zeros_like(camera.cam_from_world)
    move[:, 0, 3] = length * float(torch.cos(torch.tensor(angle)))
    move[:, 1, 3] = length * float(torch.sin(torch.tensor(angle)))
    return replace(camera, cam_from_world=camera.cam_from_world + move)
