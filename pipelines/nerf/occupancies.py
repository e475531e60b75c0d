"""What can tell a run which cells to pass over, by name."""

from __future__ import annotations

import torch

from ...recon.field.learned_occupancy import LearnedOccupancy
from ...recon.field.occupancy import Occupancy, OccupancyGrid
from .config import SamplingConfig

__all__ = ["make_occupancy"]


def make_occupancy(config: SamplingConfig, rng: torch.Generator, device: torch.device) -> Occupancy:
    if config.occupancy == "learned":
        return LearnedOccupancy(config.cells, config.occupied, config.warm_up, rng).to(device)
    return OccupancyGrid(config.cells, threshold=config.threshold, device=device, warm_up=config.warm_up)
