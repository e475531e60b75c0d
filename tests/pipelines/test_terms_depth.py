"""Terms that compare rendered depth with a prior's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.data.synthetic import render_truth
from handful.pipelines.methods import method_config
from handful.pipelines.methods.photos import Photos
from handful.pipelines.methods.terms.depth_correlation import depth_correlation, pearson
from handful.pipelines.methods.terms.pseudo_view import between, carried_depth, pseudo_camera

from .terms_common import rendered, step_on

FSGS = method_config("fsgs").terms


@pytest.fixture(scope="module")
def photos(small_start) -> Photos:
    return Photos.of(small_start)


def test_pearson_is_numpys_and_ignores_what_has_no_weight() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, generator=rng)
    weight = (torch.arange(50) < 30).float()
    assert pearson(a, b, weight).item() == pytest.approx(torch.corrcoef(torch.stack([a[:30], b[:30]]))[0, 1].item(), abs=1e-5)
    assert pearson(a, 3 * a + 7, torch.ones(50)).item() == pytest.approx(1) and pearson(a, -a, torch.ones(50)).item() == pytest.approx(-1)
    assert pearson(a, torch.ones(50), torch.ones(50)).item() == pytest.approx(0) and pearson(a, b, torch.zeros(50)).item() == 0


def test_pearson_gradient_by_finite_differences() -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(12, generator=rng, dtype=torch.float64, requires_grad=True)
    b, w = torch.rand(2, 12, generator=rng, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: pearson(x, b, w), a)


def test_correlation_is_blind_to_scale_and_shift_only(photos: Photos) -> None:
    config = replace(FSGS, pseudo_correlation=0.0)
    depth = photos.depth[0].depth
    known = depth > 0
    scaled = depth_correlation(step_on(photos, rendered(torch.where(known, 2 * depth + 1, 0.0))), config)
    wrong = depth_correlation(step_on(photos, rendered(torch.where(known, depth.flip(0).clamp_min(0.1), 0.0))), config)
    assert scaled is not None and wrong is not None and abs(scaled.item()) < 1e-5 < 0.2 * config.correlation < wrong.item()


def test_a_prior_of_inverse_depth_is_compared_with_inverse_depth(photos: Photos) -> None:
    prior = photos.depth[0]
    inverse = replace(prior, depth=torch.where(prior.depth > 0, 3 / prior.depth.clamp_min(1e-6) + 1, 0.0), kind="affine_inverse")
    relative = replace(photos, guide=(inverse, *photos.guide[1:]))
    loss = depth_correlation(step_on(relative, rendered(prior.depth)), replace(FSGS, pseudo_correlation=0.0))
    assert loss is not None and abs(loss.item()) < 1e-5


def test_pseudo_cameras_lie_between(photos: Photos) -> None:
    a, b = photos.cameras[0], photos.cameras[1]
    assert torch.allclose(between(a, b, 0.0).cam_from_world, a.cam_from_world, atol=1e-5)
    assert torch.allclose(between(a, b, 1.0).cam_from_world, b.cam_from_world, atol=1e-5)
    apart = (a.centers - b.centers).norm()
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        c = pseudo_camera(photos, 0, rng).validate()
        near = photos.cameras[photos.nearest[0]]
        assert (c.centers - a.centers).norm() + (c.centers - near.centers).norm() < 1.1 * apart


def test_carried_depth_is_the_depth_there(photos: Photos, small_demo) -> None:
    camera = between(photos.cameras[0], photos.cameras[1], 0.5)
    carried, truth = carried_depth(photos, (0, 1), camera), render_truth(small_demo.scene, camera, 1).depth[0].float()
    there = (carried > 0) & (truth > 0)
    assert there.float().mean() > 0.6
    assert ((carried / truth - 1).abs()[there] < 0.02).float().mean() > 0.9


def test_between_photos_the_depth_is_held_too(photos: Photos, small_demo) -> None:
    config = replace(FSGS, correlation=0.0)

    def render(camera):
        truth = render_truth(small_demo.scene, camera, 1).depth[0].float()
        return rendered(truth if right else truth.flip(0))

    right = True
    good = depth_correlation(step_on(photos, rendered(photos.depth[0].depth), render=render), config)
    right = False
    bad = depth_correlation(step_on(photos, rendered(photos.depth[0].depth), render=render), config)
    assert good is not None and bad is not None and good.item() < 0.1 * config.pseudo_correlation and bad.item() > 3 * good.item()
    assert depth_correlation(step_on(photos, rendered(photos.depth[0].depth), step=1), config) is None
    assert depth_correlation(step_on(photos, rendered(photos.depth[0].depth), progress=0.1), config) is None
