"""A scan carried into another world."""

from __future__ import annotations

from dataclasses import replace

import torch
from handful.recon.se3 import Similarity, so3_exp
from handful.recon.sweeps import Sweep, evenly, world_returns


def test_a_scan_in_a_world_of_another_scale() -> None:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = so3_exp(torch.tensor([0.3, 0.1, -0.2]).double()), torch.tensor([1.0, 2.0, 3.0])
    scan = Sweep(torch.rand(50, 3).double(), pose, origins=torch.rand(50, 3).double(), intensity=torch.rand(50))
    S = Similarity(torch.tensor(2.5).double(), so3_exp(torch.tensor([-1.0, 0.4, 0.2]).double()), torch.tensor([5.0, -6.0, 7.0]).double())
    there = scan.carried(S).validate()
    torch.testing.assert_close(there.world_xyz, S.apply(scan.world_xyz))
    torch.testing.assert_close(there.world_origins, S.apply(scan.world_origins))
    torch.testing.assert_close(there.world_from_sensor[:3, :3] @ there.world_from_sensor[:3, :3].T, torch.eye(3).double())
    assert there.intensity is scan.intensity
    rigid = replace(S, scale=torch.tensor(1.0).double())
    torch.testing.assert_close(scan.carried(rigid).world_xyz, scan.moved(rigid.matrix).world_xyz)


def test_map_coordinates_keep_their_millimetres() -> None:
    g = torch.Generator().manual_seed(0)
    near, pose = torch.rand(200, 3, generator=g) * 80 - 40, torch.eye(4)
    pose[:3, 3] = torch.tensor([3_451_000.0, 5_412_000.0, 7.0])
    scan = Sweep(near, pose, origins=near / 2)
    want = near.double() + pose[:3, 3].double()
    assert float((scan.world_xyz.double() - want).abs().max()) > 0.1  # what float32 makes of it
    torch.testing.assert_close(world_returns([scan, scan]), torch.cat([want, want]), atol=1e-9, rtol=0)
    torch.testing.assert_close(scan.exact().world_origins, want - near.double() / 2, atol=1e-9, rtol=0)
    assert not scan.unplaced and Sweep(near, torch.eye(4)).unplaced


def test_an_even_part_of_several_scans() -> None:
    scans = [Sweep(torch.arange(3.0 * n).reshape(n, 3), torch.eye(4), f"{n}") for n in (3000, 1000, 0, 2)]
    assert [len(s) for s in evenly(scans, 1000)] == [600, 200, 1]
    assert [len(s) for s in evenly(scans, 10_000)] == [3000, 1000, 2]
    assert world_returns(scans, 1000).shape == (801, 3) and world_returns([]).shape == (0, 3) and len(world_returns(scans)) == 4002
