"""A rasterizer for scenes whose unit is not of the usual size: its near plane is nearer."""

from __future__ import annotations

from dataclasses import replace

from ..camera import Cameras
from ..gaussians import Gaussians
from .protocol import RasterCaps, Rasterizer, RasterOptions, RenderOutput

__all__ = ["CloserRasterizer"]


class CloserRasterizer:
    """`inner` with a near plane at `near` world units at most."""

    def __init__(self, inner: Rasterizer, near: float) -> None:
        self._inner, self._near = inner, near

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def caps(self) -> RasterCaps:
        return self._inner.caps

    def render(self, gaussians: Gaussians, cameras: Cameras, options: RasterOptions = RasterOptions()) -> RenderOutput:
        return self._inner.render(gaussians, cameras, replace(options, near=min(options.near, self._near)))
