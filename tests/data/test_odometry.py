"""Odometry on scans made of known motion, on real ones against poses of a denser run, and what cannot be followed."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.odometry_kiss import odometry, reach_of
from handful.recon.errors import BackendUnavailable, CaptureError
from handful.recon.se3 import rotation_angle, so3_exp
from handful.recon.sweeps import Sweep
from torch import Tensor


def room(size: float, n: int, seed: int) -> Tensor:
    """Returns from the walls, the floor and two blocks of a room 10 x 8 x 3 times `size` / 10."""
    g = torch.Generator().manual_seed(seed)

    def box(low: tuple[float, ...], high: tuple[float, ...], count: int) -> Tensor:
        p = torch.rand(count, 3, generator=g, dtype=torch.float64)
        face = torch.randint(0, 6, (count,), generator=g)
        p[torch.arange(count), face // 2] = (face % 2).double()
        a, b = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)
        return a + p * (b - a)

    parts = [box((-5, -4, -1), (5, 4, 2), n), box((2, 1, -1), (3.5, 2.2, 0.5), n // 6), box((-4, -3, -1), (-3, -1, 1), n // 6)]
    return torch.cat(parts) * size / 10


def drive(size: float, count: int = 6) -> tuple[list[Sweep], Tensor]:
    """Scans of the room from a sensor that goes forward and turns; each a sample of its own, in the sensor's frame, without a pose."""
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    for k in range(count):
        poses[k, :3, :3] = so3_exp(torch.tensor([0.0, 0.0, math.radians(2.0 * k)], dtype=torch.float64))
        poses[k, :3, 3] = torch.tensor([0.15 * k, 0.05 * k, 0.0], dtype=torch.float64) * size / 10
    local = [(room(size, 20_000, k) - poses[k, :3, 3]) @ poses[k, :3, :3] for k in range(count)]
    return [Sweep(p.float(), torch.full((4, 4), 7.0), f"{k}") for k, p in enumerate(local)], poses


def errors(found: tuple[Sweep, ...], poses: Tensor) -> tuple[Tensor, Tensor]:
    """Metres and degrees, each scan's."""
    T = torch.stack([s.world_from_sensor for s in found]).double()
    return (T[:, :3, 3] - poses[:, :3, 3]).norm(dim=-1), rotation_angle(T[:, :3, :3] @ poses[:, :3, :3].transpose(1, 2)).rad2deg()


@pytest.mark.parametrize("size", [10.0, 100.0])
def test_a_known_motion_is_followed(size: float) -> None:
    """In a room and in a hall ten times as large: nothing depends on metres."""
    pytest.importorskip("kiss_icp", reason="needs kiss-icp")
    sweeps, poses = drive(size)
    told: list[float] = []
    found = odometry(sweeps, told.append)
    shift, turn = errors(found, poses)
    print(f"off by {float(shift.max()):.3f} of {float(poses[-1, :3, 3].norm()):.2f}, {float(turn.max()):.2f} degrees")
    assert float(shift.max()) < 0.006 * size and float(turn.max()) < 0.4
    assert all(torch.equal(a.xyz, b.xyz) and a.name == b.name for a, b in zip(found, sweeps, strict=True))
    assert torch.equal(found[0].world_from_sensor, torch.eye(4)) and told[-1] == 1


def test_a_car_is_followed_though_scans_are_far_apart(shared_data: Path) -> None:
    """Three scans 0.3 s apart, against poses of the same program over all scans, 0.1 s apart: neither is the truth, and the first step is the vaguest."""
    pytest.importorskip("kiss_icp", reason="needs kiss-icp")
    folder = shared_data / "lidar_kitti_seq"
    sweeps = []
    for file in sorted((folder / "velodyne_points").glob("*.npz"))[:3]:
        with np.load(file) as a:
            xyz = np.stack([a["x_mm"], a["y_mm"], a["z_mm"]], -1) / 1000
        sweeps.append(Sweep(torch.from_numpy(xyz).float(), torch.eye(4), file.stem))
    shift, turn = errors(odometry(sweeps), torch.from_numpy(np.load(folder / "poses_kiss_icp.npy")[:3]))
    print(f"off by {shift.tolist()} m, {turn.tolist()} degrees")
    assert float(shift.max()) < 0.4 and float(turn.max()) < 0.3


def test_one_time_for_all_returns_is_none() -> None:
    """A scan whose returns carry the time of the scan says nothing about motion within it."""
    pytest.importorskip("kiss_icp", reason="needs kiss-icp")
    sweeps, poses = drive(10.0, 3)
    spread = [replace(s, seconds=torch.linspace(0, 0.1, len(s))) for s in sweeps]
    for timed in ([replace(s, seconds=torch.full((len(s),), 0.25)) for s in sweeps], [replace(sweeps[0], seconds=torch.zeros(len(sweeps[0]))), *spread[1:]]):
        shift, turn = errors(odometry(timed), poses)
        assert float(shift.max()) < 0.06 and float(turn.max()) < 0.4


def test_a_long_recording_has_a_reach() -> None:
    """More ranges than torch's quantile takes."""
    scan = Sweep(torch.tensor([[3.0, 4.0, 0.0]]).repeat(5000, 1), torch.eye(4))
    assert reach_of([scan] * 3400) == pytest.approx(5.0)


def test_what_cannot_be_followed_is_refused() -> None:
    pytest.importorskip("kiss_icp", reason="needs kiss-icp")
    sweeps, _ = drive(10.0, 2)
    with pytest.raises(CaptureError, match="one scan"):
        odometry(sweeps[:1])
    with pytest.raises(CaptureError, match="The scan 1 has only 50 returns"):
        odometry([sweeps[0], sweeps[1].kept(torch.arange(50))])


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kiss_icp.config", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'handful\[odometry\]'"):
        odometry(drive(10.0, 2)[0])
