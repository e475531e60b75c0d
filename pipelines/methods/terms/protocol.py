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
from ....recon.raster.protocol import RenderOutput
from ..config import TermsConfig

__all__ = ["StepContext", "Term"]


@dataclass(frozen=True)
class StepContext:
    """One training step on one photo.

    Attributes:
        camera: the photo's camera (one), possibly with gradients.
        image, mask: the photo and where it counts (None = everywhere).
        out: the render from `camera`.
        depth: the photo's prior depth.
        neighbour: distance from the photo's centre to the nearest other photo's centre, world units.
        progress: share of the run that is done, [0, 1).
        step: number of the step.
        render: draws the current Gaussians (same dropout) from other cameras, with gradients.
        rng: the run's random numbers (part of the checkpoint).
    """

    camera: Cameras
    image: Float[Tensor, "H W 3"]
    mask: Float[Tensor, "H W"] | None
    out: RenderOutput
    depth: DepthMap
    neighbour: float
    progress: float
    step: int
    render: Callable[[Cameras], RenderOutput]
    rng: torch.Generator


class Term(Protocol):
    """One file, one line in the registry. Returns a weighted scalar, or None when it has no say in this step."""

    def __call__(self, context: StepContext, config: TermsConfig) -> Tensor | None: ...
