"""The one interface of all rasterizers: a whole image with gradients, not one per kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from ..camera import Cameras
from ..gaussians import Gaussians
from .constants import NEAR_PLANE

__all__ = ["RasterCaps", "RasterOptions", "Rasterizer", "RenderAux", "RenderOutput"]


@dataclass(frozen=True)
class RasterOptions:
    """How to draw.

    Attributes:
        background: RGB behind everything, composited with the remaining transmittance.
        sh_degree: highest spherical-harmonic degree used; None = all there are.
        antialiased: scale each splat's opacity by sqrt(det(cov) / det(cov + blur)) (Yu et al. 2024, Mip-Splatting, 2D filter).
        near: near plane, world units.
        normal: also draw normals (shortest axis of each Gaussian, facing the camera, in the camera frame).
        opacity_scale: factor per Gaussian on its opacity (dropout masks); not differentiated; None = 1.
        surfels: draw flat discs (2D Gaussians, Huang et al. 2024): the first two axes span them, the third is their normal and its scale is not read; depth
            is where the pixel's ray meets them; always with normals and distortion, never antialiased.
        camera_grads: compute gradients to cam_from_world and K when those require grad.
    """

    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sh_degree: int | None = None
    antialiased: bool = False
    near: float = NEAR_PLANE
    normal: bool = False
    surfels: bool = False
    opacity_scale: Float[Tensor, "N"] | None = None
    camera_grads: bool = True


@dataclass(frozen=True)
class RenderAux:
    """Per Gaussian and camera, for densification and pruning.

    Attributes:
        means2d: projected centres in pixels; `.grad` is filled after backward where the backend supports it.
        radii: extent in pixels (0 = not drawn).
        visible: drawn in this camera (survived culling).
    """

    means2d: Float[Tensor, "V N 2"]
    radii: Float[Tensor, "V N"]
    visible: Bool[Tensor, "V N"]


@dataclass(frozen=True)
class RenderOutput:
    """Images of V cameras.

    Attributes:
        color: sRGB, background included; not clamped.
        alpha: accumulated opacity, 1 - final transmittance.
        depth: expected z-depth sum(w z) / sum(w); 0 where alpha is 0.
        normal: sum(w n), camera frame, not renormalised; None unless asked for.
        distortion: of surfels, how far apart in depth they are that make the pixel: sum over pairs of w w' (z - z')^2, world units squared; else None.
    """

    color: Float[Tensor, "V H W 3"]
    alpha: Float[Tensor, "V H W"]
    depth: Float[Tensor, "V H W"]
    normal: Float[Tensor, "V H W 3"] | None
    aux: RenderAux
    distortion: Float[Tensor, "V H W"] | None = None


@dataclass(frozen=True)
class RasterCaps:
    """What a backend can do: device types, the inputs it gives gradients to, dtypes, and constants that differ from constants.py."""

    devices: frozenset[str]
    grads: frozenset[str]
    dtypes: frozenset[str]
    deviations: dict[str, str]


@runtime_checkable
class Rasterizer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def caps(self) -> RasterCaps: ...

    def render(self, gaussians: Gaussians, cameras: Cameras, options: RasterOptions = RasterOptions()) -> RenderOutput:
        """Draws every camera. Differentiable in all Gaussian fields and, where asked, in the cameras.

        Gaussians with a non-finite parameter, a zero quaternion, behind the near plane or off screen are skipped (no image, zero gradient).
        Raises ShapeError for shapes that do not fit.
        """
        ...
