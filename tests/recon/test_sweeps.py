"""A scan carried into another world."""

from __future__ import annotations

from dataclasses import replace

import torch
from handful.recon.se3 import Similarity, so3_exp
from handful.recon.sweeps import Sweep


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
