"""What moved between scans: a return that stands where another scan looked through was there for a moment only, and what hangs together moves together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ..neighbours import Neighbours, nearest
from ..sweeps import Sweep
from ..voxel.tensors import find_rows, voxelize

__all__ = ["hanging_together", "looked_through", "moved_returns"]

APART = math.radians(0.6)  # beams further aside say nothing of a return
BEAMS = 4  # of the other scan that are asked: all must pass, since a single one slips by an edge
FREE = (0.08, 0.4)  # share of the distance, and metres: so much further must a beam have ended to have passed
SAME = (0.04, 0.25)  # so near it has met the same surface
AROUND = 8  # returns that decide together
LEAST = 2  # scans that must have looked through, where as many could
LINK = 0.25  # metres: edge of the cells by which returns hang together
PART, FEW = 0.035, 15  # share of a thing that was looked through, and returns, from which all of it moved: sides that slide along themselves look as if they stood
LONGEST = 20.0  # metres: of what can move at all; a house that somebody touches in passing stays


def looked_through(xyz: Float[Tensor, "N 3"], other: Sweep) -> Int[Tensor, "N"]:
    """1 where the other scan looks through world points, -1 where it meets something there, 0 where it cannot say (nothing measured in that direction, or
    something stands before). Of a scan whose origin nobody knows nothing can be said."""
    if not other.origin_known or not len(other) or not len(xyz):
        return torch.zeros(len(xyz), dtype=torch.long)
    sweep = other.exact()
    eye = sweep.world_origins.contiguous().median(0).values
    there, here = sweep.world_xyz - eye, xyz.detach().cpu().double() - eye
    far, asked = there.norm(dim=1), here.norm(dim=1)
    index, aside = nearest(normalize(there, dim=1), normalize(here, dim=1), BEAMS)
    near, ends = aside < APART, far[index]
    passed = near & (ends > asked[:, None] * (1 + FREE[0]) + FREE[1])
    met = near & ((ends - asked[:, None]).abs() < asked[:, None] * SAME[0] + SAME[1])
    free = passed.all(1) & (near.sum(1) == BEAMS)
    return torch.where(met.any(1), -1, torch.where(free, 1, 0))


def moved_returns(sweep: Sweep, others: Sequence[Sweep], ground: Bool[Tensor, "N"]) -> Bool[Tensor, "N"]:
    """Returns of things that moved: more of the other scans looked through where they stand than met something there. False where nothing speaks for it.

    Args:
        ground: returns of the ground, which does not move and holds nothing together.
    """
    xyz = sweep.exact().world_xyz
    through, met = torch.zeros(len(sweep)), torch.zeros(len(sweep))
    for other in others:
        said = looked_through(xyz, other)
        through += said == 1
        met += said == -1
    moved = (through >= min(LEAST, len(others))) & (through > met) & ~ground
    if not bool(moved.any()):
        return moved
    # the returns around judge together, each as loud as it is sure: edges and grazing beams are often wrong alone
    local = (xyz - sweep.exact().world_from_sensor[:3, 3]).float()
    index, _ = Neighbours(local).nearest(local, AROUND)
    voice = torch.where(moved, through, met)
    mine, all_of = (moved * voice)[index].sum(1), voice[index].sum(1)
    moved = (mine > 0.5 * all_of) & (all_of > 0) & ~ground
    things = hanging_together(local[~ground], LINK)
    size = torch.bincount(things)
    hit = torch.bincount(things, weights=moved[~ground].float(), minlength=len(size))
    whole = (hit >= FEW) & (hit >= PART * size) & (_longest_side(local[~ground], things, len(size)) <= LONGEST)
    moved[~ground] |= whole[things]
    return moved


def _longest_side(xyz: Float[Tensor, "N 3"], things: Int[Tensor, "N"], count: int) -> Float[Tensor, "T"]:
    """Of each thing's box along the axes."""
    rows = things[:, None].expand(-1, 3)
    low = xyz.new_full((count, 3), torch.inf).scatter_reduce(0, rows, xyz, "amin")
    high = xyz.new_full((count, 3), -torch.inf).scatter_reduce(0, rows, xyz, "amax")
    return (high - low).amax(1)


def hanging_together(xyz: Float[Tensor, "N 3"], link: float) -> Int[Tensor, "N"]:
    """Number of the thing that each point belongs to: points in cells of that edge, and cells that touch, are one thing."""
    if not len(xyz):
        return torch.zeros(0, dtype=torch.long)
    voxels, cell = voxelize(xyz, xyz.new_zeros(len(xyz), 1), link)
    steps = [s for s in product((-1, 0, 1), repeat=3) if s > (0, 0, 0)]
    pairs = []
    for step in steps:
        row = find_rows(voxels, voxels.coords + torch.tensor([0, *step]))
        there = (row >= 0).nonzero()[:, 0]
        pairs.append(torch.stack([there, row[there]]))
    a, b = torch.cat(pairs, 1)
    label = torch.arange(len(voxels))
    while True:  # the least number spreads along the links; each round also jumps to the number of the number
        least = label.scatter_reduce(0, a, label[b], "amin").scatter_reduce(0, b, label[a], "amin")
        least = least[least]
        if torch.equal(least, label):
            return torch.unique(label, return_inverse=True)[1][cell]
        label = least
