"""Relative depth finds its scale and shift through outliers, says when there is none, completes what stereo left and touches nothing it measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from handful.data.synthetic import arc_cameras, make_scene, render_truth
from handful.priors.depth_align import FAR, TRUST, completed, fit_inverse_depth
from handful.priors.depth_relative import RelativeDepth, network_size
from handful.priors.oracle import OracleDepth
from handful.recon.capture import ArrayImage, View
from handful.recon.depth import DepthMap
from torch import Tensor

NAMES = ("a.png", "b.png")


@pytest.fixture(scope="module")
def truth():
    scene = make_scene(1)
    cameras = arc_cameras(scene, [-6.0, 6.0], 96, 72)
    return cameras, render_truth(scene, cameras, 1)


@pytest.fixture(scope="module")
def views(truth):
    return [View(n, ArrayImage(im)) for n, im in zip(NAMES, truth[1].images, strict=True)]


def halves(truth: Tensor, outliers: float = 0.0, noise: float = 0.01) -> DepthMap:
    """A reference that measured the left half only, some of it wrongly with full confidence."""
    known = truth.clone()
    known[:, truth.shape[1] // 2 :] = 0.0
    view = View("a.png", ArrayImage(torch.zeros(*truth.shape, 3)))
    return OracleDepth(("a.png",), known[None], noise=noise, outliers=outliers, seed=3).predict([view])[0]


@pytest.mark.parametrize("outliers", [0.0, 0.2, 0.4])
def test_scale_and_shift_through_outliers(truth, outliers):
    depth = truth[1].depth[0]
    d = torch.where(depth > 0, 1 / depth.clamp_min(1e-6), 0.0)
    relative = (d - 0.02) / 0.37  # 1 / depth = 0.37 r + 0.02
    fit = fit_inverse_depth(relative, halves(depth, outliers))
    assert fit is not None and fit.scale == pytest.approx(0.37, rel=0.02) and fit.shift == pytest.approx(0.02, abs=0.003)
    assert 1 - outliers - 0.05 < fit.agree < 1 - outliers + 0.2 and fit.error < 0.02  # some outliers are right by chance


def test_plain_least_squares_would_have_failed(truth):
    """The same outliers move an unrobust fit by more than the bound above."""
    depth = truth[1].depth[0]
    d = torch.where(depth > 0, 1 / depth.clamp_min(1e-6), 0.0)
    ref = halves(depth, 0.4)
    A = torch.stack([((d - 0.02) / 0.37)[ref.valid], torch.ones(int(ref.valid.sum()))], 1)
    scale = float(torch.linalg.lstsq(A, (1 / ref.depth[ref.valid])[:, None]).solution[0])
    assert abs(scale / 0.37 - 1) > 0.1


def test_no_relation_is_told(truth):
    depth = truth[1].depth[0]
    ref = halves(depth)
    assert fit_inverse_depth(torch.rand(depth.shape), ref) is None
    assert fit_inverse_depth(torch.ones(depth.shape), ref) is None
    assert fit_inverse_depth(depth, ref) is None, "upside down: larger must be nearer"
    nothing = replace(ref, valid=torch.zeros_like(ref.valid))
    assert fit_inverse_depth(1 / depth.clamp_min(1e-6), nothing) is None
    assert completed(torch.rand(depth.shape), ref) is ref


def test_completion_fills_the_rest_and_keeps_what_was_measured(truth):
    depth = truth[1].depth[0]
    d = torch.where(depth > 0, 1 / depth.clamp_min(1e-6), 0.0)
    ref = halves(depth, 0.2)
    mask = torch.ones(depth.shape)
    mask[:10] = 0.0
    out = completed((d - 0.02) / 0.37, ref, mask)
    assert torch.equal(out.valid, ref.valid) and out.kind == "metric"
    for part in ("depth", "confidence"):
        assert torch.equal(getattr(out, part)[ref.valid], getattr(ref, part)[ref.valid])
    filled = ~ref.valid & (depth > 0) & (mask > 0.5)
    assert filled.float().mean() > 0.3
    assert float((out.depth[filled] / depth[filled] - 1).abs().quantile(0.95)) < 0.03
    assert (out.confidence[filled] > 0.1).all() and (out.confidence[filled] <= TRUST).all()
    assert (out.confidence[:10][~ref.valid[:10]] == 0).all()


def test_sky_stays_at_a_finite_depth_without_weight(truth):
    depth = truth[1].depth[0]
    d = torch.where(depth > 0, 1 / depth.clamp_min(1e-6), 0.0)
    relative = (d - 0.02) / 0.37
    relative[:, -5:] = -1.0  # behind infinity
    ref = halves(depth)
    out = completed(relative, ref)
    assert (out.confidence[:, -5:] == 0).all() and out.depth.isfinite().all()
    assert float(out.depth.max()) <= FAR * float(ref.depth.max()) * 1.001


@dataclass
class Exact(RelativeDepth):
    """A network that knows the truth up to scale and shift."""

    depth: Tensor | None = None
    name: str = "exact"
    version: str = "1"
    license: str = "Apache-2.0"

    def inverse_depth(self, views: Sequence[View]) -> list[Tensor]:
        assert self.depth is not None
        return [torch.where(d > 0, 3.0 / d.clamp_min(1e-6) - 0.1, torch.nan) for d in self.depth]


def test_a_relative_prior_is_metric_with_cameras_and_affine_without(truth, views):
    cameras, t = truth
    reference = OracleDepth(NAMES, t.depth, holes=0.5)
    prior = Exact(reference=reference, depth=t.depth)
    for out, true in zip(prior.predict(views, cameras, None), t.depth, strict=True):
        assert out.kind == "metric" and float((out.depth[true > 0] / true[true > 0] - 1).abs().max()) < 1e-3
        assert (out.confidence[true > 0] > 0).all() and 0.4 < float(out.valid[true > 0].float().mean()) < 0.6
    alone = prior.predict(views, None, None)
    assert all(m.kind == "affine_inverse" and m.normal is None and not m.depth.isnan().any() for m in alone)


def test_the_networks_size():
    assert (
        network_size(504, 378, 518) == (686, 518) and network_size(378, 504, 280) == (280, 378) and network_size(10, 1000, 14) == (14, 1400)
    )
