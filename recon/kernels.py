"""The compiled kernels, loaded when first used: the only file that imports `_native`."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

from .errors import BackendUnavailable

__all__ = ["native", "native_or_none"]


@lru_cache(maxsize=1)
def native() -> ModuleType:
    """The nanobind module. Raises BackendUnavailable when this installation has none."""
    try:
        from . import _native  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as e:
        raise BackendUnavailable(
            f"Handful's compiled kernels are missing ({e.msg.split(' (')[0]}); install a C++17 compiler (g++ or clang++) and run `pip install .` again."
        ) from e
    return _native


def native_or_none() -> ModuleType | None:
    try:
        return native()
    except BackendUnavailable:
        return None
