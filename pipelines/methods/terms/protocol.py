"""What a loss term sees and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ....recon.camera import Cameras
from ....recon.depth import DepthMap
from ....recon.gaussians import Gaussians
from ....recon.raster.protocol import RenderOutput
from ..config import TermsConfig
from ..field import Field
from ..photos import Photos

__all__ = ["StepContext", "Term"]


@dataclass(frozen=True)
class StepContext:
    """One training step of one field of Gaussians on one photo.

    Attributes:
        photos: all of them; index: which one this step is about.
        camera: the photo's camera (one), possibly with gradients.
        out: the render from `camera`.
        progress: share of the run that is done, [0, 1).
        step: number of the step.
        field: the Gaussians with their columns and their motion.
        correction: what has been added to the photo's camera (translation in median depths, rotation vector); None where cameras stay as they were given.
        gaussians: those of this step, as drawn.
        render: draws the current Gaussians (same dropout) from other cameras, with gradients.
        render_values: draws three values of each Gaussian (not negative) in place of its colour, on nothing; they get gradients, too.
        rivals: draw the other fields of the run, without gradients.
        rng: the run's random numbers (part of the checkpoint).
    """

    photos: Photos
    index: int
    camera: Cameras
    out: RenderOutput
    progress: float
    step: int
    field: Field
    correction: Float[Tensor, "6"] | None
    gaussians: Gaussians
    render: Callable[[Cameras], RenderOutput]
    render_values: Callable[[Cameras, Float[Tensor, "N 3"]], Float[Tensor, "H W 3"]]
    rivals: tuple[Callable[[Cameras], RenderOutput], ...]
    rng: torch.Generator

    @property
    def image(self) -> Float[Tensor, "H W 3"]:
        return self.photos.images[self.index]

    @property
    def mask(self) -> Float[Tensor, "H W"] | None:
        """Where the photo counts; None = everywhere."""
        return None if self.photos.masks is None else self.photos.masks[self.index]

    @property
    def extent(self) -> Float[Tensor, "H W"] | None:
        """Where the picture is a photo at all; None = everywhere."""
        return None if self.photos.extents is None else self.photos.extents[self.index]

    @property
    def depth(self) -> DepthMap:
        """The photo's prior depth."""
        return self.photos.depth[self.index]

    @property
    def guide(self) -> DepthMap:
        """What ranks and correlates depth at the photo: perhaps of another kind, up to scale and shift."""
        return self.photos.guide[self.index]

    @property
    def neighbour(self) -> float:
        """Distance from the photo's centre to the nearest other photo's centre, world units."""
        return self.photos.neighbour[self.index]


class Term(Protocol):
    """One file, one line in the registry. Returns a weighted scalar, or None when it has no say in this step."""

    def __call__(self, context: StepContext, config: TermsConfig) -> Tensor | None: ...
