"""All backends of sparse convolutions by name, and the rule that picks one."""

from __future__ import annotations

from importlib import import_module

import torch

from ..errors import BackendUnavailable, ConfigError
from .protocol import SparseBackend

__all__ = ["SPARSE_BACKENDS", "backend_status", "get_backend"]

# name -> "module:factory"; the module is imported only when asked for
SPARSE_BACKENDS: dict[str, str] = {
    "torch": "torch_backend:make",
    "spconv": "spconv_backend:make_cpu",
    "spconv-cuda": "spconv_backend:make_cuda",
}


def get_backend(name: str = "auto", device: torch.device | str = "cpu") -> SparseBackend:
    """The backend called `name`; "auto" takes the fastest that works on `device`.

    Raises BackendUnavailable (with the reason) when a named one cannot run here, ConfigError for an unknown name.
    """
    if name == "auto":
        name = auto_choice(device)
    if name not in SPARSE_BACKENDS:
        raise ConfigError(f"There is no sparse backend {name!r}; choose one of auto, {', '.join(SPARSE_BACKENDS)}.")
    module, attr = SPARSE_BACKENDS[name].split(":")
    return getattr(import_module(f".{module}", __package__), attr)()


def auto_choice(device: torch.device | str = "cpu") -> str:
    return "torch"


def backend_status() -> dict[str, str]:
    """Name -> "available" or why not, for `handful doctor`."""
    status: dict[str, str] = {}
    for name in SPARSE_BACKENDS:
        try:
            get_backend(name)
            status[name] = "available"
        except BackendUnavailable as e:
            status[name] = str(e)
    return status
