"""First splats: what is only guessed keeps clear of the places where photos were taken."""

from __future__ import annotations

import torch
from handful.pipelines.methods.config import SeedConfig
from handful.pipelines.methods.seed import CLEAR, seed_gaussians
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.depth import DepthMap

SIZE = 48


def two_photos(valid_near: bool) -> tuple[Capture, tuple[DepthMap, DepthMap]]:
    """Two cameras side by side, 0.5 apart, that look at a wall 3 away; in photo 0 a block of pixels claims a thing at the other camera."""
    T = torch.eye(4).repeat(2, 1, 1)
    T[1, 0, 3] = -0.5
    K = torch.tensor([[40.0, 0, SIZE / 2], [0, 40.0, SIZE / 2], [0, 0, 1]]).repeat(2, 1, 1)
    rng = torch.Generator().manual_seed(0)
    views = tuple(View(f"{i}.png", ArrayImage(torch.rand(SIZE, SIZE, 3, generator=rng))) for i in range(2))
    z = torch.full((SIZE, SIZE), 3.0)
    valid = torch.ones(SIZE, SIZE, dtype=torch.bool)
    near = z.clone()
    near[20:28, 30:48] = 0.7
    trusted = valid.clone()
    trusted[20:28, 30:48] = valid_near
    # confidence keeps the block in the completed depth; not being valid makes it a guess
    maps = (DepthMap(near, valid.float(), trusted, "metric"), DepthMap(z, valid.float(), valid, "metric"))
    return Capture(views, Cameras(T, K, SIZE, SIZE)), maps


def nearest(capture: Capture, maps: tuple[DepthMap, DepthMap]) -> float:
    assert capture.cameras is not None
    g = seed_gaussians(capture, maps, SeedConfig())
    return float(torch.cdist(g.means, capture.cameras.centers).min())


def test_guesses_keep_clear_of_where_photos_were_taken():
    assert nearest(*two_photos(valid_near=False)) >= CLEAR * 3.0 * 0.999


def test_what_was_measured_stays_however_near():
    assert nearest(*two_photos(valid_near=True)) < 0.8
