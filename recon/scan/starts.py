"""Classical ways from a scan to splats: one for each return, sized by its neighbours, or rows of them between the rings.

They are the yardstick that `priors/scan_splats.py` is held to.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..gaussians import Gaussians
from ..neighbours import nearest
from ..se3 import quat_from_matrix
from ..sweeps import Sweep
from .rings import azimuth, with_rings

__all__ = ["STARTS", "discs", "isotropic", "ring_interpolation", "splats_of"]

OPACITY = 0.95
WIDEST = 0.02  # standard deviation of a splat, as a share of its return's range (chosen on made-up streets, as the other sizes here)
MOST_BETWEEN = 24  # splats on a line between two rings


def splats_of(means: Float[Tensor, "N 3"], scales: Float[Tensor, "N 3"], quats_wxyz: Float[Tensor, "N 4"] | None = None) -> Gaussians:
    """Nearly opaque splats without colour (grey, degree 0)."""
    n = len(means)
    turn = quats_wxyz if quats_wxyz is not None else means.new_tensor([1.0, 0, 0, 0]).expand(n, 4).clone()
    return Gaussians(means, turn, scales.clamp_min(1e-6).log(), means.new_full((n,), math.log(OPACITY / (1 - OPACITY))), means.new_zeros(n, 1, 3))


def isotropic(sweep: Sweep, k: int = 3) -> Gaussians:
    """A ball for each return, its standard deviation the mean distance to the k nearest (Kerbl et al. 2023, section 5), but WIDEST of its range at most:
    otherwise a few lonely returns near the scanner hide everything."""
    xyz = sweep.world_xyz
    _, distance = nearest(xyz, xyz, k + 1)
    spread = distance[:, 1:].mean(1) if distance.shape[1] > 1 else torch.ones(len(xyz))
    return splats_of(xyz, spread.minimum(_widest(sweep))[:, None].expand(-1, 3))


def discs(sweep: Sweep, k: int = 16) -> Gaussians:
    """A disc for each return along the two main directions of its k nearest, as wide as they spread (WIDEST of its range at most), a tenth as thick at
    least."""
    xyz = sweep.world_xyz
    index, _ = nearest(xyz, xyz, k)
    around = xyz[index] - xyz[index].mean(1, keepdim=True)
    spread, axes = torch.linalg.eigh(around.transpose(1, 2) @ around / max(k - 1, 1))
    spread, axes = spread.clamp_min(0).sqrt().flip(1), axes.flip(2)
    axes = axes * torch.linalg.det(axes).sign()[:, None, None]
    scales = torch.maximum(spread, spread[:, :1] * 0.1) * (5 / math.sqrt(k))  # k returns share the surface that they span
    scales = scales * (_widest(sweep)[:, None] / scales[:, :1].clamp_min(1e-9)).clamp_max(1)
    return splats_of(xyz, scales, quat_from_matrix(axes))


def _widest(sweep: Sweep) -> Float[Tensor, "N"]:
    if not sweep.origin_known:
        return torch.full((len(sweep),), math.inf)
    return WIDEST * (sweep.world_xyz - sweep.world_origins).norm(dim=1)


def ring_interpolation(sweep: Sweep, joined: float = 1.0, slope: float = 0.2, size: float = 0.5) -> Gaussians:
    """Rows of balls between neighbouring rings: each return is joined by a straight line to the return of the ring above at its azimuth, where their
    ranges differ by less than `joined` metres, and the line is filled at the spacing of the returns along the ring.

    Args:
        size: standard deviation in units of the distance between neighbouring splats.
    """
    sweep = with_rings(sweep)
    if sweep.ring is None:
        raise ValueError("ring_interpolation needs a scan with rings")
    ring, xyz = sweep.ring, sweep.xyz
    range_, angle = xyz.norm(dim=1), azimuth(xyz)
    order = torch.argsort(ring * 10.0 + angle.double())
    spacing = _angular_step(angle, ring, order) * range_
    parts, sigmas = [xyz], [spacing * size]
    numbers = ring.unique().tolist()
    for low, high in zip(numbers[:-1], numbers[1:], strict=True):
        a, b = (order[ring[order] == r] for r in (low, high))
        partner, apart = _same_azimuth(angle[a], angle[b])
        p, q = a, b[partner]
        ok = (apart < math.radians(1.0)) & ((range_[p] - range_[q]).abs() < joined + slope * torch.minimum(range_[p], range_[q]))
        p, q = p[ok], q[ok]
        gap = (xyz[p] - xyz[q]).norm(dim=1)
        count = (gap / spacing[p]).round().long().clamp(1, MOST_BETWEEN) - 1
        row = torch.repeat_interleave(torch.arange(len(p)), count)
        first = count.cumsum(0) - count
        t = (torch.arange(len(row)) - first[row] + 1) / (count[row] + 1)
        parts.append(xyz[p[row]] + t[:, None] * (xyz[q[row]] - xyz[p[row]]))
        sigmas.append((gap / (count + 1)).maximum(spacing[p])[row] * size)
    sigma = torch.cat(sigmas)
    return splats_of(sweep.to_world(torch.cat(parts)), sigma[:, None].expand(-1, 3))


def _angular_step(angle: Float[Tensor, "N"], ring: Int[Tensor, "N"], order: Int[Tensor, "N"]) -> float:
    """The usual turn between two returns of a ring, radians."""
    ahead = angle[order].diff()
    steps = ahead[(ring[order].diff() == 0) & (ahead > 1e-5)]  # two returns of one beam stand at one angle
    return float(steps.median()) if len(steps) else math.radians(0.2)


def _same_azimuth(a: Float[Tensor, "A"], b: Float[Tensor, "B"]) -> tuple[Int[Tensor, "A"], Float[Tensor, "A"]]:
    """Of the sorted angles b the one nearest to each of a, and how far apart they are, radians."""
    at = torch.searchsorted(b, a.contiguous())
    around = torch.stack([(at - 1) % len(b), at % len(b)], 1)
    apart = (b[around] - a[:, None]).abs()
    apart = torch.minimum(apart, 2 * math.pi - apart)
    best = apart.argmin(1, keepdim=True)
    return around.gather(1, best)[:, 0], apart.gather(1, best)[:, 0]


STARTS: dict[str, Callable[[Sweep], Gaussians]] = {"knn": isotropic, "pca": discs, "ring": ring_interpolation}
