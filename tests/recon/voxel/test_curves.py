"""Curves through all cells of a cube, each once; Hilbert's without a jump."""

from __future__ import annotations

import pytest
import torch
from handful.recon.errors import ShapeError
from handful.recon.voxel.curves import CURVES, curve_order, hilbert, z_order


def _cube(edge: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(edge)] * 3)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("curve", list(CURVES))
def test_each_cell_once(curve: str, bits: int) -> None:
    cube = _cube(1 << bits)
    code = CURVES[curve](cube, bits)
    assert torch.equal(code.sort().values, torch.arange(len(cube)))
    if "hilbert" in curve:
        steps = cube[code.argsort()].diff(dim=0).abs().sum(1)
        assert bool((steps == 1).all())


def test_z_order_against_loops() -> None:
    ijk = torch.randint(0, 2**20, (50, 3))
    for point, code in zip(ijk.tolist(), z_order(ijk, 20).tolist(), strict=True):
        bits = "".join("".join(format(c, "020b")[place] for c in point) for place in range(20))
        assert code == int(bits, 2)


@pytest.mark.parametrize("bits", [16, 20])
def test_hilbert_of_a_large_cube_touches_too(bits: int) -> None:
    """Around a random cell deep inside, the 27 cells have different numbers, and some cell holds the next one."""
    middle = torch.randint(1, 2**bits - 1, (20, 3))
    around = middle[:, None] + _cube(3) - 1
    code = hilbert(around.flatten(0, 1), bits).view(20, 27)
    assert all(len(set(row.tolist())) == 27 for row in code)
    assert bool((code == code[:, 13:14] + 1).any(1).all()) and bool((code == code[:, 13:14] - 1).any(1).all())


def test_curves_keep_neighbours_near() -> None:
    """Hilbert's steps are shorter than Z's, both far shorter than those of rows on rows."""
    cells = _cube(16)
    cells = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))[:800]]
    steps = {name: cells[CURVES[name](cells, 4).argsort()].diff(dim=0).abs().sum(1).double().mean() for name in ("z", "hilbert")}
    rows = cells[(cells @ torch.tensor([256, 16, 1])).argsort()].diff(dim=0).abs().sum(1).double().mean()
    assert steps["hilbert"] < steps["z"] < 0.8 * rows


@pytest.mark.parametrize("shape", [(5, 9, 3), (2**20, 9, 3)], ids=["one key", "two keys"])
def test_order_keeps_scenes_apart(shape: tuple[int, int, int]) -> None:
    coords = torch.cat([torch.randint(0, 3, (60, 1)), torch.stack([torch.randint(0, n, (60,)) for n in shape], 1)], 1)
    order = curve_order(coords, shape, "hilbert")
    bits = (max(shape) - 1).bit_length()
    code = hilbert(coords[:, 1:], bits)
    assert sorted(order.tolist()) == list(range(60))
    found = [(int(coords[row, 0]), int(code[row])) for row in order]
    assert found == sorted(found)


def test_cells_outside_are_refused() -> None:
    with pytest.raises(ShapeError, match="takes coordinates from 0 to 7; got 0 to 8"):
        hilbert(torch.tensor([[0, 8, 0]]), 3)
    with pytest.raises(ShapeError, match="takes coordinates from 0 to 7; got -1 to 3"):
        z_order(torch.tensor([[0, -1, 3]]), 3)
    with pytest.raises(ShapeError, match="bits must be 1 to 20; got 21"):
        z_order(torch.tensor([[0, 1, 3]]), 21)
