"""The kd-tree finds what comparing every pair finds."""

from __future__ import annotations

import pytest
import torch
from handful.recon.neighbours import nearest


@pytest.mark.parametrize("flat", [False, True])
def test_as_brute_force(flat: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    points, query = torch.randn(3000, 3, generator=rng), torch.randn(500, 3, generator=rng)
    if flat:  # a wall: what depth maps give
        points[:, 2] = 1.0
    index, distance = nearest(points, query, 4)
    expected = torch.cdist(query, points, compute_mode="donot_use_mm_for_euclid_dist").topk(4, largest=False)
    assert torch.allclose(distance, expected.values, atol=1e-5)
    assert torch.allclose((points[index] - query[:, None]).norm(dim=-1), distance, atol=1e-5)
    assert torch.equal(nearest(points, query, 4)[0], index)


def test_few_points_none_and_broken_ones() -> None:
    points = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [float("nan"), 0, 0]])
    index, distance = nearest(points, torch.tensor([[0.9, 0.0, 0.0]]), 2)
    assert index.tolist() == [[1, 0]] and torch.allclose(distance, torch.tensor([[0.1, 0.9]]))
    assert nearest(points[:1], points[:2], 3)[0].shape == (2, 1)
    assert nearest(points[:0], points, 3)[0].shape == (3, 0) and nearest(points, points[:0], 2)[1].shape == (0, 2)
