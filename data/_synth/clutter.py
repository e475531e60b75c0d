"""Made-up scenes of random things: what a network learns from must not be the demo's seven objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from . import textures as tx
from .scenes import Stage
from .surfaces import Sheet, blob, box, rectangle, revolved, sphere, torus

__all__ = ["still_life", "toys"]

Array = np.ndarray
Color = tuple[float, float, float]
Rng = np.random.Generator

WORDS = ("HANDFUL", "PHOTOS", "DEPTH", "SPLATS", "VIEWS", "STEREO", "3D")


def _color(rng: Rng) -> Color:
    """From nearly black to nearly white, sometimes strong."""
    r, g, b = np.clip(rng.uniform(0.1, 0.9) + rng.uniform(0.03, 0.35) * rng.uniform(-1, 1, 3), 0.03, 0.97)
    return float(r), float(g), float(b)


def _tinted(texture: tx.Texture, tint: Color) -> tx.Texture:
    def tinted(seed: int, xyz: Array, uv: Array) -> Array:
        return np.clip(texture(seed, xyz, uv) * np.asarray(tint, np.float32), 0, 1)

    return tinted


def _texture(rng: Rng) -> tx.Texture:
    """For any sheet. One in five has next to no texture."""
    pick = rng.random()
    if pick < 0.2:
        return tx.plaster(_color(rng), float(rng.uniform(0.02, 0.15)))
    if pick < 0.4:
        return tx.plaster(_color(rng), float(rng.uniform(0.2, 0.6)))
    if pick < 0.6:
        return tx.checker(_color(rng), _color(rng), int(rng.integers(2, 9)))
    if pick < 0.75:
        return tx.print_(str(rng.choice(WORDS)), _color(rng), _color(rng), int(rng.integers(0, 9)))
    base = (tx.marble, tx.wood, tx.brick, tx.vase, tx.canvas)[int(rng.integers(5))]
    r, g, b = rng.uniform(0.5, 1.3, 3)
    return _tinted(base, (float(r), float(g), float(b)))


def _bumpy(rng: Rng, size: float) -> Callable[[Array, Array], Array]:
    a, b = rng.integers(0, 7, 2)
    deep, lean = rng.uniform(0, 0.25), rng.uniform(-0.3, 0.3)

    def radius(angle: Array, height: Array) -> Array:
        return size * (1 + deep * np.cos(a * angle) * np.cos(height) ** 2 * np.cos(b * height)) * (1 + lean * np.sin(height))

    return radius


def _thing(rng: Rng, at: Array, size: float) -> list[Sheet]:
    """Something about 2 `size` wide and high that stands on `at`."""
    turn, paint, pick = float(rng.uniform(0, 360)), _texture(rng), rng.random()
    up = np.array([0, 0, 1.0])
    if pick < 0.4:
        half = size * np.exp(rng.uniform(-0.9, 0.5, 3))
        return box(at, 2 * half, turn, paint, _texture(rng) if rng.random() < 0.5 else None)
    if pick < 0.5:  # a board or a pole
        thin = size * rng.uniform(0.05, 0.15)
        return box(at, np.array([2 * size, thin, size * 2.5] if rng.random() < 0.5 else [thin, thin, size * 4]), turn, paint)
    if pick < 0.65:
        return [sphere(at + size * up, size, turn, paint)]
    if pick < 0.8:
        return [blob(at + 1.05 * size * up, _bumpy(rng, size), turn, size, paint)]
    if pick < 0.88:
        tube = size * rng.uniform(0.2, 0.45)
        return [torus(at + tube * up, size, tube, turn, paint)]
    heights = np.linspace(2.4 * size, 0, 6)
    profile = [(float(size * rng.uniform(0.3, 1.0)), float(h)) for h in heights]
    return [revolved(at, profile, turn, paint)]


def _spread(rng: Rng, count: int, reach: Array, sizes: tuple[float, float]) -> list[list[Sheet]]:
    """Things on the plane z = 0 about the origin, with little overlap; some carry another."""
    taken: list[tuple[Array, float]] = []
    things: list[list[Sheet]] = []
    for _ in range(40 * count):
        if len(taken) == count:
            break
        size = float(np.exp(rng.uniform(*np.log(sizes))))
        at = np.append(rng.uniform(-1, 1, 2) * reach, 0.0)
        if any(np.hypot(*(at - other)[:2]) < 1.1 * (size + s) for other, s in taken):
            continue
        taken.append((at, size))
        if rng.random() < 0.25:
            half = size * np.exp(rng.uniform(-0.4, 0.1, 3))
            things.append(box(at, 2 * half, float(rng.uniform(0, 360)), _texture(rng)))
            things.append(_thing(rng, at + np.array([0, 0, 2 * half[2]]), 0.6 * float(half[:2].min())))
        else:
            things.append(_thing(rng, at, size))
    return things


def _lit(stage: Stage, rng: Rng) -> Stage:
    x, y = rng.uniform(-1, 1, 2)
    r, g, b = rng.uniform(0.75, 1.15, 3) * (1.6, 1.55, 1.4)
    return replace(stage, sun=(float(x), float(min(y, 0.3)), float(rng.uniform(0.5, 1.2))), sun_color=(float(r), float(g), float(b)))


def still_life(seed: int) -> Stage:
    """Random things on a floor or table; most with walls behind them, some before an even background."""
    rng = np.random.default_rng([11, seed])
    wide, back = rng.uniform(2.6, 4.5), rng.uniform(1.4, 3.0)
    tall, front = rng.uniform(2.5, 4.5), rng.uniform(3.0, 5.5)
    reach = np.array([0.55 * wide, 0.75 * min(back, 1.8)])
    objects = _spread(rng, int(rng.integers(4, 13)), reach, (0.14, 0.55))
    walls = rng.random() < 0.75
    floor = (wide, back, front) if walls else tuple(x * rng.uniform(0.6, 1.2) for x in (wide, back, 2.0))
    w, b, f = (float(x) for x in floor)
    objects.append([rectangle(np.array([-w, b, 0]), np.array([2 * w, 0, 0]), np.array([0, -b - f, 0]), _texture(rng))])
    if walls:
        objects.append([rectangle(np.array([-w, b, tall]), np.array([2 * w, 0, 0]), np.array([0, 0, -tall]), _texture(rng))])
        objects.append([rectangle(np.array([-w, -f, tall]), np.array([0, b + f, 0]), np.array([0, 0, -tall]), _texture(rng))])
        if rng.random() < 0.5:
            objects.append([rectangle(np.array([w, b, tall]), np.array([0, -b - f, 0]), np.array([0, 0, -tall]), _texture(rng))])
    x, y = rng.uniform(-0.2, 0.2, 2)
    return _lit(Stage(objects, (float(x), float(y), float(rng.uniform(0.2, 0.5))), float(rng.uniform(3.2, 5.0)), float(rng.uniform(12, 40)), _color(rng)), rng)


def toys(seed: int) -> Stage:
    """A few random things close together, nothing around them: white background, masks."""
    rng = np.random.default_rng([12, seed])
    objects = _spread(rng, int(rng.integers(2, 6)), np.array([0.5, 0.5]), (0.2, 0.5))
    if rng.random() < 0.5:
        objects.append(box(np.array([0, 0, -0.1]), np.array([1.8, 1.8, 0.1]), float(rng.uniform(0, 90)), _texture(rng)))
    return _lit(Stage(objects, (0.0, 0.0, float(rng.uniform(0.25, 0.45))), float(rng.uniform(3.0, 4.2)), float(rng.uniform(5, 40))), rng)
