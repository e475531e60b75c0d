"""What scans say of photos, against the true depth of a made-up street."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.pipelines.scan.beams import score_beams
from handful.pipelines.scan.depth import own_sweep, scan_depth, with_scan_depth, withheld
from handful.pipelines.scan.paint import painted
from handful.pipelines.scan.report import beam_report
from handful.recon.capture import Capture
from handful.recon.depth import DepthMap
from handful.recon.raster.protocol import RenderAux, RenderOutput
from handful.recon.raster.registry import get_rasterizer
from handful.recon.scan.sight import Returns
from handful.recon.scan.starts import ring_interpolation
from handful.recon.scene import SplatScene
from handful.recon.sh import rgb_from_sh_dc
from torch import Tensor

from .street import street_capture


@pytest.fixture(scope="module")
def street() -> tuple[Capture, Tensor]:
    return street_capture()


def drawn(depth: Tensor, alpha: Tensor) -> RenderOutput:
    none = torch.zeros(1, 0)
    return RenderOutput(torch.zeros(1, *depth.shape, 3), alpha[None], depth[None], None, RenderAux(torch.zeros(1, 0, 2), none, none.bool()))


def test_returns_and_what_lies_between_them_are_right(street: tuple[Capture, Tensor]) -> None:
    capture, truth = street
    made = scan_depth(capture)
    assert made is not None
    hit = (made.returns > 0) & (truth > 0)
    assert float(hit.float().mean()) > 0.1
    off = ((made.returns - truth).abs() / truth.clamp_min(1e-3))[hit]
    assert float((off < 0.05).float().mean()) > 0.85
    dense, valid = torch.stack([d.depth for d in made.dense]), torch.stack([d.valid for d in made.dense])
    below = valid & (truth > 0)
    assert float(below.float().mean()) > 0.5
    assert float((((dense - truth).abs() < 0.05 * truth + 0.1)[below]).float().mean()) > 0.75


def test_withheld_beams_tell_nothing(street: tuple[Capture, Tensor]) -> None:
    capture, _ = street
    kept, judges = withheld(capture.sweeps[0])
    assert 0 < len(judges) < len(kept) and len(judges) + len(kept) == len(capture.sweeps[0])
    moved = replace(capture, sweeps=tuple(_with_judges_moved(s) for s in capture.sweeps))
    a, b = scan_depth(capture), scan_depth(moved)
    assert a is not None and b is not None and torch.equal(a.returns, b.returns)
    assert all(torch.equal(x.depth, y.depth) for x, y in zip(a.dense, b.dense, strict=True))


def _with_judges_moved(sweep):  # noqa: ANN001, ANN202
    assert sweep.ring is not None
    judges = sweep.ring % 16 == 8
    return replace(sweep, xyz=torch.where(judges[:, None], sweep.xyz * 0.5, sweep.xyz))


def test_a_photo_knows_its_own_scan(street: tuple[Capture, Tensor]) -> None:
    capture, _ = street
    assert own_sweep("photos/003.jpg", capture.sweeps) == 3 and own_sweep("x.png", capture.sweeps) is None


def test_stereo_stands_where_the_scan_agrees_or_is_silent() -> None:
    h, w = 4, 6
    stereo = DepthMap(torch.full((h, w), 10.0), torch.full((h, w), 0.9), torch.ones(h, w, dtype=torch.bool))
    there = torch.zeros(h, w, dtype=torch.bool)
    there[:, :4] = True
    says = torch.full((h, w), 10.2)
    says[:, :2] = 20.0  # another surface
    dense = DepthMap(torch.where(there, says, 0.0), there.float() * 0.6, there)
    returns = torch.zeros(h, w)
    returns[0, 3] = 10.4
    from handful.pipelines.scan.depth import ScanDepth

    (out,) = with_scan_depth([stereo], ScanDepth(returns[None], (dense,)))
    assert out.depth[1].tolist() == [20, 20, 10, 10, 10, 10]
    assert out.confidence[1].tolist() == pytest.approx([0.6, 0.6, 0.9, 0.9, 0.9, 0.9])
    assert float(out.depth[0, 3]) == pytest.approx(10.4) and float(out.confidence[0, 3]) == 1
    assert bool(out.valid.all())


def test_sensor_depth_needs_no_scan(street: tuple[Capture, Tensor]) -> None:
    capture, truth = street
    maps = tuple(DepthMap(t, torch.where(t > 8, 0.2, 1.0), t > 0) for t in truth)
    made = scan_depth(replace(capture, sweeps=(), depth=(*maps[:-1], None)))
    assert made is not None and torch.equal(made.returns[0], torch.where((truth[0] > 0) & (truth[0] <= 8), truth[0], 0.0))
    assert float(made.returns[-1].max()) == 0 and not bool(made.dense[-1].valid.any())
    assert scan_depth(replace(capture, sweeps=())) is None


def test_beams_are_counted_as_they_say() -> None:
    depth, alpha = torch.full((2, 4), 10.0), torch.tensor([[1.0, 1, 0.2, 1], [1, 1, 1, 1]])
    uv = torch.tensor([[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [3.5, 0.5]])
    score = score_beams(drawn(depth, alpha), Returns(torch.arange(4), uv, torch.tensor([10.0, 10.5, 10.0, 12.0])))
    assert score.acc == pytest.approx(0.5)  # right, right within 5 % + 0.1, let through, wrong
    assert score.median == pytest.approx(0.5) and score.beams == 4
    assert score_beams(drawn(depth, alpha), Returns(torch.zeros(0, dtype=torch.long), torch.zeros(0, 2), torch.zeros(0))).beams == 0


def test_splats_take_the_colours_of_the_photos_that_see_them(street: tuple[Capture, Tensor]) -> None:
    capture, _ = street
    assert capture.cameras is not None
    images = torch.zeros(1, 60, 160, 3)
    images[:, :, :80, 0] = 1.0
    images[:, :, 80:, 2] = 1.0
    splats = painted(ring_interpolation(capture.sweeps[0]), capture.cameras[0], images, get_rasterizer("auto", torch.device("cpu")))
    rgb = rgb_from_sh_dc(splats.sh[:, 0])
    left = splats.means[:, 1] > 1.0  # y points to the left
    seen = (splats.means[:, 0] > 3) & (splats.means[:, 1].abs() < splats.means[:, 0] * 0.6)
    assert float(rgb[left & seen, 0].mean()) > 0.95 and float(rgb[(splats.means[:, 1] < -1) & seen, 2].mean()) > 0.95
    outside = splats.means[:, 1] > splats.means[:, 0] * 0.9  # no photo shows it: as the nearest that one shows
    assert float(rgb[outside, 0].mean()) > 0.9 if bool(outside.any()) else True


def test_a_scene_is_judged_by_beams_kept_back(street: tuple[Capture, Tensor]) -> None:
    capture, _ = street
    assert capture.cameras is not None
    rasterizer = get_rasterizer("auto", torch.device("cpu"))
    good = SplatScene(ring_interpolation(capture.sweeps[2]), capture.cameras, capture.names, rasterizer)
    report = beam_report(good, capture)
    shifted = replace(good, gaussians=replace(good.gaussians, means=good.gaussians.means * torch.tensor([1.5, 1.0, 1.0])))
    worse = beam_report(shifted, capture)
    assert report is not None and worse is not None
    assert report["acc"] > 0.5 > worse["acc"] and report["beams"] == worse["beams"] > 100
    assert beam_report(good, replace(capture, sweeps=())) is None
