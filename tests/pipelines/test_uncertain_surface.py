"""Uncertainty per Gaussian: drawn, weighting depth and normals, learned as the size of the error."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from handful.pipelines.config import override
from handful.pipelines.methods import method_config
from handful.pipelines.methods.photos import Photos
from handful.pipelines.methods.splat import SplatMethod
from handful.pipelines.methods.terms.uncertain_surface import (
    LEAST,
    START,
    UNCERTAINTY,
    normal_loss,
    normals_from_depth,
    surface_maps,
    uncertain_surface,
)
from handful.recon.camera import Cameras, pixel_centers
from handful.recon.gaussians import Gaussians
from handful.recon.raster.protocol import RasterOptions
from handful.recon.raster.registry import get_rasterizer
from handful.recon.sh import sh_dc_from_rgb

from .terms_common import step_on

CONFIG = override(method_config("ung-gs"), ["optim.steps=30", "seed.budget=6000", "terms.surface_from=0.0"])


def camera(width: int = 24, height: int = 18) -> Cameras:
    K = torch.tensor([[[30.0, 0, 11.5], [0, 32.0, 9.5], [0, 0, 1]]], dtype=torch.float64)
    return Cameras(torch.eye(4, dtype=torch.float64)[None], K, width, height)


def plane(normal: torch.Tensor) -> torch.Tensor:
    """Depth of the plane through (0, 0, 2)."""
    uv = pixel_centers(24, 18, dtype=torch.float64)
    rays = torch.cat([uv, torch.ones_like(uv[..., :1])], -1) @ torch.linalg.inv(camera().K[0]).T
    return normal[2] * 2 / (rays @ normal)


@pytest.mark.parametrize("tilt", [[0.0, 0.0, -1.0], [0.3, -0.2, -1.0], [-0.6, 0.4, -1.0]])
def test_a_plane_s_normal(tilt: list[float]) -> None:
    n = torch.nn.functional.normalize(torch.tensor(tilt, dtype=torch.float64), dim=0)
    normal, there = normals_from_depth(plane(n), torch.rand(18, 24, dtype=torch.float64) + 0.1, camera())
    assert there[1:-1, 1:-1].all() and not there[0].any() and not there[:, -1].any()
    assert torch.allclose(normal[there], n.expand(int(there.sum()), 3), atol=1e-6)


def test_an_uncertain_neighbour_does_not_bend_the_normal() -> None:
    n = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    depth, certainty = plane(n).clone(), torch.ones(18, 24, dtype=torch.float64)
    depth[9, 12] += 0.3
    certainty[9, 12] = 1e-9
    fooled, _ = normals_from_depth(depth, torch.ones_like(certainty), camera())
    careful, _ = normals_from_depth(depth, certainty, camera())
    assert (fooled[9, 11] @ n) < 0.9 and torch.allclose(careful[9, 11], n, atol=1e-6) and torch.allclose(careful[8, 12], n, atol=1e-6)


def test_synthetic_normals(small_start, small_demo) -> None:
    truth = small_demo.photo_truth
    normal, there = normals_from_depth(truth.depth[0].float(), torch.ones(90, 120), small_start.init.capture.cameras[0])
    agree = (normal * truth.normal[0].float()).sum(-1)[there]
    assert (agree > 0.99).float().mean() > 0.7 and agree.median() > 0.999


def test_the_uncertainty_that_costs_least_is_the_error() -> None:
    rendered, expected = torch.tensor([[[0.0, 0.6, -0.8]]]), torch.tensor([[[0.0, 0.0, -1.0]]])  # error 0.2
    u = torch.linspace(0.05, 0.6, 111)
    loss = torch.stack([normal_loss(rendered, expected, x.reshape(1, 1)) for x in u]).reshape(-1)
    assert u[loss.argmin()].item() == pytest.approx(0.2, abs=0.006)
    assert normal_loss(rendered, expected, torch.tensor([[1e-9]])).item() == pytest.approx(
        0.2 / LEAST + torch.tensor(LEAST).log().item(), rel=1e-5
    )


class Rows:
    """A field that has only its rows."""

    motion = None

    def __init__(self, log_uncertainty: torch.Tensor) -> None:
        self.rows = {UNCERTAINTY: log_uncertainty}


def step_of(gaussians: Gaussians, log_uncertainty: torch.Tensor, photos: Photos, cam: Cameras):
    reference = get_rasterizer("reference", torch.device("cpu"))

    def values(c: Cameras, v: torch.Tensor) -> torch.Tensor:
        drawn = Gaussians(
            gaussians.means, gaussians.quats_wxyz, gaussians.log_scales, gaussians.logit_opacities, sh_dc_from_rgb(v)[:, None]
        )
        return reference.render(drawn, c).color[0]

    out = reference.render(gaussians, cam, RasterOptions(normal=True))
    return step_on(photos, out, camera=cam, field=Rows(log_uncertainty), gaussians=gaussians, render_values=values)


def row_of(depths: list[float], opacity: float) -> Gaussians:
    n = len(depths)
    means = torch.tensor([[0.0, 0.0, z] for z in depths], dtype=torch.float64)
    quats = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).repeat(n, 1)
    scales = torch.full((n, 3), 0.5, dtype=torch.float64).log()
    return Gaussians(
        means, quats, scales, torch.logit(torch.full((n,), opacity, dtype=torch.float64)), torch.zeros(n, 1, 3, dtype=torch.float64)
    )


def test_depth_is_weighted_by_certainty(small_start) -> None:
    photos = Photos.of(small_start)
    g = row_of([2.0, 4.0], 0.5)
    log_u = torch.tensor([0.2, 0.05], dtype=torch.float64).log()
    context = step_of(g, log_u, photos, camera())
    maps = surface_maps(context)
    y, x = 9, 11
    a = context.out.alpha[0, y, x].item()
    # both cover the middle nearly alike: weights w1 = o, w2 = o (1 - o)
    o = 1 - (1 - a) ** 0.5
    w1, w2 = o / 0.2, o * (1 - o) / 0.05
    assert maps.depth[y, x].item() == pytest.approx((w1 * 2 + w2 * 4) / (w1 + w2), rel=1e-2)
    assert maps.depth[y, x] > context.out.depth[0, y, x] + 0.3
    assert maps.uncertainty[y, x].item() == pytest.approx((o * 0.2 + o * (1 - o) * 0.05) / a, rel=1e-2)


def test_gradients_by_finite_differences(small_start) -> None:
    """To the uncertainty, the place and the turn of the Gaussians, through both passes."""
    photos = Photos.of(small_start)
    rng = torch.Generator().manual_seed(3)

    def loss(log_u: torch.Tensor, means: torch.Tensor, quats: torch.Tensor) -> torch.Tensor:
        scales = torch.tensor([[0.5, 0.4, 0.1]], dtype=torch.float64).log().repeat(4, 1)
        g = Gaussians(means, quats, scales, torch.ones(4, dtype=torch.float64), torch.zeros(4, 1, 3, dtype=torch.float64))
        value = uncertain_surface(step_of(g, log_u, photos, camera()), CONFIG.terms)
        assert value is not None
        return value

    means = torch.tensor([[-0.3, 0.1, 2.0], [0.3, 0.0, 2.2], [0.0, -0.2, 2.1], [0.1, 0.2, 2.6]], dtype=torch.float64)
    quats = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64) + 0.2 * torch.rand(4, 4, generator=rng, dtype=torch.float64)
    inputs = [torch.tensor([-1.0, -0.5, 0.0, -2.0], dtype=torch.float64), means, quats]
    leaves = [t.clone().requires_grad_(True) for t in inputs]
    loss(*leaves).backward()
    for k, leaf in enumerate(leaves):
        direction = torch.randn(leaf.shape, generator=rng, dtype=torch.float64)
        h = 1e-6
        up, down = ([t + s * h * direction if j == k else t for j, t in enumerate(inputs)] for s in (1, -1))
        numeric = ((loss(*up) - loss(*down)) / (2 * h)).item()
        assert leaf.grad is not None and numeric == pytest.approx((leaf.grad * direction).sum().item(), rel=1e-3), k


def test_a_run_learns_where_the_surface_is_uncertain(small_start, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SplatMethod(CONFIG).start(small_start)
    assert (run.field.rows[UNCERTAINTY] == START).all()
    seen: list[torch.Tensor] = []

    def watched(rendered, expected, uncertainty):
        error = 1 - (torch.nn.functional.normalize(rendered, dim=-1, eps=1e-6) * expected).sum(-1)
        seen.append(torch.stack([error.detach(), uncertainty.detach()]))
        return normal_loss(rendered, expected, uncertainty)

    monkeypatch.setattr(import_module("handful.pipelines.methods.terms.uncertain_surface"), "normal_loss", watched)
    for _ in run.events():
        pass
    error, uncertainty = seen[-1][:, 5:-5, 5:-5].reshape(2, -1)
    wrong = error > error.quantile(0.8)
    assert uncertainty[wrong].mean() > 1.1 * uncertainty[error < error.quantile(0.5)].mean()
    assert error.mean() < seen[0][0].mean()
