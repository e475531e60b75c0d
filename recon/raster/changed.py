"""Rasterizers that draw with other options than they are asked for: nearer, for scenes whose unit is not of the usual size, or flat, for scenes of surfels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..camera import Cameras
from ..gaussians import Gaussians
from .protocol import RasterCaps, Rasterizer, RasterOptions, RenderOutput

__all__ = ["ChangedRasterizer", "closer", "with_surfels"]


class ChangedRasterizer:
    """`inner`, asked with the options that `change` makes of the given ones."""

    def __init__(self, inner: Rasterizer, change: Callable[[RasterOptions], RasterOptions]) -> None:
        self._inner, self._change = inner, change

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def caps(self) -> RasterCaps:
        return self._inner.caps

    def render(self, gaussians: Gaussians, cameras: Cameras, options: RasterOptions = RasterOptions()) -> RenderOutput:
        return self._inner.render(gaussians, cameras, self._change(options))


def closer(inner: Rasterizer, near: float) -> ChangedRasterizer:
    """With a near plane at `near` world units at most."""
    return ChangedRasterizer(inner, lambda options: replace(options, near=min(options.near, near)))


def with_surfels(inner: Rasterizer) -> ChangedRasterizer:
    """With `surfels` on, whatever the options say."""
    return ChangedRasterizer(inner, lambda options: replace(options, surfels=True, antialiased=False))
