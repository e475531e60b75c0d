"""Made-up surroundings for scanners: streets with houses, cars, poles, trees, and rooms with furniture. The ground is at z = 0, metres."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .solids import BALL, BOX, CYLINDER, Solids, solid

__all__ = ["PLACES", "room", "street"]

Rng = np.random.Generator
Color = tuple[float, float, float]


def _color(rng: Rng, base: float = 0.5, spread: float = 0.3, tint: float = 0.12) -> Color:
    value = rng.uniform(base - spread, base + spread)
    r, g, b = np.clip(value + rng.uniform(-tint, tint, 3), 0.02, 0.98)
    return float(r), float(g), float(b)


def _car(rng: Rng) -> list[Solids]:
    """About 4.3 m long along x, its wheels on z = 0."""
    length, width, height = rng.uniform(1.8, 2.4), rng.uniform(0.8, 0.95), rng.uniform(1.35, 1.75)
    paint, belt = _color(rng, 0.45, 0.43, 0.25), rng.uniform(0.8, 0.95)
    body = solid(BOX, (0, 0, (belt + 0.25) / 2), (length, width, (belt - 0.25) / 2), "movable", paint)
    shift = rng.uniform(-0.5, 0.1)
    shape, grow = (BALL, 1.35) if rng.random() < 0.6 else (BOX, 1.0)
    cabin = solid(shape, (shift, 0, belt), (rng.uniform(0.9, 1.5) * grow, width * 0.9 * grow, (height - belt)), "movable", _color(rng, 0.15, 0.1))
    wheels = [
        solid(CYLINDER, (sx * length * 0.62, sy * width * 0.95, 0.32), (0.32, 0.32, 0.1), "movable", (0.08, 0.08, 0.08), roll=math.pi / 2)
        for sx in (-1, 1) for sy in (-1, 1)
    ]  # fmt: skip
    return [body, cabin, *wheels]


def _truck(rng: Rng) -> list[Solids]:
    length, width, floor, top = rng.uniform(2.5, 6), rng.uniform(1.0, 1.28), rng.uniform(0.6, 1.2), rng.uniform(2.4, 4.0)
    paint = _color(rng, 0.5, 0.4, 0.25)
    if rng.random() < 0.25:  # a tanker
        load = solid(CYLINDER, (0, 0, (floor + top) / 2), ((top - floor) / 2, width, length), "movable", paint, pitch=math.pi / 2)
    else:
        load = solid(BOX, (0, 0, (floor + top) / 2), (length, width, (top - floor) / 2), "movable", paint)
    extra = []
    if rng.random() < 0.6:  # its open or ribbed back, its sides
        for x, turn in ((-length, math.pi), (0.0, math.pi / 2), (0.0, -math.pi / 2)):
            deep, color = rng.uniform(0.1, 1.2), _color(rng, 0.4, 0.35, 0.25)
            half = width if x else length
            rib = _frame(rng, half * rng.uniform(0.7, 1), (top - floor) / 2 * rng.uniform(0.5, 1), deep, color)
            off = (x, 0.0) if x else (0.0, math.copysign(width, turn))
            extra.append(Solids.together(rib).moved(turn, (*off, floor)))
    cab = solid(BOX, (length + 1.1, 0, 1.6), (0.95, width, rng.uniform(0.9, 1.3)), "movable", _color(rng, 0.4, 0.3, 0.3))
    chassis = solid(BOX, (0.5, 0, 0.75), (length + 1, width * 0.35, 0.15), "movable", (0.1, 0.1, 0.1))
    axles = [solid(CYLINDER, (x, 0, 0.5), (0.5, 0.5, width), "movable", (0.07, 0.07, 0.07), roll=math.pi / 2) for x in (-length * 0.7, -length * 0.4, length + 0.9)]
    return [load, cab, chassis, *axles, *extra]


def _frame(rng: Rng, wide: float, tall: float, deep: float, color: Color) -> list[Solids]:
    """A grid of bars in the plane x = 0, in front of what lies `deep` behind: windows, racks, the back of a lorry, scaffolding."""
    bar, parts = rng.uniform(0.04, 0.25), []
    for y in np.linspace(-wide, wide, rng.integers(2, 5)):
        parts.append(solid(BOX, (deep / 2, y, tall), (deep / 2, bar, tall), "structure", color))
    for z in np.linspace(0, 2 * tall, rng.integers(2, 5)):
        parts.append(solid(BOX, (deep / 2, 0, z), (deep / 2, wide, bar), "structure", color))
    return parts


def _clutter(rng: Rng, count: int, where: Callable[[], tuple[float, float, float]], largest: float) -> list[Solids]:
    """Boxes, balls and cylinders of every size and turn: nothing in the world is as tidy as the rest of this file."""
    parts = []
    for _ in range(count):
        half = np.exp(rng.uniform(math.log(0.04), math.log(largest), 3))
        yaw, pitch, roll = rng.uniform(0, 6.3), rng.normal(0, 0.4) * (rng.random() < 0.4), rng.normal(0, 0.4) * (rng.random() < 0.4)
        at = where()
        if math.hypot(at[0], at[1]) > 1.2 + float(half.max()):
            parts.append(solid(int(rng.integers(3)), at, (float(half[0]), float(half[1]), float(half[2])), "structure", _color(rng, 0.5, 0.4, 0.2), yaw, pitch, roll))
    return parts


def _person(rng: Rng) -> list[Solids]:
    tall, cloth = rng.uniform(1.5, 1.95), _color(rng, 0.4, 0.35, 0.25)
    body = solid(BALL, (0, 0, tall * 0.62), (0.2, 0.28, tall * 0.24), "movable", cloth)
    head = solid(BALL, (0, 0, tall - 0.13), (0.1, 0.1, 0.14), "movable", (0.7, 0.55, 0.45))
    legs = [solid(CYLINDER, (0.1 * s, 0.1 * s, tall * 0.24), (0.08, 0.08, tall * 0.24), "movable", _color(rng, 0.25, 0.15)) for s in (-1, 1)]
    return [body, head, *legs]


def _tree(rng: Rng) -> list[Solids]:
    trunk, crown = rng.uniform(1.2, 3.5), rng.uniform(1.0, 2.8)
    thick = rng.uniform(0.08, 0.3)
    parts = [solid(CYLINDER, (0, 0, trunk / 2 + 0.5), (thick, thick, trunk / 2 + 0.5), "structure", (0.3, 0.24, 0.18))]
    for _ in range(rng.integers(2, 5)):
        x, y, z = rng.uniform(-0.6, 0.6, 3) * crown
        green = (float(rng.uniform(0.1, 0.3)), float(rng.uniform(0.25, 0.45)), float(rng.uniform(0.08, 0.2)))
        parts.append(solid(BALL, (x, y, trunk + crown * 0.7 + z), tuple(crown * rng.uniform(0.4, 0.8, 3)), "noise", green, porous=True))
    return parts


def _pole(rng: Rng) -> list[Solids]:
    tall, thick = rng.uniform(2.2, 8), rng.uniform(0.04, 0.15)
    parts = [solid(CYLINDER, (0, 0, tall / 2), (thick, thick, tall / 2), "structure", _color(rng, 0.45, 0.2, 0.03))]
    if rng.random() < 0.5:
        parts.append(solid(BOX, (0, 0, tall - rng.uniform(0.3, 0.8)), (0.03, rng.uniform(0.25, 0.5), rng.uniform(0.2, 0.6)), "structure", _color(rng, 0.6, 0.3, 0.3)))
    return parts


def _house(rng: Rng, wide: float) -> list[Solids]:
    """Its front along x at y = 0, the house behind it."""
    deep, tall, wall = rng.uniform(4, 9), rng.uniform(2.5, 14), _color(rng, 0.6, 0.25, 0.1)
    parts = [solid(BOX, (0, deep, tall / 2), (wide, deep, tall / 2), "structure", wall)]
    for _ in range(rng.integers(0, 4)):  # bays, porches, balconies
        size = (rng.uniform(0.4, 1.6), rng.uniform(0.2, 1.0), rng.uniform(0.1, 1.4))
        parts.append(solid(BOX, (rng.uniform(-wide, wide) * 0.8, 0, rng.uniform(0.5, min(tall, 7))), size, "structure", _color(rng, 0.5, 0.3)))
    for _ in range(rng.integers(0, 3)):
        half = rng.uniform(0.5, min(wide, 4))
        grid = Solids.together(_frame(rng, half, rng.uniform(0.4, 2.5), rng.uniform(0.1, 1.5), _color(rng, 0.5, 0.3)))
        parts.append(grid.moved(-math.pi / 2, (rng.uniform(-wide + half, wide - half) if wide > half else 0.0, 0.0, rng.uniform(0, 3))))
    if rng.random() < 0.4:
        parts.append(solid(BOX, (0, deep, tall), (wide, deep * 0.72, deep * 0.72), "structure", _color(rng, 0.4, 0.2, 0.15), roll=math.pi / 4))
    return parts


def _edging(rng: Rng, long: float) -> list[Solids]:
    """A wall, hedge, fence or guard rail along x."""
    kind, tall = rng.integers(4), rng.uniform(0.5, 2.2)
    color = _color(rng, 0.45, 0.3, 0.15)
    if kind == 0:
        return [solid(BOX, (0, 0, tall / 2), (long, 0.1, tall / 2), "structure", color)]
    if kind == 1:
        return [solid(BOX, (0, 0, tall / 2), (long, 0.4, tall / 2), "noise", (0.2, 0.35, 0.15), porous=True)]
    if kind == 2:
        rails = [solid(BOX, (0, 0, z), (long, 0.03, 0.04), "structure", color) for z in (tall * 0.4, tall)]
        return rails + [solid(BOX, (x, 0, tall / 2), (0.05, 0.05, tall / 2), "structure", color) for x in np.linspace(-long, long, max(2, int(long / 1.2)))]
    return [solid(BOX, (0, 0, 0.62), (long, 0.05, 0.16), "structure", (0.6, 0.6, 0.62)), solid(BOX, (0, 0.05, 0.3), (long, 0.02, 0.03), "structure", color)]


def _put(parts: list[Solids], yaw: float, x: float, y: float, z: float = 0.0) -> list[Solids]:
    return [Solids.together(parts).moved(yaw, (x, y, z))]


def street(rng: Rng) -> Solids:
    """A road along x with what stands beside and on it; the scanner's place, around (0, 0), is free within about two metres."""
    road, slope = rng.uniform(3.5, 9), rng.uniform(-0.02, 0.02, 2)
    out = [solid(BOX, (0, 0, -50), (400, 400, 50), "ground", _color(rng, 0.35, 0.15, 0.03), pitch=slope[0], roll=slope[1])]
    for side in (-1, 1):
        if rng.random() < 0.8:  # pavement, bank or lawn
            rise = rng.uniform(0.08, 0.25)
            out.append(solid(BOX, (0, side * (road + 15), rise / 2 - 0.5), (200, 15, rise / 2 + 0.5), "ground", _color(rng, 0.5, 0.15, 0.06), roll=-side * rng.uniform(0, 0.1) * (rng.random() < 0.4)))
        x, front = -60.0, road + rng.uniform(1.5, 14)
        while x < 75:
            wide = rng.uniform(3, 14)
            if rng.random() < 0.75:
                out += _put(_house(rng, wide), 0 if side > 0 else math.pi, x + wide, side * (front + rng.uniform(0, 2)))
            x += 2 * wide + rng.uniform(0, 10)
        for _ in range(rng.integers(0, 3)):
            long = rng.uniform(2, 15)
            out += _put(_edging(rng, long), rng.normal(0, 0.05), rng.uniform(-30, 40), side * (road + rng.uniform(0.5, 5)))
        for make, most, far in ((_tree, 5, 6), (_pole, 6, 2), (_person, 4, 3)):
            for _ in range(rng.integers(0, most)):
                out += _put(make(rng), rng.uniform(0, 6.3), rng.uniform(-25, 40), side * (road + rng.uniform(-0.3, far)))
    lanes = np.arange(-road + 1.4, road - 0.9, 3.2)
    taken: list[tuple[float, float]] = [(0.0, 0.0)]
    for _ in range(rng.integers(2, 14)):
        x, y = float(rng.normal(4, 18)), float(rng.choice(lanes) if len(lanes) else 0) + rng.normal(0, 0.3)
        big = rng.random() < 0.25
        if all(abs(x - a) > (9 if big else 5) or abs(y - b) > 2.3 for a, b in taken) and (abs(x) > (8 if big else 4.5) or abs(y) > 2.4):
            taken.append((x, y))
            out += _put(_truck(rng) if big else _car(rng), (0 if y < 0 else math.pi) + rng.normal(0, 0.06) + (rng.random() < 0.1) * 1.2, x, y)
    near = lambda: (float(rng.normal(3, 14)), float(rng.normal(0, road + 3)), float(rng.exponential(0.7)))  # noqa: E731
    out += _clutter(rng, int(rng.integers(5, 60)), near, 1.2)
    if rng.random() < 0.2:  # a bridge
        out.append(solid(BOX, (rng.uniform(8, 45), 0, rng.uniform(4.2, 7)), (rng.uniform(2, 6), 60, rng.uniform(0.3, 0.8)), "structure", _color(rng, 0.45, 0.15, 0.03), yaw=rng.normal(0, 0.2)))
    return Solids.together(out)


def room(rng: Rng) -> Solids:
    """A room around (0, 0) with furniture."""
    a, b, tall = rng.uniform(1.8, 6), rng.uniform(1.6, 5), rng.uniform(2.2, 3.8)
    wall = _color(rng, 0.7, 0.2, 0.08)
    out = [solid(BOX, (0, 0, tall / 2), (a, b, tall / 2), "structure", wall), solid(BOX, (0, 0, -0.5), (a, b, 0.5), "ground", _color(rng, 0.4, 0.2, 0.1))]
    for _ in range(rng.integers(4, 16)):
        kind = rng.integers(5)
        x, y = rng.uniform(-a, a) * 0.85, rng.uniform(-b, b) * 0.85
        if math.hypot(x, y) < 0.9:
            continue
        color, yaw = _color(rng, 0.5, 0.35, 0.2), rng.uniform(0, 1.6)
        if kind == 0:  # a table
            long, w, h = rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.8)
            top = [solid(BOX, (0, 0, h), (long, w, 0.02), "structure", color)]
            legs = [solid(BOX, (sx * long * 0.9, sy * w * 0.9, h / 2), (0.03, 0.03, h / 2), "structure", color) for sx in (-1, 1) for sy in (-1, 1)]
            out += _put(top + legs, yaw, x, y)
        elif kind == 1:  # a cupboard
            h = rng.uniform(0.3, 1.0)
            out.append(solid(BOX, (x, y, h), (rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.4), h), "structure", color, yaw=yaw))
        elif kind == 2:
            r = rng.uniform(0.1, 0.4)
            out.append(solid(BALL, (x, y, r), (r, r, r * rng.uniform(0.6, 1.5)), "movable", color))
        elif kind == 3:
            out += _put(_person(rng) if rng.random() < 0.4 else [solid(CYLINDER, (0, 0, 0.6), (0.05, 0.05, 0.6), "structure", color), solid(BALL, (0, 0, 1.3), (0.2, 0.2, 0.15), "structure", color)], yaw, x, y)
        else:  # a chair or sofa
            w = rng.uniform(0.22, 0.8)
            out += _put([solid(BOX, (0, 0, 0.42), (w, 0.25, 0.06), "movable", color), solid(BOX, (0, 0.25, 0.65), (w, 0.04, 0.3), "movable", color)], yaw, x, y)
    out += _clutter(rng, int(rng.integers(5, 40)), lambda: (float(rng.uniform(-a, a)), float(rng.uniform(-b, b)), float(rng.uniform(0, tall * 0.7))), 0.5)
    for _ in range(rng.integers(0, 3)):
        side = rng.choice([-1, 1])
        grid = Solids.together(_frame(rng, rng.uniform(0.3, 1.2), rng.uniform(0.3, tall / 2 - 0.1), rng.uniform(0.1, 0.5), _color(rng)))
        out.append(grid.moved(0.0 if side < 0 else math.pi, (side * a, rng.uniform(-b, b) * 0.7, rng.uniform(0, 0.6))))
    return Solids.together(out)


PLACES: dict[str, Callable[[Rng], Solids]] = {"street": street, "room": room}
