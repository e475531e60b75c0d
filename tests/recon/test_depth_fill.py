"""Completed depth: planes stay planes, steps stay steps, nothing confident is moved."""

from __future__ import annotations

import pytest
import torch
from handful.recon.depth_fill import _solve, _solve_in_torch, complete_depth
from handful.recon.errors import ShapeError
from handful.recon.kernels import native, native_or_none

needs_native = pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")


def slanted(h: int = 60, w: int = 80) -> torch.Tensor:
    v, u = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    return 1 / (0.2 + 0.001 * u + 0.0007 * v)


def test_a_hole_in_a_plane_is_filled_by_the_plane():
    depth = slanted()
    confidence = torch.ones_like(depth)
    confidence[20:45, 25:60] = 0
    broken = torch.where(confidence > 0, depth, torch.full_like(depth, 9.0))
    out = complete_depth(broken, confidence, torch.full((60, 80, 3), 0.5))
    assert float(((out - depth).abs() / depth).max()) < 0.01


def test_a_step_at_a_colour_edge_stays_a_step():
    depth = torch.full((50, 60), 4.0)
    depth[:, 30:] = 2.0
    image = torch.full((50, 60, 3), 0.2)
    image[:, 30:] = 0.8
    g = torch.Generator().manual_seed(0)
    confidence = (torch.rand(50, 60, generator=g) < 0.03).float()
    out = complete_depth(depth * (confidence > 0), confidence, image)
    assert float(((out - depth).abs() / depth).max()) < 0.02


def test_confident_depth_is_kept_and_doubt_gives_way():
    depth = slanted()
    depth[30, 40] = 1.0
    confidence = torch.full_like(depth, 0.9)
    confidence[30, 40] = 0.02
    out = complete_depth(depth, confidence, torch.full((60, 80, 3), 0.5))
    truth = slanted()
    assert abs(float(out[30, 40] - truth[30, 40])) < 0.05 * float(truth[30, 40])
    far = torch.ones_like(depth, dtype=torch.bool)
    far[27:34, 37:44] = False
    assert float(((out - truth).abs() / truth)[far].max()) < 0.005


def test_nothing_known():
    zero, image = torch.zeros(9, 11), torch.zeros(9, 11, 3)
    assert float(complete_depth(zero, zero, image).abs().max()) == 0
    assert torch.equal(complete_depth(torch.full((9, 11), 3.0), zero, image), torch.full((9, 11), 3.0))


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (7, 3), (61, 97)])
def test_any_size_one_known_pixel(size: tuple[int, int]):
    depth, confidence = torch.zeros(size), torch.zeros(size)
    depth[0, 0], confidence[0, 0] = 5.0, 1.0
    out = complete_depth(depth, confidence, torch.rand(*size, 3, generator=torch.Generator().manual_seed(0)))
    assert out.shape == depth.shape and torch.allclose(out, torch.full(size, 5.0), rtol=1e-3)


def test_sizes_must_fit():
    with pytest.raises(ShapeError, match="one size"):
        complete_depth(torch.ones(4, 5), torch.ones(5, 4), torch.ones(4, 5, 3))


@needs_native
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 1), (5, 4), (33, 50), (64, 41)])
@pytest.mark.parametrize("started", [False, True])
def test_compiled_solution_is_that_of_its_torch_twin_and_of_the_equations(size: tuple[int, int], started: bool):
    h, w = size
    g = torch.Generator().manual_seed(h * w)
    data = torch.where(torch.rand(size, generator=g) < 0.3, torch.rand(size, generator=g), 0.0)
    data[0, 0] = 1.0
    goal = data * torch.rand(size, generator=g)
    right, down = torch.rand(h, w - 1, generator=g), torch.rand(h - 1, w, generator=g)
    start = torch.rand(size, generator=g) if started else None
    compiled, plain = _solve(goal, data, right, down, start, 30), _solve_in_torch(goal, data, right, down, start, 30)
    assert torch.allclose(compiled, plain, atol=2e-5)
    matrix = torch.zeros(h * w, h * w, dtype=torch.float64)
    index = torch.arange(h * w).reshape(h, w)
    for a, b, k in ((index[:, :-1], index[:, 1:], right), (index[:-1], index[1:], down)):
        a, b, k = a.flatten(), b.flatten(), k.flatten().double()
        matrix.index_put_((a, a), k, accumulate=True)
        matrix.index_put_((b, b), k, accumulate=True)
        matrix.index_put_((a, b), -k, accumulate=True)
        matrix.index_put_((b, a), -k, accumulate=True)
    exact = torch.linalg.solve(matrix + torch.diag(data.flatten().double()), goal.flatten().double())
    assert torch.allclose(compiled.flatten().double(), exact, atol=1e-4)


@needs_native
def test_links_of_another_size_are_refused():
    with pytest.raises(ValueError, match="right must be"):
        native().solve_links(torch.ones(4, 5), torch.ones(4, 5), torch.ones(4, 5), torch.ones(3, 5), None, 3)
