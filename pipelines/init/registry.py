"""All initialisers by name. A new one is one file and one line here."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import torch

from ...recon.capture import Capture
from ...recon.errors import ConfigError
from .config import InitConfig
from .protocol import Initializer

__all__ = ["INITIALIZERS", "get_initializer"]

INITIALIZERS: dict[str, str] = {
    "given": "from_capture:FromCapture",
    "matches": "from_matches:FromMatches",
    "pointmap": "from_pointmap:FromPointMap",
}


def get_initializer(
    name: str, config: InitConfig | None = None, capture: Capture | None = None, device: torch.device | None = None, points: bool = True
) -> Initializer:
    """Builds an initialiser whose larger networks work on `device` (None: the CPU). Without `points` given cameras are taken even where nothing in the photos
    vouches for them: what follows asks for no points.

    "auto" is "given" where the capture has cameras; else "pointmap" where the settings name one, and "matches" where they do not.

    Raises ConfigError for a name that is not there, BackendUnavailable for a prior that cannot work here.
    """
    config = config or InitConfig()
    if name == "auto":
        name = "given" if capture is not None and capture.cameras is not None else "pointmap" if config.pointmap is not None else "matches"
    if name not in INITIALIZERS:
        raise ConfigError(f"There is no initialiser {name!r}; choose one of auto, {', '.join(INITIALIZERS)}.")
    module, attr = INITIALIZERS[name].split(":")
    made = getattr(import_module(f".{module}", __package__), attr).named(config, device)
    if name == "given" and not points:
        made.config = replace(made.config, needs_points=False)
    return made
