"""Procedural textures, rich enough that features match: lattice noise of several octaves, wood, brick, prints with words, sprinkles.

Every texture is a function (seed, xyz, uv) -> sRGB in [0, 1], all H,W,...: it may use the texel's place in the object (no seam, no
pinched pole) or its place on the sheet. Noise: Perlin 1985 (lattice values), value variant with smooth interpolation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

__all__ = ["Texture", "blank", "brick", "canvas", "checker", "donut", "globe", "marble", "plaster", "print_", "pumpkin", "vase", "wood"]

Array = np.ndarray
Texture = Callable[[int, Array, Array], Array]  # (seed, xyz H,W,3, uv H,W,2) -> H,W,3

# 5x7 capitals, one row of 5 bits per number
_FONT = {
    "A": (14, 17, 17, 31, 17, 17, 17),
    "D": (30, 17, 17, 17, 17, 17, 30),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "N": (17, 25, 21, 21, 19, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "U": (17, 17, 17, 17, 17, 17, 14),
    "V": (17, 17, 17, 17, 17, 10, 4),
    "W": (17, 17, 17, 21, 21, 27, 17),
    "3": (30, 1, 1, 14, 1, 1, 30),
    " ": (0, 0, 0, 0, 0, 0, 0),
}


def _lattice(cell: Array, seed: int) -> Array:
    """A number in [0, 1] for every integer cell (..., 3): a 32-bit mix of its coordinates."""
    c = cell.astype(np.int64).astype(np.uint32)
    h = c[..., 0] * np.uint32(73856093) ^ c[..., 1] * np.uint32(19349663) ^ c[..., 2] * np.uint32(83492791) ^ np.uint32(seed * 2654435761 % 2**32)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(2246822519)
    return (h ^ (h >> np.uint32(15))).astype(np.float32) / np.float32(2**32)


@lru_cache(maxsize=1)
def _volume() -> torch.Tensor:
    """Periodic value noise, 32 cells a side, 4 voxels a cell, last plane = first plane."""
    v = np.random.default_rng(20).random((32, 32, 32), dtype=np.float32)
    f = np.arange(4, dtype=np.float32) / 4
    f = f * f * (3 - 2 * f)
    for axis in range(3):
        nxt = np.roll(v, -1, axis)
        v = np.stack([v * (1 - w) + nxt * w for w in f], axis + 1).reshape(*(n * (4 if k == axis else 1) for k, n in enumerate(v.shape)))
    return torch.from_numpy(np.pad(v, ((0, 1),) * 3, mode="wrap"))[None, None]


@lru_cache(maxsize=1)
def _turn() -> torch.Tensor:
    """An irrational turn: a flat sheet cut through the periodic volume never repeats."""
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]).float()


def noise(xyz: Array, seed: int) -> Array:
    """Smooth value noise of unit cell size in [0, 1]."""
    shift = torch.from_numpy(np.random.default_rng(seed & 0x7FFFFFFF).random(3) * 32).float()
    cells = torch.from_numpy(np.ascontiguousarray(xyz.reshape(-1, 3), np.float32)) @ _turn()
    cells = cells.add_(shift).div_(32)
    cells = cells.sub_(cells.floor()).mul_(2).sub_(1)
    return torch.nn.functional.grid_sample(_volume(), cells[None, None, None], align_corners=True).numpy().reshape(xyz.shape[:-1])


def octaves(xyz: Array, seed: int, count: int = 4, falloff: float = 0.55) -> Array:
    """Sum of `count` octaves in about [0, 1], mean 0.5."""
    total, weight, scale = np.zeros(xyz.shape[:-1], np.float32), 1.0, 1.0
    norm = 0.0
    for k in range(count):
        total += np.float32(weight) * noise(xyz * np.float32(scale) + np.float32(17.3 * k), seed + k)
        norm += weight
        weight, scale = weight * falloff, scale * 2.03
    return total / norm


def _mix(a: Array, b: Array | tuple[float, ...], amount: Array) -> Array:
    return a + (np.asarray(b, np.float32) - a) * np.clip(amount, 0, 1)[..., None]


def _flat(shape: Array, rgb: tuple[float, ...] | Array) -> Array:
    return np.broadcast_to(np.asarray(rgb, np.float32), (*shape.shape[:-1], 3)).copy()


def _speckle(xyz: Array, seed: int, scale: float, strength: float) -> Array:
    """Fine brightness variation that leaves no texel of a surface without gradient."""
    return 1 + strength * 2 * (octaves(xyz * scale, seed, 4, 0.75) - 0.5)


def blank(rgb: tuple[float, float, float] = (0.75, 0.75, 0.75)) -> Texture:
    """One colour: what no matcher can match."""
    return lambda seed, xyz, uv: _flat(uv, rgb)


def plaster(rgb: tuple[float, float, float], contrast: float = 0.35) -> Texture:
    def texture(seed: int, xyz: Array, uv: Array) -> Array:
        stain = octaves(xyz * 1.3, seed, 4)
        out = _flat(uv, rgb) * _speckle(xyz, seed + 9, 14, 0.28)[..., None]
        return out * (1 - contrast + 2 * contrast * stain)[..., None]

    return texture


def wood(seed: int, xyz: Array, uv: Array) -> Array:
    """Planks along x, 0.42 wide, each with its own tone, grain and knots."""
    wobble = octaves(xyz * np.array([0.8, 2.0, 1.0]), seed, 2) - 0.5
    plank = np.floor(xyz[..., 1] / 0.42)
    cell = np.stack([plank, plank * 0, plank * 0], -1)
    tone, shift = _lattice(cell, seed + 1), _lattice(cell, seed + 2)
    p = xyz + np.stack([shift * 40, shift * 0, shift * 9], -1)
    rings = np.sin(2 * np.pi * (p[..., 1] * 5 + 2.2 * octaves(p * np.array([0.5, 2.6, 1]), seed + 3, 3) + wobble)) * 0.5 + 0.5
    grain = octaves(p * np.array([3.5, 60.0, 1.0]), seed + 4, 3, 0.7)
    out = _mix(_flat(uv, (0.66, 0.45, 0.27)), (0.40, 0.23, 0.12), 0.55 * rings + 0.5 * (grain - 0.35))
    out = out * (0.72 + 0.5 * tone)[..., None] * _speckle(xyz, seed + 5, 22, 0.22)[..., None]
    gap = np.abs(xyz[..., 1] / 0.42 - plank - 0.5) > 0.478
    return np.where(gap[..., None], out * 0.35, out)


def brick(seed: int, xyz: Array, uv: Array) -> Array:
    """Running bond on the sheet's (u, v) in world units: bricks 0.56 x 0.24, each with its own colour."""
    a, b = uv[..., 0] / 0.56, uv[..., 1] / 0.24
    row = np.floor(b)
    a = a + 0.5 * (row % 2)
    cell = np.stack([np.floor(a), row, row * 0], -1)
    place = np.stack([uv[..., 0], uv[..., 1], uv[..., 0] * 0], -1)
    edge = 0.02 * (octaves(place * 9, seed, 2) - 0.5)
    joint = (np.abs(a - np.floor(a) - 0.5) > 0.474 + edge) | (np.abs(b - row - 0.5) > 0.44 + edge)
    tone, hue = _lattice(cell, seed + 1), _lattice(cell, seed + 2)
    out = _mix(_flat(uv, (0.62, 0.30, 0.21)), (0.72, 0.50, 0.36), hue)
    out = out * (0.6 + 0.6 * tone)[..., None] * (0.6 + 0.8 * octaves(place * 7, seed + 3, 4, 0.7))[..., None]
    mortar = np.array([0.72, 0.69, 0.64]) * (0.65 + 0.6 * octaves(place * 16, seed + 4, 3, 0.7))[..., None]
    return np.where(joint[..., None], mortar, out)


def checker(one: tuple[float, float, float], two: tuple[float, float, float], cells: int = 4) -> Texture:
    def texture(seed: int, xyz: Array, uv: Array) -> Array:
        ij = np.floor(uv / uv.reshape(-1, 2).max(0) * cells * 0.9999)
        odd = (ij.sum(-1) % 2).astype(np.float32)
        tone = _lattice(np.concatenate([ij, ij[..., :1] * 0], -1), seed + 1)
        out = _mix(_flat(uv, one), two, odd) * (0.75 + 0.4 * tone)[..., None]
        return out * (0.55 + 0.9 * octaves(xyz * 9, seed, 4, 0.7))[..., None]

    return texture


def _stamp_text(sheet: Array, word: str, x0: float, y0: float, width: float, height: float, color: tuple[float, ...]) -> None:
    """Capitals into the box (x0, y0, width, height), fractions of the sheet, in place."""
    h, w = sheet.shape[:2]
    columns = np.concatenate([np.array([[r >> (4 - i) & 1 for i in range(5)] + [0] for r in _FONT[c]]) for c in word], 1)
    ys, xs = np.arange(h) / h, np.arange(w) / w
    row = np.floor((ys - y0) / height * columns.shape[0]).astype(int)
    col = np.floor((xs - x0) / width * columns.shape[1]).astype(int)
    ok = ((row >= 0) & (row < columns.shape[0]))[:, None] & ((col >= 0) & (col < columns.shape[1]))[None]
    ink = columns[np.clip(row, 0, columns.shape[0] - 1)][:, np.clip(col, 0, columns.shape[1] - 1)] * ok
    sheet[ink > 0] = color


def print_(word: str, paper: tuple[float, float, float], ink: tuple[float, float, float], lines: int = 9) -> Texture:
    """A printed sheet: the word on top, a picture of blobs, and below it rows of letter-like marks."""

    def texture(seed: int, xyz: Array, uv: Array) -> Array:
        rng = np.random.default_rng(seed)
        out = _flat(uv, paper)
        h, w = out.shape[:2]
        if lines:
            place = np.concatenate([uv / uv.reshape(-1, 2).max(0) * np.array([w / h, 1.0]), uv[..., :1] * 0], -1)
            hue = octaves(place * 5, seed, 4, 0.6)
            picture = _mix(_flat(uv, ink), (0.95, 0.78, 0.25), (hue - 0.42) * 9)
            picture = _mix(picture, (0.85, 0.25, 0.20), (octaves(place * 6, seed + 7, 3) - 0.55) * 30)
            picture = _mix(picture, (0.15, 0.45, 0.55), (octaves(place * 8, seed + 8, 3) - 0.58) * 30)
            out[int(0.28 * h) : int(0.66 * h), int(0.07 * w) : int(0.93 * w)] = picture[int(0.28 * h) : int(0.66 * h), int(0.07 * w) : int(0.93 * w)]
            for k in range(lines):
                y, x = 0.70 + 0.27 * k / lines, 0.07
                while x < rng.uniform(0.8, 0.92):
                    step = rng.uniform(0.015, 0.06)
                    out[int(y * h) : int((y + 0.16 / lines) * h) + 1, int(x * w) : int((x + step * 0.8) * w) + 1] = ink
                    x += step + (0.03 if rng.random() < 0.2 else 0.0)
            _stamp_text(out, word, 0.08, 0.06, 0.86, 0.16, ink)
        else:
            _stamp_text(out, word, 0.06, 0.2, 0.9, 0.6, ink)
        return out * _speckle(xyz, seed + 5, 16, 0.3)[..., None] * (0.75 + 0.5 * octaves(xyz * 4, seed + 6, 3))[..., None]

    return texture


def canvas(seed: int, xyz: Array, uv: Array) -> Array:
    """A painted landscape in a dark frame: sky, hills behind hills, a sun."""
    s = uv / uv.reshape(-1, 2).max(0)
    x, y = s[..., 0], s[..., 1]
    place = np.stack([x * 5, y * 5, x * 0], -1)
    out = _mix(_flat(uv, (0.36, 0.56, 0.78)), (0.97, 0.83, 0.62), y * 1.5 + 0.5 * (octaves(place * np.array([1, 3, 1]), seed, 4) - 0.5))
    out = np.where((np.hypot((x - 0.7) * 1.3, y - 0.3) < 0.09)[..., None], np.array([1.0, 0.93, 0.7]), out)
    for k, tone in enumerate(((0.42, 0.50, 0.62), (0.33, 0.48, 0.36), (0.20, 0.36, 0.20), (0.35, 0.25, 0.14))):
        ridge = 0.42 + 0.14 * k + 0.22 * (octaves(np.stack([x * (3 + k), x * 0 + k, x * 0], -1), seed + 10 + k, 4) - 0.5)
        hill = np.array(tone) * (0.55 + 0.9 * octaves(place * (3 + k), seed + 20 + k, 4, 0.7))[..., None]
        out = np.where((y > ridge)[..., None], hill, out)
    out = out * _speckle(place, seed + 5, 12, 0.25)[..., None]
    frame = (np.abs(x - 0.5) > 0.455) | (np.abs(y - 0.5) > 0.44)
    return np.where(frame[..., None], np.array([0.23, 0.16, 0.10]) * _speckle(place, seed + 6, 14, 0.6)[..., None], out)


def marble(seed: int, xyz: Array, uv: Array) -> Array:
    vein = np.abs(np.sin(3 * xyz[..., 0] + 7 * octaves(xyz * 2.2, seed, 4)))
    out = _mix(_flat(uv, (0.86, 0.85, 0.82)), (0.18, 0.22, 0.30), (0.35 - vein) * 3)
    return out * _speckle(xyz, seed + 3, 12, 0.25)[..., None]


def globe(seed: int, xyz: Array, uv: Array) -> Array:
    """Continents, deserts, ice and a grid of meridians; xyz around the centre, uv in [0, 1] x [0, 1]."""
    land = octaves(xyz * 3.0, seed, 5, 0.6)
    sea = _mix(_flat(uv, (0.10, 0.28, 0.50)), (0.22, 0.52, 0.66), (land - 0.35) * 6)
    ground = _mix(_flat(uv, (0.24, 0.44, 0.18)), (0.78, 0.66, 0.38), (octaves(xyz * 5, seed + 3, 4) - 0.42) * 8)
    out = np.where((land > 0.52)[..., None], ground, sea)
    s = uv / uv.reshape(-1, 2).max(0)
    out = _mix(out, (0.95, 0.96, 0.97), (np.abs(s[..., 1] - 0.5) + 0.08 * octaves(xyz * 8, seed + 4, 3) - 0.46) * 40)
    line = (np.abs(s[..., 0] * 24 % 1 - 0.5) > 0.475) | (np.abs(s[..., 1] * 12 % 1 - 0.5) > 0.475)
    out = np.where(line[..., None], out * 0.72, out)
    return out * _speckle(xyz, seed + 5, 18, 0.35)[..., None]


def donut(seed: int, xyz: Array, uv: Array) -> Array:
    """Dough below, pink icing above with sprinkles; xyz around the centre, z up."""
    dough = _flat(uv, (0.80, 0.56, 0.30)) * (0.6 + 0.8 * octaves(xyz * 9, seed, 4, 0.7))[..., None]
    icing = _flat(uv, (0.93, 0.52, 0.62)) * (0.8 + 0.4 * octaves(xyz * 6, seed + 1, 4, 0.7))[..., None]
    out = np.where((xyz[..., 2] + 0.16 * (octaves(xyz * 6, seed + 2, 2) - 0.5) > 0.02)[..., None], icing, dough)
    rng = np.random.default_rng(seed)
    colors = np.array([(0.98, 0.95, 0.85), (0.25, 0.65, 0.85), (0.98, 0.83, 0.25), (0.45, 0.75, 0.35), (0.55, 0.30, 0.65), (0.35, 0.18, 0.10)])
    index = (xyz[..., 2] > 0.03).nonzero()
    top = xyz[index]
    paint = out[index]
    for _ in range(170):
        c, d = top[rng.integers(len(top))], rng.normal(size=3)
        d = d / np.linalg.norm(d)
        at = (np.abs(top - c) < 0.05).all(-1).nonzero()[0]
        r = top[at] - c
        along = r @ d
        near = (np.abs(along) < 0.045) & (((r * r).sum(-1) - along**2) < 0.014**2)
        paint[at[near]] = colors[rng.integers(len(colors))]
    out[index] = paint
    return out


def pumpkin(seed: int, xyz: Array, uv: Array) -> Array:
    angle = np.arctan2(xyz[..., 1], xyz[..., 0])
    rib = np.cos(10 * angle) * 0.5 + 0.5
    out = _mix(_flat(uv, (0.78, 0.34, 0.06)), (0.95, 0.60, 0.14), rib)
    out = _mix(out, (0.45, 0.52, 0.15), (octaves(xyz * 3, seed, 4) - 0.6) * 6)
    return out * (0.5 + octaves(xyz * 13, seed + 1, 4, 0.75))[..., None]


def vase(seed: int, xyz: Array, uv: Array) -> Array:
    """Bands of glaze: zigzag, dots, waves, each band its own colours; uv in [0, 1] around and up."""
    s = uv / uv.reshape(-1, 2).max(0)
    u, v = s[..., 0], s[..., 1]
    band = np.floor(v * 7)
    palette = np.array([(0.14, 0.28, 0.45), (0.88, 0.82, 0.68), (0.70, 0.28, 0.16), (0.20, 0.45, 0.42), (0.90, 0.70, 0.30)])
    base, mark = palette[(band.astype(int) * 2) % 5], palette[(band.astype(int) * 2 + 1) % 5]
    f, k = v * 7 - band, np.where(band % 3 == 0, 18, np.where(band % 3 == 1, 12, 24))
    t = u * k
    zig = np.abs(2 * (t % 1) - 1) * 0.6 + 0.2 > f
    dots = np.hypot((t % 1 - 0.5), (f - 0.5)) < 0.28
    wave = np.abs(f - 0.5 - 0.25 * np.sin(2 * np.pi * t / 2)) < 0.12
    on = np.where(band % 3 == 0, zig, np.where(band % 3 == 1, dots, wave))
    each = _lattice(np.stack([np.floor(t), band, band * 0], -1), seed + 3)
    out = np.where(on[..., None], mark * (0.65 + 0.6 * each)[..., None], base)
    return out * (0.62 + 0.76 * octaves(xyz * 9, seed, 5, 0.72))[..., None]
