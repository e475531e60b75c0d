"""Edits of a finished scene as named steps: what is cut away, and how its world is turned and scaled.

Steps are applied one after the other, each in the world that the one before left; the scene they start from is never changed. A new step is one class
here and one line in STEPS.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .camera import Cameras
from .errors import ConfigError
from .gaussians import Gaussians
from .se3 import Similarity, matrix_from_quat, quat_from_matrix, quat_multiply
from .sh import sh_basis

__all__ = ["STEPS", "CropBox", "DropFaint", "DropFar", "DropLarge", "DropLoose", "EditStep", "Move", "apply_edits", "carry_between", "connected_parts", "dropped_by", "move_gaussians", "scale_after", "up_after"]

Vector = tuple[float, float, float]


class EditStep(Protocol):
    """One step. `title` is what people read."""

    @property
    def title(self) -> str: ...

    def apply(self, gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras]: ...


class _Selection(ABC):
    """A step that drops Gaussians and moves nothing."""

    @abstractmethod
    def keeps(self, gaussians: Gaussians) -> Bool[Tensor, "N"]:
        """Which of them stay."""

    def apply(self, gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras]:
        return gaussians[self.keeps(gaussians)], cameras


def _finite(step: object, *values: float) -> None:
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
        raise ConfigError(f"{type(step).__name__} needs finite numbers, got {values}.")


@dataclass(frozen=True)
class CropBox(_Selection):
    """Keeps what has its centre inside a box (or outside it).

    Attributes:
        center, half: middle and half edges, world units; wxyz: rotation world_from_box.
    """

    center: Vector
    half: Vector
    wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    keep: Literal["inside", "outside"] = "inside"

    def __post_init__(self) -> None:
        _finite(self, *self.center, *self.half, *self.wxyz)
        if min(self.half) <= 0 or self.keep not in ("inside", "outside") or sum(q * q for q in self.wxyz) < 1e-12:
            raise ConfigError(f"A crop box needs edges above 0, a rotation, and keep = inside or outside; got {self}.")

    @property
    def title(self) -> str:
        return f"keep what is {self.keep} a box of {2 * self.half[0]:.3g} x {2 * self.half[1]:.3g} x {2 * self.half[2]:.3g}"

    def keeps(self, gaussians: Gaussians) -> Bool[Tensor, "N"]:
        xyz = gaussians.means
        local = (xyz - xyz.new_tensor(self.center)) @ matrix_from_quat(xyz.new_tensor(self.wxyz))
        inside = (local.abs() <= xyz.new_tensor(self.half)).all(-1)
        return inside if self.keep == "inside" else ~inside


@dataclass(frozen=True)
class DropFaint(_Selection):
    """Drops Gaussians of less opacity than `below`."""

    below: float

    def __post_init__(self) -> None:
        _finite(self, self.below)
        if not 0 <= self.below <= 1:
            raise ConfigError(f"An opacity lies between 0 and 1, got {self.below:g}.")

    @property
    def title(self) -> str:
        return f"drop what is fainter than {self.below:.2g}"

    def keeps(self, gaussians: Gaussians) -> Bool[Tensor, "N"]:
        return gaussians.opacities >= self.below


@dataclass(frozen=True)
class DropLarge(_Selection):
    """Drops Gaussians whose longest standard deviation is above `above`, world units."""

    above: float

    def __post_init__(self) -> None:
        _finite(self, self.above)
        if self.above <= 0:
            raise ConfigError(f"A size must be above 0, got {self.above:g}.")

    @property
    def title(self) -> str:
        return f"drop what is larger than {self.above:.3g}"

    def keeps(self, gaussians: Gaussians) -> Bool[Tensor, "N"]:
        return gaussians.log_scales.amax(-1) <= math.log(self.above)


@dataclass(frozen=True)
class DropFar(_Selection):
    """Drops Gaussians further than `beyond` from `center`, world units."""

    center: Vector
    beyond: float

    def __post_init__(self) -> None:
        _finite(self, *self.center, self.beyond)
        if self.beyond <= 0:
            raise ConfigError(f"A distance must be above 0, got {self.beyond:g}.")

    @property
    def title(self) -> str:
        return f"drop what is further away than {self.beyond:.3g}"

    def keeps(self, gaussians: Gaussians) -> Bool[Tensor, "N"]:
        distance = torch.linalg.vector_norm(gaussians.means - gaussians.means.new_tensor(self.center), dim=-1)
        return distance <= self.beyond


@dataclass(frozen=True)
class DropLoose(_Selection):
    """Drops connected parts of fewer than `smallest` Gaussians. Two belong together when a chain of cells of edge `reach` (world units) that hold
    Gaussians, each touching the next, leads from one to the other."""

    smallest: int
    reach: float

    def __post_init__(self) -> None:
        _finite(self, self.smallest, self.reach)
        if self.smallest < 1 or self.reach <= 0:
            raise ConfigError(f"Loose parts need a smallest size of at least 1 and a reach above 0, got {self.smallest} and {self.reach:g}.")

    @property
    def title(self) -> str:
        return f"drop loose parts of fewer than {self.smallest:,} splats"

    def keeps(self, gaussians: Gaussians) -> Bool[Tensor, "N"]:
        part = connected_parts(gaussians.means, self.reach)
        sizes = torch.bincount(part, minlength=1)
        return sizes[part] >= self.smallest


@dataclass(frozen=True)
class Move:
    """Moves the whole scene with its cameras: x -> scale * R x + translation. Pictures stay what they were.

    Attributes:
        wxyz: the rotation R; scale: above 0; what: why, for people.
        upright: z is up from here on.
    """

    wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    translation: Vector = (0.0, 0.0, 0.0)
    scale: float = 1.0
    what: str = "move"
    upright: bool = False

    def __post_init__(self) -> None:
        _finite(self, *self.wxyz, *self.translation, self.scale)
        if self.scale <= 0 or sum(q * q for q in self.wxyz) < 1e-12:
            raise ConfigError(f"A move needs a scale above 0 and a rotation, got {self}.")

    @property
    def title(self) -> str:
        return self.what

    @property
    def similarity(self) -> Similarity:
        R = matrix_from_quat(torch.tensor(self.wxyz, dtype=torch.float64))
        return Similarity(torch.tensor(self.scale, dtype=torch.float64), R, torch.tensor(self.translation, dtype=torch.float64))

    def apply(self, gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras]:
        move = self.similarity
        like = cameras.cam_from_world
        moved = move.apply_to_cameras(cameras.to("cpu", torch.float64))
        return move_gaussians(gaussians, move), moved.to(like.device, like.dtype)


STEPS: dict[str, type[CropBox] | type[DropFaint] | type[DropLarge] | type[DropFar] | type[DropLoose] | type[Move]] = {
    "crop_box": CropBox,
    "drop_faint": DropFaint,
    "drop_large": DropLarge,
    "drop_far": DropFar,
    "drop_loose": DropLoose,
    "move": Move,
}


@torch.no_grad()
def apply_edits(gaussians: Gaussians, cameras: Cameras, steps: Sequence[EditStep]) -> tuple[Gaussians, Cameras]:
    """The scene after all steps; Gaussians that are not finite are beyond every box and distance."""
    for step in steps:
        gaussians, cameras = step.apply(gaussians, cameras)
    return gaussians, cameras


@torch.no_grad()
def dropped_by(gaussians: Gaussians, steps: Sequence[EditStep]) -> Bool[Tensor, "N"]:
    """Which Gaussians these steps, one after the other, drop. Moves among them are left out."""
    left = torch.arange(len(gaussians), device=gaussians.device)
    for step in steps:
        if isinstance(step, _Selection):
            left = left[step.keeps(gaussians[left])]
    gone = torch.ones(len(gaussians), dtype=torch.bool, device=gaussians.device)
    gone[left] = False
    return gone


def up_after(steps: Sequence[EditStep]) -> Float[Tensor, "3"] | None:
    """Which way is up where somebody has set it; None where it is left to the photos. Steps after it turn it along."""
    up: Tensor | None = None
    for step in steps:
        if isinstance(step, Move):
            up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) if step.upright else None if up is None else step.similarity.R @ up
    return up


def scale_after(steps: Sequence[EditStep]) -> float:
    """How many times larger the world is after all steps."""
    return math.prod(step.scale for step in steps if isinstance(step, Move))


def carry_between(old: Sequence[EditStep], new: Sequence[EditStep]) -> Similarity | None:
    """From the world that the old edits left to that of the new ones; None where it is the same."""
    moves = [[step for step in steps if isinstance(step, Move)] for steps in (old, new)]
    if moves[0] == moves[1]:
        return None
    to_old, to_new = (_together(steps) for steps in moves)
    M = to_new.matrix @ to_old.inverse().matrix
    scale = torch.linalg.det(M[:3, :3]) ** (1 / 3)
    return Similarity(scale, M[:3, :3] / scale, M[:3, 3])


def _together(steps: Sequence[Move]) -> Similarity:
    whole = Move().similarity
    for step in steps:
        s = step.similarity
        whole = Similarity(s.scale * whole.scale, s.R @ whole.R, s.apply(whole.t))
    return whole


def move_gaussians(gaussians: Gaussians, move: Similarity) -> Gaussians:
    """The same Gaussians in the target frame of `move`; a camera moved along sees the same picture."""
    g, like = gaussians, gaussians.means
    R = move.R.to(like)
    quats = quat_multiply(quat_from_matrix(R).expand_as(g.quats_wxyz), g.quats_wxyz)
    means = (g.means.double() @ move.R.T.to(g.device).double() * float(move.scale) + move.t.to(g.device).double()).to(like)
    return replace(g, means=means, quats_wxyz=quats, log_scales=g.log_scales + math.log(float(move.scale)), sh=_turn_sh(g.sh, move.R))


def _turn_sh(sh: Float[Tensor, "N K 3"], R: Float[Tensor, "3 3"]) -> Float[Tensor, "N K 3"]:
    """Coefficients that show along R d what the old ones showed along d. Each band turns within itself, so the matrix that does it follows from more
    directions than it has rows, exactly."""
    if sh.shape[1] == 1:
        return sh
    degree = {4: 1, 9: 2, 16: 3}[sh.shape[1]]
    generator = torch.Generator().manual_seed(0)
    old = torch.nn.functional.normalize(torch.randn(64, 3, generator=generator, dtype=torch.float64), dim=-1)
    B_old, B_new = sh_basis(old, degree), sh_basis(old @ R.T.cpu().double(), degree)
    turned = [sh[:, :1]]
    for band in range(1, degree + 1):
        rows = slice(band * band, (band + 1) ** 2)
        D = torch.linalg.lstsq(B_new[:, rows], B_old[:, rows]).solution.to(sh)
        turned.append(torch.einsum("ij,njc->nic", D, sh[:, rows]))
    return torch.cat(turned, 1)


def connected_parts(xyz: Float[Tensor, "N 3"], reach: float) -> Int[Tensor, "N"]:
    """The number of each point's part, 0 to parts - 1: points in cells that touch (26 neighbours) are of one part. What is not finite is alone."""
    finite = torch.isfinite(xyz).all(-1)
    part = torch.arange(len(xyz), device=xyz.device)
    if bool(finite.any()):
        part[finite] = len(xyz) + _parts_of_cells(xyz[finite], reach)
    return torch.unique(part, return_inverse=True)[1]


def _parts_of_cells(xyz: Float[Tensor, "M 3"], reach: float) -> Int[Tensor, "M"]:
    cells = torch.floor((xyz.double() - xyz.double().amin(0)) / reach).clamp(max=2.0**20 - 3).long() + 1
    side = 2**20
    keys, member = torch.unique((cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2], return_inverse=True)
    pairs: list[Tensor] = []
    for x, y, z in _HALF_RING:
        wanted = keys + (x * side + y) * side + z
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        hit = keys[at] == wanted
        pairs.append(torch.stack([hit.nonzero()[:, 0], at[hit]]))
    a, b = torch.cat(pairs, 1)
    label = torch.arange(len(keys), device=xyz.device)
    while True:  # each cell takes the smallest label of its neighbours, and then the label of that label: a few rounds
        before = label
        label = label.scatter_reduce(0, a, before[b], "amin").scatter_reduce(0, b, before[a], "amin")
        label = torch.minimum(label, label[label])
        if torch.equal(label, before):
            return label[member]


_HALF_RING = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)]

