"""A cloud of tensors through one native operator, against plain torch: values and gradients, on every instruction set."""

from __future__ import annotations

import itertools

import pytest
import torch
from handful.recon.field.decoder import Decoder
from handful.recon.field.radiance import NO_MATTER, RadianceField
from handful.recon.field.samples import Samples
from handful.recon.field.trivec import TriVectors
from handful.recon.kernels import native, native_or_none
from torch import Tensor

from .test_radiance import every_isa, everything  # noqa: F401

pytestmark = pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")


def cloud_field(channels: int = 16, nearest: int = 3, counts: tuple[int, ...] = (30, 80), degree: int = 1, seed: int = 0) -> RadianceField:
    """Boxes that overlap, and leave holes; some of them reach out of the cube."""
    rng = torch.Generator().manual_seed(seed)
    centers = [torch.rand(n, 3, generator=rng) * 1.1 - 0.05 for n in counts]
    cloud = TriVectors(centers, (0.5, 0.23, 0.1)[: len(counts)], (5, 4, 2)[: len(counts)], channels, nearest, rng)
    return RadianceField(cloud, Decoder(channels * len(counts), 32, degree, 20.0, rng))


def fused(field: RadianceField) -> bool:
    return field.ready()._fused is not None


@pytest.mark.parametrize(("channels", "nearest", "counts", "degree"), [(16, 1, (20,), 0), (16, 4, (30, 80), 1), (32, 2, (10, 40, 90), 2), (48, 64, (200,), 3)])
def test_whole_rays_natively_equal_plain_torch(channels: int, nearest: int, counts: tuple[int, ...], degree: int, every_isa: list[str]) -> None:  # noqa: F811
    field, pull = cloud_field(channels, nearest, counts, degree), torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    assert fused(field)
    twin, twins = everything(field, True, 5, pull)
    for isa in every_isa:
        assert native().set_isa(isa)
        out, grads = everything(field, False, 5, pull)
        torch.testing.assert_close(out, twin, rtol=1e-4, atol=5e-6)
        assert set(grads) == set(twins) and len(grads) == 4 + len(counts)
        for name, grad in grads.items():
            assert float((grad - twins[name]).norm()) <= 1e-4 * float(twins[name].norm()) and float(twins[name].norm()) > 0, (isa, name)


def test_points_natively_equal_plain_torch_and_where_no_box_is_there_is_no_matter() -> None:
    field, xyz = cloud_field(counts=(6, 9)), torch.rand(2000, 3) * 1.2 - 0.1
    with torch.no_grad():
        raw = field.ready().raw(xyz)
        torch.testing.assert_close(raw, field.ready(twin=True).raw(xyz), rtol=1e-4, atol=1e-5)
        held = field.encoding.holds(xyz)  # pyright: ignore[reportAttributeAccessIssue]
    assert 100 < int(held.sum()) < 1900
    assert bool((raw[~held, 0] == NO_MATTER).all()) and not bool(raw[~held, 1:].any()) and float(raw[held, 0].min()) > NO_MATTER


def test_a_tensor_is_the_product_of_its_lines() -> None:
    """One box, lines that rise linearly: the feature at a place is the product of its three coordinates in the box; a network that hands it on says so."""
    cloud = TriVectors([torch.tensor([[0.5, 0.5, 0.5]])], (0.4,), (3,), 16, 1)
    decoder = Decoder(16, 16, 0)
    with torch.no_grad():
        cloud.scales[0].lines.copy_(torch.tensor([0.0, 0.5, 1.0])[:, None].expand(1, 3, 3, 16))  # pyright: ignore[reportCallIssue, reportArgumentType]
        for p in decoder.parameters():
            p.zero_()
        decoder.w1[0, 0] = decoder.w2[0, 0] = 1.0
    xyz = 0.3 + 0.4 * torch.rand(200, 3)
    with torch.no_grad():
        density = RadianceField(cloud, decoder).ready().raw(xyz)[:, 0]
    torch.testing.assert_close(density, ((xyz - 0.3) / 0.4).prod(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 3, 100])
def test_any_number_of_threads_and_the_same_each_time(threads: int) -> None:
    field, pull = cloud_field(), torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
    twin, twins = everything(field, True, 2, pull)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        (out, grads), (again, others) = everything(field, False, 2, pull), everything(field, False, 2, pull)
        empty = Samples(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0), torch.zeros(4, dtype=torch.int64))
        assert field.ready().rays(empty, torch.eye(3)).alpha.tolist() == [0.0] * 3
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(out, twin, rtol=1e-4, atol=5e-6)
    assert torch.equal(out, again)
    for name, grad in grads.items():
        assert torch.equal(grad, others[name])
        assert float((grad - twins[name]).norm()) <= 1e-4 * float(twins[name].norm()), name


def test_what_is_not_a_number_and_no_tensors_at_all() -> None:
    bad = torch.tensor([[float("nan")] * 3, [float("inf")] * 3, [-1e30, 1e30, 0.5]])
    with torch.no_grad():
        for field in (cloud_field(), cloud_field(counts=(0, 0))):
            raw = field.ready().raw(bad)
            assert bool(torch.isfinite(raw).all()) and float(raw[0, 0]) == NO_MATTER
        assert cloud_field(counts=(0, 0)).ready().raw(torch.rand(4, 3))[:, 0].tolist() == [NO_MATTER] * 4


def test_what_kernels_do_not_do_plain_torch_does() -> None:
    assert not fused(cloud_field(channels=6)) and not fused(cloud_field(nearest=65))
    xyz = torch.rand(50, 3)
    with torch.no_grad():
        assert cloud_field(channels=6).ready().raw(xyz).shape == (50, 13)


def test_cells_that_boxes_reach() -> None:
    """By every cell and every box."""
    cloud: TriVectors = cloud_field(counts=(3, 12)).encoding  # pyright: ignore[reportAssignmentType]
    side, wanted = 7, torch.zeros(7, 7, 7, dtype=torch.bool)
    for scale in cloud.scales:
        centers: Tensor = scale.centers  # pyright: ignore[reportAssignmentType]
        half = scale.size / 2  # pyright: ignore[reportOperatorIssue]
        for at in itertools.product(range(side), repeat=3):
            low = torch.tensor(at) / side
            wanted[at] |= bool(((centers - half <= low + 1 / side) & (centers + half >= low)).all(1).any())
    assert torch.equal(cloud.reached(side), wanted) and 30 < int(wanted.sum()) < side**3
