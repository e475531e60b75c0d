"""All rasterizers by name, and the rule that picks one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module

import torch

from ..errors import BackendUnavailable, ConfigError
from .protocol import Rasterizer

__all__ = ["RASTERIZERS", "get_rasterizer", "rasterizer_status"]

_log = logging.getLogger(__name__)

# name -> "module:factory"; the module is imported only when asked for
RASTERIZERS: dict[str, str] = {
    "gsplat": "cuda_gsplat:make",
    "cpu": "cpu:make",
    "reference": "reference:make",
}


def _factory(name: str) -> Callable[[], Rasterizer]:
    module, attr = RASTERIZERS[name].split(":")
    return getattr(import_module(f".{module}", __package__), attr)


def get_rasterizer(name: str = "auto", device: torch.device | str = "cpu") -> Rasterizer:
    """The rasterizer called `name`; "auto" takes the fastest that works on `device`.

    Raises BackendUnavailable (with the reason) when a named one cannot run here, ConfigError for an unknown name.
    """
    if name == "auto":
        order = ["gsplat", "reference"] if torch.device(device).type == "cuda" else ["cpu", "reference"]
        reasons: list[str] = []
        for candidate in order:
            try:
                rasterizer = _factory(candidate)()
            except BackendUnavailable as e:
                reasons.append(str(e))
                continue
            if candidate == "reference":
                _log.warning(f"The slow pure-torch rasterizer is used, so everything takes many times longer. {reasons[0]}")
            return rasterizer
        raise BackendUnavailable(" ".join(reasons))
    if name not in RASTERIZERS:
        raise ConfigError(f"There is no rasterizer {name!r}; choose one of {', '.join(RASTERIZERS)}.")
    return _factory(name)()


def rasterizer_status() -> dict[str, str]:
    """Name -> "available" or why not, for `handful doctor`."""
    status: dict[str, str] = {}
    for name in RASTERIZERS:
        try:
            _factory(name)()
            status[name] = "available"
        except BackendUnavailable as e:
            status[name] = str(e)
    return status
