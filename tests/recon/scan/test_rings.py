"""Rings are told from the order of a file, beams' origins from the cones that they draw."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from handful.data.synthetic_scans import PATTERNS, Pattern, make_place, scan
from handful.recon.scan.rings import azimuth, keep_rings, ring_numbers, ring_origins, with_rings
from handful.recon.sweeps import Sweep


def cones(rings: int, per_ring: int, tips: torch.Tensor, start: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ring by ring, the lowest first, each on the cone of its beam at changing range."""
    a = torch.arange(per_ring).double() / per_ring * 2 * math.pi * 0.999 + start + 1e-4
    slope = torch.linspace(-0.4, 0.05, rings).double()
    far = 6 + 4 * torch.sin(3 * a)[None] + torch.arange(rings)[:, None] * 0.1
    xyz = torch.stack([far * a.cos(), far * a.sin(), tips[:, None].double() + slope[:, None] * far], -1)
    return xyz.reshape(-1, 3).float(), torch.arange(rings).repeat_interleave(per_ring)


@pytest.mark.parametrize("start", [0.0, math.pi])
@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_rings_of_an_ordered_file(start: float, upside_down: bool, backwards: bool) -> None:
    xyz, ring = cones(16, 200, torch.zeros(16), start)
    if upside_down:  # files that keep the highest ring first
        order = torch.cat([(ring == r).nonzero()[:, 0] for r in range(15, -1, -1)])
        xyz, ring = xyz[order], ring[order]
    if backwards:  # scanners that turn the other way
        order = torch.cat([(ring == r).nonzero()[:, 0].flip(0) for r in ring.unique_consecutive().tolist()])
        xyz, ring = xyz[order], ring[order]
    found = ring_numbers(xyz)
    assert found is not None and torch.equal(found, ring)


def test_rings_with_gaps() -> None:
    xyz, ring = cones(32, 400, torch.zeros(32))
    kept = torch.rand(len(xyz), generator=torch.Generator().manual_seed(1)) < 0.6
    found = ring_numbers(xyz[kept])
    assert found is not None and torch.equal(found, ring[kept])


def test_no_rings_where_there_is_no_order() -> None:
    xyz, _ = cones(16, 200, torch.zeros(16))
    assert ring_numbers(xyz[torch.randperm(len(xyz), generator=torch.Generator().manual_seed(0))]) is None
    assert ring_numbers(xyz[:10]) is None and ring_numbers(torch.zeros(0, 3)) is None


def test_a_list_in_firing_order_has_no_rings() -> None:
    """All beams at one azimuth, then all at the next: it goes round once, and a turn is no ring."""
    xyz, ring = cones(16, 200, torch.zeros(16))
    firing = torch.arange(200 * 16).view(16, 200).T.reshape(-1)
    assert ring_numbers(xyz[firing]) is None
    assert ring_numbers(torch.cat([xyz[firing], xyz[firing] + 0.01])) is None
    kept, _ = keep_rings(with_rings(Sweep(xyz[firing], torch.eye(4))), 0.25)
    assert len(kept) == 800  # by return


def test_origins_are_the_tips_of_the_cones() -> None:
    tips = torch.linspace(0.1, 0.2, 16)
    xyz, ring = cones(16, 300, tips)
    origins = ring_origins(xyz + 0.001 * torch.randn(xyz.shape, generator=torch.Generator().manual_seed(0)), ring)
    assert origins is not None
    assert torch.allclose(origins[:, 2], tips[ring], atol=2e-3) and float(origins[:, :2].abs().max()) == 0


def test_no_origins_where_rings_lie_on_no_cones() -> None:
    xyz, ring = cones(16, 300, torch.zeros(16))
    crooked = xyz + torch.stack([torch.zeros(len(xyz)), torch.zeros(len(xyz)), 0.3 * torch.sin(5 * azimuth(xyz))], 1)
    assert ring_origins(crooked, ring) is None


def test_a_part_of_the_rings_and_the_rest() -> None:
    xyz, ring = cones(16, 50, torch.zeros(16))
    kept, withheld = keep_rings(Sweep(xyz, torch.eye(4), ring=ring), 0.25)
    assert kept.ring is not None and withheld.ring is not None
    assert kept.ring.unique().tolist() == [2, 6, 10, 14] and len(kept) + len(withheld) == 800
    kept, withheld = keep_rings(Sweep(xyz, torch.eye(4)), 0.125)
    assert len(kept) == 100 and len(withheld) == 700


def test_made_up_scans_have_the_rings_they_say() -> None:
    rng, stand = np.random.default_rng(0), torch.eye(4)
    stand[2, 3] = 1.7
    whole = PATTERNS["spinning64"](rng)
    some = whole.ring % 8 == 0
    made = scan(make_place(3), Pattern(whole.directions[some], whole.ring[some]), stand, rng, noise=0.0, stray=0.0).sweep
    found = ring_numbers(made.xyz)
    assert made.ring is not None and found is not None
    assert float((found == made.ring.unique(return_inverse=True)[1]).float().mean()) > 0.999


def test_rings_of_a_real_scanner(shared_data) -> None:
    from handful.data.scans.registry import load_sweeps

    sweep = with_rings(load_sweeps(next((shared_data / "lidar_kitti_seq" / "velodyne_points").glob("*.npz")))[0])
    assert sweep.ring is not None and int(sweep.ring.max()) == 63
    # the HDL-64's two blocks of lasers sit about 12 and 20 cm above its frame's origin
    assert sweep.origins is not None
    height = sweep.origins[:, 2]
    assert 0.11 < float(height[sweep.ring < 31].mean()) < 0.13 and 0.19 < float(height[sweep.ring > 33].mean()) < 0.21
