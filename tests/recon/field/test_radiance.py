"""The VM field: lookup against torch's own interpolation, whole rays natively against plain torch, values and gradients, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.recon.field.decoder import Decoder
from handful.recon.field.radiance import RadianceField
from handful.recon.field.samples import Samples
from handful.recon.field.vm import LINE_AXIS, PLANE_AXES, VmGrid, resized_vm, vm_features
from handful.recon.field.vm_prior import VmGenerator, _Doubled
from handful.recon.field.volume import LEAST_TRANSMITTANCE, MOST_LOG_DENSITY, RayColors
from handful.recon.kernels import native, native_or_none
from torch import Tensor, nn

from .test_volume import random_rays

needs_kernels = pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")


def test_features_are_what_grid_sample_reads() -> None:
    grid, xyz = VmGrid(9, 16, torch.Generator().manual_seed(0)), torch.rand(200, 3)
    planes, lines = grid.grids()
    for k in range(3):
        at = xyz[:, list(PLANE_AXES[k])].flip(1) * 2 - 1  # grid_sample takes column before row
        plane = torch.nn.functional.grid_sample(planes[k].permute(2, 0, 1)[None], at[None, :, None], align_corners=True)[0, :, :, 0].T
        line_at = torch.stack([torch.zeros(200), xyz[:, LINE_AXIS[k]] * 2 - 1], 1)
        line = torch.nn.functional.grid_sample(lines[k].T[None, :, :, None], line_at[None, :, None], align_corners=True)[0, :, :, 0].T
        torch.testing.assert_close(grid(xyz)[:, 16 * k : 16 * (k + 1)], plane * line, rtol=1e-4, atol=1e-6)


def test_another_resolution_keeps_grid_points() -> None:
    grid = VmGrid(5, 16)
    planes, lines = resized_vm(*grid.grids(), 9)
    torch.testing.assert_close(planes[:, ::2, ::2], grid.planes, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lines[:, ::2], grid.lines, rtol=1e-5, atol=1e-6)
    xyz = torch.rand(50, 3)
    torch.testing.assert_close(vm_features(planes, lines, xyz), grid(xyz), rtol=1e-4, atol=1e-5)  # between them it is the same function
    coarse, _ = resized_vm(*grid.grids(), 3)
    (gradient,) = torch.autograd.grad(coarse.sum(), grid.planes)
    assert bool((gradient > 0).all()), "every grid point has its part in a coarser grid"


@pytest.fixture
def every_isa() -> Iterator[list[str]]:
    """Those that run on this machine."""
    yield [isa for isa in ("avx512", "avx2", "sse2", "neon", "scalar") if native().set_isa(isa)]
    native().set_isa("auto")


def everything(field: RadianceField, twin: bool, seed: int, pull: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    samples = random_rays(seed)
    directions = torch.nn.functional.normalize(torch.randn(len(samples.starts) - 1, 3, generator=torch.Generator().manual_seed(seed)), dim=1)
    field.zero_grad()
    out: RayColors = field.ready(twin).rays(samples, directions)
    flat = torch.cat([out.color, out.alpha[:, None], out.place[:, None], out.distortion[:, None]], 1)
    (flat * pull).sum().backward()
    return flat.detach(), {n: p.grad.clone() for n, p in field.named_parameters() if p.grad is not None}


@needs_kernels
@pytest.mark.parametrize(("channels", "hidden", "degree"), [(16, 16, 0), (16, 64, 1), (32, 48, 2), (48, 32, 3)])
def test_whole_rays_natively_equal_plain_torch(channels: int, hidden: int, degree: int, every_isa: list[str]) -> None:
    rng = torch.Generator().manual_seed(channels + degree)
    field = RadianceField(VmGrid(12, channels, rng), Decoder(3 * channels, hidden, degree, 20.0, rng))
    pull = torch.randn(40, 6, generator=rng)
    twin, twins = everything(field, True, 5, pull)
    for isa in every_isa:
        assert native().set_isa(isa)
        out, grads = everything(field, False, 5, pull)
        torch.testing.assert_close(out, twin, rtol=1e-4, atol=5e-6)
        assert set(grads) == set(twins) and len(grads) == 6
        for name, grad in grads.items():
            assert float((grad - twins[name]).norm()) <= 1e-4 * float(twins[name].norm()) and float(twins[name].norm()) > 0, (isa, name)


@needs_kernels
def test_points_natively_equal_plain_torch() -> None:
    field, xyz = RadianceField(VmGrid(12, 16), Decoder(48, 64, 1)), torch.rand(1000, 3) * 1.2 - 0.1  # also beside the cube
    with torch.no_grad():
        torch.testing.assert_close(field.ready().raw(xyz), field.ready(twin=True).raw(xyz), rtol=1e-4, atol=1e-5)


@needs_kernels
def test_density_that_would_overflow_is_held_and_gets_no_gradient() -> None:
    field = RadianceField(VmGrid(4, 16), Decoder(48, 16, 0))
    with torch.no_grad():
        field.decoder.b2[0] = 50.0
    pull = torch.ones(40, 6)
    (out, grads), (twin, twins) = everything(field, False, 1, pull), everything(field, True, 1, pull)
    torch.testing.assert_close(out, twin)
    assert float(grads["decoder.b2"][0]) == float(twins["decoder.b2"][0]) == 0


@needs_kernels
def test_one_thread_count_one_result() -> None:
    field, pull = RadianceField(VmGrid(16, 16), Decoder(48, 32, 1, 5.0)), torch.randn(40, 6)
    first, second = everything(field, False, 2, pull), everything(field, False, 2, pull)
    assert torch.equal(first[0], second[0]) and all(torch.equal(first[1][k], second[1][k]) for k in first[1])


@needs_kernels
@pytest.mark.parametrize("threads", [1, 3, 100])
def test_any_number_of_threads_and_nothing_to_see(threads: int) -> None:
    """More threads than rays, the smallest grid, no samples, no rays."""
    field, pull = RadianceField(VmGrid(2, 16), Decoder(48, 16, 1, 5.0)), torch.randn(40, 6)
    twin, twins = everything(field, True, 2, pull)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out, grads = everything(field, False, 2, pull)
        empty = Samples(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0), torch.zeros(4, dtype=torch.int64))
        assert field.ready().rays(empty, torch.eye(3)).alpha.tolist() == [0.0] * 3
        assert len(field.ready().rays(replace(empty, starts=torch.zeros(1, dtype=torch.int64)), torch.zeros(0, 3)).alpha) == 0
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(out, twin, rtol=1e-4, atol=5e-6)
    for name, grad in grads.items():
        assert float((grad - twins[name]).norm()) <= 1e-4 * float(twins[name].norm()), name


@needs_kernels
def test_what_is_not_a_number_is_seen_and_harms_nothing() -> None:
    field = RadianceField(VmGrid(8, 16), Decoder(48, 16, 0))
    bad = torch.tensor([[float("nan")] * 3, [float("inf")] * 3, [-1e30, 1e30, 0.5]])
    with torch.no_grad():
        for twin in (False, True):
            assert bool(torch.isfinite(field.ready(twin).raw(bad)[1:]).all())
        field.encoding.planes[0, 3, 3, 3] = float("nan")  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
        assert not bool(torch.isfinite(field.ready().raw(torch.full((1, 3), 3.2 / 7))).all()), "a field that has come apart says so"
    nothing = torch.full((2, 3), float("inf"))
    cells = torch.ones(4, 4, 4, dtype=torch.bool)
    assert len(native().field_march(nothing, nothing, torch.ones(2), torch.zeros(2), cells, 64.0, 1)[0]) == 0
    one = torch.ones(2, 3) * 0.5
    assert len(native().field_march(one, one, torch.ones(2), torch.full((2,), float("nan")), cells, 64.0, 1)[0]) == 0


def test_the_cap_of_density_is_one_number() -> None:
    header = (Path(__file__).resolve().parents[3] / "recon/native/field_types.h").read_text()
    assert f"kMostLogDensity = {MOST_LOG_DENSITY}f" in header and f"kLeastTransmittance = {LEAST_TRANSMITTANCE:g}f".replace("0.0001", "1e-4") in header


@needs_kernels
def test_arrays_that_do_not_fit_are_refused() -> None:
    grid, decoder = VmGrid(8, 16), Decoder(48, 32, 1)
    tensors = [t.detach() for t in (*grid.grids(), *decoder.weights())]
    with pytest.raises(ValueError, match="w1 must be"):
        native().vm_points(tensors[0], tensors[1], torch.zeros(40, 32), *tensors[3:], torch.rand(5, 3), 4, 1)
    with pytest.raises(ValueError, match="starts must run"):
        native().composite_rays(torch.rand(5, 4), torch.rand(5), torch.rand(5), torch.tensor([0, 4]), 1)
    with pytest.raises(ValueError, match="starts must not fall"):
        native().composite_rays(torch.rand(5, 4), torch.rand(5), torch.rand(5), torch.tensor([0, 4, 3, 5]), 1)


@pytest.mark.parametrize("conv", [nn.Conv1d, nn.Conv2d])
def test_doubled_is_a_convolution_of_the_enlarged(conv: type[nn.Conv1d] | type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    layer = _Doubled(conv, 5, 3).double()
    x = torch.randn(2, 5, *(7, 4)[: layer.conv.weight.ndim - 2], dtype=torch.float64, requires_grad=True)
    plain = layer.conv(nn.functional.interpolate(x, scale_factor=2))
    torch.testing.assert_close(layer(x), plain)
    toward = torch.randn_like(plain)
    for one, other in zip(*(torch.autograd.grad((y * toward).sum(), [x, *layer.parameters()]) for y in (layer(x), plain)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_generated_grid_is_its_seed_and_learns() -> None:
    made = [VmGenerator(32, 16, (16, 16, 8, 8), torch.Generator().manual_seed(3)) for _ in range(2)]
    (planes, lines), (again, _) = made[0].grids(), made[1].grids()
    assert planes.shape == (3, 32, 32, 16) and lines.shape == (3, 32, 16) and torch.equal(planes, again)
    assert not torch.equal(planes[0], planes[1]), "each plane has noise of its own"
    target = torch.rand(3, 32, 32, 16)
    optimiser = torch.optim.Adam(made[0].parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = (made[0].grids()[0] - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
