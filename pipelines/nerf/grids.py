"""What a field can be made of, by name."""

from __future__ import annotations

import torch

from ...recon.field.radiance import Encoding
from ...recon.field.vm import VmGrid
from ...recon.field.vm_prior import VmGenerator
from .config import GridConfig

__all__ = ["make_grid"]


def make_grid(config: GridConfig, rng: torch.Generator) -> Encoding:
    if config.kind == "vm-prior":
        return VmGenerator(config.side, config.channels, config.widths, rng)
    return VmGrid(config.side, config.channels, rng)
