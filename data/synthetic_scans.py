"""Scans with known truth: made-up streets and rooms (data/_synth/streets.py), cast by scanners of several kinds with their faults.

World: the ground at z = 0, metres. A scanner's frame is x forward, y left, z up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.scan.labels import LABELS
from ..recon.sweeps import Sweep
from ._synth.solids import Solids
from ._synth.streets import PLACES

__all__ = ["PATTERNS", "Pattern", "ScannedPlace", "SeenPlace", "make_place", "scan", "see"]

SUN = (0.4, -0.55, 0.73)


@dataclass(frozen=True)
class Pattern:
    """Directions that a scanner looks into, unit vectors in its frame; ring: their beam, -1 where it has none."""

    directions: Float[Tensor, "B 3"]
    ring: Int[Tensor, "B"]


@dataclass(frozen=True)
class ScannedPlace:
    """A scan, and the label of each return (index into LABELS)."""

    sweep: Sweep
    label: Int[Tensor, "N"]


@dataclass(frozen=True)
class SeenPlace:
    """What a camera sees: z-depth (0 = sky), label (-1 = sky), sRGB."""

    depth: Float[Tensor, "H W"]
    label: Int[Tensor, "H W"]
    image: Float[Tensor, "H W 3"]


def make_place(seed: int, kind: str = "street") -> Solids:
    return PLACES[kind](np.random.default_rng(seed))


def _toward(azimuth: np.ndarray, elevation: np.ndarray) -> Tensor:
    a, e = torch.tensor(azimuth), torch.tensor(np.array(elevation))
    return torch.stack([a.cos() * e.cos(), a.sin() * e.cos(), e.sin()], -1).float()


def _rings(rng: np.random.Generator, elevation: np.ndarray, step: float, sector: tuple[float, float]) -> Pattern:
    """Beams at the given elevations (radians, the lowest first), each going round in its own phase."""
    azimuth = np.arange(sector[0], sector[1], step)
    wobble = elevation + rng.normal(0, 0.0007, len(elevation))
    a = azimuth[None] + rng.uniform(0, step, (len(elevation), 1))
    e = np.broadcast_to(wobble[:, None], a.shape)
    ring = torch.arange(len(elevation))[:, None].expand(-1, len(azimuth)).reshape(-1)
    return Pattern(_toward(a, e).reshape(-1, 3), ring)


def spinning64(rng: np.random.Generator, sector: tuple[float, float] = (-math.pi, math.pi)) -> Pattern:
    """64 beams as in the HDL-64: a third of a degree apart from +2 to -8.3, half a degree down to -24.8."""
    elevation = np.concatenate([np.linspace(-24.8, -8.83, 32), np.linspace(-8.33, 2.0, 32)])
    return _rings(rng, np.radians(elevation), math.radians(0.18), sector)


def spinning(rng: np.random.Generator, sector: tuple[float, float] = (-math.pi, math.pi)) -> Pattern:
    """16 to 128 beams, evenly over 26 to 45 degrees."""
    beams, top, field = int(rng.choice([16, 32, 64, 128])), rng.uniform(3, 22), rng.uniform(26, 45)
    return _rings(rng, np.radians(np.linspace(top - field, top, beams)), math.radians(rng.uniform(0.15, 0.4)), sector)


def scattered(rng: np.random.Generator, sector: tuple[float, float] = (-math.pi, math.pi)) -> Pattern:
    """Directions without order, as of a solid-state scanner with a rosette, or of a cloud that was thinned."""
    share = (sector[1] - sector[0]) / (2 * math.pi)
    count, low, high = int(rng.uniform(8_000, 60_000) * share), math.radians(rng.uniform(-35, -15)), math.radians(rng.uniform(5, 30))
    return Pattern(_toward(rng.uniform(*sector, count), rng.uniform(low, high, count)), torch.full((count,), -1))


def picture(rng: np.random.Generator, sector: tuple[float, float] = (-math.pi, math.pi)) -> Pattern:
    """A depth picture's grid, as of a phone; it looks along the middle of the sector."""
    columns, middle = int(rng.uniform(60, 200)), sum(sector) / 2
    half = math.tan(min((sector[1] - sector[0]) / 2, math.radians(35)))
    x, y = np.meshgrid(np.linspace(-half, half, columns), np.linspace(-half * 0.75, half * 0.75, int(columns * 0.75)))
    return Pattern(_toward(middle + np.arctan(x), np.arctan(y / np.hypot(1, x))).reshape(-1, 3), torch.full((x.size,), -1))


PATTERNS: dict[str, Callable[..., Pattern]] = {"spinning64": spinning64, "spinning": spinning, "scattered": scattered, "picture": picture}


def scan(
    place: Solids, pattern: Pattern, world_from_sensor: Float[Tensor, "4 4"], rng: np.random.Generator,
    noise: float = 0.015, reach: float = 80.0, lost: float = 0.05, stray: float = 0.001,
) -> ScannedPlace:  # fmt: skip
    """One scan with a scanner's faults: noise along the ray (metres), no return from beyond reach, from a share of all beams, from dark things far off and
    from surfaces met at a glancing angle; a few returns from between two surfaces, and stray echoes on nothing (label noise)."""
    torch_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))
    R, center = world_from_sensor[:3, :3], world_from_sensor[:3, 3]
    directions = pattern.directions @ R.T
    hit = place.cast(center.expand_as(directions), directions, torch_rng)
    found = hit.solid.clamp_min(0)
    glance = (hit.normal * directions).sum(1).abs()
    dark = (1 - place.rgb[found].mean(1)) * (hit.t / reach).clamp(0, 1)
    draw = torch.rand(3, len(directions), generator=torch_rng)
    kept = (hit.solid >= 0) & (hit.t < reach) & (draw[0] > lost) & (draw[1] > dark) & (glance > 0.01 + 0.04 * draw[2])
    beside = hit.t.roll(1)  # a beam is as wide as the step to the next: at an edge some return from between
    mixed = torch.isfinite(beside) & (torch.rand(len(directions), generator=torch_rng) < 0.1) & (pattern.ring == pattern.ring.roll(1))
    met = torch.where(mixed, beside + (hit.t - beside) * torch.rand(len(directions), generator=torch_rng), hit.t)
    distance = met + noise * torch.randn(len(directions), generator=torch_rng)
    label = place.label[found]
    strays = torch.rand(len(directions), generator=torch_rng) < stray
    distance = torch.where(strays, torch.rand(len(directions), generator=torch_rng) * hit.t.clamp_max(reach), distance)
    label = torch.where(strays, LABELS.index("noise"), label)
    kept = (kept | strays) & (distance > 0.3)
    xyz = (pattern.directions * distance[:, None])[kept]
    ring = pattern.ring[kept]
    sweep = Sweep(xyz, world_from_sensor, "made-up", rgb=place.rgb[found][kept], ring=None if bool((ring < 0).any()) or not len(ring) else ring)
    return ScannedPlace(sweep, label[kept])


def see(place: Solids, camera: Cameras, seed: int = 0) -> SeenPlace:
    """One camera's exact z-depth at the pixel centres, labels and a picture (flat shading and a pattern on every surface; not anti-aliased)."""
    origins, directions = (x.reshape(-1, 3).float() for x in camera.rays())
    hit = place.cast(origins, directions, torch.Generator().manual_seed(seed))
    there, found = hit.solid >= 0, hit.solid.clamp_min(0)
    t = torch.where(there, hit.t, 0.0)
    z = t * (directions @ camera.cam_from_world[0, 2, :3].float())
    at = origins + t[:, None] * directions
    light = 0.55 + 0.45 * (hit.normal @ torch.nn.functional.normalize(torch.tensor(SUN), dim=0)).clamp_min(0)
    wave = 1 + 0.12 * torch.sin(at * torch.tensor([5.1, 4.3, 6.7])).sum(1) * (found % 3 > 0) + 0.1 * ((at * 1.7).floor().sum(1) % 2) * (found % 2)
    rgb = (place.rgb[found] * (light * wave)[:, None]).clamp(0, 1)
    rgb = torch.where(there[:, None], rgb, torch.tensor([0.72, 0.82, 0.95]))
    shape = (camera.height, camera.width)
    return SeenPlace(torch.where(there, z, 0.0).reshape(shape), torch.where(there, place.label[found], -1).reshape(shape), rgb.reshape(*shape, 3))
