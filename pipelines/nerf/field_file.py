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
        planes, lines = tensors["planes"], tensors["lines"]
        grid = VmGrid(2, planes.shape[-1])
        grid.side, grid.planes.data, grid.lines.data = planes.shape[1], planes, lines
        decoder = Decoder(tensors["decoder.w1"].shape[0], tensors["decoder.w1"].shape[1], int(meta["degree"]))
        decoder.load_state_dict({k.removeprefix("decoder."): v for k, v in tensors.items() if k.startswith("decoder.")})
        field = RadianceField(grid, decoder).requires_grad_(False).to(device).ready()
        field.raw(torch.full((1, 3), 0.5, device=device))  # shapes that do not fit are told now
        return FieldScene(field, space_from_tensors(tensors).to(device), tensors["cells"].to(device).bool(), float(meta["steps"]), cameras, tuple(names), background)
    except (KeyError, ValueError, RuntimeError, IndexError, ShapeError) as e:
        raise CheckpointError(f"{path} does not hold a whole field ({str(e).splitlines()[0]}); reconstruct again.") from e
