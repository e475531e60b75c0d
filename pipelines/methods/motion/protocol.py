"""What moves Gaussians together sees and gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from ....recon.gaussians import Gaussians

__all__ = ["Motion"]


class Motion(Protocol):
    """Parameters of its own from which the stored Gaussians get their places of a step, with an optimiser of its own."""

    def move(self, gaussians: Gaussians, rows: Mapping[str, Tensor], again: bool = False) -> Gaussians:
        """`rows` holds the columns, too; `again`: as in the last call, without asking the parameters once more."""
        ...

    def step(self, progress: float) -> None:
        """Moves its parameters along their gradients, and clears these; `progress` is the share of the run that is done."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Copies of all from which `restore` continues exactly."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises KeyError for what is missing."""
        ...
