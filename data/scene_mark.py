"""How to tell a folder that `handful reconstruct` wrote from any other."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["EXTENTS", "is_scene_folder"]

EXTENTS = "extents"  # its folder of where each picture is a photo, not padding


def is_scene_folder(path: Path) -> bool:
    """By its config.json, which Handful writes; False for anything that is missing or broken."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and {"version", "method", "settings", "names"} <= config.keys()
