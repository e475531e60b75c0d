"""How to tell a folder that `handful reconstruct` wrote from any other."""

from __future__ import annotations

import json
from pathlib import Path

from ..recon.errors import ConfigError

__all__ = ["EXTENTS", "OWN_FILES", "is_scene_folder", "refuse_own_file"]

OWN_FILES = ("scene.ply", "config.json", "metrics.json", "transforms.json", "preview.png", "field.safetensors", "edits.json", "path.json")
EXTENTS = "extents"  # its folder of where each picture is a photo, not padding


def is_scene_folder(path: Path) -> bool:
    """By its config.json, which Handful writes; False for anything that is missing or broken."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and {"version", "method", "settings", "names"} <= config.keys()


def refuse_own_file(out: Path) -> None:
    """Raises ConfigError where something that is made of a scene would replace a part of one."""
    if out.name in OWN_FILES and is_scene_folder(out.parent):
        raise ConfigError(f"{out} is a part of the scene itself, which stays as it is; choose another name, or another folder.")
