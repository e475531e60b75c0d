"""A field on disk: field.safetensors in the scene folder, beside the splats it was turned into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...recon.camera import Cameras
from ...recon.errors import CheckpointError, ConfigError, ShapeError
from ...recon.field.decoder import Decoder
from ...recon.field.radiance import RadianceField
from ...recon.field.scene import FieldScene
from ...recon.field.space import space_from_tensors, space_to_tensors
from ...recon.field.vm import VmGrid
from ..checkpoint import load_checkpoint, save_checkpoint
from .grids import grid_settings, kept_grid

__all__ = ["FIELD", "load_field", "save_field"]

FIELD = "field.safetensors"


def save_field(path: Path, scene: FieldScene) -> None:
    """A VM grid as its planes and lines, however they were made; any other as its settings and its state."""
    grids, meta = scene.field.grids, {"steps": scene.steps, "degree": scene.field.decoder.degree}
    tensors: dict[str, Tensor] = {"cells": scene.cells.to(torch.uint8)}
    if grids is not None:
        tensors |= {"planes": grids[0], "lines": grids[1]}
    else:
        assert isinstance(scene.field.encoding, nn.Module)
        meta["grid"] = grid_settings(scene.field.encoding)
        tensors |= {f"grid.{k}": v for k, v in scene.field.encoding.state_dict().items()}
    tensors |= {f"decoder.{k}": v for k, v in scene.field.decoder.state_dict().items()} | space_to_tensors(scene.space)
    save_checkpoint(path, tensors, meta)


def load_field(
    path: Path, cameras: Cameras, names: Sequence[str], background: tuple[float, float, float], device: torch.device | str = "cpu"
) -> FieldScene:
    """Raises CheckpointError when the file does not hold a whole field."""
    tensors, meta = load_checkpoint(path)
    try:
        if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
            raise ShapeError("it holds numbers that are not finite")
        grid = kept_grid(meta["grid"], _part(tensors, "grid.")) if "grid" in meta else _vm_grid(tensors["planes"], tensors["lines"])
        cells, (features, hidden) = tensors["cells"], tensors["decoder.w1"].shape
        decoder = Decoder(features, hidden, int(meta["degree"]))
        decoder.load_state_dict(_part(tensors, "decoder."))
        if features != grid.features or cells.shape != (len(cells),) * 3:
            raise ShapeError(f"its grid has {grid.features} features, of which {features} are read, and {tuple(cells.shape)} cells")
        field = RadianceField(grid, decoder).requires_grad_(False).to(device).ready()
        return FieldScene(field, space_from_tensors(tensors).to(device), cells.to(device).bool(), float(meta["steps"]), cameras, tuple(names), background)
    except (KeyError, ValueError, RuntimeError, IndexError, TypeError, ShapeError, ConfigError) as e:
        raise CheckpointError(f"{path} does not hold a whole field ({str(e).splitlines()[0]}); reconstruct again.") from e


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}


def _vm_grid(planes: Float[Tensor, "3 S S C"], lines: Float[Tensor, "3 S C"]) -> VmGrid:
    side, channels = planes.shape[1], planes.shape[-1]
    if side < 2 or planes.shape != (3, side, side, channels) or lines.shape != (3, side, channels):
        raise ShapeError(f"its planes are {tuple(planes.shape)}, its lines {tuple(lines.shape)}")
    grid = VmGrid(2, channels)
    grid.side, grid.planes.data, grid.lines.data = side, planes, lines
    return grid
