"""Points to voxels and back, against loops; what is refused, and what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from handful.recon.errors import ShapeError
from handful.recon.voxel import SparseVoxels, devoxelize, find_rows, sample_trilinear, voxelize
from handful.recon.voxel.tensors import voxel_keys
from torch import Tensor

from .made import dense, some_voxels

SIZE = (0.5, 0.25, 2.0)


def _points(n: int = 200, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    xyz = torch.randn(n, 3, generator=g, dtype=torch.float64) * torch.tensor([2.0, 1, 6], dtype=torch.float64)
    return xyz, torch.randn(n, 3, generator=g, dtype=torch.float64), torch.randint(0, 3, (n,), generator=g)


def test_means_against_loops() -> None:
    xyz, feats, batch = _points()
    voxels, index = voxelize(xyz, feats, SIZE, batch=batch)
    voxels.validate()
    low = [math.floor(float(xyz[:, a].min()) / SIZE[a]) for a in range(3)]
    cells: dict[tuple[int, ...], list[int]] = {}
    for n, p in enumerate(xyz.tolist()):
        cells.setdefault((int(batch[n]), *(math.floor(p[a] / SIZE[a]) - low[a] for a in range(3))), []).append(n)
    assert [tuple(c) for c in voxels.coords.tolist()] == sorted(cells)
    for row, cell in enumerate(sorted(cells)):
        torch.testing.assert_close(voxels.feats[row], feats[cells[cell]].mean(0))
        assert all(int(index[n]) == row for n in cells[cell])
    assert voxels.shape == tuple(max(c[a + 1] for c in cells) + 1 for a in range(3)) and voxels.scenes == 3
    assert ((xyz - voxels.centers()[index]).abs() <= voxels.size / 2 + 1e-12).all()
    torch.testing.assert_close(devoxelize(voxels, index), voxels.feats[index])


def test_order_of_points_changes_nothing() -> None:
    xyz, feats, batch = _points()
    turn = torch.randperm(len(xyz))
    voxels, index = voxelize(xyz, feats, SIZE, batch=batch)
    turned, turned_index = voxelize(xyz[turn], feats[turn], SIZE, batch=batch[turn])
    assert torch.equal(turned.coords, voxels.coords) and torch.equal(turned.origin, voxels.origin) and turned.shape == voxels.shape
    assert torch.equal(turned_index, index[turn])
    torch.testing.assert_close(turned.feats, voxels.feats, rtol=1e-12, atol=1e-12)


def test_gradient_of_means_is_shared_evenly() -> None:
    xyz, feats, _ = _points(50)
    feats.requires_grad_()
    voxels, index = voxelize(xyz, feats, 2.0)
    voxels.feats.sum().backward()
    count = torch.bincount(index)[index]
    assert feats.grad is not None and int(count.max()) > 1
    torch.testing.assert_close(feats.grad, (1 / count.double())[:, None].expand(-1, 3))


def test_no_points_and_one() -> None:
    voxels, index = voxelize(torch.zeros(0, 3), torch.zeros(0, 5), 0.1)
    assert len(voxels.validate()) == 0 and voxels.channels == 5 and voxels.scenes == 0 and index.shape == (0,)
    assert sample_trilinear(voxels, torch.zeros(2, 3)).tolist() == [[0.0] * 5] * 2
    assert find_rows(voxels, torch.zeros(2, 4, dtype=torch.long)).tolist() == [-1, -1]
    voxels, index = voxelize(torch.tensor([[-3.2, 7.1, 0.05]]), torch.ones(1, 2), 0.1)
    assert voxels.coords.tolist() == [[0, 0, 0, 0]] and voxels.shape == (1, 1, 1) and index.tolist() == [0]
    torch.testing.assert_close(voxels.centers(), torch.tensor([[-3.15, 7.15, 0.05]]), atol=1e-5, rtol=0)


def test_points_on_the_borders_of_cells_are_never_before_the_first() -> None:
    """Multiples of a size that binary numbers do not hold, each alone and all together."""
    for size in (0.1, 0.3, 0.7):
        xyz = torch.arange(-60, 60)[:, None] * torch.tensor([size, 0, 0])
        for point in xyz:
            assert voxelize(point[None], point[None], size)[0].coords.tolist() == [[0, 0, 0, 0]]
        voxels, index = voxelize(xyz, xyz, size)
        assert ((xyz - voxels.centers()[index]).abs() <= size / 2 + 1e-4).all()


def test_points_on_the_borders_of_a_given_grid() -> None:
    corner = torch.tensor([[0.0, 0, 0], [1.999, 2.999, 3.999]])
    voxels, _ = voxelize(corner, corner, 1.0, origin=torch.zeros(3), shape=(2, 3, 4))
    assert voxels.coords.tolist() == [[0, 0, 0, 0], [0, 1, 2, 3]]
    for outside in ([-1e-3, 0, 0], [0, 3.0, 0]):
        with pytest.raises(
            ShapeError, match="1 of 3 cells lie outside the grid of 2 x 3 x 4; leave those points out or give a larger grid"
        ):
            voxelize(torch.cat([corner, torch.tensor([outside])]), torch.zeros(3, 1), 1.0, origin=torch.zeros(3), shape=(2, 3, 4))


def test_coarse_centers() -> None:
    x = SparseVoxels(torch.tensor([[0, 1, 0, 2]]), torch.zeros(1, 1), torch.tensor([1.0, 2, 3]), torch.tensor([0.5, 1, 2]), (2, 2, 3), 4)
    torch.testing.assert_close(x.centers(), torch.tensor([[1 + 1.5 * 2, 2 + 0.5 * 4, 3 + 2.5 * 8]]))


def test_rows_are_found() -> None:
    x = some_voxels()
    grid = torch.cartesian_prod(torch.arange(-1, 4), *(torch.arange(-2, n + 2) for n in x.shape))
    known = {tuple(c): row for row, c in enumerate(x.coords.tolist())}
    assert find_rows(x, grid).tolist() == [known.get(tuple(c), -1) for c in grid.tolist()]


def _slow_trilinear(x: SparseVoxels, point: list[float], scene: int) -> Tensor:
    known = {tuple(c): row for row, c in enumerate(x.coords.tolist())}
    at = [(p - o) / (s * x.stride) - 0.5 for p, o, s in zip(point, x.origin.tolist(), x.size.tolist(), strict=True)]
    total, norm = torch.zeros(x.channels, dtype=x.feats.dtype), 0.0
    for di in (0, 1):
        for dj in (0, 1):
            for dk in (0, 1):
                cell = [math.floor(a) + d for a, d in zip(at, (di, dj, dk), strict=True)]
                weight = math.prod(1 - abs(a - c) for a, c in zip(at, cell, strict=True))
                row = known.get((scene, *cell))
                if row is not None:
                    total, norm = total + weight * x.feats[row], norm + weight
    return total / norm if norm else total


def test_trilinear_against_loops() -> None:
    x = replace(some_voxels(share=0.4), origin=torch.tensor([1.0, -2, 3]).double(), size=torch.tensor(SIZE).double(), stride=2)
    reach = torch.tensor(x.shape) * x.size * x.stride
    xyz = x.origin + (torch.rand(100, 3, dtype=torch.float64) * 1.4 - 0.2) * reach
    batch = torch.randint(0, 2, (100,))
    want = torch.stack([_slow_trilinear(x, p, int(b)) for p, b in zip(xyz.tolist(), batch, strict=True)])
    assert bool((want == 0).all(1).any()) and bool((want != 0).all(1).any())
    torch.testing.assert_close(sample_trilinear(x, xyz, batch), want)


def test_trilinear_keeps_linear_fields_and_has_their_gradients() -> None:
    x = some_voxels((4, 4, 4), 1, 3, 1.0)
    slope = torch.randn(3, 2, dtype=torch.float64)
    x = x.with_feats((x.centers() @ slope).requires_grad_())
    xyz = (0.6 + 2.8 * torch.rand(30, 3, dtype=torch.float64)).requires_grad_()
    out = sample_trilinear(x, xyz)
    torch.testing.assert_close(out, xyz @ slope)
    (g,) = torch.autograd.grad(out[:, 0].sum(), xyz, retain_graph=True)
    torch.testing.assert_close(g, slope[:, 0].expand(30, 3))
    assert torch.autograd.gradcheck(
        lambda f, p: sample_trilinear(x.with_feats(f), p), (x.feats.detach().requires_grad_(), xyz.detach()[:3].requires_grad_())
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"coords": torch.zeros(3, 4, dtype=torch.int32)}, r"coords must be \(M, 4\) of int64; got \(3, 4\) of torch.int32"),
        ({"coords": torch.zeros(3, 3, dtype=torch.long)}, r"got \(3, 3\)"),
        ({"feats": torch.zeros(2, 1)}, r"feats must be \(3, C\) of floats; got \(2, 1\)"),
        ({"coords": torch.tensor([[0, 0, 0, -1], [0, 0, 0, 1], [0, 0, 1, 0]])}, "1 of 3 cells lie outside the grid of 2 x 2 x 2"),
        ({"coords": torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]])}, "unique and in ascending order"),
        ({"coords": torch.tensor([[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]])}, "unique and in ascending order"),
        ({"coords": torch.tensor([[-1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])}, "scene must not be negative"),
        ({"size": torch.tensor([1.0, 0, 1])}, "sizes above zero"),
        ({"shape": (2, 2, 0)}, "shape must be three whole numbers above zero"),
        ({"shape": (2**21, 2**21, 2**21)}, "use larger voxels"),
    ],
)  # fmt: skip
def test_broken_voxels_are_refused(change: dict[str, object], says: str) -> None:
    good = SparseVoxels(
        torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]), torch.zeros(3, 1), torch.zeros(3), torch.ones(3), (2, 2, 2)
    )
    assert good.validate() is good
    with pytest.raises(ShapeError, match=says):
        replace(good, **change).validate()  # pyright: ignore[reportArgumentType]


def test_broken_points_are_refused() -> None:
    xyz, feats, batch = _points(5)
    with pytest.raises(ShapeError, match="1 points of 5 that are not finite"):
        voxelize(torch.where(torch.arange(5)[:, None] == 2, torch.nan, xyz), feats, 1.0)
    with pytest.raises(ShapeError, match=r"feats must be \(5, C\)"):
        voxelize(xyz, feats[:4], 1.0)
    with pytest.raises(ShapeError, match=r"batch must be \(5,\) of whole numbers"):
        voxelize(xyz, feats, 1.0, batch=batch.double())
    with pytest.raises(ShapeError, match="size must be above zero"):
        voxelize(xyz, feats, -1.0)
    with pytest.raises(ShapeError, match="scene must not be negative"):
        voxelize(xyz, feats, 1.0, batch=batch - 1 - batch.max())
    with pytest.raises(ShapeError, match="one row a voxel"):
        some_voxels().with_feats(torch.zeros(3, 2))


def test_keys_with_a_margin_never_meet() -> None:
    shape, margin = (3, 2, 4), 2
    ranges = (torch.arange(-margin, n + margin) for n in shape)
    keys = voxel_keys(torch.cartesian_prod(torch.arange(3), *ranges), shape, margin)
    assert bool((keys.diff() > 0).all())


def test_dense_helper_is_its_own_inverse() -> None:
    x = some_voxels()
    assert torch.equal(dense(x).permute(0, 2, 3, 4, 1)[tuple(x.coords.T)], x.feats)
