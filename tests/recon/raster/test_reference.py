"""The judge itself: against the numpy program to the last digits, finite differences in every input, and how it walks through an image."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from handful import recon
from handful.recon.errors import BackendUnavailable, ConfigError, ShapeError
from handful.recon.gaussians import Gaussians
from handful.recon.kernels import native
from handful.recon.raster import reference
from handful.recon.raster.protocol import RasterOptions
from handful.recon.raster.registry import get_rasterizer, rasterizer_status
from handful.recon.se3 import se3_exp

from ...golden.splat_numpy import Scene, render
from .scenes import FIELDS, INPUTS, gradients, leaves, loss_of, relative_error, smooth_scene, to_torch

JUDGE = reference.make()
SCENES = {
    "classic": {},
    "antialiased": {"antialiased": True, "scale": -3.0},
    "opaque": {"opacity": 4.0, "seed": 3, "n": 100},
    "degree 1": {"sh_degree": 1, "seed": 8},
    "capped": {"n": 8, "opacity": 8.0, "scale": 1.0, "seed": 5},
}


@pytest.mark.parametrize("name", list(SCENES))
def test_equals_the_numpy_program(name: str, device: torch.device) -> None:
    scene = smooth_scene(**SCENES[name])
    scene = Scene(**{**scene.__dict__, "background": (0.3, 0.2, 0.9)})
    g, c, o = to_torch(scene, torch.float64, device)
    out, want = JUDGE.render(g, c, o), render(scene)
    for k in ("color", "alpha", "depth", "normal"):
        assert relative_error(getattr(out, k), torch.tensor(getattr(want, k))) < 1e-12, k


def test_the_scenes_exercise_every_rule() -> None:
    hits = [render(smooth_scene(**kw)).hit for kw in SCENES.values()]
    for rule in ("faint", "capped", "stopped", "clamped", "dark"):
        assert any(h[rule] > 0 for h in hits), rule


@pytest.mark.parametrize("name", ["classic", "antialiased"])
@pytest.mark.parametrize("input_name", INPUTS)
def test_finite_differences(name: str, input_name: str) -> None:
    """Central differences in float64 in every input of a small scene; every entry of it, but every fifth harmonic coefficient."""
    kw = {**SCENES[name], "n": 10, "width": 18, "height": 13, "degree": 2, "views": 2, "seed": 21}
    g, c, o = to_torch(smooth_scene(**kw), torch.float64)
    g, c, fresh = leaves(g, c, (input_name,))
    assert JUDGE.render(g, c, o).alpha.max() > 0.1
    loss_of(JUDGE.render(g, c, o)).backward()
    value, grad = fresh[input_name].detach(), fresh[input_name].grad
    assert grad is not None
    numeric = torch.zeros_like(value).flatten()
    fixed = Gaussians(*(getattr(g, k).detach() for k in FIELDS)), replace(c, cam_from_world=c.cam_from_world.detach(), K=c.K.detach())
    step = 2e-6
    entries = range(0, value.numel(), 5 if input_name == "sh" else 1)
    for i in entries:
        ends = []
        for sign in (1, -1):
            moved = value.clone()
            moved.view(-1)[i] += sign * step
            mg, mc = (
                (replace(fixed[0], **{input_name: moved}), fixed[1])
                if input_name in FIELDS
                else (fixed[0], replace(fixed[1], **{input_name: moved}))
            )
            ends.append(loss_of(JUDGE.render(mg, mc, o)).item())
        numeric[i] = (ends[0] - ends[1]) / (2 * step)
    assert relative_error(grad.flatten()[entries], numeric[entries]) < 1e-6


def test_gradient_along_a_rigid_motion() -> None:
    g, c, o = to_torch(smooth_scene(), torch.float64)
    xi = torch.zeros(len(c), 6, dtype=torch.float64, requires_grad=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return loss_of(JUDGE.render(g, replace(c, cam_from_world=se3_exp(x) @ c.cam_from_world), o))

    assert torch.autograd.gradcheck(loss, (xi,), eps=1e-6, rtol=1e-5)


def test_means2d_gradient_is_that_of_a_pixel_shift() -> None:
    """Moving every centre by (du, dv) is what cx, cy do, but for the Jacobian's clamp, which is not near here."""
    g, c, o = to_torch(smooth_scene(), torch.float64)
    g = replace(g, means=g.means * 0.3)
    out, grads = gradients(JUDGE, g, c, o)
    assert out.aux.means2d.grad is not None
    assert relative_error(out.aux.means2d.grad.sum(1), grads["K"][:, :2, 2]) < 1e-9


def test_long_lists_stop_early_and_equal_short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    g, c, o = to_torch(smooth_scene(n=100, opacity=4.0, seed=3), torch.float64)
    want, want_grads = gradients(JUDGE, g, c, o)
    monkeypatch.setattr(reference, "CHUNK", 7)
    monkeypatch.setattr(reference, "GROUP_TILES", 2)
    out, grads = gradients(JUDGE, g, c, o)
    assert relative_error(out.color, want.color) < 1e-12 and all(relative_error(grads[k], want_grads[k]) < 1e-11 for k in grads)


def test_tile_size_is_not_part_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    g, c, o = to_torch(smooth_scene(), torch.float64)
    want = JUDGE.render(g, c, o)
    for size in (5, 64):
        monkeypatch.setattr(reference, "TILE", size)
        assert relative_error(JUDGE.render(g, c, o).color, want.color) < 1e-12


def test_radii_hold_the_contribution() -> None:
    g, c, o = to_torch(smooth_scene(views=1), torch.float64)
    for i in range(0, len(g), 7):
        out = JUDGE.render(g[i : i + 1], c, o)
        v, u = np.nonzero(out.alpha[0].numpy())
        if len(u):
            d = np.abs(np.stack([u + 0.5, v + 0.5], -1) - out.aux.means2d[0, 0].numpy()).max()
            assert d <= out.aux.radii[0, 0].item()


def test_float32_equals_float64() -> None:
    scene = smooth_scene(n=200, width=64, height=48, scale=-2.3, seed=2, views=1)
    (a, ga), (b, gb) = gradients(JUDGE, *to_torch(scene)), gradients(JUDGE, *to_torch(scene, torch.float64))
    assert a.color.dtype == torch.float32 and b.color.dtype == torch.float64
    assert relative_error(a.color, b.color) < 1e-5 and all(relative_error(ga[k], gb[k]) < 3e-5 for k in ga)


def test_registry() -> None:
    status = rasterizer_status()
    assert status["reference"] == "available"
    assert get_rasterizer("auto").name in ("cpu", "reference")
    with pytest.raises(ConfigError, match="referense.*choose one of"):
        get_rasterizer("referense")
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="needs an NVIDIA GPU"):
            get_rasterizer("gsplat")
        assert "needs an NVIDIA GPU" in status["gsplat"]


def test_half_precision_is_refused() -> None:
    g, c, o = to_torch(smooth_scene())
    with pytest.raises(ShapeError, match="float32 or float64.*got Gaussians of float16"):
        JUDGE.render(g.to(dtype=torch.float16), c, RasterOptions())


def test_without_kernels_the_torch_rasterizer_is_taken_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "handful.recon._native", None)
    monkeypatch.delattr(recon, "_native", raising=False)
    native.cache_clear()
    caplog.set_level("WARNING", "handful")  # a command run with --quiet in this process has turned it down
    try:
        assert get_rasterizer("auto").name == "reference"
        assert "slow pure-torch rasterizer" in caplog.text and "install a C++17 compiler" in caplog.text
        with pytest.raises(BackendUnavailable, match="compiled kernels are missing"):
            get_rasterizer("cpu")
    finally:
        native.cache_clear()
