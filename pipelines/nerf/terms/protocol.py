"""What a loss term of a field sees, asks and gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....recon.camera import Cameras
from ....recon.capture import Capture
from ....recon.field.samples import Segments
from ....recon.field.volume import RayColors
from ...methods.photos import Photos
from ..config import FieldTermsConfig

__all__ = ["FieldContext", "FieldTerm", "Request", "Shown", "pixels_of"]


@dataclass(frozen=True)
class Request:
    """Rays that a term wants to be drawn: continuous pixels of `cameras` (None: the photos'), up to `reach` of what lies in the field. `about`: whatever its loss needs
    to know of them."""

    index: Int[Tensor, "R"]
    uv: Float[Tensor, "R 2"]
    about: Any = None
    cameras: Cameras | None = None
    reach: float = 1.0


def pixels_of(at: Int[Tensor, "3 R"], cameras: Cameras | None = None) -> Request:
    """The middle of whole pixels, given as photo, row and column, which is what the request is `about`."""
    return Request(at[0], torch.stack([at[2], at[1]], 1) + 0.5, at, cameras)


@dataclass(frozen=True)
class Shown:
    """Pictures that are no photos, on the run's device. `weights`: how much each pixel counts, 0 to 1."""

    cameras: Cameras
    images: Float[Tensor, "V H W 3"]
    weights: Float[Tensor, "V H W"]

    @staticmethod
    def of(pictures: Capture | None, device: torch.device) -> Shown | None:
        if pictures is None or not len(pictures):
            return None
        assert pictures.cameras is not None, "a picture of splats knows where it was taken"
        images, masks = pictures.images().to(device), pictures.masks()
        return Shown(pictures.cameras.to(device, torch.float32), images, torch.ones_like(images[..., 0]) if masks is None else masks.to(device))


@dataclass
class FieldContext:
    """One training step.

    Attributes:
        photos: all of them; pictures: of splats that show the same place, where the run starts from some.
        guide: values (V, H, W) of a coarse depth map, how far they are to be trusted, and -1 where larger ones are nearer, else 1; None where no term asks.
        background: behind everything.
        progress: share of the run that is done, [0, 1).
        frustum: whether the field lives in the frustum before photos that look one way.
        rng: the run's random numbers (part of the checkpoint).
        rays: how many pixels the photometric term draws.
        errors: mean square errors of the photometric term, for the report.
    """

    photos: Photos
    guide: tuple[Tensor, Tensor, float] | None
    background: Float[Tensor, "3"]
    progress: float
    frustum: bool
    rng: torch.Generator
    rays: int
    pictures: Shown | None = None
    errors: list[Tensor] = field(default_factory=list)

    def psnr(self) -> float:
        return float(-10 * torch.log10(torch.stack(self.errors).mean().clamp_min(1e-10)))


class FieldTerm(Protocol):
    """One file, one line in the registry. All terms' rays are drawn together."""

    def draw(self, context: FieldContext, config: FieldTermsConfig) -> Request | None:
        """The rays it needs; None when it has no say in this step."""
        ...

    def loss(self, context: FieldContext, config: FieldTermsConfig, request: Request, seen: RayColors, segments: Segments) -> Tensor:
        """A weighted scalar from what those rays saw."""
        ...
