"""What changes the set of Gaussians between two steps sees and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ....recon.gaussians import Gaussians
from ....recon.hull import Hull
from ..config import RefineConfig

__all__ = ["Edit", "RefineContext", "Refinement"]


@dataclass(frozen=True)
class RefineContext:
    """The run between two steps.

    Attributes:
        gaussians: as they are now, detached.
        pull: sum of the lengths of the gradients to the projected centre since rows were last added, in half image sizes (3DGS's "view-space positional
            gradient"); seen: how many they are.
        step, steps: steps done, steps in all.
        scene_depth: median depth of the scene, world units.
        started: Gaussians the field started with.
        others: the other fields of the run, as they are now.
        hull: of the object that masks cut out; None where they do not.
        rng: the run's random numbers (part of the checkpoint).
    """

    gaussians: Gaussians
    pull: Float[Tensor, "N"]
    seen: Float[Tensor, "N"]
    step: int
    steps: int
    scene_depth: float
    rng: torch.Generator
    others: tuple[Gaussians, ...] = ()
    started: int = 0
    hull: Hull | None = None

    def room(self, most: int) -> int:
        """Gaussians that may still be added: up to `most`, or half as many again as at the start where that is more."""
        return max(0, max(most, self.started * 3 // 2) - len(self.gaussians))


@dataclass(frozen=True)
class Edit:
    """Rows to keep, and rows to put behind them (these start without optimiser history)."""

    keep: Bool[Tensor, "N"]
    new: Gaussians | None = None


class Refinement(Protocol):
    """One file, one line in the registry. Returns None when it has nothing to do after this step."""

    def __call__(self, context: RefineContext, config: RefineConfig) -> Edit | None: ...
