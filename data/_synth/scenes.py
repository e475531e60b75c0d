"""What stands in the made-up scenes: each kind is a list of objects, an object a list of sheets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import textures as tx
from .surfaces import Sheet, blob, box, rectangle, revolved, sphere, torus

__all__ = ["Stage", "blank", "plane", "room", "single_object", "tabletop"]

Array = np.ndarray


@dataclass(frozen=True)
class Stage:
    """Objects and how a photographer would stand to them.

    Attributes:
        objects: each a list of sheets.
        target, distance, elevation: where cameras look, from how far, how high (degrees).
        background: linear RGB where no surface is.
        sun: direction towards the light; sun_color, sky_color: tuple[float, float, float] = (0.42, 0.47, 0.55)
        spread: half the angle of the softened sun, degrees.
    """

    objects: list[list[Sheet]]
    target: tuple[float, float, float]
    distance: float
    elevation: float
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sun: tuple[float, float, float] = (1.0, -0.42, 0.78)
    sun_color: tuple[float, float, float] = (1.75, 1.56, 1.28)
    sky_color: tuple[float, float, float] = (0.42, 0.47, 0.55)
    spread: float = 4.0


_VASE = [(0.20, 0.95), (0.17, 0.90), (0.11, 0.80), (0.12, 0.70), (0.26, 0.50), (0.30, 0.30), (0.22, 0.10), (0.16, 0.03), (0.17, 0.0)]


def _gourd(angle: Array, height: Array) -> Array:
    return 0.34 * (1 + 0.07 * np.cos(10 * angle) * np.cos(height)) * (1 - 0.16 * np.sin(height) ** 2 - 0.10 * np.exp(-((np.abs(height) - np.pi / 2) ** 2) * 12))


def _books(rng: np.random.Generator, base: Array) -> list[list[Sheet]]:
    covers = [((0.16, 0.30, 0.46), (0.95, 0.88, 0.70), "STEREO"), ((0.60, 0.16, 0.14), (0.96, 0.90, 0.80), "PHOTOS"), ((0.88, 0.78, 0.50), (0.16, 0.20, 0.18), "SPLATS")]
    out, z, turn = [], 0.0, rng.uniform(8, 20)
    for k, (paper, ink, word) in enumerate(covers):
        size = (1.05 - 0.09 * k, 0.78 - 0.05 * k, rng.uniform(0.13, 0.18))
        turn += rng.uniform(-14, 14)
        spine, top = tx.print_(word, paper, ink, lines=0), tx.print_(word, paper, ink, lines=5)
        out.append(box(base + np.array([0, 0, z]), np.array(size), turn, spine, top))
        z += size[2]
    return out


def _room(x: tuple[float, float], y: tuple[float, float], height: float) -> list[list[Sheet]]:
    """Table top (or floor) at z = 0, brick wall at the far y, plaster wall at the low x."""
    (x0, x1), (y0, y1) = x, y
    floor = rectangle(np.array([x0, y1, 0]), np.array([x1 - x0, 0, 0]), np.array([0, y0 - y1, 0]), tx.wood)
    back = rectangle(np.array([x0, y1, height]), np.array([x1 - x0, 0, 0]), np.array([0, 0, -height]), tx.brick)
    left = rectangle(np.array([x0, y0, height]), np.array([0, y1 - y0, 0]), np.array([0, 0, -height]), tx.plaster((0.62, 0.70, 0.66)))
    return [[floor], [back], [left]]


def _picture(x: float, y: float, z: float, width: float, height: float) -> list[Sheet]:
    """A framed canvas hung 0.05 before a wall that faces -y."""
    center = np.array([x, y - 0.05, z])
    front = rectangle(center + np.array([-width / 2, 0, height / 2]), np.array([width, 0, 0]), np.array([0, 0, -height]), tx.canvas)
    rim = box(center + np.array([0, 0.026, -height / 2 - 0.001]), np.array([width, 0.05, height]), 0.0, tx.plaster((0.23, 0.16, 0.10)))
    return [front, *rim]


def tabletop(seed: int) -> Stage:
    """The demo: a wooden table in a corner of a room, with books, boxes, a globe, a vase, a doughnut, a gourd and a cube."""
    rng = np.random.default_rng(seed)

    def jitter(x: float, y: float, z: float = 0.0) -> Array:
        return np.array([x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.06, 0.06), z])

    gift = (tx.checker((0.86, 0.82, 0.70), (0.24, 0.46, 0.42), 5), tx.checker((0.86, 0.82, 0.70), (0.70, 0.22, 0.20), 5))
    globe_at = jitter(-0.32, 0.55)
    objects = [
        *_room((-2.9, 4.4), (-3.6, 1.75), 3.4),
        _picture(-0.75, 1.75, 1.85, 1.35, 0.95),
        *_books(rng, jitter(-1.35, 0.30)),
        box(jitter(0.98, 0.75), np.array([0.82, 0.34, 1.18]), rng.uniform(-24, -10), tx.print_("HANDFUL", (0.93, 0.86, 0.62), (0.16, 0.24, 0.42), lines=6)),
        box(jitter(1.75, 0.10), np.array([0.50, 0.50, 0.46]), rng.uniform(15, 40), *gift),
        [sphere(globe_at + np.array([0, 0, 0.60]), 0.40, rng.uniform(0, 360), tx.globe)],
        [revolved(globe_at, [(0.10, 0.24), (0.08, 0.20), (0.07, 0.12), (0.22, 0.03), (0.22, 0.0)], 0.0, tx.marble, rows=16, cols=48)],
        [revolved(jitter(0.28, 0.30), _VASE, rng.uniform(0, 360), tx.vase)],
        [torus(jitter(0.62, -0.72, 0.125), 0.27, 0.125, rng.uniform(0, 360), tx.donut)],
        [blob(jitter(-0.62, -0.55, 0.275), _gourd, rng.uniform(0, 360), 0.34, tx.pumpkin)],
        box(jitter(0.02, -1.02), np.array([0.26, 0.26, 0.26]), rng.uniform(20, 60), tx.print_("3D", (0.90, 0.88, 0.84), (0.75, 0.20, 0.16), lines=3)),
    ]
    return Stage(objects, target=(0.12, 0.12, 0.45), distance=4.6, elevation=23.0)


def room(seed: int) -> Stage:
    """Larger depth range: boxes and a sphere near, walls far."""
    rng = np.random.default_rng(seed)
    words = ["HANDFUL", "PHOTOS", "DEPTH", "SPLATS", "VIEWS"]
    colors = [(0.90, 0.82, 0.62), (0.55, 0.20, 0.16), (0.20, 0.36, 0.48), (0.50, 0.58, 0.36), (0.85, 0.60, 0.30)]
    objects = [*_room((-4.2, 6.0), (-4.5, 4.2), 4.6), _picture(-1.2, 4.2, 2.4, 2.2, 1.5), _picture(2.0, 4.2, 2.3, 1.6, 1.3)]
    spots = [(-2.3, 2.2), (-0.4, 2.8), (1.9, 2.4), (-1.3, 0.4), (1.2, 0.3)]
    for (x, y), word, paper in zip(spots, words, colors, strict=True):
        ink = (0.12, 0.14, 0.20) if sum(paper) > 1.3 else (0.95, 0.90, 0.78)
        size = rng.uniform((0.7, 0.6, 0.6), (1.2, 1.0, 1.6))
        at = np.array([x + rng.uniform(-0.2, 0.2), y + rng.uniform(-0.2, 0.2), 0])
        objects.append(box(at, size, rng.uniform(-40, 40), tx.print_(word, paper, ink, lines=5)))
    objects.append([sphere(np.array([0.1, -0.9, 0.5]), 0.5, rng.uniform(0, 360), tx.globe)])
    objects.append([sphere(np.array([2.6, 0.9, 0.45]), 0.45, rng.uniform(0, 360), tx.marble)])
    return Stage(objects, target=(0.0, 1.2, 0.9), distance=6.3, elevation=17.0)


def single_object(seed: int) -> Stage:
    """A gourd, a box and a doughnut stacked, nothing around: captures with masks and a white background."""
    rng = np.random.default_rng(seed)
    side = tx.print_("HANDFUL", (0.88, 0.80, 0.60), (0.16, 0.24, 0.42), lines=4)
    objects = [
        box(np.array([0, 0, -0.6]), np.array([0.95, 0.95, 0.6]), rng.uniform(10, 40), side, tx.checker((0.86, 0.82, 0.70), (0.24, 0.46, 0.42), 5)),
        [blob(np.array([-0.10, 0.05, 0.275]), _gourd, rng.uniform(0, 360), 0.34, tx.pumpkin)],
        [torus(np.array([0.62, -0.55, -0.475]), 0.27, 0.125, rng.uniform(0, 360), tx.donut)],
    ]
    return Stage(objects, target=(0.05, 0.0, -0.1), distance=3.5, elevation=24.0)


def _wall(texture: tx.Texture) -> Stage:
    sheet = rectangle(np.array([-4, 0, 3.0]), np.array([8, 0, 0]), np.array([0, 0, -6]), texture)
    return Stage([[sheet]], target=(0, 0, 0), distance=4.0, elevation=0.0)


def plane(seed: int) -> Stage:
    """One brick wall in the plane y = 0: every answer is known in closed form."""
    return _wall(tx.brick)


def blank(seed: int) -> Stage:
    """A wall of one colour: nothing to match, for errors and confidences."""
    return _wall(tx.blank())
