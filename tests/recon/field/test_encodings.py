"""Encodings beside VM grids, in plain torch: against slow twins and finite differences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from handful.recon.errors import ShapeError
from handful.recon.field.cp import CpGrid
from handful.recon.field.decoder import Decoder
from handful.recon.field.frequency import FrequencyEncoding
from handful.recon.field.hash_grid import PRIMES, HashGrid
from handful.recon.field.radiance import Encoding, RadianceField
from handful.recon.field.trivec import CLOSE, LISTED, TriVectors, TriVectorScale, trivec_centers
from torch import Tensor

from .test_volume import random_rays


def places(count: int, seed: int = 0, beside: float = 0.0) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * (1 + 2 * beside) - beside


def cloud(seed: int = 0, scales: tuple[int, ...] = (12, 30)) -> TriVectors:
    """Boxes here and there, many of them across each other and the cube's faces."""
    centers = [places(n, seed + n) for n in scales]
    return TriVectors(centers, (0.5, 0.23), (5, 4), 6, 3, torch.Generator().manual_seed(seed)).double()


MADE: list[Encoding] = [
    FrequencyEncoding(4), CpGrid(8, 6), HashGrid(4, 50, 2, 3, 20), TriVectors([torch.rand(9, 3), torch.rand(20, 3)], (0.6, 0.3), (4, 5), 6),
]  # fmt: skip


@pytest.mark.parametrize("encoding", MADE, ids=lambda e: type(e).__name__)
def test_each_makes_a_field(encoding: Encoding) -> None:
    field = RadianceField(encoding, Decoder(encoding.features, 16, 1))
    samples = random_rays(4)
    assert encoding(samples.xyz).shape == (len(samples), encoding.features) and encoding(samples.xyz[:0]).shape == (0, encoding.features)
    assert bool(torch.isfinite(encoding(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [-0.5, 0.5, 1.5]]))).all()), "on the cube's faces and beside it"
    out = field.ready().rays(samples, torch.nn.functional.normalize(torch.randn(len(samples.starts) - 1, 3), dim=1))
    before = field.ready().copied()
    (out.color.sum() + out.alpha.sum()).backward()
    for name, p in field.named_parameters():
        assert p.grad is not None and bool(torch.isfinite(p.grad).all()) and bool((p.grad != 0).any()), name
        p.data += 1
    if len(list(field.parameters())) > 4:
        assert not torch.equal(before.raw(samples.xyz), field.ready().raw(samples.xyz)), "a copy stays as it was"


# -- frequencies -------------------------------------------------------------------------------------------------------


def test_frequencies_double() -> None:
    encoding, xyz = FrequencyEncoding(3), torch.tensor([[0.3, 0.9, 0.55]])
    p = [2 * x - 1 for x in (0.3, 0.9, 0.55)]
    waves = [wave(2**k * math.pi * x) for k in range(3) for wave in (math.sin, math.cos) for x in p]
    assert encoding(xyz)[0].tolist() == pytest.approx([*p, *waves], abs=1e-5) and encoding.features == 21


def test_frequencies_open_from_the_lowest_on() -> None:
    encoding, xyz = FrequencyEncoding(4), places(20)
    whole = encoding(xyz)
    encoding.share.fill_(0.625)
    ratio = (encoding(xyz) / whole)[:, 3:].view(20, 4, 6)
    torch.testing.assert_close(ratio, torch.tensor([1.0, 1.0, 0.5, 0.0], dtype=torch.float64)[:, None].expand(20, 4, 6))
    torch.testing.assert_close(encoding(xyz)[:, :3], 2 * xyz - 1)
    again = FrequencyEncoding(4)
    again.load_state_dict(encoding.state_dict())
    assert float(again.share) == 0.625


# -- lines -------------------------------------------------------------------------------------------------------------


def test_cp_is_the_product_of_what_grid_sample_reads() -> None:
    grid, xyz = CpGrid(9, 7, torch.Generator().manual_seed(0)).double(), places(200)
    product = torch.ones(200, 7, dtype=torch.float64)
    for k in range(3):
        at = torch.stack([torch.zeros(200, dtype=torch.float64), xyz[:, k] * 2 - 1], 1)
        product = product * torch.nn.functional.grid_sample(grid.lines[k].T[None, :, :, None], at[None, :, None], align_corners=True)[0, :, :, 0].T
    torch.testing.assert_close(grid(xyz), product)
    assert torch.autograd.gradcheck(lambda lines: torch.func.functional_call(grid, {"lines": lines}, (xyz[:5],)), (grid.lines,))


# -- a hashed table ----------------------------------------------------------------------------------------------------


def slow_hash(grid: HashGrid, xyz: Tensor) -> Tensor:
    """Corner by corner, in Python's integers."""
    out = []
    for place in xyz.tolist():
        row, first = [], 0
        for side in grid.sides:
            cell = [min(int(x * (side - 1)), side - 2) for x in place]
            total = torch.zeros(grid.per_level, dtype=torch.float64)
            for corner in itertools.product((0, 1), repeat=3):
                x, y, z = (c + d for c, d in zip(cell, corner, strict=True))
                entry = (x * side + y) * side + z if side**3 <= grid.entries else ((x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])) % grid.entries
                weight = math.prod(1 - abs(p * (side - 1) - c - d) for p, c, d in zip(place, cell, corner, strict=True))
                total = total + weight * grid.table[first + entry]
            row.append(total)
            first += min(side**3, grid.entries)
        out.append(torch.cat(row))
    return torch.stack(out)


@pytest.mark.parametrize("entries", [64, 4096, 7])  # some levels hashed, none, all of them with more points than entries
def test_hash_equals_the_twin(entries: int) -> None:
    grid, xyz = HashGrid(5, entries, 2, 3, 15, torch.Generator().manual_seed(0)).double(), places(40)
    assert grid.sides == (3, 4, 7, 10, 15) and len(grid.table) == sum(min(s**3, entries) for s in grid.sides)
    pull = torch.randn(40, 10, dtype=torch.float64)
    grads = []
    for features in (grid(xyz), slow_hash(grid, xyz)):
        grads.append((features, *torch.autograd.grad((features * pull).sum(), grid.table)))
    torch.testing.assert_close(grads[0], grads[1])
    assert float((grads[0][1] != 0).double().mean()) > 0.1


def test_hash_by_finite_differences() -> None:
    grid, xyz = HashGrid(3, 20, 2, 3, 6).double(), places(4)
    grid.table.data.mul_(1e4)
    assert torch.autograd.gradcheck(lambda at, table: torch.func.functional_call(grid, {"table": table}, (at,)), (xyz.requires_grad_(), grid.table))


# -- small tensors -----------------------------------------------------------------------------------------------------


def slow_trivec(cloud: TriVectors, xyz: Tensor) -> Tensor:
    """Place by place, over all tensors."""
    rows = []
    for place in xyz:
        row = []
        for scale in cloud.scales:
            assert isinstance(scale, TriVectorScale)
            near = []
            for t, center in enumerate(scale.centers):
                if bool(((place - center).abs() <= scale.size / 2).all()):
                    value = torch.ones(scale.channels, dtype=xyz.dtype)
                    for k in range(3):
                        p = ((place[k] - center[k]) / scale.size + 0.5) * (scale.points - 1)
                        i = min(int(p), scale.points - 2)
                        value = value * ((i + 1 - p) * scale.lines[t, k, i] + (p - i) * scale.lines[t, k, i + 1])
                    away = (place - center).norm().clamp_min(CLOSE * scale.size)
                    near.append((float(away.detach()), 1 / away, value))
            near = sorted(near, key=lambda n: n[0])[: scale.nearest]
            total = sum(weight for _, weight, _ in near)
            row.append(sum((weight / total * value for _, weight, value in near), torch.zeros(scale.channels, dtype=xyz.dtype)))
        rows.append(torch.cat(row))
    return torch.stack(rows)


@pytest.mark.parametrize("seed", range(3))
def test_tensors_equal_the_twin(seed: int) -> None:
    made, xyz = cloud(seed), places(150, 100 + seed).requires_grad_()
    pull = torch.randn(150, made.features, dtype=torch.float64)
    results = []
    for features in (made(xyz), slow_trivec(made, xyz)):
        results.append((features, *torch.autograd.grad((features * pull).sum(), [xyz, *made.parameters()])))
    torch.testing.assert_close(results[0], results[1])
    asked = torch.bincount(made.scales[0].held(xyz.detach())[0], minlength=150)  # pyright: ignore[reportCallIssue]
    assert set(asked.tolist()) == {0, 1, 2, 3}, "some places lie in no box, some in more than are asked"


def test_tensors_by_finite_differences() -> None:
    made = TriVectors([0.4 + 0.2 * places(n, n) for n in (5, 4)], (0.5, 0.23), (3, 4), 2, 3).double()
    xyz = 0.4 + 0.2 * places(4, 9)
    names = [n for n, _ in made.named_parameters()]

    def features(at: Tensor, *lines: Tensor) -> Tensor:
        return torch.func.functional_call(made, dict(zip(names, lines, strict=True)), (at,))

    assert torch.autograd.gradcheck(features, (xyz.requires_grad_(), *made.parameters()))


def test_constant_lines_give_a_constant_and_nothing_lies_outside() -> None:
    made, xyz = cloud().requires_grad_(False), places(400, 5)
    for p in made.parameters():
        p.data.fill_(0.5)
    for k, scale in enumerate(made.scales):
        assert isinstance(scale, TriVectorScale)
        inside = ((xyz[:, None] - scale.centers).abs() <= scale.size / 2).all(2).any(1)
        assert 20 < int(inside.sum()) < 400
        features = made(xyz)[:, 6 * k : 6 * (k + 1)]
        torch.testing.assert_close(features[inside], torch.full_like(features[inside], 0.125))
        assert float(features[~inside].abs().max()) == 0
    nowhere = TriVectorScale(torch.zeros(0, 3), 0.2, 3)
    assert nowhere(places(5).float()).tolist() == [[0.0] * 16] * 5


def test_the_order_of_tensors_does_not_matter() -> None:
    made, xyz = cloud(), places(200, 5)
    orders = [torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (12, 30)]
    again = TriVectors([s.centers[o] for s, o in zip(made.scales, orders, strict=True)], made.sizes, (5, 4), 6, 3).double()  # pyright: ignore[reportArgumentType]
    for scale, other, order in zip(again.scales, made.scales, orders, strict=True):
        assert isinstance(scale, TriVectorScale) and isinstance(other, TriVectorScale)
        scale.lines.data = other.lines.data[order]
    torch.testing.assert_close(again(xyz), made(xyz))


def test_more_tensors_than_a_cell_lists_leave_those_near_its_middle() -> None:
    centers = 0.5 + 0.1 * (places(3 * LISTED) - 0.5)
    scale = TriVectorScale(centers, 2.0, 3, 4, 2).double()
    assert len(scale.listed) == LISTED and scale.cells == 1
    near = (centers - 0.5).norm(dim=1).argsort()[:LISTED]
    assert set(scale.listed.tolist()) == set(near.tolist()) and bool(torch.isfinite(scale(places(50))).all())


def test_what_is_loaded_is_found() -> None:
    made, other, xyz = cloud(0), cloud(1), places(100, 5)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(xyz), made(xyz))
    with pytest.raises(ShapeError, match="2 scales need as many"):
        TriVectors([torch.rand(4, 3)], (0.5, 0.2), (3, 3))
    with pytest.raises(ShapeError, match="at least 2 points"):
        TriVectors([torch.rand(4, 3)], (0.5,), (1,))


def test_centers_are_middles_of_voxels() -> None:
    points = torch.tensor([[0.01, 0.01, 0.01], [0.03, 0.05, 0.09], [0.11, 0.0, 0.0], [-0.05, 0.95, 0.52], [-0.03, 0.95, 0.52], [-0.04, 0.95, 0.52]])
    centers = trivec_centers(points, 0.1, 10)
    wanted = torch.tensor([[-0.05, 0.95, 0.55], [0.05, 0.05, 0.05], [0.15, 0.05, 0.05]])
    torch.testing.assert_close(centers, wanted)
    torch.testing.assert_close(trivec_centers(points, 0.1, 2), wanted[:2])  # the fullest
    assert trivec_centers(points[:0], 0.1, 2).shape == (0, 3)
    many = places(3000)
    centers = trivec_centers(many, 0.25, 1000)
    assert len(centers) == 64 and float(torch.cdist(many, centers, p=math.inf).amin(1).max()) <= 0.125 + 1e-6
