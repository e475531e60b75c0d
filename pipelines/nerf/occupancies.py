"""What can tell a run which cells to pass over, by name."""

from __future__ import annotations

import torch

from ...recon.field.learned_occupancy import LearnedOccupancy
from ...recon.field.occupancy import Occupancy, OccupancyGrid
from ...recon.field.radiance import Encoding
from ...recon.field.trivec import TriVectors
from .config import SamplingConfig

__all__ = ["make_occupancy"]


def make_occupancy(config: SamplingConfig, encoding: Encoding, rng: torch.Generator, device: torch.device) -> Occupancy:
    if config.occupancy == "learned":
        return LearnedOccupancy(config.cells, config.occupied, config.warm_up, rng).to(device)
    grid = OccupancyGrid(config.cells, threshold=config.threshold, device=device, warm_up=config.warm_up)
    if isinstance(encoding, TriVectors):
        grid.leave_out(~encoding.reached(config.cells))
    return grid
