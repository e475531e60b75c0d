"""Surfels (docs/raster_semantics.md) over every rasterizer of this machine: closed forms, the judge, bounds, poison."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.recon.camera import Cameras
from handful.recon.errors import ShapeError
from handful.recon.gaussians import Gaussians
from handful.recon.raster.constants import ALPHA_MIN
from handful.recon.raster.protocol import Rasterizer, RasterOptions, RenderOutput
from handful.recon.raster.registry import get_rasterizer
from handful.recon.se3 import matrix_from_quat
from torch.nn.functional import normalize

from ..recon.raster.scenes import FIELDS, leaves, relative_error

SURFELS = RasterOptions(background=(0.3, 0.1, 0.8), surfels=True)
IMAGES = ("color", "alpha", "depth", "normal", "distortion")


def exact(raster: Rasterizer) -> bool:
    """gsplat's kernel has no depth per pixel, see cuda_surfel.py."""
    return raster.name != "gsplat"


def scene(device: torch.device | str, n: int = 40, seed: int = 0, scale: float = -1.7, facing: float = 0.0, width: int = 40, height: int = 28) -> tuple[Gaussians, Cameras]:
    """Random surfels before two cameras; `facing` turns them towards these."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    quats = normalize(draw(n, 4), dim=-1) * (1 - facing) + facing * torch.tensor([1.0, 0, 0, 0])
    g = Gaussians(draw(n, 3) * torch.tensor([1.8, 1.3, 0.9]), quats, scale + 0.5 * draw(n, 3), 1.5 * draw(n), 0.3 * draw(n, 4, 3))
    w2c = torch.eye(4).repeat(2, 1, 1)
    w2c[:, 2, 3], w2c[1, 0, 3] = 4.0, 0.3
    # like all scenes of these suites, away from the jumps: what is seen nearly edge on is turned to the camera
    ray = normalize(g.means @ w2c[:, :3, :3].transpose(1, 2) + w2c[:, None, :3, 3], dim=-1)
    edge = ((w2c[:, :3, :3] @ matrix_from_quat(g.quats_wxyz)[:, None, :, 2:]).squeeze(-1).transpose(0, 1) * ray).sum(-1).abs().amin(0) < 0.1
    g.quats_wxyz[edge] = torch.tensor([1.0, 0, 0, 0])
    K = torch.tensor([[0.9 * width, 0, width / 2 + 1.3], [0, 0.95 * width, height / 2 - 0.7], [0, 0, 1]]).repeat(2, 1, 1)
    return g.to(device), Cameras(w2c, K, width, height).to(device)


def one(device: torch.device, quat: tuple[float, ...], scale: tuple[float, float] = (0.5, 0.3), mean: tuple[float, ...] = (0.1, -0.05, 3.0)) -> tuple[Gaussians, Cameras]:
    t = torch.tensor
    g = Gaussians(t([mean]), t([quat]), t([[*scale, 7.0]]).log(), torch.logit(t([0.8])), torch.zeros(1, 1, 3))
    return g.to(device), Cameras(torch.eye(4)[None], t([[[30.0, 0, 16.0], [0, 32.0, 12.0], [0, 0, 1]]]), 32, 24).to(device)


def met(g: Gaussians, c: Cameras, k: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and depth of surfel k, float64, by the school's formula: the ray cut with the plane."""
    p, axes, K = g.means[k].double().cpu(), matrix_from_quat(g.quats_wxyz.double().cpu())[k], c.K[0].double().cpu()
    y, x = torch.meshgrid(torch.arange(c.height) + 0.5, torch.arange(c.width) + 0.5, indexing="ij")
    ray = torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)], -1).double()
    z = (p @ axes[:, 2]) / (ray @ axes[:, 2])
    off = z[..., None] * ray - p
    s = g.scales[k].double().cpu()
    q = 0.5 * ((off @ axes[:, 0] / s[0]) ** 2 + (off @ axes[:, 1] / s[1]) ** 2)
    centre = torch.stack([K[0, 0] * p[0] / p[2] + K[0, 2], K[1, 1] * p[1] / p[2] + K[1, 2]])
    least = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    on = (z > 0) & (q <= least)
    alpha = g.opacities[k].double().cpu() * torch.exp(-torch.where(on, q, least))
    return torch.where(alpha >= ALPHA_MIN, alpha, 0.0), torch.where(on, z, p[2])


@pytest.mark.parametrize("quat", [(1.0, 0, 0, 0), (0.9, 0.4, 0, 0), (0.8, 0.2, -0.5, 0.3), (0.2, 0.9, 0.3, 0)])
def test_one_surfel_in_closed_form(raster: Rasterizer, device: torch.device, quat: tuple[float, ...]) -> None:
    g, c = one(device, quat)
    out = raster.render(g, c, SURFELS)
    alpha, depth = met(g, c)
    torch.testing.assert_close(out.alpha[0].cpu().double(), alpha, atol=2e-5, rtol=1e-4)
    assert out.normal is not None and out.distortion is not None
    n = matrix_from_quat(g.quats_wxyz)[0, :, 2]
    n = -n if n @ g.means[0] > 0 else n
    torch.testing.assert_close(out.normal[0], out.alpha[0][..., None] * n, atol=2e-5, rtol=1e-4)
    assert float(out.distortion.abs().max()) < 1e-5
    if exact(raster):
        torch.testing.assert_close(out.depth[0].cpu().double(), torch.where(alpha > 0, depth, 0.0), atol=1e-4, rtol=1e-4)


def test_two_layers_are_as_far_apart_as_they_are(raster: Rasterizer, device: torch.device) -> None:
    near, c = one(device, (1.0, 0, 0, 0), (50.0, 50.0), (0.0, 0.0, 3.0))
    far = replace(near, means=near.means * 1.5)
    out = raster.render(Gaussians.concatenate([far, near]), c, SURFELS)
    (a, _), (b, _) = met(near, c), met(far, c)
    w = [a, b * (1 - a)]
    torch.testing.assert_close(out.depth[0].cpu().double(), (3 * w[0] + 4.5 * w[1]) / (w[0] + w[1]), atol=1e-4, rtol=1e-4)
    assert out.distortion is not None
    torch.testing.assert_close(out.distortion[0].cpu().double(), 2 * w[0] * w[1] * 1.5**2, atol=1e-4, rtol=1e-3)


def run(raster: Rasterizer, g: Gaussians, c: Cameras, images: tuple[str, ...], options: RasterOptions = SURFELS) -> tuple[RenderOutput, dict[str, torch.Tensor]]:
    """The render, and the gradients of a loss that weighs every pixel of `images` at random."""
    g, c, fresh = leaves(g, c)
    out = raster.render(g, c, options)
    rng = torch.Generator().manual_seed(3)
    weights = {k: torch.randn(getattr(out, k).shape, generator=rng, dtype=torch.float64).to(getattr(out, k)) for k in IMAGES}
    torch.stack([(getattr(out, k) * weights[k]).sum() for k in images]).sum().backward()
    return out, {k: t.grad for k, t in fresh.items() if t.grad is not None} | {"means2d": out.aux.means2d.grad}


@pytest.mark.parametrize("seed", range(4))
def test_values_and_all_gradients_equal_the_judge(raster: Rasterizer, device: torch.device, seed: int) -> None:
    g, c = scene(device, seed=seed, scale=-1.7 if exact(raster) else -2.5)
    images = IMAGES if exact(raster) else ("color", "alpha", "normal")
    out, grads = run(raster, g, c, images)
    want, wanted = run(get_rasterizer("reference"), g.to("cpu", torch.float64), c.to("cpu", torch.float64), images)
    errors = {k: relative_error(getattr(out, k), getattr(want, k)) for k in images}
    # seen at a slant, terms of the form cancel: some digits go
    assert {k: e for k, e in errors.items() if not e < 4e-4} == {}
    assert set(grads) == set(wanted)
    slopes = {k: relative_error(grads[k], wanted[k]) for k in wanted if k in grads}
    assert {k: e for k, e in slopes.items() if not e < 1e-3} == {}
    assert bool((out.aux.visible.cpu() == want.aux.visible).all())


def test_long_lists_equal_the_judge(raster: Rasterizer, device: torch.device) -> None:
    """Several batches of faint surfels over each tile, forward and back."""
    g, c = scene(device, n=500, seed=6, scale=-1.2 if exact(raster) else -2.2, width=20, height=18)
    g = replace(g, logit_opacities=g.logit_opacities * 0.3 - 3.5)
    images = IMAGES if exact(raster) else ("color", "alpha", "normal")
    out, grads = run(raster, g, c, images)
    want, wanted = run(get_rasterizer("reference"), g.to("cpu", torch.float64), c.to("cpu", torch.float64), images)
    assert {k: e for k in images if not (e := relative_error(getattr(out, k), getattr(want, k))) < 1e-3} == {}
    assert {k: e for k in wanted if k in grads and not (e := relative_error(grads[k], wanted[k])) < 5e-3} == {}
    assert out.distortion is not None and float(out.distortion.min()) >= 0


def test_depth_where_surfels_face_the_camera(raster: Rasterizer, device: torch.device) -> None:
    g, c = scene(device, seed=5, scale=-2.5, facing=0.85)
    out, _ = run(raster, g, c, IMAGES)
    want, _ = run(get_rasterizer("reference"), g.to("cpu", torch.float64), c.to("cpu", torch.float64), IMAGES)
    assert relative_error(out.depth, want.depth) < (1e-5 if exact(raster) else 3e-2)


def test_slopes_of_the_judge_by_finite_differences() -> None:
    judge = get_rasterizer("reference")
    g, c = scene("cpu", n=12, seed=1, width=24, height=18)
    g, c = g.to(dtype=torch.float64), c.to(dtype=torch.float64)
    _, grads = run(judge, g, c, IMAGES)

    def loss(g: Gaussians, c: Cameras) -> float:
        out = judge.render(g, c, SURFELS)
        rng = torch.Generator().manual_seed(3)
        return sum(float((getattr(out, k) * torch.randn(getattr(out, k).shape, generator=rng, dtype=torch.float64)).sum()) for k in IMAGES)

    rng = torch.Generator().manual_seed(0)
    for name in (*FIELDS, "cam_from_world", "K"):
        owner = g if name in FIELDS else c
        value = getattr(owner, name)
        way = torch.randn(value.shape, generator=rng, dtype=torch.float64)
        if name == "K":
            way = way * torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 0]])
        if name == "cam_from_world":
            way[:, 3] = 0
        h = 1e-7
        ends = [loss(*((replace(g, **{name: value + s * h * way}), c) if name in FIELDS else (g, replace(c, **{name: value + s * h * way})))) for s in (-1, 1)]
        assert (ends[1] - ends[0]) / (2 * h) == pytest.approx(float((grads[name] * way).sum()), rel=2e-4, abs=1e-4), name


def test_the_third_scale_is_not_read(raster: Rasterizer, device: torch.device) -> None:
    g, c = scene(device, seed=2)
    thick = replace(g, log_scales=g.log_scales + torch.tensor([0.0, 0.0, 5.0], device=device))
    a, grads = run(raster, g, c, ("color",))
    b, _ = run(raster, thick, c, ("color",))
    assert relative_error(a.color, b.color) == 0.0
    assert float(grads["log_scales"][:, 2].abs().max()) == 0.0 and float(grads["log_scales"][:, :2].abs().max()) > 0


def test_oblique_and_large_surfels_end_nowhere_early(raster: Rasterizer, device: torch.device) -> None:
    """Bounds: of the ground under the camera, and of discs seen at a slant, every pixel is drawn that the formula gives."""
    c = Cameras(torch.eye(4)[None], torch.tensor([[[60.0, 0, 48.0], [0, 60.0, 40.0], [0, 0, 1]]]), 96, 80).to(device)
    tilts = torch.linspace(0.3, 1.5, 7)
    for k, tilt in enumerate(tilts):
        half = 0.5 * (tilt + 0.02)
        g, _ = one(device, (float(torch.cos(half)), float(torch.sin(half)), 0.0, 0.0), (0.4 + 0.5 * k, 0.6), (0.2, 0.7, 2.0))
        out, alpha = raster.render(g, c, SURFELS), met(g, c)[0]
        behind = met(g, c)[1] <= 0
        error = (out.alpha[0].cpu().double() - alpha).abs()
        assert float(error[~behind].max()) < 1.5 * ALPHA_MIN if not exact(raster) else float(error.max()) < 1e-3, float(tilt)


def test_poison_and_what_is_not_drawn(raster: Rasterizer, device: torch.device) -> None:
    g, c = scene(device, n=30, seed=3)
    clean = raster.render(g, c, SURFELS)
    bad = scene(device, n=8, seed=9)[0]
    for k, (name, value) in enumerate(
        [("means", float("nan")), ("means", float("inf")), ("quats_wxyz", 0.0), ("log_scales", float("nan")), ("means", float("-inf")), ("logit_opacities", -50.0), ("sh", float("nan"))]
    ):
        getattr(bad, name)[k] = value
    bad.means[7] = torch.tensor([0.0, 0.0, -9.0])  # behind both cameras
    both, grads = run(raster, Gaussians.concatenate([g, bad]), c, ("color", "alpha"))
    for k in ("color", "alpha", "normal"):
        torch.testing.assert_close(getattr(both, k), getattr(clean, k), atol=1e-6, rtol=1e-5)
    assert not bool(both.aux.visible[:, 30:].any())
    for name, grad in grads.items():
        assert bool(torch.isfinite(grad).all()), name
    # what is not finite, and a camera where its stand-ins may lie
    at_origin = Cameras(torch.eye(4)[None], c.K[:1].cpu(), c.width, c.height).to(device)
    far = replace(g, means=g.means + torch.tensor([0.0, 0, 4], device=device))
    _, grads = run(raster, Gaussians.concatenate([far, bad]), at_origin, ("color", "alpha"))
    for name, grad in grads.items():
        assert bool(torch.isfinite(grad).all()), name
    edge_on, camera = one(device, (0.70710678, 0.70710678, 0.0, 0.0), (0.5, 0.3), (0.0, 0.0, 3.0))  # normal along y, seen along z
    assert float(raster.render(edge_on, camera, SURFELS).alpha.max()) == 0.0
    none = g[:0]
    assert float(raster.render(none, c, SURFELS).alpha.abs().max()) == 0.0


def test_crop_of_the_render_is_the_render_of_the_crop(raster: Rasterizer, device: torch.device) -> None:
    g, c = scene(device, n=80, seed=4, width=50, height=36)
    whole, part = raster.render(g, c, SURFELS), raster.render(g, c.cropped(13, 7, 21, 18), SURFELS)
    for k in IMAGES if exact(raster) else ("color", "alpha", "normal"):
        a, b = getattr(whole, k)[:, 7:25, 13:34], getattr(part, k)
        assert relative_error(b, a) < 2e-4, k


def test_surfels_are_never_antialiased(raster: Rasterizer, device: torch.device) -> None:
    g, c = scene(device)
    with pytest.raises(ShapeError, match="surfels and antialiased"):
        raster.render(g, c, replace(SURFELS, antialiased=True))
