"""A step on made-up renders, for tests of the loss terms."""

from __future__ import annotations

from typing import Any

import torch
from handful.pipelines.methods.photos import Photos
from handful.pipelines.methods.terms import StepContext
from handful.recon.camera import Cameras
from handful.recon.raster.protocol import RenderAux, RenderOutput
from torch import Tensor


def rendered(depth: Tensor, color: Tensor | None = None, normal: Tensor | None = None) -> RenderOutput:
    h, w = depth.shape
    none = torch.zeros(1, 0)
    color = torch.zeros(1, h, w, 3) if color is None else color[None]
    aux = RenderAux(torch.zeros(1, 0, 2), none, none.bool())
    return RenderOutput(color, torch.ones(1, h, w), depth[None], None if normal is None else normal[None], aux)


def step_on(photos: Photos, out: RenderOutput, index: int = 0, **more: Any) -> StepContext:
    """On photo `index`; `more` are further fields of the context. Rendering from elsewhere must be given, or it fails."""

    def nothing(cameras: Cameras) -> RenderOutput:
        raise AssertionError("no other camera was expected")

    values: dict[str, Any] = {
        "camera": photos.cameras[index],
        "progress": 0.5,
        "step": 0,
        "field": None,
        "correction": None,
        "gaussians": None,
    }
    values |= {"render": nothing, "render_values": None, "rivals": (), "rng": torch.Generator().manual_seed(0)}
    return StepContext(photos=photos, index=index, out=out, **values | more)
