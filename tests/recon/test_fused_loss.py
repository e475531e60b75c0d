"""The native image loss against its torch twin and against skimage."""

from __future__ import annotations

import pytest
import torch
from handful.recon.errors import ShapeError
from handful.recon.kernels import native, native_or_none
from handful.recon.losses.fused import fused_l1_dssim
from handful.recon.losses.photometric import dssim_map, l1_dssim, ssim_map

needs_native = pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")
SIZES = [(1, 1), (3, 2), (5, 40), (37, 16), (97, 61), (48, 33), (50, 96), (20, 97), (53, 200), (9, 300)]  # the kernel works in pieces of 96 pixels


def images(h: int, w: int, v: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, h // 4 + 1, w // 4 + 1), size=(h, w), mode="bilinear")[0].permute(1, 2, 0)
    return (smooth + 0.1 * torch.randn(*v, h, w, 3)).clamp(-0.1, 1.1), smooth.expand(*v, h, w, 3)


@needs_native
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradient_equal_the_torch_twin(size: tuple[int, int], weighted: bool) -> None:
    pred, target = images(*size)
    weight = torch.rand(size) * (torch.rand(size) > 0.3) if weighted else None
    mine, twin = pred.clone().requires_grad_(), pred.double().requires_grad_()
    loss = fused_l1_dssim(mine, target, weight, 0.2)
    want = l1_dssim(twin, target.double(), None if weight is None else weight.double(), 0.2)
    assert loss.item() == pytest.approx(want.item(), rel=2e-5, abs=1e-7)
    (3 * loss).backward()
    (3 * want).backward()
    assert mine.grad is not None and twin.grad is not None
    assert (mine.grad - twin.grad).abs().max() <= 3e-5 * twin.grad.abs().max() + 1e-9


@needs_native
@pytest.mark.parametrize("ssim_weight", [0.0, 1.0])
def test_each_part_alone_and_several_views(ssim_weight: float) -> None:
    pred, target = images(30, 21, (2, 3))
    pred.requires_grad_()
    loss = fused_l1_dssim(pred, target, None, ssim_weight)
    assert loss.item() == pytest.approx(l1_dssim(pred, target, None, ssim_weight).item(), rel=1e-5)
    (grad,) = torch.autograd.grad(loss, pred)
    (want,) = torch.autograd.grad(l1_dssim(pred, target, None, ssim_weight), pred)
    assert (grad - want).abs().max() <= 1e-4 * want.abs().max()


def test_the_twin_by_finite_differences() -> None:
    pred, target = (t.double() for t in images(12, 9))
    twin = pred.clone().requires_grad_()
    (grad,) = torch.autograd.grad(l1_dssim(twin, target, None, 0.7), twin)
    for _ in range(5):
        d = torch.randn_like(pred)
        d *= (pred - target).abs() > 1e-4  # not where |p - t| has its corner
        slope = (l1_dssim(pred + 1e-6 * d, target, None, 0.7) - l1_dssim(pred - 1e-6 * d, target, None, 0.7)) / 2e-6
        assert slope.item() == pytest.approx((grad * d).sum().item(), rel=1e-5, abs=1e-9)


def test_ssim_map_equals_skimage_inside() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="needs ../shared")
    pred, target = images(40, 50)
    _, full = metrics.structural_similarity(
        pred.numpy(),
        target.numpy(),
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        full=True,
    )
    inside = (slice(5, -5), slice(5, -5))
    assert torch.allclose(ssim_map(pred, target)[inside], torch.as_tensor(full)[inside].float(), atol=1e-4)
    assert dssim_map(target, target).abs().max() < 1e-6


@needs_native
def test_every_instruction_set_and_thread_count_agree() -> None:
    pred, target = images(130, 205)
    threads = torch.get_num_threads()
    results = {}
    try:
        for isa in ("auto", "avx512", "avx2", "sse2", "neon", "scalar"):
            if not native().set_isa(isa):
                continue
            for n in (1, 3):
                torch.set_num_threads(n)
                p = pred.clone().requires_grad_()
                loss = fused_l1_dssim(p, target)
                loss.backward()
                assert p.grad is not None
                results[isa, n] = (loss.item(), p.grad)
    finally:
        native().set_isa("auto")
        torch.set_num_threads(threads)
    (first, grad), isas = results["auto", 1], {isa for isa, _ in results}
    for isa in isas:
        assert results[isa, 1][0] == results[isa, 3][0] and torch.equal(results[isa, 1][1], results[isa, 3][1])
        assert results[isa, 1][0] == pytest.approx(first, rel=1e-6)
        assert (results[isa, 1][1] - grad).abs().max() <= 2e-5 * grad.abs().max()


def test_no_gradient_where_none_is_asked_and_none_weighted() -> None:
    pred, target = images(20, 20)
    assert not fused_l1_dssim(pred, target).requires_grad
    p = pred.requires_grad_()
    loss = fused_l1_dssim(p, target, torch.zeros(20, 20))
    loss.backward()
    assert loss.item() == 0 and p.grad is not None and not p.grad.any()


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="two images"):
        fused_l1_dssim(torch.zeros(4, 4, 3), torch.zeros(4, 5, 3))
    with pytest.raises(ShapeError, match="weight"):
        fused_l1_dssim(torch.zeros(4, 4, 3), torch.zeros(4, 4, 3), torch.zeros(4))
