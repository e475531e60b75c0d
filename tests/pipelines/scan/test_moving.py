"""What moves through photos and scans is left out, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.pipelines.init.protocol import CameraReport, InitState
from handful.pipelines.protocol import Start
from handful.pipelines.scan.depth import scan_depth
from handful.pipelines.scan.moving import said_of_moving, without_moving
from handful.pipelines.start_file import load_start, save_start
from handful.recon.capture import Capture
from handful.recon.points import PointCloud
from torch import Tensor

from .street import street_capture


@pytest.fixture(scope="module")
def drive() -> tuple[Capture, Tensor]:
    return street_capture(passing=0.7)


def red(capture: Capture) -> Tensor:
    images = capture.images()
    return (images[..., 0] > 0.3) & (images[..., 0] > 2.5 * images[..., 1]) & (images[..., 0] > 2.5 * images[..., 2])


def test_what_moves_is_left_out(drive: tuple[Capture, Tensor]) -> None:
    capture, _ = drive
    made = scan_depth(capture)
    assert made is not None and made.moving is not None
    box = red(capture)
    assert box.flatten(1).any(1).all(), "the box is in every photo"
    assert made.moving[box].float().mean() > 0.9
    assert made.moving[~box].float().mean() < 0.06, "its border"
    assert (made.returns[made.moving] == 0).all() and not any(bool((d.valid & m).any()) for d, m in zip(made.dense, made.moving, strict=True))
    # elsewhere the street is told as ever, also where the box stood a moment before or will stand
    _, truth = drive
    elsewhere = ~made.moving & (truth > 0) & torch.stack([d.valid for d in made.dense])
    dense = torch.stack([d.depth for d in made.dense])
    assert (((dense - truth).abs() < 0.05 * truth + 0.1)[elsewhere]).float().mean() > 0.75


def test_a_still_street_loses_nothing() -> None:
    capture, _ = street_capture()
    made = scan_depth(capture)
    assert made is not None and made.moving is not None and made.moving.float().mean() < 0.01
    assert said_of_moving(torch.zeros(2, 3, 4, dtype=torch.bool)) == () == said_of_moving(None)


def test_two_moments_or_unwanted(drive: tuple[Capture, Tensor]) -> None:
    capture, _ = drive
    two = scan_depth(capture.select(capture.names[:2]))
    assert two is not None and two.moving is None
    unwanted = scan_depth(capture, find_moving=False)
    assert unwanted is not None and unwanted.moving is None


def test_a_photo_that_counts_in_part(drive: tuple[Capture, Tensor], tmp_path: Path) -> None:
    capture, _ = drive
    moving = torch.zeros(len(capture), *capture.images().shape[1:3], dtype=torch.bool)
    moving[1, :10, :20] = True
    part = without_moving(capture, moving)
    masks, extents = part.masks(), part.extents()
    assert masks is not None and extents is not None and not part.is_cut_out(), "a hole is no object cut out"
    assert torch.equal(masks < 0.5, moving) and torch.equal(extents < 0.5, moving)
    assert torch.equal(part.images(), capture.images()) and part.views[1].image.size == capture.views[1].image.size
    assert part.views[1].image.digest() != capture.views[1].image.digest() and part.views[0].image.digest() == capture.views[0].image.digest()
    twice = without_moving(part, torch.roll(moving, 30, 2)).masks()
    assert twice is not None and int((twice < 0.5).sum()) == 400
    assert "in 1 of 5 photos" in said_of_moving(moving)[0]

    report = CameraReport("given", len(capture), len(capture), 0.0, 100.0, "given", 0.2, 0)
    start = Start(InitState(part, PointCloud(torch.zeros(0, 3)), report), (), moving=moving)
    save_start(tmp_path / "start", start, "x")
    back = load_start(tmp_path / "start", replace(capture, cameras=None)).init.capture.masks()
    assert back is not None and torch.equal(back < 0.5, moving), "a continued run leaves out the same"
