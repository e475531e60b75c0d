"""Where a field's density passes a level, looked at on a lattice, slab by slab: what marching cubes (Lorensen and Cline 1987) needs to know; and the colours there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .radiance import NO_MATTER
from .samples import Samples
from .scene import FieldScene
from .space import BoxSpace, FrustumSpace, Space

__all__ = ["Lattice", "above_level", "at_matter", "colors_from_outside", "faced_from", "level_density", "natural_lattice", "world_lattice"]

SLAB = 2_000_000  # grid points at once
POINTS = 1 << 17  # places that the network reads at once
MOST = 8.0  # what stands for "far above" and "far below" the level: e^8 times
LEAST = 1e-3  # no grid point is nearer to the level, so that no vertex falls on one
OUTSIDE, INSIDE = 1, 14  # samples before and behind a place of the surface that make its colour


@dataclass(frozen=True)
class Lattice:
    """Grid points at even distances in a box, of the unit cube or of the world.

    Attributes:
        lower, upper: the first and the last grid point; shape: points along each axis, at least two.
        world: whether these are world coordinates; otherwise places of the cube, where what is far is coarse.
    """

    space: Space
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    shape: tuple[int, int, int]
    world: bool

    def at(self, index: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Coordinates of places given in steps from the first grid point."""
        low, high = index.new_tensor(self.lower), index.new_tensor(self.upper)
        return low + index / (index.new_tensor(self.shape) - 1) * (high - low)

    def in_cube(self, index: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        return self.space.to_cube(self.at(index)) if self.world else self.at(index)

    def in_world(self, index: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        return self.at(index) if self.world else self.space.to_world(self.at(index))

    def layers(self, first: int, count: int, device: torch.device | str) -> Float[Tensor, "N 3"]:
        """Steps from the first grid point of those in `count` layers along the first axis."""
        axes = [torch.arange(first, first + count, device=device), *(torch.arange(n, device=device) for n in self.shape[1:])]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).float()


def natural_lattice(space: Space, resolution: int, far: float) -> Lattice:
    """All of the space up to a distance of `far`, world units, evenly in its cube: a box's cube; of a frustum what lies before that depth; of a contracted space the
    cube of that half edge around its center. `resolution`: steps along the cube's edge; a side that is cut shorter has fewer."""
    low, high = torch.zeros(3), torch.ones(3)
    if isinstance(space, FrustumSpace):
        high[2] = 1 - space.near / max(far, 2 * space.near)
    elif not isinstance(space, BoxSpace):
        middle = space.to_world(torch.full((1, 3), 0.5))
        half = space.to_cube(middle + far * torch.eye(3)).diagonal().max() - 0.5
        low, high = torch.full((3,), 0.5 - float(half)), torch.full((3,), 0.5 + float(half))
    shape = ((high - low) * resolution).round().int().clamp_min(1) + 1
    return Lattice(space, _three(low), _three(high), tuple(shape.tolist()), False)  # pyright: ignore[reportArgumentType]


def world_lattice(space: Space, bounds: tuple[float, ...], resolution: int) -> Lattice:
    """A box of the world, evenly. `bounds`: its lower, then its upper corner; `resolution`: steps along its longest edge."""
    corners = torch.tensor(bounds, dtype=torch.float64)
    edges = corners[3:] - corners[:3]
    shape = (edges / edges.max() * resolution).round().int().clamp_min(1) + 1
    return Lattice(space, _three(corners[:3]), _three(corners[3:]), tuple(shape.tolist()), True)  # pyright: ignore[reportArgumentType]


def level_density(scene: FieldScene, opacity: float) -> float:
    """The density of which as much as one of the renderer's samples stands for takes that share of the light: a level that asks neither how fine the lattice is nor
    how large the world."""
    return -float(torch.log1p(torch.tensor(-opacity, dtype=torch.float64))) * scene.steps


@torch.no_grad()
def above_level(scene: FieldScene, lattice: Lattice, level: float, closed: bool = False, slab: int = SLAB) -> Iterator[Float[Tensor, "T A B"]]:
    """Of each grid point, the logarithm of density over `level`: positive in matter. Slabs along the first axis, each beginning with the layer that the one before
    ended with. Logarithms, because density itself grows by orders of magnitude within a step, and its logarithm about evenly.

    Grid points in cells that hold nothing are not asked, and those where the field can hold nothing (NO_MATTER) are not believed: they count as little as an empty cell may
    hold: the renderer sees nothing there either.

    Args:
        closed: with one more layer on every side, in which there is nothing: the surface is closed where the lattice ends. The first grid point is then at 1, 1, 1.
        slab: grid points at once.
    """
    pad = 1 if closed else 0
    layers, device = lattice.shape[0] + 2 * pad, scene.cells.device
    nothing = -max(float(torch.tensor(level).log()), 1.0)  # a density of 1, from which cells may hold something
    thick = max(2, slab // (lattice.shape[1] * lattice.shape[2]) + 1)
    for first in range(0, layers - 1, thick - 1):
        last = min(first + thick, layers)
        begin, end = max(first - pad, 0), min(last - pad, lattice.shape[0])
        index = lattice.layers(begin, end - begin, device)
        values = torch.cat([_values(scene, lattice.in_cube(part), level, nothing) for part in index.split(POINTS)])
        values = values.view(end - begin, *lattice.shape[1:]).cpu()
        front, back = begin + pad - first, last - pad - end
        yield torch.nn.functional.pad(values, (pad, pad, pad, pad, front, back), value=-MOST) if closed else values


def _values(scene: FieldScene, xyz: Float[Tensor, "N 3"], level: float, nothing: float) -> Float[Tensor, "N"]:
    there = _held(scene.cells, xyz)
    out = torch.full((len(xyz),), nothing, device=xyz.device)
    if bool(there.any()):
        log_density = scene.field.raw(xyz[there])[:, 0]
        out[there] = torch.where(log_density > NO_MATTER, log_density - float(torch.tensor(level).log()), nothing)
    return torch.where(out > 0, out.clamp(LEAST, MOST), out.clamp(-MOST, -LEAST))


def _held(cells: Bool[Tensor, "G G G"], xyz: Float[Tensor, "N 3"]) -> Bool[Tensor, "N"]:
    """Which places lie in the cube and in a cell that may hold something."""
    inside = ((xyz >= -1e-6) & (xyz <= 1 + 1e-6)).all(1)
    i = (xyz * len(cells)).nan_to_num(0.0).clamp(0, len(cells) - 1).long()
    return inside & cells[i[:, 0], i[:, 1], i[:, 2]]


@torch.no_grad()
def at_matter(scene: FieldScene, at: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"], level: float, samples: int = 2) -> Bool[Tensor, "N"]:
    """Whether density is above the level at places (world) or within so many samples of them, before or behind as seen in directions (unit vectors)."""
    found = []
    for places, ahead in zip(at.split(POINTS), directions.split(POINTS), strict=True):
        step = scene.spacing(scene.space.to_cube(places).clamp(0, 1))
        near = [_values(scene, scene.space.to_cube(places + k * step * ahead), level, -MOST) > 0 for k in range(-samples, samples + 1)]
        found.append(torch.stack(near).any(0))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool, device=at.device)


def faced_from(scene: FieldScene, at: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Unit directions in which to look at places on the surface (world): of the photos' cameras, from that which they face most. Straight against the normal a field may
    never have been looked at, and then it has any colour there."""
    ahead, most = -normals, torch.full_like(at[:, 0], -torch.inf)
    for center in scene.cameras.centers.to(at):
        direction = torch.nn.functional.normalize(at - center, dim=1)
        cosine = -(direction * normals).sum(1)
        ahead = torch.where((cosine > most)[:, None], direction, ahead)
        most = torch.maximum(cosine, most)
    return ahead


@torch.no_grad()
def colors_from_outside(scene: FieldScene, at: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """What is seen of places on the surface (world) in directions (unit vectors): the colour of a short piece of a ray, from a sample before to some behind each, without
    background. One place alone would have the colour of a depth that rays may pass or never reach."""
    colors, count = [], OUTSIDE + 1 + INSIDE
    for places, ahead in zip(at.split(POINTS // count), directions.split(POINTS // count), strict=True):
        cube = scene.space.to_cube(places)
        tiny = 0.1 * scene.spacing(cube.clamp(0, 1))
        rate = torch.linalg.vector_norm(scene.space.to_cube(places + tiny * ahead) - cube, dim=1, keepdim=True) / tiny
        step = 1 / (scene.steps * rate.clamp_min(1e-12))  # world units: from sample to sample in this direction
        t = torch.arange(-OUTSIDE, INSIDE + 1, device=places.device)
        line = places[:, None] + t[:, None] * (step * ahead)[:, None]
        xyz = scene.space.to_cube(line.reshape(-1, 3)).clamp(0, 1)
        delta = torch.full((len(xyz),), 1 / scene.steps, device=xyz.device)
        starts = torch.arange(len(places) + 1, device=xyz.device) * count
        seen = scene.field.rays(Samples(xyz, delta, torch.zeros_like(delta), starts), ahead.contiguous())
        colors.append(seen.color / seen.alpha.clamp_min(1e-3)[:, None])
    return torch.cat(colors).clamp(0, 1) if colors else at.new_zeros(0, 3)


def _three(values: Tensor) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
