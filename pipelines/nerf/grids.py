"""What a field can be made of, by name."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...recon.errors import ConfigError
from ...recon.field.cp import CpGrid
from ...recon.field.frequency import FrequencyEncoding
from ...recon.field.hash_grid import HashGrid
from ...recon.field.radiance import Encoding
from ...recon.field.trivec import TriVectors, trivec_centers
from ...recon.field.vm import VmGrid
from ...recon.field.vm_prior import VmGenerator
from ..config import from_jsonable
from .config import FieldConfig, GridConfig, check_field_settings

__all__ = ["grid_settings", "kept_grid", "make_grid"]


def make_grid(config: GridConfig, rng: torch.Generator, points: Float[Tensor, "N 3"] | None = None) -> Encoding:
    """`points`: places in the cube where a surface is; only "trivec" wants them. Raises ConfigError where it has none."""
    if config.kind == "vm-prior":
        return VmGenerator(config.side, config.channels, config.widths, rng)
    if config.kind == "cp":
        return CpGrid(config.side, config.channels, rng)
    if config.kind == "hash":
        return HashGrid(config.levels, config.entries, config.per_level, config.coarsest, config.side, rng)
    if config.kind == "frequency":
        return FrequencyEncoding(config.frequencies)
    if config.kind == "trivec":
        if points is None or not len(points):
            raise ConfigError(f"grid.kind=trivec lays its tensors on a surface (grid.surface={config.surface}), and none was found within the field; choose another.")
        centers = [trivec_centers(points.cpu(), config.spacing * size, config.tensors) for size in config.boxes]
        counts = [max(2, round(size * (config.side - 1)) + 1) for size in config.boxes]
        return TriVectors(centers, config.boxes, counts, config.channels, config.nearest, rng)
    return VmGrid(config.side, config.channels, rng)


def grid_settings(grid: Encoding) -> dict[str, Any]:
    """Those of GridConfig from which, with its state, `kept_grid` makes it again."""
    if isinstance(grid, CpGrid):
        return {"kind": "cp", "side": grid.side, "channels": grid.channels}
    if isinstance(grid, HashGrid):
        return {"kind": "hash", "side": grid.finest} | {n: getattr(grid, n) for n in ("levels", "entries", "per_level", "coarsest")}
    if isinstance(grid, FrequencyEncoding):
        return {"kind": "frequency", "frequencies": grid.frequencies}
    if isinstance(grid, TriVectors):
        return {"kind": "trivec", "boxes": list(grid.sizes), "channels": grid.channels, "nearest": grid.nearest}
    raise TypeError(f"{type(grid).__name__} cannot be kept")


def kept_grid(settings: dict[str, Any], state: dict[str, Tensor]) -> Encoding:
    """Raises ConfigError, ShapeError, KeyError, IndexError or RuntimeError where the two are no grid."""
    config = from_jsonable(GridConfig, settings, "grid")
    check_field_settings(FieldConfig(grid=config))
    if config.kind == "trivec":
        scales = [(state[f"scales.{k}.centers"], state[f"scales.{k}.lines"].shape[2]) for k in range(len(config.boxes))]
        grid = TriVectors([at for at, _ in scales], config.boxes, [points for _, points in scales], config.channels, config.nearest)
    else:
        grid = make_grid(config, torch.Generator())
    assert isinstance(grid, nn.Module)
    grid.load_state_dict(state)
    return grid
