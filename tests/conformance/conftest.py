"""The rasterizers of this machine, one after the other; also gsplat's adapter over gsplat's own torch functions, without a GPU."""

from __future__ import annotations

import pytest
import torch
from handful.recon.errors import BackendUnavailable
from handful.recon.raster.protocol import Rasterizer
from handful.recon.raster.registry import RASTERIZERS, get_rasterizer

from ..recon.raster import gsplat_on_cpu

WHY_SKIPPED = {"cpu": "needs compiled kernels", "gsplat": "needs CUDA"}


@pytest.fixture(params=[*RASTERIZERS, "gsplat-torch"])
def raster(request: pytest.FixtureRequest, device: torch.device) -> Rasterizer:
    try:
        r = gsplat_on_cpu.make() if request.param == "gsplat-torch" else get_rasterizer(request.param)
    except BackendUnavailable as e:
        pytest.skip(f"{WHY_SKIPPED[request.param]}: {e}")
    if device.type not in r.caps.devices:
        pytest.skip(f"needs CUDA turned off: {request.param} runs on {', '.join(sorted(r.caps.devices))}")
    return r
