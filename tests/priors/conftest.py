"""What tests of priors share: where real weights are, real photos with cameras, and how far a match is from the epipolar geometry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.recon.camera import Cameras
from handful.recon.capture import Capture
from torch import Tensor


@pytest.fixture
def real_weights(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real weights, where priors find it; skips where there is none."""
    folder = shared / "weights"
    if not folder.is_dir():
        pytest.skip("needs ../shared/weights")
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(folder))
    return folder


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights anywhere; returns the folder in which the cache would be."""
    from handful.priors import weight_files

    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    monkeypatch.delenv("HANDFUL_NONCOMMERCIAL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weight_files, "_packaged", lambda file: None)
    return tmp_path


@pytest.fixture(scope="session")
def fern(shared_data: Path) -> Capture:
    """Photos with known cameras, 384 x 288."""
    return load_capture(shared_data / "llff_fern", LoadOptions(max_side=384))


@pytest.fixture(scope="session")
def epipolar() -> Callable[[Cameras, int, int, Tensor, Tensor], Tensor]:
    """Distance in pixels of points uv1 of photo j from the epipolar lines of points uv0 of photo i."""

    def distance(cameras: Cameras, i: int, j: int, uv0: Tensor, uv1: Tensor) -> Tensor:
        pose = cameras.cam_from_world[j].double() @ torch.linalg.inv(cameras.cam_from_world[i].double())
        x, y, z = pose[:3, 3]
        zero = torch.zeros_like(x)
        cross = torch.stack([torch.stack(r) for r in ((zero, -z, y), (z, zero, -x), (-y, x, zero))])
        K0, K1 = torch.linalg.inv(cameras.K[i].double()), torch.linalg.inv(cameras.K[j].double())
        F = K1.T @ cross @ pose[:3, :3] @ K0
        p0, p1 = (torch.cat([u.double(), torch.ones_like(u[..., :1], dtype=torch.float64)], -1) for u in (uv0, uv1))
        line = p0 @ F.T
        return (line * p1).sum(-1).abs() / line[..., :2].norm(dim=-1)

    return distance
