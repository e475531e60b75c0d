"""Two clouds of one scene brought together: point-to-plane ICP, robust, coarse to fine, with or without scale.

Point-to-plane distances after Chen and Medioni 1992 ("Object modelling by registration of multiple range images"); weights after Geman and McClure whose
width shrinks with the residuals, as in Zhou et al. 2016 ("Fast global registration", section 3.2); motions that the clouds leave open are found and not made
as in Zhang et al. 2016 ("On degeneracy of optimization-based state estimation problems", section IV).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import ShapeError
from .neighbours import Neighbours
from .se3 import sim3_exp

__all__ = ["Alignment", "align_clouds", "carried", "normals_of", "thinned"]

LEAST = 12  # matches below which nothing is said
NEIGHBOURS = 12  # of a point, for its normal
OPEN = 4e-3  # of the best determined motion: what is held by less than this is held by noise
LEVELS = 4  # each halves how far a match may be
STEPS = 25  # at most, on each level
FINAL_REACH = 0.02  # of the target's size
HEARD = 0.2  # of the reach: residuals below this count in any case
MOST_SCALE = 4.0  # a cloud that shrinks or grows by more has lost its way


@dataclass(frozen=True)
class Alignment:
    """How two clouds fit.

    Attributes:
        transform: target_from_source, a similarity (rigid where the scale was not asked for), float64.
        scale: its scale.
        rms: of the point-to-plane distances where the clouds overlap, target units; inf where they do not.
        overlap: share of the source's points with a point of the target within `reach`.
        reach: that distance, target units.
        iterations: steps taken on all levels.
        open: unit motions (translation, rotation, log scale about the source's middle, in units of its size) that neither cloud holds: along a wall, round a
            ball. None of them was made. Empty where the answer is one.
    """

    transform: Float[Tensor, "4 4"]
    scale: float
    rms: float
    overlap: float
    reach: float
    iterations: int
    open: Float[Tensor, "F 7"]


def thinned(points: Float[Tensor, "N 3"], cell: float) -> Int[Tensor, "M"]:
    """One point of each occupied cube of side `cell`: indices, ascending. Points themselves, not means: a cloud thinned stays on its surfaces."""
    if cell <= 0 or len(points) == 0:
        return torch.arange(len(points))
    keys = ((points - points.min(0).values) / cell).long()
    sizes = keys.max(0).values + 1
    code = (keys[:, 0] * sizes[1] + keys[:, 1]) * sizes[2] + keys[:, 2]
    order = torch.argsort(code, stable=True)
    first = torch.ones(len(code), dtype=torch.bool)
    first[1:] = code[order][1:] != code[order][:-1]
    return order[first].sort().values


def normals_of(points: Float[Tensor, "N 3"], k: int = NEIGHBOURS) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N"]]:
    """Unit normals (sign arbitrary) by the principal directions of the k nearest, and how flat it is there: 1 a plane, 0 a line, a ball or a lonely point."""
    near, _ = Neighbours(points).nearest(points, k)
    local = points.double()[near]
    local = local - local.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(local.transpose(1, 2) @ local)
    values = values.clamp_min(0)
    flat = ((values[:, 1] - values[:, 0]) / values[:, 2].clamp_min(1e-300)).clamp(0, 1)
    return vectors[:, :, 0], (4 * flat).clamp(max=1)  # an eighth as wide as long is a plane still, scans are dense along a ring


def align_clouds(
    source: Float[Tensor, "N 3"],
    target: Float[Tensor, "M 3"],
    target_normals: Float[Tensor, "M 3"] | None = None,
    target_flatness: Float[Tensor, "M"] | None = None,
    *,
    with_scale: bool = False,
    start: Float[Tensor, "4 4"] | None = None,
    reach: float | None = None,
    final_reach: float | None = None,
    most: int = 8000,
    precision: float = 1e-7,
    steps: int = STEPS,
) -> Alignment:
    """Moves `source` onto `target` from `start` on; what lies off by less than about `reach` is found.

    Args:
        source, target: points in any order, any units; they may overlap in part.
        target_normals: unit, sign arbitrary; None = from the target's own neighbours, with their flatness.
        target_flatness: how much each normal counts, 0 to 1, as `normals_of` tells; None = all alike.
        with_scale: a similarity is looked for; else a rigid motion, and the scale of `start` is kept.
        start: target_from_source to begin with; None = identity.
        reach: how far apart matching surfaces may be at first, target units; None = a fifth of the source's size.
        final_reach: the same at the end, and what `overlap` means; None = 2 % of the target's size.
        most: points of the source that are used, evenly in space.
        precision: a step that is smaller (radians, share of the cloud's size) ends a level; steps: so many end it in any case.

    Raises ShapeError for fewer than 12 points, or ones that are not finite.
    """
    for name, cloud in (("source", source), ("target", target)):
        if cloud.ndim != 2 or cloud.shape[1:] != (3,) or len(cloud) < LEAST or not bool(torch.isfinite(cloud).all()):
            raise ShapeError(f"align_clouds needs at least {LEAST} finite points in {name} (N,3); got {tuple(cloud.shape)}.")
    src, tgt = source.detach().cpu().double(), target.detach().cpu().double()
    T = torch.eye(4, dtype=torch.float64) if start is None else start.detach().cpu().double().clone()
    middle = tgt.median(0).values  # numbers near zero: the tree has 32 bits
    tgt = tgt - middle
    T[:3, 3] -= middle
    size, begin = _size(tgt), _scale(T)
    final = FINAL_REACH * size if final_reach is None else final_reach
    first = max(0.2 * _size(src) * begin if reach is None else reach, final)
    if target_normals is None:
        normals, flat = normals_of(tgt)
    else:
        normals = target_normals.detach().cpu().double()
        flat = torch.ones(len(tgt), dtype=torch.float64) if target_flatness is None else target_flatness.detach().cpu().double()
    work = _Matcher(src, tgt, normals, flat, with_scale)
    iterations, opened = 0, torch.zeros(0, 7, dtype=torch.float64)
    for level in range(LEVELS + 2):
        now = first * (final / first) ** min(level / LEVELS, 1.0)
        used = most if level >= LEVELS else min(most, 2000)
        if level > LEVELS:  # in place, the source alone is asked: it may lack what the target has, and at its edges the target's matches lie aside
            work.back = None
        pick, asked = _even(src, used), _even(tgt, used)
        for _ in range(steps):
            step = work.step(T, pick, asked, now)
            if step is None:
                break
            xi, motion, opened = step
            T = motion @ T
            iterations += 1
            if not 1 / MOST_SCALE < _scale(T) / begin < MOST_SCALE:
                return Alignment(_shifted(T, middle), _scale(T), float("inf"), 0.0, final, iterations, opened)
            if float(xi.abs().max()) < precision:
                break
    rms, overlap = work.fit(T, _even(src, most), final)
    return Alignment(_shifted(T, middle), _scale(T), rms, overlap, final, iterations, opened)


class _Matcher:
    def __init__(self, src: Tensor, tgt: Tensor, normals: Tensor, flat: Tensor, with_scale: bool) -> None:
        self.src, self.tgt, self.normals, self.flat, self.with_scale = src, tgt, normals, flat, with_scale
        self.tree = Neighbours(tgt)
        # with a scale the target asks back: a source that is asked alone shrinks, as in a small cloud every point is near to something
        self.back = Neighbours(src) if with_scale else None

    def match(self, T: Float[Tensor, "4 4"], pick: Int[Tensor, "n"], reach: float) -> tuple[Tensor, Tensor, Bool[Tensor, "n"]]:
        """The moved points, the nearest of the target, and which of these lie within reach."""
        p = carried(T, self.src[pick])
        index, distance = self.tree.nearest(p, 1)
        return p, index[:, 0], distance[:, 0] <= reach

    def pairs(self, T: Float[Tensor, "4 4"], pick: Int[Tensor, "n"], asked: Int[Tensor, "m"], reach: float) -> tuple[Tensor, Tensor]:
        """Moved points of the source, and the target's points (indices) that they should lie on."""
        p, index, near = self.match(T, pick, reach)
        p, index = p[near], index[near]
        if self.back is None:
            return p, index
        found, distance = self.back.nearest(carried(torch.linalg.inv(T), self.tgt[asked]), 1)
        near = distance[:, 0] * _scale(T) <= reach
        return torch.cat([p, carried(T, self.src[found[near, 0]])]), torch.cat([index, asked[near]])

    def step(self, T: Float[Tensor, "4 4"], pick: Int[Tensor, "n"], asked: Int[Tensor, "m"], reach: float) -> tuple[Tensor, Tensor, Tensor] | None:
        """One Gauss-Newton step: its size, the motion, and the motions left open; None where too little is within reach."""
        p, index = self.pairs(T, pick, asked, reach)
        if len(p) < LEAST:
            return None
        n, q = self.normals[index], self.tgt[index]
        residual = ((p - q) * n).sum(-1)
        # half of the residuals are believed, however far the clouds still are from each other; and where most of the scene is one plane that fits already,
        # the rest must still be heard
        width = max(2 * float(residual.abs().median()), HEARD * reach)
        weight = self.flat[index] / (1 + (residual / width) ** 2) ** 2
        center = p.mean(0)
        unit = float((p - center).square().sum(-1).mean().sqrt()) or 1.0  # lengths in units of the cloud's size, so that all motions compare
        a = (p - center) / unit
        columns = [n, torch.linalg.cross(a, n)] + ([(a * n).sum(-1, keepdim=True)] if self.with_scale else [])
        J = torch.cat(columns, -1)
        H = (weight[:, None] * J).T @ J / weight.sum().clamp_min(1e-300)
        g = (weight[:, None] * J).T @ (residual / unit) / weight.sum().clamp_min(1e-300)
        values, vectors = torch.linalg.eigh(H)
        held = values > OPEN * values[-1]
        xi = -(vectors[:, held] @ ((vectors[:, held].T @ g) / values[held]))
        full, missing = torch.zeros(7, dtype=torch.float64), torch.zeros(int((~held).sum()), 7, dtype=torch.float64)
        full[: len(xi)], missing[:, : len(xi)] = xi, vectors[:, ~held].T
        away, back = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
        away[:3, :3], away[:3, 3] = away[:3, :3] / unit, -center / unit
        back[:3, :3], back[:3, 3] = back[:3, :3] * unit, center
        return full, back @ sim3_exp(full) @ away, missing

    def fit(self, T: Float[Tensor, "4 4"], pick: Int[Tensor, "n"], reach: float) -> tuple[float, float]:
        """rms of the distances within reach, and the share of points that are."""
        p, index, near = self.match(T, pick, reach)
        if not bool(near.any()):
            return float("inf"), 0.0
        residual = ((p - self.tgt[index]) * self.normals[index]).sum(-1)[near]
        return float(residual.square().mean().sqrt()), float(near.double().mean())


def carried(T: Float[Tensor, "4 4"], points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Points moved by an affine transform."""
    return points @ T[:3, :3].T + T[:3, 3]


def _even(points: Float[Tensor, "N 3"], most: int) -> Int[Tensor, "M"]:
    """At most `most` of the points, evenly in space: dense places must not outvote the rest."""
    if len(points) <= most:
        return torch.arange(len(points))
    pick = thinned(points, _size(points) / (0.7 * most) ** 0.5)  # surfaces: cells grow with the square
    return pick if len(pick) <= most else pick[:: -(-len(pick) // most)]


def _size(points: Float[Tensor, "N 3"]) -> float:
    """Diagonal of the box that holds the middle 90 % of each axis."""
    sample = points[:: max(1, len(points) // 50_000)]
    low, high = torch.quantile(sample, torch.tensor([0.05, 0.95], dtype=points.dtype), dim=0)
    return max(float(torch.linalg.vector_norm(high - low)), 1e-12)


def _scale(T: Float[Tensor, "4 4"]) -> float:
    return float(torch.linalg.det(T[:3, :3]).abs()) ** (1 / 3)


def _shifted(T: Float[Tensor, "4 4"], by: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    out = T.clone()
    out[:3, 3] += by
    return out
