"""Depth from flow: exact for exact flow, robust to one bad source, silent where the flow contradicts the cameras."""

from __future__ import annotations

import pytest
import torch
from handful.data.synthetic import arc_cameras, make_scene, render_truth
from handful.priors.depth_epipolar import EpipolarDepth, blend, depth_from_flow
from handful.priors.oracle import OracleFlow
from handful.priors.registry import get_prior
from handful.recon.camera import pixel_centers
from handful.recon.capture import ArrayImage, View
from handful.recon.errors import CaptureError, ConfigError
from handful.recon.matches import FlowField

NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture(scope="module")
def scene():
    scene = make_scene(2, "tabletop")
    cameras = arc_cameras(scene, [-10.0, 0.0, 10.0], 96, 72)
    truth = render_truth(scene, cameras, 1)
    return cameras, truth, [View(n, ArrayImage(im)) for n, im in zip(NAMES, truth.images, strict=True)]


def test_exact_flow_gives_exact_depth_and_no_distance(scene):
    cameras, truth, views = scene
    field = OracleFlow(NAMES, truth.depth.double(), cameras.to(dtype=torch.float64)).field(views[0], views[1])
    found = depth_from_flow(field.flow, cameras[0], cameras[1])
    known = truth.depth[0] > 0
    assert torch.allclose(found.depth[known], truth.depth[0][known].float(), rtol=1e-4)
    assert found.distance_px[known].max() < 1e-3


def test_an_error_across_the_line_changes_the_distance_and_not_the_depth(scene):
    cameras, truth, views = scene
    field = OracleFlow(NAMES, truth.depth.double(), cameras.to(dtype=torch.float64)).field(views[0], views[2])
    # the direction of each pixel's epipolar line, from the truth at two depths
    xyz = [cameras[0].to(dtype=torch.float64).unproject_depth((truth.depth[0].double() * s)[None]).reshape(-1, 3) for s in (1.0, 1.01)]
    near, far = (cameras[2].to(dtype=torch.float64).project(x)[0][0].reshape(72, 96, 2) for x in xyz)
    along = torch.nn.functional.normalize(far - near, dim=-1)
    across = torch.stack([-along[..., 1], along[..., 0]], -1)
    found = depth_from_flow(field.flow + 1.5 * across, cameras[0], cameras[2])
    known = truth.depth[0] > 0
    assert torch.allclose(found.depth[known], truth.depth[0][known].float(), rtol=1e-3)
    assert torch.allclose(found.distance_px[known], torch.tensor(1.5), atol=1e-2)


def test_sensitivity_is_the_change_of_depth_per_pixel_along_the_line(scene):
    cameras, truth, _ = scene
    xyz = [cameras[0].to(dtype=torch.float64).unproject_depth((truth.depth[0].double() * s)[None]).reshape(-1, 3) for s in (1.0, 1.001)]
    ends = [cameras[1].to(dtype=torch.float64).project(x)[0][0].reshape(72, 96, 2) for x in xyz]
    uv = pixel_centers(96, 72).double()
    found = depth_from_flow(ends[0] - uv, cameras[0], cameras[1])
    known = truth.depth[0] > 0
    assert torch.allclose(found.sensitivity[known], (0.001 / (ends[1] - ends[0]).norm(dim=-1))[known].float(), rtol=1e-2)


def test_blending_averages_what_agrees_and_leaves_out_what_does_not():
    depths = torch.tensor([2.0, 2.02, 5.0]).reshape(3, 1, 1)
    margins = torch.full((3, 1, 1), 0.02)
    depth, share = blend(depths, torch.tensor([3.0, 1.0, 1.0]).reshape(3, 1, 1), margins)
    assert depth.item() == pytest.approx((3 * 2.0 + 2.02) / 4) and share.item() == pytest.approx(0.8)
    depth, share = blend(depths, torch.zeros(3, 1, 1), margins)
    assert depth.item() == 0 and share.item() == 0


def test_the_whole_prior_on_true_flow(scene):
    cameras, truth, views = scene
    maps = EpipolarDepth(OracleFlow(NAMES, truth.depth, cameras)).predict(views, cameras, None)
    for m, z in zip(maps, truth.depth, strict=True):
        assert m.valid.float().mean() > 0.5 and (m.depth[~m.valid] == 0).all() and (m.confidence[~m.valid] == 0).all()
        assert ((m.depth / z - 1).abs()[m.valid] < 2e-3).float().mean() > 0.99


class Shifted(OracleFlow):
    """The truth, with half of the picture moved up and the confidence of a quarter taken away."""

    def predict(self, pairs):
        out = []
        for f in super().predict(pairs):
            flow, confidence = f.flow.clone(), f.confidence.clone()
            flow[:, :48] += torch.tensor([0.0, -9.0])  # the cameras stand side by side, so this is across the line
            confidence[:36, 48:] = 0
            out.append(FlowField(flow, confidence))
        return out


def test_pixels_far_from_the_line_or_without_confidence_are_dropped(scene):
    cameras, truth, views = scene
    m = EpipolarDepth(Shifted(NAMES, truth.depth, cameras)).predict(views, cameras, None)[1]
    assert m.valid[:, :48].float().mean() < 0.02 and not m.valid[:36, 48:].any() and m.valid[36:, 48:].float().mean() > 0.5


def test_from_the_photos_alone():
    scene = make_scene(2, "tabletop")
    cameras = arc_cameras(scene, [-6.0, 0.0, 6.0], 240, 180)
    truth = render_truth(scene, cameras, 1)
    views = [View(n, ArrayImage(im)) for n, im in zip(NAMES, truth.images, strict=True)]
    m = get_prior("depth", "epipolar", flow="dis").predict(views, cameras, None)[1]
    error = (m.depth / truth.depth[1] - 1).abs()[m.valid]
    assert m.valid.float().mean() > 0.3 and error.median() < 0.02


def test_errors(scene):
    cameras, _, views = scene
    with pytest.raises(CaptureError, match="cameras"):
        EpipolarDepth().predict(views, None, None)
    with pytest.raises(CaptureError, match="two photos"):
        EpipolarDepth().predict(views[:1], cameras[0], None)
    with pytest.raises(ConfigError, match="flow prior 'rift'"):
        EpipolarDepth("rift")
