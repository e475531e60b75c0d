"""Oracles answer the truth, spoil it by as much as asked, and the same way every time."""

from __future__ import annotations

import pytest
import torch
from handful.data.synthetic import arc_cameras, make_scene, render_truth, true_flow
from handful.priors.oracle import OracleDepth, OracleFlow, OracleMatches
from handful.priors.registry import get_prior
from handful.recon.capture import ArrayImage, View
from handful.recon.errors import ConfigError

NAMES = ("a.png", "b.png")


@pytest.fixture(scope="module")
def truth():
    scene = make_scene(1, "plane")
    cameras = arc_cameras(scene, [-8.0, 8.0], 96, 72)
    return scene, cameras, render_truth(scene, cameras, 1)


@pytest.fixture(scope="module")
def views(truth):
    return [View(n, ArrayImage(im)) for n, im in zip(NAMES, truth[2].images, strict=True)]


def test_depth_is_the_truth_for_the_view_asked(truth, views):
    t = truth[2]
    answer = get_prior("depth", "oracle", names=NAMES, depth=t.depth, normal=t.normal).predict(views[::-1], None, None)
    assert torch.equal(answer[0].depth, t.depth[1]) and torch.equal(answer[1].depth, t.depth[0])
    assert answer[0].valid.all() and answer[0].kind == "metric" and torch.equal(answer[0].normal, t.normal[1])


def test_noise_outliers_and_holes_are_as_large_as_asked(truth, views):
    t = truth[2]
    noisy = OracleDepth(NAMES, t.depth, noise=0.05).predict(views)[0]
    assert float((noisy.depth / t.depth[0] - 1).std()) == pytest.approx(0.05, rel=0.1)
    wrong = OracleDepth(NAMES, t.depth, outliers=0.2, holes=0.3).predict(views)[0]
    assert float((~wrong.valid).float().mean()) == pytest.approx(0.3, abs=0.03) and (wrong.depth[~wrong.valid] == 0).all()
    assert float((wrong.depth != t.depth[0])[wrong.valid].float().mean()) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("kind", ["affine", "affine_inverse"])
def test_relative_depth_is_a_straight_line_of_the_truth(truth, views, kind):
    t = truth[2].depth[0]
    answer = OracleDepth(NAMES, truth[2].depth, kind=kind).predict(views)[0]
    x = t if kind == "affine" else 1 / t
    assert answer.kind == kind and float(torch.corrcoef(torch.stack([x.flatten(), answer.depth.flatten()]))[0, 1]) > 0.9999


def test_the_same_question_gets_the_same_answer(truth, views):
    one = OracleDepth(NAMES, truth[2].depth, noise=0.1)
    together, alone = one.predict(views)[1], one.predict(views[1:])[0]
    assert torch.equal(together.depth, alone.depth)
    assert not torch.equal(together.depth, OracleDepth(NAMES, truth[2].depth, noise=0.1, seed=1).predict(views)[1].depth)


def test_flow_agrees_with_the_casters(truth, views):
    scene, cameras, t = truth
    exact = true_flow(scene, cameras, t.depth, 0, 1)
    answer = OracleFlow(NAMES, t.depth, cameras).predict([(views[0], views[1])])[0]
    torch.testing.assert_close(answer.flow, exact.flow, rtol=0, atol=1e-3)
    assert (answer.confidence == exact.confidence).float().mean() > 0.98
    noisy = OracleFlow(NAMES, t.depth, cameras, noise=2.0).predict([(views[0], views[1])])[0]
    assert float((noisy.flow - exact.flow).std()) == pytest.approx(2.0, rel=0.1)


def test_matches_are_true_but_for_the_outliers_asked(truth, views):
    _, cameras, t = truth
    clean = OracleMatches(NAMES, t.depth, cameras, count=300).predict(views, [(0, 1)])[0]
    flow = OracleFlow(NAMES, t.depth, cameras).predict([(views[0], views[1])])[0].flow
    iu, iv = clean.uv0.floor().long().unbind(-1)
    torch.testing.assert_close(clean.uv0 + flow[iv, iu], clean.uv1)
    spoilt = OracleMatches(NAMES, t.depth, cameras, count=300, outliers=0.25).predict(views, [(0, 1)])[0]
    iu, iv = spoilt.uv0.floor().long().unbind(-1)
    off = (spoilt.uv0 + flow[iv, iu] - spoilt.uv1).norm(dim=-1) > 0.5
    assert 0.15 < off.float().mean() < 0.35


def test_what_the_oracle_cannot_know_is_said(truth, views):
    with pytest.raises(ConfigError, match="no truth for the photo 'c.png'; it knows a.png, b.png"):
        OracleDepth(NAMES, truth[2].depth).predict([View("c.png", views[0].image)])
    with pytest.raises(ConfigError, match="needs `cameras`"):
        OracleFlow(NAMES, truth[2].depth).predict([(views[0], views[1])])
