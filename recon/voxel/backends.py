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


# What "auto" takes for each kind of device. On CPUs torch's rulebook is quicker than spconv's tables and the arithmetic is the same (docs/voxels.md);
# spconv's kernels on GPUs are not measured yet, so nobody gets them unasked.
AUTO: dict[str, str] = {"cpu": "torch", "cuda": "torch"}


def get_backend(name: str = "auto", device: torch.device | str = "cpu") -> SparseBackend:
    """The backend called `name`; "auto" takes the fastest measured on the kind of `device`.

    Raises BackendUnavailable (with the reason) when a named one cannot run here, ConfigError for an unknown name.
    """
    if name == "auto":
        name = AUTO.get(torch.device(device).type, "torch")
    if name not in SPARSE_BACKENDS:
        raise ConfigError(f"There is no sparse backend {name!r}; choose one of auto, {', '.join(SPARSE_BACKENDS)}.")
    module, attr = SPARSE_BACKENDS[name].split(":")
    return getattr(import_module(f".{module}", __package__), attr)()


def backend_status(device: torch.device | str = "cpu") -> dict[str, str]:
    """Name -> "available" or why not, and which one "auto" takes on `device`, for `handful doctor`."""
    chosen = get_backend("auto", device).name
    status: dict[str, str] = {}
    for name in SPARSE_BACKENDS:
        try:
            get_backend(name)
            status[name] = "available, taken by auto" if name == chosen else "available"
        except BackendUnavailable as e:
            status[name] = str(e)
    return status
