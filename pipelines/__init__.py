"""Pipelines: from photos to a scene, scored and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .job import reconstruct as reconstruct

__all__ = ["reconstruct"]


def __getattr__(name: str) -> Any:
    # loaded when asked for, so that `handful --help` does not wait for what it does not use
    if name == "reconstruct":
        from .job import reconstruct

        return reconstruct
    raise AttributeError(name)
