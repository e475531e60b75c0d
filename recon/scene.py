"""A finished (or growing) scene: all that the viewer, the video writer and the evaluator know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .camera import Cameras
from .gaussians import Gaussians
from .raster.protocol import Rasterizer, RasterOptions, RenderOutput

__all__ = ["Scene", "SplatScene"]


class Scene(Protocol):
    """Renders from any camera, in the world of its own `cameras`."""

    @property
    def cameras(self) -> Cameras:
        """The cameras of the photos it was made from."""
        ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def render(self, cameras: Cameras, normal: bool = False) -> RenderOutput: ...


@dataclass(frozen=True)
class SplatScene:
    """Gaussians with the rasterizer, the background and the drawing (ellipsoids, or surfels) they were optimised with."""

    gaussians: Gaussians
    cameras: Cameras
    names: tuple[str, ...]
    rasterizer: Rasterizer
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    surfels: bool = False

    def render(self, cameras: Cameras, normal: bool = False) -> RenderOutput:
        """Draws without gradients, on the Gaussians' device."""
        import torch

        with torch.no_grad():
            options = RasterOptions(background=self.background, normal=normal, surfels=self.surfels, camera_grads=False)
            return self.rasterizer.render(self.gaussians, cameras.to(self.gaussians.device), options)
