"""Chance matches fade, surfaces and thin structures stay."""

from __future__ import annotations

import torch
from handful.recon.depth import DepthMap
from handful.recon.depth_support import fade_unsupported, support


def make(depth: torch.Tensor, valid: torch.Tensor) -> DepthMap:
    return DepthMap(depth, torch.where(valid, 0.9, 0.0), valid)


def test_surface_stays_and_chance_fades() -> None:
    h, w = 120, 160
    rng = torch.Generator().manual_seed(0)
    depth = 1 / (0.2 + 0.8 * torch.rand(h, w, generator=rng))  # anything anywhere
    valid = torch.rand(h, w, generator=rng) < 0.1
    plane = torch.zeros(h, w, dtype=torch.bool)
    plane[20:100, 20:80] = True
    depth = torch.where(plane, torch.linspace(2, 2.4, w).expand(h, w), depth)
    valid = valid | (plane & (torch.rand(h, w, generator=rng) < 0.7))
    out = fade_unsupported(make(depth, valid))
    assert (out.valid & plane).sum() > 0.97 * (valid & plane).sum()
    assert (out.valid & ~plane).sum() < 0.1 * (valid & ~plane).sum()
    assert torch.equal(out.confidence > 0, out.valid)


def test_thin_structure_stays() -> None:
    depth = torch.full((150, 200), 3.0)
    valid = torch.zeros(150, 200, dtype=torch.bool)
    valid[:, 98:102] = True  # a pole, four pixels wide
    assert fade_unsupported(make(depth, valid)).valid.float().sum() > 0.9 * valid.sum()


def test_support_of_nothing_and_of_all() -> None:
    depth = torch.full((80, 100), 2.0)
    none = torch.zeros(80, 100, dtype=torch.bool)
    assert support(make(depth, none)).max() == 0
    assert support(make(depth, ~none))[20:60, 20:80].min() == 1
