"""What only the native rasterizer has: instruction sets, threads, memory of its own, an operator of torch. Values and gradients: tests/conformance."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from handful.recon.camera import Cameras
from handful.recon.errors import ShapeError
from handful.recon.gaussians import Gaussians
from handful.recon.kernels import native, native_or_none
from handful.recon.raster.protocol import RasterOptions, RenderOutput
from handful.recon.raster.registry import get_rasterizer

pytestmark = pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")

ISAS = ("avx512", "avx2", "sse2", "neon", "scalar")
OPTIONS = RasterOptions(background=(0.2, 0.5, 0.1), normal=True, antialiased=True)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    native().set_isa("auto")


def scene(n: int = 3000, degree: int = 3, views: int = 2, width: int = 150, height: int = 101) -> tuple[Gaussians, Cameras]:
    g = torch.Generator().manual_seed(3)
    gaussians = Gaussians(
        torch.randn(n, 3, generator=g) * torch.tensor([1.5, 1.0, 0.6]),
        torch.randn(n, 4, generator=g),
        torch.randn(n, 3, generator=g) * 0.6 - 3.2,
        torch.randn(n, generator=g) * 2,
        torch.randn(n, (degree + 1) ** 2, 3, generator=g) * 0.4,
    )
    E = torch.eye(4).repeat(views, 1, 1)
    E[:, 2, 3] = 3.0
    E[:, 0, 3] = torch.linspace(-0.4, 0.4, views)
    K = torch.tensor([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]]).repeat(views, 1, 1)
    return gaussians, Cameras(E, K, width, height)


def inputs(g: Gaussians, c: Cameras) -> list[torch.Tensor]:
    return [
        t.detach().clone().requires_grad_() for t in (g.means, g.quats_wxyz, g.log_scales, g.logit_opacities, g.sh, c.cam_from_world, c.K)
    ]


def draw(leaves: list[torch.Tensor], c: Cameras, options: RasterOptions = OPTIONS) -> tuple[RenderOutput, list[torch.Tensor]]:
    out = get_rasterizer("cpu").render(Gaussians(*leaves[:5]), Cameras(leaves[5], leaves[6], c.width, c.height), options)
    images = [out.color, out.alpha, out.depth] + ([out.normal] if out.normal is not None else [])
    g = torch.Generator().manual_seed(5)
    grads = torch.autograd.grad(images, leaves, [torch.randn(i.shape, generator=g) for i in images])
    return out, [i.detach() for i in images] + list(grads)


def test_the_result_does_not_depend_on_the_number_of_threads_nor_on_the_run() -> None:
    g, c = scene(12000)
    leaves, results = inputs(g, c), []
    for threads in (1, 1, 2, 3):
        torch.set_num_threads(threads)
        results.append(draw(leaves, c)[1])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, antialiased=False, surfels=True)], ids=["splats", "surfels"])
def test_instruction_sets_agree(options: RasterOptions) -> None:
    g, c = scene()
    if options.surfels:  # seen edge on, slopes are so steep that rounding shows
        g = replace(g, quats_wxyz=g.quats_wxyz * 0.2 + torch.tensor([1.0, 0, 0, 0]))
    leaves = inputs(g, c)
    here = [isa for isa in ISAS if native().set_isa(isa)]
    assert here and native().isa() == here[-1]
    native().set_isa("auto")
    assert native().isa() == here[0]  # the widest is the default
    results = []
    for isa in here:
        assert native().set_isa(isa)
        results.append(draw(leaves, c, options)[1])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            # single pixels may fall on the other side of a threshold: almost all agree closely, all agree in the mean
            assert ((a - b).abs() <= 1e-4 * a.abs().max()).float().mean() > 0.999
            assert (a - b).norm() <= 2e-3 * a.norm()


def test_an_unknown_instruction_set_changes_nothing() -> None:
    before = native().isa()
    assert not native().set_isa("mmx")
    assert native().isa() == before


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16), (17, 33)])
def test_images_that_do_not_fill_their_tiles(size: tuple[int, int]) -> None:
    g, c = scene(300)
    small = c.cropped(60, 40, *size)
    with torch.no_grad():
        mine = get_rasterizer("cpu").render(g, small, OPTIONS)
        judge = get_rasterizer("reference").render(g.to(dtype=torch.float64), small.to(dtype=torch.float64), OPTIONS)
    for a, b in ((mine.color, judge.color), (mine.alpha, judge.alpha), (mine.normal, judge.normal)):
        assert a is not None and b is not None and a.shape == b.shape
        assert (a - b).abs().max() < 6e-3 and (a - b).abs().median() < 1e-5  # a pixel may fall on the other side of a threshold


def test_nothing_to_draw() -> None:
    g, c = scene(5)
    raster = get_rasterizer("cpu")
    none = raster.render(g[:0], c, OPTIONS)
    assert none.color.shape == (2, 101, 150, 3) and torch.allclose(none.color, torch.tensor(OPTIONS.background))
    assert not none.alpha.any() and not none.depth.any() and none.aux.visible.shape == (2, 0)
    no_views = raster.render(g, c[[]], OPTIONS)
    assert no_views.color.shape == (0, 101, 150, 3) and no_views.aux.radii.shape == (0, 5)
    leaves = inputs(g[:0], c)
    assert all(not t.isnan().any() for t in draw(leaves, c)[1])
    behind = Gaussians(g.means - torch.tensor([0, 0, 100.0]), g.quats_wxyz, g.log_scales, g.logit_opacities, g.sh)
    out, results = draw(inputs(behind, c), c)
    assert not out.aux.visible.any() and not any(t.any() for t in results[4:])


def test_poison_stays_where_it_is() -> None:
    g, c = scene(600)
    clean = draw(inputs(g, c), c)[1]
    bad = torch.zeros(600, dtype=torch.bool)
    poisoned = g.clone()
    for i, (field, value) in enumerate(
        [
            (poisoned.means, float("nan")),
            (poisoned.means, float("inf")),
            (poisoned.quats_wxyz, 0.0),
            (poisoned.quats_wxyz, float("nan")),
            (poisoned.log_scales, float("inf")),
            (poisoned.log_scales, 90.0),
            (poisoned.logit_opacities, float("nan")),
            (poisoned.logit_opacities, -float("inf")),
            (poisoned.sh, float("nan")),
            (poisoned.sh, float("inf")),
        ]
    ):
        field[37 * i + 5] = value
        bad[37 * i + 5] = True
    out, results = draw(inputs(poisoned, c), c)
    assert not out.aux.visible[:, bad].any()
    assert all(torch.isfinite(t).all() for t in results)
    assert all(not grad[bad].any() for grad in results[4:9])
    without = draw(inputs(g[~bad], c), c)[1]
    assert all(torch.equal(a, b) for a, b in zip(results[:4], without[:4], strict=True))
    assert all(torch.equal(a[~bad], b) for a, b in zip(results[4:9], without[4:9], strict=True))
    assert not torch.equal(results[0], clean[0])


def test_no_number_however_extreme_makes_another_bad() -> None:
    """Images and gradients stay finite; a gradient that overflows is dropped."""
    extremes = torch.tensor([0.0, 1e-38, 1e-20, -1e20, 3e38, float("nan"), float("inf"), 1e-3, 50.0, -50.0, 88.0, -88.0, 1e4])
    raster = get_rasterizer("cpu")
    for seed in range(24):
        g, c = scene(150, degree=1, views=1, width=40, height=30)
        gen = torch.Generator().manual_seed(seed)

        def spoil(t: torch.Tensor, share: float, gen: torch.Generator = gen) -> torch.Tensor:
            bad = torch.rand(t.shape, generator=gen) < share
            return torch.where(bad, extremes[torch.randint(0, len(extremes), t.shape, generator=gen)], t).requires_grad_()

        share = (0.0, 0.01, 0.1, 0.4)[seed % 4]
        c.cam_from_world[0, 2, 3] = torch.randn((), generator=gen) * 2
        leaves = [spoil(t, share) for t in (g.means, g.quats_wxyz, g.log_scales + (seed % 7) * 2.0, g.logit_opacities, g.sh)]
        leaves += [c.cam_from_world.requires_grad_(), c.K.requires_grad_()]
        out = raster.render(
            Gaussians(*leaves[:5]), c, RasterOptions(normal=True, antialiased=seed % 2 == 0, near=(0.01, 0.0, 1.0)[seed % 3])
        )
        assert out.normal is not None
        images = [out.color, out.alpha, out.depth, out.normal]
        assert all(torch.isfinite(t).all() for t in images)
        assert all(torch.isfinite(t).all() for t in torch.autograd.grad([i.sum() for i in images], leaves))


def test_the_gradient_of_the_centres_is_filled() -> None:
    g, c = scene(800)
    leaves = inputs(g, c)
    out = get_rasterizer("cpu").render(Gaussians(*leaves[:5]), Cameras(leaves[5], leaves[6], c.width, c.height))
    out.color.sum().backward()
    grad = out.aux.means2d.grad
    assert grad is not None and grad.shape == (2, 800, 2)
    assert grad.any() and not grad[~out.aux.visible].any()
    # moving the principal point moves every centre alike (what the Jacobian's clamp adds concerns splats outside the image)
    K = leaves[6].grad
    assert K is not None and torch.allclose(K[:, :2, 2], grad.sum(1), rtol=0.05, atol=1e-2 * float(grad.abs().sum(1).max()))
    with torch.no_grad():
        assert not get_rasterizer("cpu").render(g, c).aux.means2d.requires_grad


def test_camera_gradients_can_be_left_out() -> None:
    g, c = scene(300)
    leaves = inputs(g, c)
    raster = get_rasterizer("cpu")
    out = raster.render(Gaussians(*leaves[:5]), Cameras(leaves[5], leaves[6], c.width, c.height), RasterOptions(camera_grads=False))
    out.color.sum().backward()
    assert leaves[0].grad is not None and leaves[0].grad.any()
    assert all(t.grad is None or not t.grad.any() for t in leaves[5:])


def test_strided_input_and_refused_input() -> None:
    g, c = scene(200)
    raster = get_rasterizer("cpu")
    strided = Gaussians(g.means.T.contiguous().T, g.quats_wxyz.repeat(1, 2)[:, :4], g.log_scales, g.logit_opacities, g.sh)
    assert torch.equal(raster.render(g, c).color, raster.render(strided, c).color)
    with pytest.raises(ShapeError, match="float64"):
        raster.render(g.to(dtype=torch.float64), c)


def test_it_is_a_proper_operator_of_torch() -> None:
    g, c = scene(40, views=1, width=33, height=20)
    leaves = inputs(g, c)
    probe = torch.zeros(1, 40, 2, requires_grad=True)
    args = (*leaves, probe, None, 33, 20, [0.1, 0.2, 0.3], 2, False, 0.01, True, False, True, True)
    torch.library.opcheck(torch.ops.handful.raster_cpu, args, test_utils=("test_autograd_registration", "test_faketensor"))


def test_memory_stays_below_the_formula_and_comes_back() -> None:
    n, (w, h), k = 40_000, (300, 200), 4
    g, c = scene(n, degree=1, views=2, width=w, height=h)
    kernels = native()
    kernels.release_memory()
    kernels.reset_peak_memory()
    before = kernels.memory()["in_use"]
    leaves = inputs(g, c)
    state = kernels.raster_forward(
        *(t.detach() for t in leaves[:5]),
        None,
        leaves[5].detach(),
        leaves[6].detach(),
        w,
        h,
        (0.0, 0.0, 0.0),
        1,
        False,
        0.01,
        True,
        False,
        True,
        2,
    )[-1]
    pairs = kernels.raster_counts(int(state))["pairs"] / 2
    del state
    kernels.release_memory()
    kernels.reset_peak_memory()
    draw(leaves, c)
    v, tiles = 2, 19 * 13 * 256
    kept = v * (68 * n + 10 * pairs + 8 * tiles)
    forward = 16 * n + 9 * pairs + 4 * 2 * tiles / 256
    images, gradients = v * 32 * w * h + 12 * v * n, (44 + 12 * k + 8 * v) * n
    peak = kernels.memory()["peak"] - before
    assert peak <= 1.25 * (kept + images + max(forward, 65 * pairs + gradients)) + 2**20
    assert kernels.memory()["in_use"] == before
    kernels.release_memory()
    assert kernels.memory()["idle"] == 0


def test_a_render_without_gradients_keeps_nothing() -> None:
    g, c = scene(500)
    before = native().memory()["in_use"]
    out = get_rasterizer("cpu").render(g, c)
    images = sum(t.numel() * 4 for t in (out.color, out.alpha, out.depth, out.aux.means2d, out.aux.radii))
    assert native().memory()["in_use"] - before <= 1.2 * images + 8 * 4096


def test_a_second_backward_pass_is_refused_and_a_kept_graph_allows_it() -> None:
    g, c = scene(100)
    leaves = inputs(g, c)
    out = get_rasterizer("cpu").render(Gaussians(*leaves[:5]), Cameras(leaves[5], leaves[6], c.width, c.height))
    loss = out.color.sum()
    (first,) = torch.autograd.grad(loss, leaves[:1], retain_graph=True)
    (second,) = torch.autograd.grad(loss, leaves[:1])
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError):
        loss.backward()


def test_several_threads_may_render_at_once() -> None:
    g, c = scene(2000)
    leaves = inputs(g, c)
    want = draw(leaves, c)[1]
    results: list[list[torch.Tensor]] = []
    workers = [threading.Thread(target=lambda: results.append(draw(leaves, c)[1])) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert len(results) == 4
    for got in results:
        assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_a_backward_pass_of_another_render_is_refused() -> None:
    """Through the operator anybody may hand over anything; what does not fit would be read beyond its end."""
    g, c = scene(n=200)
    tensors = [t.detach() for t in inputs(g, c)]
    options = (c.width, c.height, [0.0, 0.0, 0.0], 3, False, 0.01, False, False)
    color, _, depth, _, flat, *_, state = torch.ops.handful.raster_cpu(*tensors, torch.zeros(0), None, *options, False, True)
    backward = torch.ops.handful.raster_cpu_backward
    ones = torch.ones_like(color)
    assert backward(*tensors, None, depth, flat, state, ones, None, None, None, None, *options, False)[0].abs().max() > 0
    fewer = [t[:100] if len(t) == 200 else t for t in tensors]
    for args in (
        (*fewer, None, depth, flat, state, ones, None, None, None, None, *options, False),
        (*tensors, None, depth[:1], flat, state, ones, None, None, None, None, *options, False),
        (*tensors, None, depth, flat, state, ones[:, :50], None, None, None, None, *options, False),
        (*tensors, None, depth, flat, state, ones, None, None, None, None, c.height, c.width, *options[2:], False),
    ):
        with pytest.raises(ValueError, match="the state of another render|gradients must have the images' sizes"):
            backward(*args)
