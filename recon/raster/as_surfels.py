"""A rasterizer for scenes of flat Gaussians: it draws what it is given as surfels."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..camera import Cameras
from ..gaussians import Gaussians
from .protocol import RasterCaps, Rasterizer, RasterOptions, RenderOutput

__all__ = ["SurfelRasterizer", "flattened"]

THIN = 0.01  # of the shorter side: how thick a surfel is for programs that draw ellipsoids


class SurfelRasterizer:
    """`inner` with `surfels` on, whatever the options say."""

    def __init__(self, inner: Rasterizer) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def caps(self) -> RasterCaps:
        return self._inner.caps

    def render(self, gaussians: Gaussians, cameras: Cameras, options: RasterOptions = RasterOptions()) -> RenderOutput:
        return self._inner.render(gaussians, cameras, replace(options, surfels=True, antialiased=False))


def flattened(gaussians: Gaussians) -> Gaussians:
    """The same surfels, thin along the third axis, so that a program that draws ellipsoids shows nearly the same."""
    sides = gaussians.log_scales[:, :2]
    thin = sides.amin(1, keepdim=True) + torch.log(torch.tensor(THIN, dtype=sides.dtype, device=sides.device))
    return replace(gaussians, log_scales=torch.cat([sides, thin], 1))
