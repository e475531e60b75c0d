"""Saving a run so that it continues exactly: tensors as safetensors, everything else as JSON, one atomic file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.atomic import write_bytes
from ..recon.errors import CheckpointError

__all__ = ["load_checkpoint", "read_meta", "save_checkpoint"]

VERSION = 1


def save_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Writes beside `path`, then renames: whatever happens, a whole checkpoint is there."""
    from safetensors.torch import save

    clean = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}  # two names may share one tensor
    header = {"handful": json.dumps({"version": VERSION, **meta})}
    write_bytes(path, save(clean, metadata=header))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises CheckpointError when the file is not a whole checkpoint of this version."""
    return _read(path, True)


def read_meta(path: Path) -> dict[str, Any]:
    """What `load_checkpoint` gives beside the tensors, without reading them."""
    return _read(path, False)[1]


def _read(path: Path, whole: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as f:
            meta = json.loads((f.metadata() or {}).get("handful", "{}"))
            tensors = {k: f.get_tensor(k) for k in f.keys()} if whole else {}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, json.JSONDecodeError) as e:
        raise CheckpointError(f"{path} is not a checkpoint that can be read ({e}); delete it to start anew.") from e
    if meta.pop("version", None) != VERSION:
        raise CheckpointError(f"{path} was written by another version of Handful; delete it to start anew.")
    return tensors, meta
