"""What moved between scans: a return that stands where another scan looked through was there for a moment only, and what hangs together moves together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ..neighbours import Neighbours
from ..sweeps import Sweep
from ..voxel.tensors import find_rows, voxelize

__all__ = ["Beams", "beams_of", "hanging_together", "moved_returns"]

# Lengths are in units of a tenth of the median range of the scan that is asked about: about a metre in a street, 30 cm in a room, whatever a world's unit is.
APART = math.radians(0.6)  # beams further aside say nothing of a return
BEAMS = 4  # of the other scan that are asked: all must pass, since a single one slips by an edge
FREE = (0.08, 0.4)  # share of the distance, and a length: so much further must a beam have ended to have passed
SAME = (0.04, 0.25)  # so near it has met the same surface
AROUND = 8  # returns that decide together
LEAST = 2  # scans that must have looked through, where as many could
LINK = 0.25  # edge of the cells by which returns hang together
PART, FEW = 0.035, 15  # share of a thing that was looked through, and returns, from which all of it moved: sides that slide along themselves look as if they stood
SMALL, LONGEST = 6.0, 20.0  # a car; what can move at all
ALONG = 0.2  # share of the length of a thing larger than SMALL over which it must have been looked through: a wall that somebody passes stays
FAR = 200.0  # beyond nothing hangs together
SPREAD = 0.4  # metres between the places that a scan was taken from, up to which it may be asked as if it was one
MOST = 400_000  # beams of a scan that are asked, evenly


@dataclass(frozen=True)
class Beams:
    """A scan as others ask it: where from (world, float64), a tree of directions, and how far each goes (inf: nothing came back)."""

    eye: Float[Tensor, "3"]
    tree: Neighbours
    ends: Float[Tensor, "B"]

    def looked_through(self, xyz: Float[Tensor, "N 3"], unit: float = 1.0) -> Int[Tensor, "N"]:
        """1 where the scan looks through world points, -1 where it meets something there, 0 where it cannot say (nothing measured in that direction, or
        something stands before)."""
        here = xyz.detach().cpu().double() - self.eye
        asked = here.norm(dim=1)
        index, aside = self.tree.nearest(normalize(here, dim=1), BEAMS)
        if index.shape[1] < BEAMS or not len(xyz):
            return torch.zeros(len(xyz), dtype=torch.long)
        near, ends = aside < APART, self.ends[index]
        passed = near & (ends > asked[:, None] * (1 + FREE[0]) + FREE[1] * unit)
        met = near & ((ends - asked[:, None]).abs() < asked[:, None] * SAME[0] + SAME[1] * unit)
        return torch.where(met.any(1), -1, torch.where(passed.all(1), 1, 0))


def beams_of(sweep: Sweep) -> Beams | None:
    """None of a scan that cannot be asked: nobody knows where it was taken, or it was taken from many places."""
    if not sweep.origin_known or not len(sweep):
        return None
    exact = sweep.exact()
    origins = exact.world_origins.contiguous()
    eye = origins.median(0).values
    if float((origins - eye).norm(dim=1).max()) > SPREAD:
        return None
    there = exact.world_xyz - eye
    ends = there.norm(dim=1)
    ways = there / ends.clamp_min(1e-9)[:, None]
    if sweep.empty is not None and len(sweep.empty):
        free = sweep.empty.detach().cpu().double() @ exact.world_from_sensor[:3, :3].T
        ways, ends = torch.cat([ways, free]), torch.cat([ends, ends.new_full((len(free),), torch.inf)])
    some = torch.arange(0, len(ends), max(1, -(-len(ends) // MOST)))
    return Beams(eye, Neighbours(ways[some].float()), ends[some])


def moved_returns(sweep: Sweep, others: Sequence[Beams], ground: Bool[Tensor, "N"]) -> Bool[Tensor, "N"]:
    """Returns of things that moved: more of the other scans looked through where they stand than met something there. False where nothing speaks for it.

    Args:
        ground: returns of the ground, which does not move and holds nothing together.
    """
    if not len(sweep) or not others:
        return torch.zeros(len(sweep), dtype=torch.bool)
    exact = sweep.exact()
    xyz = exact.world_xyz
    local = xyz - (exact.world_origins.contiguous().median(0).values if sweep.origin_known else xyz.median(0).values)
    unit = float(local.norm(dim=1).median()) / 10
    through, met = torch.zeros(len(sweep)), torch.zeros(len(sweep))
    for other in others:
        said = other.looked_through(xyz, unit)
        through += said == 1
        met += said == -1
    moved = (through >= min(LEAST, len(others))) & (through > met) & ~ground
    if not bool(moved.any()):
        return moved
    # the returns around judge together, each as loud as it is sure: edges and grazing beams are often wrong alone
    scaled = (local / max(unit, 1e-9)).float()
    index, _ = Neighbours(scaled).nearest(scaled, AROUND)
    voice = torch.where(moved, through, met)
    mine, all_of = (moved * voice)[index].sum(1), voice[index].sum(1)
    moved = (mine > 0.5 * all_of) & (all_of > 0) & ~ground
    stands = ~ground & (scaled.norm(dim=1) < FAR)
    moved[stands] |= _whole_things(scaled[stands], moved[stands])
    return moved


def _whole_things(xyz: Float[Tensor, "N 3"], moved: Bool[Tensor, "N"]) -> Bool[Tensor, "N"]:
    """All of each thing of which enough moved."""
    if not bool(moved.any()):
        return moved
    things = hanging_together(xyz, LINK)
    size = torch.bincount(things)
    hit = torch.bincount(things, weights=moved.float(), minlength=len(size))
    longest = _box(xyz, things, len(size))
    signs = _box(xyz[moved], things[moved], len(size))
    enough = (hit >= FEW) & (hit >= PART * size) & (longest.amax(1) <= LONGEST)
    axis = longest.argmax(1, keepdim=True)
    spread = signs.gather(1, axis)[:, 0] >= ALONG * longest.gather(1, axis)[:, 0]
    return (enough & ((longest.amax(1) <= SMALL) | spread))[things]


def _box(xyz: Float[Tensor, "N 3"], things: Int[Tensor, "N"], count: int) -> Float[Tensor, "T 3"]:
    """Sides of each thing's box along the axes; 0 for a thing without points."""
    rows = things[:, None].expand(-1, 3)
    low = xyz.new_full((count, 3), torch.inf).scatter_reduce(0, rows, xyz, "amin")
    high = xyz.new_full((count, 3), -torch.inf).scatter_reduce(0, rows, xyz, "amax")
    return (high - low).clamp_min(0).nan_to_num(0.0)


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
