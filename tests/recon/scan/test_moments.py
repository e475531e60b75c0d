"""Which photo and scan are of one moment."""

from __future__ import annotations

from dataclasses import replace

import torch
from handful.recon.scan.moments import moment_of, own_sweep
from handful.recon.sweeps import Sweep


def named(name: str) -> Sweep:
    return Sweep(torch.zeros(1, 3), torch.eye(4), name)


def test_names_without_folders_and_endings() -> None:
    assert moment_of("image_02/000012.png") == moment_of("velodyne/000012.pcd.bin") == moment_of("000012.npz") == "000012"
    assert moment_of("a.b.jpg") == "a.b"


def test_one_scan_of_that_name_and_no_other() -> None:
    sweeps = [named("s/1.bin"), named("s/2.bin"), named("t/2.bin")]
    assert own_sweep("p/1.jpg", sweeps) == 0
    assert own_sweep("p/2.jpg", sweeps) is None  # two say so
    assert own_sweep("p/3.jpg", sweeps) is None
    assert own_sweep("p/1.jpg", [replace(sweeps[0], origin_known=False)]) is None  # a merged cloud is of no moment


def test_a_scan_may_say_its_moment() -> None:
    assert own_sweep("CAM_FRONT/17.jpg", [replace(named("LIDAR_TOP/x.pcd.bin"), moment="17")]) == 0
