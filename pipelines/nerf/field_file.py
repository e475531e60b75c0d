"""A field on disk: field.safetensors in the scene folder, beside the splats it was turned into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.errors import CheckpointError, ShapeError
from ...recon.field.decoder import Decoder
from ...recon.field.radiance import RadianceField
from ...recon.field.scene import FieldScene
from ...recon.field.space import space_from_tensors, space_to_tensors
from ...recon.field.vm import VmGrid
from ..checkpoint import load_checkpoint, save_checkpoint

__all__ = ["FIELD", "load_field", "save_field"]

FIELD = "field.safetensors"


def save_field(path: Path, scene: FieldScene) -> None:
    grids = scene.field.grids
    assert grids is not None, "only fields of planes and lines are kept"
    tensors: dict[str, Tensor] = {"planes": grids[0], "lines": grids[1], "cells": scene.cells.to(torch.uint8)}
    tensors |= {f"decoder.{k}": v for k, v in scene.field.decoder.state_dict().items()} | space_to_tensors(scene.space)
    save_checkpoint(path, tensors, {"steps": scene.steps, "degree": scene.field.decoder.degree})


def load_field(
    path: Path, cameras: Cameras, names: Sequence[str], background: tuple[float, float, float], device: torch.device | str = "cpu"
) -> FieldScene:
    """Raises CheckpointError when the file does not hold a whole field."""
    tensors, meta = load_checkpoint(path)
    try:
        planes, lines, cells, degree = tensors["planes"], tensors["lines"], tensors["cells"], int(meta["degree"])
        side, channels = planes.shape[1], planes.shape[-1]
        features, hidden = tensors["decoder.w1"].shape
        grid, decoder = VmGrid(2, channels), Decoder(features, hidden, degree)
        decoder.load_state_dict({k.removeprefix("decoder."): v for k, v in tensors.items() if k.startswith("decoder.")})
        if planes.shape != (3, side, side, channels) or lines.shape != (3, side, channels) or features != 3 * channels or cells.shape != (len(cells),) * 3:
            raise ShapeError(f"its grids are {tuple(planes.shape)}, {tuple(lines.shape)} and {tuple(cells.shape)}")
        if side < 2 or not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
            raise ShapeError("it holds numbers that are not finite")
        grid.side, grid.planes.data, grid.lines.data = side, planes, lines
        field = RadianceField(grid, decoder).requires_grad_(False).to(device).ready()
        return FieldScene(field, space_from_tensors(tensors).to(device), cells.to(device).bool(), float(meta["steps"]), cameras, tuple(names), background)
    except (KeyError, ValueError, RuntimeError, IndexError, TypeError, ShapeError) as e:
        raise CheckpointError(f"{path} does not hold a whole field ({str(e).splitlines()[0]}); reconstruct again.") from e
