"""What the rasterizer suites share."""

from __future__ import annotations

import torch
from handful.recon.camera import Cameras
from handful.recon.gaussians import Gaussians
from handful.recon.raster.protocol import Rasterizer
from handful.recon.sh import sh_dc_from_rgb

from ..recon.raster.scenes import relative_error

TOLERANCE = 1e-4  # relative to the largest value, float32, away from jumps
FAST_MATH = 5e-4  # gsplat compiles its kernels with fast exponentials and divisions
IMAGES = ("color", "alpha", "depth", "normal")


def one_gaussian(
    device: torch.device, *, scale: tuple[float, float, float] = (0.3, 0.2, 0.1), opacity: float = 0.8, z: float = 3.0
) -> tuple[Gaussians, Cameras]:
    t = torch.tensor
    g = Gaussians(
        t([[0.1, -0.05, z]]), t([[1.0, 0.0, 0.0, 0.0]]), t([scale]).log(), torch.logit(t([opacity])), sh_dc_from_rgb(t([[[0.9, 0.5, 0.2]]]))
    )
    K = t([[[30.0, 0, 16.0], [0, 32.0, 12.0], [0, 0, 1]]])
    return g.to(device), Cameras(torch.eye(4)[None], K, 32, 24).to(device)


def tolerance(raster: Rasterizer) -> float:
    return FAST_MATH if raster.name == "gsplat" else TOLERANCE


def unguarded(raster: Rasterizer) -> bool:
    """gsplat's torch functions divide by z and take square roots unguarded, unlike its CUDA kernels."""
    return raster.name == "gsplat" and "cpu" in raster.caps.devices


def assert_same(a, b, tolerance: float = 1e-5) -> None:
    for k in IMAGES:
        x, y = getattr(a, k), getattr(b, k)
        assert (x is None) == (y is None)
        if x is not None:
            assert relative_error(x, y) < tolerance, k
