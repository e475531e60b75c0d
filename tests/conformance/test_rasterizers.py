"""What every rasterizer must do (docs/raster_semantics.md), run over each one that is available on this machine.

Values and gradients are judged by the reference in float64 on scenes that keep a margin from every jump, by images and slopes of a separate numpy
program (tests/golden), and by closed forms. Poison and invariances: test_rasterizers_hard.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.recon.gaussians import Gaussians
from handful.recon.raster.constants import ALPHA_MAX, COVARIANCE_BLUR
from handful.recon.raster.protocol import Rasterizer, RasterOptions
from handful.recon.raster.registry import RASTERIZERS, get_rasterizer
from handful.recon.sh import SH_C0, sh_dc_from_rgb

from ..golden.make_raster_golden import weights
from ..golden.splat_numpy import Images, Scene
from ..recon.raster.scenes import FIELDS, INPUTS, gradients, leaves, loss_of, relative_error, smooth_scene, to_torch
from .raster_common import IMAGES, assert_same, one_gaussian, tolerance

GOLDEN = Path(__file__).resolve().parent.parent / "golden"

# ---- closed form ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("antialiased", [False, True])
def test_one_splat_in_closed_form(raster: Rasterizer, device: torch.device, antialiased: bool) -> None:
    g, c = one_gaussian(device)
    out = raster.render(g, c, RasterOptions(background=(0.1, 0.2, 0.3), antialiased=antialiased, normal=True))
    x, y, z, fx, fy = 0.1, -0.05, 3.0, 30.0, 32.0
    u, v = fx * x / z + 16.0, fy * y / z + 12.0
    j = np.array([[fx / z, 0, -fx * x / z**2], [0, fy / z, -fy * y / z**2]])
    cov = j @ np.diag(np.square([0.3, 0.2, 0.1])) @ j.T
    blurred = cov + COVARIANCE_BLUR * np.eye(2)
    opacity = 0.8 * (np.sqrt(np.linalg.det(cov) / np.linalg.det(blurred)) if antialiased else 1.0)
    px, py = np.meshgrid(np.arange(32) + 0.5 - u, np.arange(24) + 0.5 - v)
    d = np.stack([px, py], -1)
    alpha = opacity * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", d, np.linalg.inv(blurred), d))
    alpha = np.where(alpha >= 1 / 255, np.minimum(alpha, ALPHA_MAX), 0)
    want = torch.tensor(alpha, dtype=torch.float32, device=device)
    torch.testing.assert_close(out.alpha[0], want, atol=5e-6, rtol=1e-5)
    rgb, background = torch.tensor([0.9, 0.5, 0.2], device=device), torch.tensor([0.1, 0.2, 0.3], device=device)
    torch.testing.assert_close(out.color[0], want[..., None] * rgb + (1 - want[..., None]) * background, atol=3e-6, rtol=1e-5)
    torch.testing.assert_close(out.depth[0], torch.where(want > 0, z, 0.0).to(want), atol=1e-5, rtol=1e-5)
    assert out.normal is not None  # the shortest axis is z, turned towards the camera
    torch.testing.assert_close(out.normal[0], want[..., None] * torch.tensor([0.0, 0.0, -1.0], device=device), atol=3e-6, rtol=1e-5)
    assert bool(out.aux.visible[0, 0]) and out.aux.radii[0, 0] > 0
    torch.testing.assert_close(out.aux.means2d[0, 0].cpu(), torch.tensor([u, v]), atol=1e-4, rtol=1e-5)


def test_two_splats_composite_front_to_back(raster: Rasterizer, device: torch.device) -> None:
    g, c = one_gaussian(device, scale=(5.0, 5.0, 5.0))
    far = replace(
        g, means=g.means * torch.tensor([1.0, 1.0, 2.0], device=device), sh=sh_dc_from_rgb(torch.tensor([[[0.0, 1.0, 0.0]]], device=device))
    )
    for pair in (Gaussians.concatenate([g, far]), Gaussians.concatenate([far, g])):
        out = raster.render(pair, c, RasterOptions())
        a = [raster.render(one, c, RasterOptions()).alpha for one in (g, far)]
        w = [a[0], a[1] * (1 - a[0])]
        rgb = torch.tensor([[0.9, 0.5, 0.2], [0.0, 1.0, 0.0]], device=device)
        torch.testing.assert_close(out.color, w[0][..., None] * rgb[0] + w[1][..., None] * rgb[1], atol=5e-6, rtol=1e-5)
        torch.testing.assert_close(out.depth, (3 * w[0] + 6 * w[1]) / (w[0] + w[1]), atol=2e-5, rtol=1e-5)


def test_equal_depth_is_drawn_by_index(raster: Rasterizer, device: torch.device) -> None:
    g, c = one_gaussian(device, scale=(5.0, 5.0, 5.0))
    red, green = (replace(g, sh=sh_dc_from_rgb(torch.tensor([[rgb]], device=device))) for rgb in ([1.0, 0, 0], [0, 1.0, 0]))
    out = raster.render(Gaussians.concatenate([red, green]), c, RasterOptions()).color[0, 12, 16]
    assert out[0] > 2 * out[1]


def test_stops_before_the_splat_that_would_close_the_pixel(raster: Rasterizer, device: torch.device) -> None:
    # three full layers of alpha 0.98: T = 0.02, 0.0004, then 8e-6 < 1e-4: the third is not drawn
    g, c = one_gaussian(device, scale=(500.0, 500.0, 500.0), opacity=0.98)
    layers = [replace(g, means=torch.tensor([[0.0, 0.0, 3.0 + k]], device=device)) for k in range(3)]
    out = raster.render(Gaussians.concatenate(layers), c, RasterOptions())
    torch.testing.assert_close(out.alpha, torch.full_like(out.alpha, 1 - 0.02**2), atol=3e-5, rtol=0)


# ---- the judge ------------------------------------------------------------------------------------------------------------------------------

CASES = {
    "classic": {},
    "antialiased": {"antialiased": True, "scale": -3.0, "n": 120},
    "opaque": {"opacity": 4.0, "n": 100, "seed": 3},
    "capped": {"n": 8, "opacity": 8.0, "scale": 1.0, "seed": 5},
    "odd size": {"width": 37, "height": 19, "seed": 4},
    "smaller than a tile": {"width": 7, "height": 5, "seed": 5, "n": 30},
    "degree 0": {"degree": 0, "seed": 6, "views": 1},
    "degree 1": {"degree": 1, "seed": 7, "views": 1},
    "degree 2 of 3": {"sh_degree": 2, "seed": 8, "views": 1},
    "degree 3 asked of 1": {"degree": 1, "sh_degree": 3, "seed": 9, "views": 1},
    "many": {"n": 300, "width": 64, "height": 48, "scale": -2.3, "seed": 10, "views": 1},
}


@pytest.mark.parametrize("case", list(CASES))
def test_values_and_all_gradients_equal_the_judge(raster: Rasterizer, device: torch.device, case: str) -> None:
    scene = smooth_scene(**CASES[case])
    options = {"background": (0.3, 0.1, 0.8)}
    g, c, o = to_torch(scene, device=device)
    names = tuple(k for k in INPUTS if k in raster.caps.grads)
    out, grads = gradients(raster, g, c, replace(o, **options), names)
    g64, c64, o64 = to_torch(scene, torch.float64)
    want, want_grads = gradients(get_rasterizer("reference"), g64, c64, replace(o64, **options), names)
    errors = {k: relative_error(getattr(out, k), getattr(want, k)) for k in IMAGES}
    errors |= {f"d {k}": relative_error(grads[k], want_grads[k]) for k in grads}
    # where opacity nears 1, sigmoid's gradient o (1 - o) itself loses float32 digits
    allowed = {"d logit_opacities": 2e-3} if case == "capped" else {}
    assert {k: e for k, e in errors.items() if not e < allowed.get(k, tolerance(raster))} == {}
    contributes = want_grads["logit_opacities"].cpu() != 0
    assert bool(out.aux.visible.any(0).cpu()[contributes].all())


def test_dropout_scale(raster: Rasterizer, device: torch.device) -> None:
    scene = smooth_scene()
    g, c, o = to_torch(scene, device=device)
    keep = (torch.arange(len(g), device=device) % 3 != 0).float()
    dropped, _ = gradients(raster, g, c, replace(o, opacity_scale=keep))
    only = gradients(raster, g[keep > 0], c, o)[0]
    assert_same(dropped, only)
    assert not dropped.aux.visible[:, keep == 0].any()


@pytest.mark.parametrize("name", ["mixed", "antialiased", "opaque", "degree2"])
def test_golden_images_and_slopes(raster: Rasterizer, device: torch.device, name: str) -> None:
    with np.load(GOLDEN / f"raster_{name}.npz") as z:
        data = {k: z[k] for k in z.files}
    width, height = (int(x) for x in data["size"])
    degree = int(data["sh_degree"])
    scene = Scene(
        **{k: data[k] for k in Scene.inputs}, width=width, height=height, background=tuple(float(x) for x in data["background"]),
        antialiased=bool(data["antialiased"]), sh_degree=None if degree < 0 else degree,
        opacity_scale=data["opacity_scale"] if len(data["opacity_scale"]) else None,
    )  # fmt: skip
    g, c, o = to_torch(scene, device=device)
    g, c, fresh = leaves(g, c)
    out = raster.render(g, c, o)
    w = weights(Images(*(data[k] for k in IMAGES), margin=np.zeros(0)))
    for k in IMAGES:
        assert relative_error(getattr(out, k), torch.tensor(data[k])) < tolerance(raster) / 5, k
    sum((getattr(out, k) * torch.tensor(v, dtype=torch.float32, device=device)).sum() for k, v in w.items()).backward()  # pyright: ignore
    # gsplat's backward starts from 1 - alpha, which is rounded: 2e-4 of the sum where pixels are nearly opaque (opaque, degree2), 1e-5 elsewhere
    slack = tolerance(raster) if raster.name == "gsplat" else 3e-5
    for key, mine in zip(Scene.inputs, INPUTS, strict=True):
        if mine in raster.caps.grads:
            grad = fresh[mine].grad
            assert grad is not None
            direction = data[f"direction_{key}"].astype(np.float64)
            got = (direction * grad.double().cpu().numpy()).sum(axis=tuple(range(1, direction.ndim)))
            size = np.abs(direction * grad.double().cpu().numpy()).sum(axis=tuple(range(1, direction.ndim)))
            assert (np.abs(got - data[f"slope_{key}"]) < 1e-4 * np.abs(data[f"slope_{key}"]) + slack * size).all(), key


# ---- the seam -------------------------------------------------------------------------------------------------------------------------------


def test_normals_only_when_asked(raster: Rasterizer, device: torch.device) -> None:
    g, c, o = to_torch(smooth_scene(), device=device)
    without, with_ = raster.render(g, c, replace(o, normal=False)), raster.render(g, c, o)
    assert without.normal is None and with_.normal is not None
    assert relative_error(without.color, with_.color) < 1e-6 and relative_error(without.depth, with_.depth) < 1e-6


def test_only_what_asks_gets_a_gradient(raster: Rasterizer, device: torch.device) -> None:
    g, c, o = to_torch(smooth_scene(), device=device)
    for names in (("sh",), ("cam_from_world",), ("means", "K"), ("logit_opacities",)):
        if not set(names) <= raster.caps.grads:
            continue
        g1, c1, fresh = leaves(g, c, names)
        loss_of(raster.render(g1, c1, o)).backward()
        everything = gradients(raster, g, c, o)[1]
        for k in INPUTS:
            assert (fresh[k].grad is not None) == (k in names), k
            if k in names:
                assert relative_error(fresh[k].grad, everything[k]) < 1e-5  # pyright: ignore[reportArgumentType]
    g1, c1, fresh = leaves(g, c, ("means", "cam_from_world", "K"))
    loss_of(raster.render(g1, c1, replace(o, camera_grads=False))).backward()
    assert fresh["means"].grad is not None
    assert all(fresh[k].grad is None or (fresh[k].grad == 0).all() for k in ("cam_from_world", "K"))  # pyright: ignore


def test_a_loss_on_one_output_alone(raster: Rasterizer, device: torch.device) -> None:
    g, c, o = to_torch(smooth_scene(), device=device)
    g64, c64, o64 = to_torch(smooth_scene(), torch.float64)
    for k in IMAGES:
        g1, c1, fresh = leaves(g, c, ("means", "logit_opacities"))
        getattr(raster.render(g1, c1, o), k).square().sum().backward()
        g2, c2, want = leaves(g64, c64, ("means", "logit_opacities"))
        getattr(get_rasterizer("reference").render(g2, c2, o64), k).square().sum().backward()
        for name in ("means", "logit_opacities"):
            assert relative_error(fresh[name].grad, want[name].grad) < tolerance(raster), (k, name)  # pyright: ignore[reportArgumentType]


def test_strided_inputs(raster: Rasterizer, device: torch.device) -> None:
    g, c, o = to_torch(smooth_scene(), device=device)

    def strided(t: torch.Tensor) -> torch.Tensor:
        return torch.stack([t, torch.zeros_like(t)], -1)[..., 0]

    odd = Gaussians(*(strided(getattr(g, k)) for k in FIELDS))
    odd_c = replace(c, cam_from_world=c.cam_from_world.transpose(1, 2).contiguous().transpose(1, 2), K=strided(c.K))
    (a, ga), (b, gb) = gradients(raster, g, c, o), gradients(raster, odd, odd_c, o)
    assert_same(a, b, 1e-6)
    g1 = Gaussians(*(strided(getattr(g, k)).requires_grad_() for k in FIELDS))
    loss_of(raster.render(g1, odd_c, o)).backward()
    assert relative_error(g1.means.grad, ga["means"]) < 1e-5 and relative_error(gb["means"], ga["means"]) < 1e-5  # pyright: ignore


def test_unused_degrees_get_no_gradient(raster: Rasterizer, device: torch.device) -> None:
    g, c, o = to_torch(smooth_scene(sh_degree=1, seed=8), device=device)
    grads = gradients(raster, g, c, o)[1]["sh"]
    assert (grads[:, 4:] == 0).all() and (grads[:, :4] != 0).any()
    assert abs(SH_C0 - 0.28209479177387814) < 1e-15


def test_caps_tell_the_truth(raster: Rasterizer, device: torch.device) -> None:
    caps = raster.caps
    assert {"means", "quats_wxyz", "log_scales", "logit_opacities", "sh", "cam_from_world"} <= caps.grads
    assert "float32" in caps.dtypes and device.type in caps.devices
    assert raster.name in RASTERIZERS
