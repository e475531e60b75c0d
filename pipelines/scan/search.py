"""Rough placements of photos' points on a scan, where no frame is shared: 24 turns of the principal directions, some scales about the ratio of the extents."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ...recon.icp import LEAST, Alignment, align_clouds, carried, normals_of, thinned
from ...recon.neighbours import nearest
from ...recon.points import PointCloud

__all__ = ["STARTS", "rough_places"]

SCALES = (0.5, 0.7, 1.0, 1.4, 2.0)  # tried about the ratio of the extents
STARTS = 24 * len(SCALES)
ROUGH, FEW, KEPT = 3000, 300, 10  # returns, points of a first try; tries that are looked at closely
SAME = 0.05  # of its size: two first tries that end nearer to each other are one
ROUGHLY, STEPS = 3e-3, 8  # of its size: how exactly a first try is placed; steps that it may take on each level


def rough_places(points: PointCloud, returns: Float[Tensor, "N 3"], tell: Callable[[float], None]) -> list[Alignment]:
    """Rough placements (scan_from_photos) of the photos' points on the scan, the best first; none where there are too few points or returns to place anything.

    Args:
        tell: called with the share done.
    """
    if min(len(points), len(returns)) < LEAST:
        return []
    source, target = _even(_core(points.xyz.detach().cpu().double()), FEW), _core(_even(returns, 20 * ROUGH))
    target = target[thinned(target, _spread(target) * 2 / ROUGH**0.5)]
    if min(len(source), len(target)) < LEAST:
        return []
    normals, flat = normals_of(target)
    ratio = _spread(target) / _spread(source)
    a, b = _axes(source), _axes(target)
    found: list[Alignment] = []
    turns, size = _turns(), _spread(target)
    for k, (turn, scale) in enumerate(itertools.product(turns, SCALES)):
        if k % 10 == 0:
            tell(k / (len(turns) * len(SCALES)))
        start = torch.eye(4, dtype=torch.float64)
        start[:3, :3] = ratio * scale * (b @ turn @ a.T)
        start[:3, 3] = target.mean(0) - start[:3, :3] @ source.mean(0)
        rough = align_clouds(
            source, target, normals, flat, with_scale=True, start=start, reach=0.4 * size, final_reach=0.06 * size, most=FEW, precision=ROUGHLY, steps=STEPS
        )
        found.append(rough)
    apart: list[Alignment] = []
    for one in sorted(found, key=lambda f: -_promise(f, source, target)):  # many starts end in one place
        if all(float((carried(one.transform, source) - carried(other.transform, source)).norm(dim=-1).mean()) > SAME * size for other in apart):
            apart.append(one)
        if len(apart) == KEPT:
            break
    return apart


def _promise(found: Alignment, source: Float[Tensor, "n 3"], target: Float[Tensor, "m 3"]) -> float:
    """Share of the source that lies on the target, times the share of the target that the source covers: a dot lies on anything, and covers nothing."""
    if found.overlap == 0:
        return 0.0
    _, distance = nearest(carried(found.transform, source), target, 1)
    covered = float((distance[:, 0] <= 2 * found.reach).double().mean())
    return found.overlap * covered / (1 + found.rms / found.reach)


def _even(points: Float[Tensor, "N 3"], most: int) -> Float[Tensor, "M 3"]:
    return points[torch.linspace(0, len(points) - 1, min(most, len(points)), dtype=torch.float64).long()]  # float32 counts to 16 million


def _core(points: Float[Tensor, "N 3"]) -> Float[Tensor, "M 3"]:
    """Without the far tails, which would decide extents and axes."""
    distance = (points - points.median(0).values).norm(dim=-1)
    return points[distance <= 3 * distance.median()]


def _spread(points: Float[Tensor, "N 3"]) -> float:
    return max(float((points - points.mean(0)).square().sum(-1).mean().sqrt()), 1e-12)


def _axes(points: Float[Tensor, "N 3"]) -> Float[Tensor, "3 3"]:
    """Principal directions as columns, a rotation."""
    centered = points - points.mean(0)
    _, vectors = torch.linalg.eigh(centered.T @ centered)
    return vectors * torch.tensor([1.0, 1.0, float(torch.linalg.det(vectors).sign())], dtype=points.dtype)


def _turns() -> list[Float[Tensor, "3 3"]]:
    """The 24 rotations that map axes to axes."""
    out = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            turn = torch.zeros(3, 3, dtype=torch.float64)
            turn[range(3), list(order)] = torch.tensor(signs, dtype=torch.float64)
            if float(torch.linalg.det(turn)) > 0:
                out.append(turn)
    return out
