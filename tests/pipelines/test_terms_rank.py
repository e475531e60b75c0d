"""SparseNeRF's terms: order and neighbourhood of the prior, never its scale."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.pipelines.methods.config import TermsConfig
from handful.pipelines.methods.photos import Photos
from handful.pipelines.methods.terms.depth_continuity import MARGIN as FREE
from handful.pipelines.methods.terms.depth_continuity import depth_continuity
from handful.pipelines.methods.terms.depth_ranking import MARGIN, depth_ranking
from handful.pipelines.start_file import load_start, save_start
from handful.priors.oracle import OracleDepth
from handful.recon.depth import DepthMap

from .terms_common import rendered, step_on

CONFIG = TermsConfig(rank=1.0, continuity=1.0)


@pytest.fixture(scope="module")
def photos(small_start) -> Photos:
    return Photos.of(small_start)


def with_guide(photos: Photos, guide: DepthMap) -> Photos:
    return replace(photos, guide=(guide, *photos.guide[1:]))


def stairs(photos: Photos, kind: str = "metric") -> tuple[Photos, torch.Tensor]:
    """Depth in four vertical steps of 1, 2, 3 and 4 median depths."""
    depth = photos.scene_depth * (1.0 + torch.arange(120).div(30, rounding_mode="floor")).expand(90, 120)
    value = 1 / depth if kind == "affine_inverse" else 5 * depth + 2
    return with_guide(photos, DepthMap(value, torch.ones(90, 120), torch.ones(90, 120, dtype=torch.bool), None, kind)), depth  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["metric", "affine", "affine_inverse"])
def test_only_the_order_counts(photos: Photos, kind: str) -> None:
    guided, depth = stairs(photos, kind)
    right = depth_ranking(step_on(guided, rendered(depth.square())), CONFIG)
    wrong = depth_ranking(step_on(guided, rendered(5 * photos.scene_depth - depth)), CONFIG)
    assert right is not None and wrong is not None
    assert right.item() == 0
    assert wrong.item() == pytest.approx(1 + MARGIN, rel=1e-3)  # every clear pair spans one step the wrong way


def test_the_loss_pulls_the_two_apart_in_the_right_direction(photos: Photos) -> None:
    guided, depth = stairs(photos)
    flat = torch.full_like(depth, photos.scene_depth).requires_grad_(True)
    loss = depth_ranking(step_on(guided, rendered(flat)), CONFIG)
    assert loss is not None
    loss.backward()
    assert flat.grad is not None
    # pixels left of a step are pulled nearer (a positive gradient), those right of it further
    assert flat.grad[:, 27:30].sum() > 0 > flat.grad[:, 30:33].sum() and (flat.grad[:, 10:14] == 0).all()


def test_without_confidence_or_clear_order_it_says_nothing(photos: Photos) -> None:
    guided, depth = stairs(photos)
    faint = with_guide(guided, replace(guided.guide[0], confidence=torch.zeros(90, 120)))
    level = with_guide(guided, replace(guided.guide[0], depth=torch.full((90, 120), 3.0)))
    for blind in (faint, level):
        loss = depth_ranking(step_on(blind, rendered(depth.flip(1))), CONFIG)
        assert loss is not None and loss.item() == 0
    assert depth_ranking(step_on(guided, rendered(depth)), TermsConfig()) is None


def test_continuity_holds_within_a_surface_and_not_across_its_edge(photos: Photos) -> None:
    guided, depth = stairs(photos)
    whole = depth_continuity(step_on(guided, rendered(depth)), CONFIG)
    assert whole is not None and whole.item() == 0  # the jumps are the prior's
    split = depth.clone()
    split[:, 15:] += 0.1 * photos.scene_depth  # a jump in the middle of the first step
    loss = depth_continuity(step_on(guided, rendered(split)), CONFIG)
    pairs = 89 * 120 + 90 * (119 - 3)
    assert loss is not None and loss.item() == pytest.approx((0.1 - FREE) * 90 / pairs, rel=1e-3)
    assert depth_continuity(step_on(guided, rendered(depth)), TermsConfig()) is None


def test_both_gradients_by_finite_differences(photos: Photos) -> None:
    guided, depth = stairs(photos)
    rng = torch.Generator().manual_seed(1)
    base = depth.double() + 0.3 * torch.rand(90, 120, generator=rng, dtype=torch.float64)
    direction = torch.randn(90, 120, generator=rng, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        terms = [term(step_on(guided, rendered(x)), CONFIG) for term in (depth_ranking, depth_continuity)]
        return torch.stack([t for t in terms if t is not None]).sum()

    x = base.clone().requires_grad_(True)
    loss(x).backward()
    assert x.grad is not None
    h = 1e-7
    numeric = (loss(base + h * direction) - loss(base - h * direction)) / (2 * h)
    assert numeric.item() == pytest.approx((x.grad * direction).sum().item(), rel=1e-4)


def test_a_guide_survives_the_start_file(small_start, tmp_path) -> None:
    truth = torch.stack([d.depth for d in small_start.depth])
    capture = small_start.init.capture
    guide = tuple(OracleDepth(capture.names, truth, kind="affine_inverse").predict(capture.views))
    save_start(tmp_path / "start.safetensors", replace(small_start, guide=guide), "x")
    again = load_start(tmp_path / "start.safetensors", capture)
    assert [d.kind for d in again.guide] == ["affine_inverse"] * 3
    assert all(torch.equal(a.depth, b.depth) and torch.equal(a.valid, b.valid) for a, b in zip(again.guide, guide, strict=True))
    assert Photos.of(again).guide[0].kind == "affine_inverse"
