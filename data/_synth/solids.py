"""Scenes of simple solids that rays meet in closed form: quick enough to make a new street for every training step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...recon.scan.labels import LABELS

__all__ = ["BALL", "BOX", "CYLINDER", "Hit", "Solids", "solid"]

BOX, BALL, CYLINDER = 0, 1, 2
TOGETHER = 1024  # rays at a time


@dataclass(frozen=True)
class Hit:
    """What R rays meet first.

    Attributes:
        t: distance in lengths of the direction, inf = nothing. solid: index, -1 = none. normal: outward, world frame.
    """

    t: Float[Tensor, "R"]
    solid: Int[Tensor, "R"]
    normal: Float[Tensor, "R 3"]


@dataclass(frozen=True)
class Solids:
    """S solids, each the image of a unit shape: the box [-1, 1]^3, the unit ball, or the cylinder of radius 1 around z from -1 to 1.

    Attributes:
        kind: BOX, BALL or CYLINDER. local: unit shape from world, affine.
        label: index into LABELS. rgb: albedo, sRGB. porous: rays may pass, or end anywhere inside (leaves).
    """

    kind: Int[Tensor, "S"]
    local: Float[Tensor, "S 3 4"]
    label: Int[Tensor, "S"]
    rgb: Float[Tensor, "S 3"]
    porous: Bool[Tensor, "S"]

    def __len__(self) -> int:
        return len(self.kind)

    @staticmethod
    def together(parts: list[Solids]) -> Solids:
        return Solids(*(torch.cat([getattr(p, n) for p in parts]) for n in ("kind", "local", "label", "rgb", "porous")))

    def moved(self, yaw: float, shift: tuple[float, float, float]) -> Solids:
        """Turned around z (radians), then shifted."""
        world_from_here = torch.eye(4)
        world_from_here[:2, :2] = _turn(yaw)[:2, :2]
        world_from_here[:3, 3] = torch.tensor(shift, dtype=torch.float32)
        return replace(self, local=self.local @ torch.linalg.inv(world_from_here))

    def cast(self, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], rng: torch.Generator | None = None) -> Hit:
        """The first solid on each ray. `rng` decides what porous solids let through; None: they are dense."""
        order = torch.atan2(directions[:, 1], directions[:, 0]).argsort()  # rays that go together meet few solids
        back = order.argsort()
        parts = [self._near(o, d, rng) for o, d in zip(origins[order].split(TOGETHER), directions[order].split(TOGETHER), strict=True)]
        return Hit(*(torch.cat([getattr(p, n) for p in parts])[back] for n in ("t", "solid", "normal")))

    def _near(self, origins: Tensor, directions: Tensor, rng: torch.Generator | None) -> Hit:
        """Asks only the solids whose surrounding ball reaches into the cone around the rays."""
        ways = torch.nn.functional.normalize(directions, dim=1)
        axis = torch.nn.functional.normalize(ways.mean(0), dim=0)
        spread = (ways @ axis).min().clamp(-1, 1).acos()
        eye = origins.mean(0)
        world = torch.linalg.inv(torch.cat([self.local, self.local.new_tensor([0, 0, 0, 1.0]).expand(len(self), 1, 4)], 1))
        radius = world[:, :3, :3].norm(dim=1).norm(dim=1) + (origins - eye).norm(dim=1).max()
        to = world[:, :3, 3] - eye
        far = to.norm(dim=1).clamp_min(1e-9)
        reach = torch.where(radius >= far, math.pi, (radius / far).clamp_max(1).asin())
        found = ((to @ axis / far).clamp(-1, 1).acos() <= reach + spread + 1e-3).nonzero()[:, 0]
        if not len(found):
            n = len(directions)
            return Hit(torch.full((n,), torch.inf), torch.full((n,), -1), torch.zeros(n, 3))
        some = Solids(*(getattr(self, n)[found] for n in ("kind", "local", "label", "rgb", "porous")))
        hit = some._cast(origins, directions, rng)
        return replace(hit, solid=torch.where(hit.solid >= 0, found[hit.solid.clamp_min(0)], -1))

    def _cast(self, origins: Tensor, directions: Tensor, rng: torch.Generator | None) -> Hit:
        turn = self.local[:, :, :3].reshape(-1, 3).T
        o = (origins @ turn).view(len(origins), -1, 3) + self.local[:, :, 3]
        d = (directions @ turn).view(len(origins), -1, 3)
        enter, leave = _spans(self.kind, o, d)
        inside = (enter <= 0) & (leave > 0)  # of a solid that the ray starts in, its far side is seen (a room is a box)
        t = torch.where(inside, leave, enter)
        t = torch.where((leave > 0) & (enter < leave) & (t > 1e-4), t, torch.inf)
        if rng is not None and bool(self.porous.any()):
            p = self.porous
            length = directions.norm(dim=1, keepdim=True)
            depth = -torch.rand(t[:, p].shape, generator=rng).clamp_min(1e-6).log() * 0.7 / length  # metres of leaves that a ray passes, on the mean
            t[:, p] = torch.where(enter[:, p].clamp_min(0) + depth < leave[:, p], enter[:, p].clamp_min(0) + depth, torch.inf)
        nearest, which = t.min(1)
        hit = torch.isfinite(nearest)
        rows = torch.arange(len(t))
        at = o[rows, which] + torch.where(hit, nearest, 0.0)[:, None] * d[rows, which]
        normal = torch.einsum("rij,ri->rj", self.local[which][:, :, :3], _outward(self.kind[which], at))
        normal = torch.nn.functional.normalize(normal, dim=1)
        normal = torch.where((normal * directions).sum(1, keepdim=True) > 0, -normal, normal)
        return Hit(nearest, torch.where(hit, which, -1), normal)


def _spans(kind: Int[Tensor, "S"], o: Float[Tensor, "R S 3"], d: Float[Tensor, "R S 3"]) -> tuple[Float[Tensor, "R S"], Float[Tensor, "R S"]]:
    """Where each ray enters and leaves each unit shape; enter > leave where it misses."""
    safe = torch.where(d.abs() < 1e-9, 1e-9, d)
    slab = torch.stack([(-1 - o) / safe, (1 - o) / safe])
    low, high = slab.amin(0), slab.amax(0)
    enter, leave = low.amax(-1), high.amin(-1)
    for shape, axes in ((BALL, 3), (CYLINDER, 2)):
        pick = kind == shape
        if not bool(pick.any()):
            continue
        oo, dd = o[:, pick, :axes], d[:, pick, :axes]
        a, b, c = (dd * dd).sum(-1).clamp_min(1e-12), (oo * dd).sum(-1), (oo * oo).sum(-1) - 1
        root = (b * b - a * c).clamp_min(0).sqrt()
        misses = b * b < a * c
        first, last = torch.where(misses, torch.inf, (-b - root) / a), torch.where(misses, -torch.inf, (-b + root) / a)
        if shape == CYLINDER:
            first, last = torch.maximum(first, low[:, pick, 2]), torch.minimum(last, high[:, pick, 2])
        enter[:, pick], leave[:, pick] = first, last
    return enter, leave


def _outward(kind: Int[Tensor, "R"], at: Float[Tensor, "R 3"]) -> Float[Tensor, "R 3"]:
    """Normal of the unit shape at a point of its surface, not normalised."""
    box = torch.nn.functional.one_hot(at.abs().argmax(-1), 3) * at.sign()
    side = at * at.new_tensor([1.0, 1.0, 0.0])
    lid = at * at.new_tensor([0.0, 0.0, 1.0])
    cylinder = torch.where((at[:, 2:].abs() > 1 - 1e-4), lid, side)
    return torch.where((kind == BALL)[:, None], at, torch.where((kind == CYLINDER)[:, None], cylinder, box))


def _turn(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Tensor:
    a, b, c = (torch.tensor(float(x)) for x in (yaw, pitch, roll))
    z = torch.tensor([[a.cos(), -a.sin(), 0], [a.sin(), a.cos(), 0], [0, 0, 1]])
    y = torch.tensor([[b.cos(), 0, b.sin()], [0, 1, 0], [-b.sin(), 0, b.cos()]])
    x = torch.tensor([[1, 0, 0], [0, c.cos(), -c.sin()], [0, c.sin(), c.cos()]])
    return z @ y @ x


def solid(
    kind: int,
    center: tuple[float, float, float],
    half: tuple[float, float, float],
    label: str,
    rgb: tuple[float, float, float],
    yaw: float = 0.0,
    pitch: float = 0.0,
    roll: float = 0.0,
    porous: bool = False,
) -> Solids:
    """One solid of half-sizes `half` (metres), turned around its own x, y, then z (radians)."""
    world_from_local = torch.eye(4)
    world_from_local[:3, :3] = _turn(yaw, pitch, roll) * torch.tensor(half, dtype=torch.float32)
    world_from_local[:3, 3] = torch.tensor(center, dtype=torch.float32)
    local = torch.linalg.inv(world_from_local)[:3]
    return Solids(torch.tensor([kind]), local[None], torch.tensor([LABELS.index(label)]), torch.tensor([rgb], dtype=torch.float32), torch.tensor([porous]))
