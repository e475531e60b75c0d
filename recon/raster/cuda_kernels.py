"""The functions of gsplat that Handful uses. The only file that imports it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BackendUnavailable

__all__ = ["Kernels", "load_kernels"]


@dataclass(frozen=True)
class Kernels:
    """The functions of gsplat used, by its own signatures; tests put its pure-torch ones here and so run this file without a GPU."""

    fully_fused_projection: Callable[..., Any]
    spherical_harmonics: Callable[..., Any]
    isect_tiles: Callable[..., Any]
    isect_offset_encode: Callable[..., Any]
    rasterize_to_pixels: Callable[..., Any]
    rasterize_to_pixels_2dgs: Callable[..., Any]
    adam: Callable[..., Any]


def load_kernels() -> Kernels:
    """Compiles (once) and loads gsplat. Raises BackendUnavailable saying what is missing."""
    if not torch.cuda.is_available():
        built = "this PyTorch was built without CUDA" if torch.version.cuda is None else "PyTorch finds no CUDA device"
        raise BackendUnavailable(f"gsplat needs an NVIDIA GPU: {built}; the `cpu` and `reference` rasterizers need none.")
    try:
        import gsplat
    except ImportError as e:
        raise BackendUnavailable(f"gsplat cannot be imported ({e}); run `pip install gsplat`.") from e
    logging.getLogger(__name__).info("loading gsplat's CUDA kernels (the first time they are compiled: some minutes)")
    try:
        from gsplat.cuda._backend import _C  # pyright: ignore[reportAttributeAccessIssue]
        from gsplat.cuda._wrapper import adam
    except Exception as e:  # a failed compilation surfaces as any of RuntimeError, OSError, ImportError
        raise BackendUnavailable(
            f"gsplat could not compile its CUDA kernels ({str(e).splitlines()[0] if str(e) else type(e).__name__})."
        ) from e
    if _C is None:
        raise BackendUnavailable(
            "gsplat found no CUDA toolkit to compile its kernels with; install nvcc of PyTorch's CUDA version and set CUDA_HOME."
        )
    return Kernels(
        gsplat.fully_fused_projection,
        gsplat.spherical_harmonics,
        gsplat.isect_tiles,
        gsplat.isect_offset_encode,
        gsplat.rasterize_to_pixels,
        gsplat.rasterize_to_pixels_2dgs,
        adam,
    )
