"""What the scan network learns from: made-up places, scanned by one of several scanners, and what cameras near it see there."""

from __future__ import annotations

import math
import multiprocessing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.synthetic_scans import PATTERNS, make_place, scan, see
from ...recon.camera import Cameras
from ...recon.sweeps import Sweep

__all__ = ["HALF_SECTOR", "Lesson", "Sight", "lesson", "lessons"]

HALF_SECTOR = 0.65  # radians to either side of where the cameras look
PIXEL = math.radians(0.2)
SIZE = (200, 80)  # of the cameras' pictures
SCANNERS = {"spinning64": 0.45, "spinning": 0.25, "scattered": 0.25, "picture": 0.05}
STREETS = 0.8  # share of the places; the rest are rooms


@dataclass(frozen=True)
class Sight:
    """One camera and its exact z-depth, 0 = sky."""

    camera: Cameras
    depth: Float[Tensor, "H W"]


@dataclass(frozen=True)
class Lesson:
    """A whole scan with each return's label, two sights from near the scanner, and the elevations (radians) that it looks at."""

    scanner: str
    sweep: Sweep
    label: Int[Tensor, "N"]
    sights: tuple[Sight, ...]
    elevation: tuple[float, float]


def lesson(seed: int, scanner: str | None = None) -> Lesson:
    """The same for the same seed."""
    rng = np.random.default_rng([7, seed])
    indoors = rng.random() >= STREETS
    place = make_place(int(rng.integers(2**31)), "room" if indoors else "street")
    name = scanner or str(rng.choice(list(SCANNERS), p=list(SCANNERS.values())))
    ahead = rng.uniform(-math.pi, math.pi) if indoors else rng.choice([0, math.pi]) + rng.normal(0, 0.6)
    pattern = PATTERNS[name](rng, (ahead - HALF_SECTOR, ahead + HALF_SECTOR))
    stand = torch.eye(4)
    stand[2, 3] = rng.uniform(0.8, 1.8) if indoors else rng.uniform(1.5, 2.1)
    made = scan(place, pattern, stand, rng, noise=rng.uniform(0.003, 0.03))
    elevation = pattern.directions[:, 2].asin()
    low, high = float(elevation.min()), float(elevation.max())
    sights = []
    for _ in range(2):
        shift = np.array([rng.normal(0.15, 0.3), rng.normal(0, 0.2), rng.normal(-0.05, 0.12)]) * (0.5 if indoors else 1)
        lowest = max(low + 0.05, -0.35)
        pitch = rng.uniform(lowest, max(lowest + 0.01, min(high - 0.02, 0.25)))
        camera = _camera(ahead + rng.uniform(-0.28, 0.28), pitch, stand[:3, 3].numpy() + shift)
        sights.append(Sight(camera, see(place, camera, int(rng.integers(2**31))).depth))
    return Lesson(name, made.sweep, made.label, tuple(sights), (low, high))


def lessons(seeds: range, workers: int, scanner: str | None = None) -> list[Lesson]:
    """Many, by several processes of one thread each."""
    if workers <= 1:
        return [lesson(s, scanner) for s in seeds]
    torch.multiprocessing.set_sharing_strategy("file_system")  # a list of thousands of tensors outnumbers the open files that a process may have
    with multiprocessing.get_context("spawn").Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.starmap(lesson, [(s, scanner) for s in seeds], chunksize=8)


def _camera(yaw: float, pitch: float, center: np.ndarray) -> Cameras:
    focal, (w, h) = 1 / math.tan(PIXEL), SIZE
    forward = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    R = np.stack([right, np.cross(forward, right), forward])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, -R @ center
    K = torch.tensor([[focal, 0, w / 2], [0, focal, h / 2], [0, 0, 1]])
    return Cameras(torch.tensor(T, dtype=torch.float32)[None], K[None], w, h)
