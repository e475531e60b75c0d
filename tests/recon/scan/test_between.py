"""What of a scan a camera sees, against exact depth; and a scan carried into another world."""

from __future__ import annotations

import pytest
import torch
from handful.data.synthetic import arc_cameras, make_scene, render_truth
from handful.recon.camera import Cameras, pixel_centers
from handful.recon.scan.between import depth_between, returns_in_view
from torch import Tensor


@pytest.fixture(scope="module")
def seen() -> tuple[Cameras, Tensor]:
    """Two cameras eleven degrees apart and their exact depth."""
    scene = make_scene(0)
    cameras = arc_cameras(scene, [-5.5, 5.5], 160, 120)
    return cameras, render_truth(scene, cameras, 1).depth


@pytest.mark.parametrize(("step", "kept"), [(1, 0.97), (7, 0.88)])  # the fewer returns, the wider the seam along edges that is not trusted
def test_hidden_returns_are_left_out_and_seen_ones_are_kept(seen: tuple[Cameras, Tensor], step: int, kept: float) -> None:
    cameras, depth = seen
    xyz = cameras[0].unproject_depth(depth[:1])[0][depth[0] > 0][::step]
    view, _ = returns_in_view(cameras[1], xyz)
    at = view.uv.long()
    off = view.z / depth[1][at[:, 1], at[:, 0]] - 1
    assert float((off > 0.05).float().mean()) < 0.01  # behind what is really there
    uv, z = (x[0] for x in cameras[1].project(xyz))
    inside = (uv >= 0).all(-1) & (uv[:, 0] < 160) & (uv[:, 1] < 120)
    place = uv[inside].long()
    truly = (z[inside] / depth[1][place[:, 1], place[:, 0]] - 1).abs() < 0.005
    assert float(torch.isin(inside.nonzero()[:, 0][truly], view.index).float().mean()) > kept
    assert bool((view.index[1:] > view.index[:-1]).all())


def test_depth_between_returns(seen: tuple[Cameras, Tensor]) -> None:
    cameras, depth = seen
    xyz = cameras[0].unproject_depth(depth[:1])[0][depth[0] > 0][::7]
    uv = pixel_centers(160, 120).reshape(-1, 2)
    found, known = depth_between(*returns_in_view(cameras[1], xyz), uv)
    true = depth[1].reshape(-1)
    assert float(known[true > 0].float().mean()) > 0.9
    off = (found / true - 1)[known & (true > 0)].abs()
    assert float(off.median()) < 2e-3 and float((off > 0.02).float().mean()) < 0.15  # edges


def test_a_slanted_plane_is_followed_exactly() -> None:
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]]), 100, 80)
    g = torch.Generator().manual_seed(0)
    uv = torch.rand(400, 2, generator=g) * torch.tensor([100.0, 80.0])
    z = 1 / (0.3 + 0.001 * uv[:, 0] + 0.0005 * uv[:, 1])
    view = returns_in_view(camera, camera.unproject(uv[None], z[None])[0])
    ask = torch.rand(100, 2, generator=g) * torch.tensor([80.0, 60.0]) + 10
    found, known = depth_between(*view, ask)
    assert bool(known.all())
    torch.testing.assert_close(found, 1 / (0.3 + 0.001 * ask[:, 0] + 0.0005 * ask[:, 1]), atol=0, rtol=2e-3)
    away = returns_in_view(camera, torch.tensor([[0.0, 0.0, -1.0]]))  # behind
    assert len(away[0]) == 0 and not bool(depth_between(*away, ask)[1].any())


def test_what_lies_just_beyond_the_picture() -> None:
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]]), 100, 80)
    xyz = camera.unproject(torch.tensor([[[-20.0, 40.0], [50.0, 40.0], [-40.0, 40.0]]]), torch.ones(1, 3))[0]
    assert returns_in_view(camera, xyz)[0].index.tolist() == [1]
    wide, _ = returns_in_view(camera, xyz, margin=0.3)
    assert wide.index.tolist() == [0, 1] and wide.uv[0].tolist() == pytest.approx([-20.0, 40.0], abs=1e-4)
