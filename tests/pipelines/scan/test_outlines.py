"""Outlines of a scan on the edges of photos: strong in place and nowhere else, on made-up scenes and behind a car's scanner."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.pipelines.scan import outlines
from handful.pipelines.scan.outlines import outline_contrast, returns_of_photos
from handful.pipelines.scan.score import OUTLINED
from handful.recon.camera import Cameras
from handful.recon.sweeps import Sweep
from torch import Tensor

from .scenes import Scene


def test_outlines_in_place_and_beside_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras, images, xyz = scene.demo.photo_cameras, list(scene.demo.photos.images()), scene.returns
    right = cameras.world_from_cam[1, :3, 0].double() * scene.depth

    def told(shift: float) -> float:
        value = outline_contrast(images, cameras, [xyz + shift * right] * 3)
        assert value is not None
        return value

    assert told(0.0) > OUTLINED + 0.05
    assert max(told(0.05), told(-0.05), told(0.3)) < OUTLINED
    blank = [torch.full((240, 320, 3), 0.5)] * 3
    assert outline_contrast(blank, cameras, [xyz] * 3) is None
    monkeypatch.setattr(outlines, "MOST_SEEN", 5000)  # an even third of the returns tells the same
    assert told(0.0) > OUTLINED and told(0.3) < OUTLINED


def test_a_wall_has_no_outlines() -> None:
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]]), 100, 80)
    g = torch.Generator().manual_seed(0)
    wall = torch.cat([torch.rand(2000, 2, generator=g) * 4 - 2, torch.full((2000, 1), 3.0)], 1)
    assert outline_contrast([torch.rand(80, 100, 3, generator=g)], camera, [wall]) is None


def scan_at(x: float, known: bool = True) -> Sweep:
    pose = torch.eye(4)
    pose[0, 3] = x
    return Sweep(torch.full((5, 3), x), pose, origin_known=known)


def sizes(found: list[Tensor]) -> list[int]:
    return [len(x) for x in found]


def test_each_photo_is_held_against_the_scan_of_its_place() -> None:
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[1, 0, 3] = -10  # its centre lies at x = 10
    cameras = Cameras(poses, torch.eye(3).repeat(2, 1, 1), 10, 10)
    first, second = returns_of_photos(cameras, [scan_at(9.0), scan_at(1.0)])
    assert float(first[0, 0]) == 2.0 and float(second[0, 0]) == 18.0
    assert sizes(returns_of_photos(cameras, [scan_at(9.0, False), scan_at(1.0)])) == [10, 10]


def test_behind_a_cars_scanner(shared_data: Path) -> None:
    """Real returns and photos, calibrated: where the photos' own points are misled by traffic, outlines still tell."""
    capture = load_capture(shared_data / "lidar_kitti_seq", LoadOptions(max_side=640, max_photos=3))
    assert capture.cameras is not None
    images, own = list(capture.images()), returns_of_photos(capture.cameras, capture.sweeps)
    here = outline_contrast(images, capture.cameras, own)
    aside = 5 * capture.cameras.world_from_cam[1, :3, 0]
    beside = outline_contrast(images, capture.cameras, [x + aside for x in own])
    assert here is not None and beside is not None and beside < OUTLINED - 0.05 and here > OUTLINED
