"""All initialisers by name. A new one is one file and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ...recon.capture import Capture
from ...recon.errors import ConfigError
from .protocol import Initializer

__all__ = ["INITIALIZERS", "get_initializer"]

INITIALIZERS: dict[str, str] = {
    "given": "from_capture:FromCapture",
    "matches": "from_matches:FromMatches",
}


def get_initializer(name: str, capture: Capture | None = None, **options: Any) -> Initializer:
    """Builds an initialiser; "auto" is "given" where the capture has cameras and "matches" where it has none.

    Raises ConfigError for a name that is not there.
    """
    if name == "auto":
        name = "given" if capture is not None and capture.cameras is not None else "matches"
    if name not in INITIALIZERS:
        raise ConfigError(f"There is no initialiser {name!r}; choose one of auto, {', '.join(INITIALIZERS)}.")
    module, attr = INITIALIZERS[name].split(":")
    return getattr(import_module(f".{module}", __package__), attr)(**options)
