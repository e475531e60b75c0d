"""The sparse backends of this machine, one after the other."""

from __future__ import annotations

import pytest
import torch
from handful.recon.errors import BackendUnavailable
from handful.recon.voxel import SPARSE_BACKENDS, get_backend
from handful.recon.voxel.protocol import SparseBackend

WHY_SKIPPED = {"spconv": "needs spconv", "spconv-cuda": "needs CUDA"}


@pytest.fixture(params=list(SPARSE_BACKENDS))
def backend(request: pytest.FixtureRequest, device: torch.device) -> SparseBackend:
    if request.param == "spconv-cuda" and device.type != "cuda":
        pytest.skip("needs CUDA: the device of this run is another")
    try:
        return get_backend(request.param)
    except BackendUnavailable as e:
        pytest.skip(f"{WHY_SKIPPED[request.param]}: {e}")
