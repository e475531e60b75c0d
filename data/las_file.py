"""laspy, where it is installed: the one file that imports it."""

from __future__ import annotations

from typing import Any

from ..recon.errors import BackendUnavailable

__all__ = ["laspy_module"]


def laspy_module() -> Any:
    """Raises BackendUnavailable with what to install."""
    try:
        import laspy
    except ImportError as e:
        raise BackendUnavailable("LAS files need laspy: pip install 'handful[las]'") from e
    return laspy
