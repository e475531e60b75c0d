"""Classical starts on surfaces whose shape is known."""

from __future__ import annotations

import math

import pytest
import torch
from handful.recon.scan.starts import discs, isotropic, ring_interpolation
from handful.recon.se3 import matrix_from_quat
from handful.recon.sweeps import Sweep


def wall(rings: int = 8, per_ring: int = 120) -> Sweep:
    """A wall at x = 5, seen by evenly spaced rings."""
    e, a = torch.meshgrid(torch.linspace(-0.2, 0.2, rings), torch.linspace(-0.5, 0.5, per_ring), indexing="ij")
    ring = torch.arange(rings)[:, None].expand(-1, per_ring).reshape(-1)
    xyz = torch.stack([torch.full_like(a, 5.0), 5 * a.tan(), 5 / a.cos() * e.tan()], -1).reshape(-1, 3)
    return Sweep(xyz, torch.eye(4), ring=ring)


def test_balls_are_as_large_as_their_neighbours_are_far() -> None:
    grid = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij"), -1).reshape(-1, 2)
    xyz = torch.cat([grid, torch.zeros(25, 1)], 1)
    made = isotropic(Sweep(xyz, torch.eye(4), origins=torch.tensor([0.0, 0, 100]).expand(25, 3)))
    assert float(made.scales[12, 0]) == pytest.approx(1.0)  # the middle has four neighbours at 1
    assert float(made.scales[0, 0]) == pytest.approx((1 + 1 + math.sqrt(2)) / 3, rel=1e-5)


def test_lonely_returns_near_the_scanner_do_not_hide_the_rest() -> None:
    xyz = torch.tensor([[2.0, 0, 0], [2, 5, 0], [2, -5, 0], [2, 0, 5]])
    assert float(isotropic(Sweep(xyz, torch.eye(4))).scales[0, 0]) == pytest.approx(0.04)  # 0.02 of its range
    merged = Sweep(xyz, torch.eye(4), origin_known=False)  # whose range nobody knows
    assert float(isotropic(merged).scales[0, 0]) == pytest.approx(5.0)


def test_discs_lie_in_the_surface() -> None:
    made = discs(wall())
    normal = matrix_from_quat(made.quats_wxyz)[:, :, 2]
    assert float(normal[:, 0].abs().min()) > 0.99
    assert bool((made.scales[:, 2] <= made.scales[:, 0] * 0.2).all())


def test_interpolated_rows_fill_the_wall() -> None:
    made = ring_interpolation(wall())
    assert len(made) > 3 * len(wall())
    assert torch.allclose(made.means[:, 0], torch.tensor(5.0), atol=1e-3)
    heights = made.means[made.means[:, 1].abs() < 0.05, 2].sort().values
    assert float(heights.diff().max()) < 0.06  # the rings are 0.29 apart


def test_no_row_from_one_thing_to_another() -> None:
    sweep = wall(2)
    far = torch.where((sweep.ring == 1)[:, None], sweep.xyz * 3, sweep.xyz)
    made = ring_interpolation(Sweep(far, torch.eye(4), ring=sweep.ring))
    assert len(made) == len(sweep)


def test_starts_stand_in_the_world() -> None:
    sweep = wall()
    T = torch.eye(4)
    T[:3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    T[:3, 3] = torch.tensor([1.0, 2, 3])
    for start in (isotropic, discs, ring_interpolation):
        here, there = start(sweep), start(Sweep(sweep.xyz, T, ring=sweep.ring))
        assert torch.allclose(there.means, here.means @ T[:3, :3].T + T[:3, 3], atol=1e-4)


def test_rings_are_needed() -> None:
    with pytest.raises(ValueError, match="rings"):
        ring_interpolation(Sweep(torch.randn(50, 3), torch.eye(4)))
