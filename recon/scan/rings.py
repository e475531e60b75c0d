"""The rings of a spinning scanner: each beam sweeps a circle, and files often keep one ring after the other without saying so."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..sweeps import Sweep

__all__ = ["azimuth", "keep_rings", "ring_numbers", "ring_origins", "tells_rings", "with_rings"]

LEAST_RETURNS = 8  # of a ring, on the mean: fewer is no spinning scanner
# metres: median distance from the beam's cone for its tip to be believed, and for a turn to be a ring at all (a scan corrected for the car's own motion);
# how far from the origin a laser may sit
ON_CONE, ROUGHLY_ON_CONE, HIGHEST_TIP = 0.01, 0.3, 1.0
STARTS_AT = (0.0, math.pi)  # azimuths where scanners begin a turn
ORDERED = 0.9  # share of steps within rings that must go round the same way


def azimuth(xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
    """Angle around the sensor's z axis, radians from 0 to 2 pi, counted from x towards y."""
    return torch.atan2(xyz[:, 1], xyz[:, 0]).remainder(2 * math.pi)


def ring_numbers(xyz: Float[Tensor, "N 3"]) -> Int[Tensor, "N"] | None:
    """The ring of each return, 0 = the lowest, found by its place in the list: within a ring the azimuth goes round one way, and each new ring starts over.

    None where the list is in no such order (a merged or shuffled cloud, a solid-state scanner).

    Args:
        xyz: sensor frame, z up, in the order of the file.
    """
    if len(xyz) < 2 * LEAST_RETURNS:
        return None
    found = [r for start in STARTS_AT for r in [_turns(xyz, start)] if r is not None]
    if not found:
        return None
    best = min(found, key=lambda ring: _cones(xyz, ring)[1])
    # a list that goes round once with all beams at each azimuth has turns, too, but no turn is a cone
    return None if _cones(xyz, best)[1] > ROUGHLY_ON_CONE else _lowest_first(xyz, best)


def _turns(xyz: Float[Tensor, "N 3"], start: float) -> Int[Tensor, "N"] | None:
    """Number of the turn each return belongs to, where turns begin at that azimuth."""
    step = (azimuth(xyz) - start).remainder(2 * math.pi).diff()
    for turn in (step, -step):
        wraps = turn < -math.pi
        number = torch.cat([torch.zeros(1, dtype=torch.long, device=xyz.device), wraps.long().cumsum(0)])
        within = turn[~wraps]
        round_ = float(((within >= 0) & (within < math.pi)).float().mean()) if len(within) else 0.0
        if int(number[-1]) >= 1 and len(xyz) / (int(number[-1]) + 1) >= LEAST_RETURNS and round_ >= ORDERED:
            return number
    return None


def _lowest_first(xyz: Float[Tensor, "N 3"], number: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
    slope = xyz[:, 2] / xyz[:, :2].norm(dim=1).clamp_min(1e-6)
    middle = torch.stack([slope[number == r].median() for r in range(int(number[-1]) + 1)])
    return torch.empty_like(middle, dtype=torch.long).scatter_(0, middle.argsort(stable=True), torch.arange(len(middle), device=xyz.device))[number]


def _cones(xyz: Float[Tensor, "N 3"], ring: Int[Tensor, "N"]) -> tuple[Float[Tensor, "R"], float]:
    """Height of the tip of each ring's cone around the z axis (least squares), and the median distance of the returns from their cones, metres."""
    flat, z = xyz[:, :2].norm(dim=1).double(), xyz[:, 2].double()
    rings = int(ring.max()) + 1
    n, sx, sy, sxx, sxy = (torch.zeros(rings, dtype=torch.float64).index_add_(0, ring, v) for v in (torch.ones_like(flat), flat, z, flat * flat, flat * z))
    spread = n * sxx - sx * sx
    told = (n >= LEAST_RETURNS) & (spread > 1e-6 * n * n)
    if not bool(told.any()):
        return torch.zeros(rings), math.inf
    slope = torch.where(told, (n * sxy - sx * sy) / spread.clamp_min(1e-12), 0.0)
    tip = torch.where(told, (sy - slope * sx) / n.clamp_min(1), 0.0)
    off = (z - tip[ring] - slope[ring] * flat)[told[ring]].abs().median()
    return torch.where(told, tip, tip[told].median()).to(xyz), float(off)


def ring_origins(xyz: Float[Tensor, "N 3"], ring: Int[Tensor, "N"]) -> Float[Tensor, "N 3"] | None:
    """Where each return was seen from, told by the scan itself: a beam that goes round the z axis draws a cone, whose tip is where it starts.

    Scanners put their lasers above one another, up to 20 cm from the origin of their frame, which at 5 metres is two degrees. None where the returns of the
    rings lie on no cones (a scan corrected for its own motion, or rings that are none).
    """
    tip, off = _cones(xyz, ring)
    if off > ON_CONE or float(tip.abs().max()) > HIGHEST_TIP:
        return None
    return torch.stack([torch.zeros_like(tip), torch.zeros_like(tip), tip], 1)[ring]


def with_rings(sweep: Sweep) -> Sweep:
    """The same scan with its rings numbered, and its beams' origins, where they can be told and are not known yet."""
    ring = sweep.ring if sweep.ring is not None else ring_numbers(sweep.xyz)
    if ring is None or not len(sweep):
        return sweep
    origins = sweep.origins if sweep.origins is not None else ring_origins(sweep.xyz, ring)
    return replace(sweep, ring=ring, origins=origins)


def tells_rings(sweep: Sweep, every: int) -> bool:
    """Whether the scan has rings enough to part every so many-th from the rest."""
    return sweep.ring is not None and len(sweep) > 0 and int(sweep.ring.max()) >= every


def keep_rings(sweep: Sweep, share: float) -> tuple[Sweep, Sweep]:
    """Parts the scan: every (1 / share)-th of its rings, evenly spread, and the withheld rest.

    A scan without rings, or with fewer, is parted by return instead, every (1 / share)-th of the list.
    """
    every = round(1 / share)
    number = sweep.ring if tells_rings(sweep, every) else torch.arange(len(sweep))
    assert number is not None
    kept = number % every == every // 2
    return sweep.kept(kept), sweep.kept(~kept)
