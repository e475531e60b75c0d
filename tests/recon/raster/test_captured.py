"""Real points: the captured garden, fast path against the judge. Here thresholds are crossed, so single pixels may jump by one small contribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from handful.recon.camera import Cameras
from handful.recon.errors import BackendUnavailable
from handful.recon.gaussians import Gaussians
from handful.recon.raster.protocol import RasterOptions
from handful.recon.raster.registry import get_rasterizer
from handful.recon.sh import sh_dc_from_rgb

from .scenes import gradients


@pytest.mark.parametrize("opacity", [0.2, 0.6])
def test_the_garden(shared_data: Path, opacity: float) -> None:
    try:
        fast = get_rasterizer("cpu")
    except BackendUnavailable:
        pytest.skip("needs compiled kernels")
    with np.load(shared_data / "m360_garden3_gsplat" / "test_garden.npz") as z:
        means, rgb = torch.tensor(z["means3d"]).float(), torch.tensor(z["colors"]).float() / 255
        cameras = Cameras(torch.tensor(z["viewmats"]).float(), torch.tensor(z["Ks"]).float(), int(z["width"]), int(z["height"]))
    pick = torch.randperm(len(means), generator=torch.Generator().manual_seed(0))[:30000]
    means, rgb = means[pick], rgb[pick]
    n = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(n, 1)
    log_scales = torch.full((n, 3), -4.5) + torch.tensor([0.0, 0.3, -0.5])
    g = Gaussians(means, quats, log_scales, torch.logit(torch.full((n,), opacity)), sh_dc_from_rgb(rgb.clamp_min(0.01))[:, None])
    camera = cameras[0].cropped(230, 120, 150, 110)
    options = RasterOptions(background=(0.5, 0.5, 0.5), normal=True)
    a, ga = gradients(fast, g, camera, options)
    b, gb = gradients(get_rasterizer("reference"), g, camera, options)
    assert b.alpha.mean() > 0.3
    for k in ("color", "alpha", "depth", "normal"):
        error = (getattr(a, k) - getattr(b, k)).abs()
        assert error.median() < 1e-6 and (error > 1e-4).float().mean() < 1e-3, k
    for k in ("means", "log_scales", "quats_wxyz", "logit_opacities", "sh", "cam_from_world", "K"):
        assert (ga[k] - gb[k]).norm() < 2e-3 * gb[k].norm(), k
