"""Shapes as parametric sheets: a grid of points over (u, v), from which triangles, texture and lightmap texels all come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .textures import Texture

__all__ = ["Sheet", "blob", "box", "rectangle", "revolved", "sphere", "torus"]

Array = np.ndarray
TEXELS_PER_UNIT = 190.0  # about 1.5 texels per pixel of a 480 px wide photo from 5 units away


@dataclass(frozen=True)
class Sheet:
    """One textured surface.

    Attributes:
        points: grid of world points, rows along v, columns along u; the sheet is the triangles between them.
        normals: unit normals at the grid points, outwards; only light uses them (smooth), the geometry is the triangles.
        local: the grid in the object's own frame, for solid textures.
        size: width and height of the sheet in world units; texture coordinates run over it.
        texture: see textures.py.
    """

    points: Array
    normals: Array
    local: Array
    size: tuple[float, float]
    texture: Texture

    @property
    def triangles(self) -> Array:
        """(2 * rows * columns, 3, 3): lower then upper triangle of every cell."""
        p = self.points
        a, b, c, d = p[:-1, :-1], p[:-1, 1:], p[1:, :-1], p[1:, 1:]
        return np.stack([np.stack([a, b, c], 2), np.stack([d, c, b], 2)], 2).reshape(-1, 3, 3)

    @property
    def triangle_uv(self) -> Array:
        """(2 * rows * columns, 3, 2): the same triangles in [0, 1] x [0, 1]."""
        rows, cols = self.points.shape[:2]
        v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, cols), indexing="ij")
        p = np.stack([u, v], -1)
        a, b, c, d = p[:-1, :-1], p[:-1, 1:], p[1:, :-1], p[1:, 1:]
        return np.stack([np.stack([a, b, c], 2), np.stack([d, c, b], 2)], 2).reshape(-1, 3, 2)

    def resample(self, grid: Array, rows: int, cols: int) -> Array:
        """A grid quantity (rows, columns, C) interpolated at rows x cols points, borders included."""
        r, c = np.linspace(0, grid.shape[0] - 1, rows), np.linspace(0, grid.shape[1] - 1, cols)
        i, j = np.minimum(r.astype(int), grid.shape[0] - 2), np.minimum(c.astype(int), grid.shape[1] - 2)
        fr, fc = (r - i)[:, None, None].astype(grid.dtype), (c - j)[None, :, None].astype(grid.dtype)
        top = grid[i][:, j] * (1 - fc) + grid[i][:, j + 1] * fc
        bottom = grid[i + 1][:, j] * (1 - fc) + grid[i + 1][:, j + 1] * fc
        return top * (1 - fr) + bottom * fr


def _turn(degrees: float) -> Array:
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])


def rectangle(corner: Array, along_u: Array, along_v: Array, texture: Texture) -> Sheet:
    """The flat sheet corner + u along_u + v along_v; seen from its front, u runs right and v down: the normal is v x u."""
    corner, along_u, along_v = (np.asarray(a, float) for a in (corner, along_u, along_v))
    u, v = np.array([0.0, 1.0])[None, :, None], np.array([0.0, 1.0])[:, None, None]
    points = corner + u * along_u + v * along_v
    normal = np.cross(along_v, along_u)
    return Sheet(
        points,
        np.broadcast_to(normal / np.linalg.norm(normal), points.shape),
        points,
        (float(np.linalg.norm(along_u)), float(np.linalg.norm(along_v))),
        texture,
    )


def box(base: Array, size: Array, turn: float, side: Texture, top: Texture | None = None) -> list[Sheet]:
    """A box standing on `base` (centre of its lower face), turned about z by `turn` degrees. On the sides v runs down, so prints stand upright."""
    x, y, z = np.asarray(size, float)
    R, base = _turn(turn), np.asarray(base, float)
    faces = []
    for k in range(4):
        w, d = (x, y) if k % 2 == 0 else (y, x)
        Q = R @ _turn(90 * k)
        start = base + Q @ np.array([-w / 2, -d / 2, z])
        faces.append(rectangle(start, Q @ np.array([w, 0, 0]), np.array([0, 0, -z]), side))
    for up in (True, False):
        start = base + R @ np.array([-x / 2, y / 2 if up else -y / 2, z if up else 0.0])
        faces.append(rectangle(start, R @ np.array([x, 0, 0]), R @ np.array([0, -y if up else y, 0]), top or side))
    return faces


def _closed(shape: Callable[[Array, Array], Array], center: Array, turn: float, size: tuple[float, float], rows: int, cols: int, texture: Texture) -> Sheet:
    """A sheet closed in u from a local parametrisation shape(u, v) of [0, 1]^2; normals by differences, turned outwards by the caller's order."""
    v, u = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, cols + 1), indexing="ij")
    e = 1e-4
    inner = np.clip(v, e * 10, 1 - e * 10)  # a pole has no tangent
    du = shape(u + e, inner) - shape(u - e, inner)
    dv = shape(u, inner + e) - shape(u, inner - e)
    n = np.cross(dv, du)
    n = n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-12)
    local, R = shape(u, v), _turn(turn)
    return Sheet(local @ R.T + np.asarray(center, float), n @ R.T, local, size, texture)


def sphere(center: Array, radius: float, turn: float, texture: Texture, rows: int = 36, cols: int = 72) -> Sheet:
    return blob(center, lambda angle, height: np.full_like(angle, radius), turn, radius, texture, rows, cols)


def blob(center: Array, radius: Callable[[Array, Array], Array], turn: float, size: float, texture: Texture, rows: int = 48, cols: int = 96) -> Sheet:
    """A star-shaped body: radius(longitude, latitude), radians."""

    def shape(u: Array, v: Array) -> Array:
        angle, height = 2 * np.pi * u, np.pi * (0.5 - v)
        r = radius(angle, height)
        return np.stack([r * np.cos(angle) * np.cos(height), r * np.sin(angle) * np.cos(height), r * np.sin(height)], -1)

    return _closed(shape, center, turn, (2 * np.pi * size, np.pi * size), rows, cols, texture)


def torus(center: Array, ring: float, tube: float, turn: float, texture: Texture, rows: int = 36, cols: int = 72) -> Sheet:
    """Lying flat: ring radius and tube radius."""

    def shape(u: Array, v: Array) -> Array:
        a, b = 2 * np.pi * u, 2 * np.pi * v
        r = ring + tube * np.cos(b)
        return np.stack([r * np.cos(a), r * np.sin(a), -tube * np.sin(b)], -1)

    return _closed(shape, center, turn, (2 * np.pi * (ring + tube), 2 * np.pi * tube), rows, cols, texture)


def revolved(base: Array, profile: list[tuple[float, float]], turn: float, texture: Texture, rows: int = 48, cols: int = 72) -> Sheet:
    """A profile of (radius, height) from top to bottom, smoothly interpolated (monotone parameter, Catmull-Rom), turned about z."""
    knots = np.asarray(profile, float)

    def curve(t: Array) -> Array:
        x = np.clip(t, 0, 1) * (len(knots) - 1)
        i = np.minimum(x.astype(int), len(knots) - 2)
        f = (x - i)[..., None]
        p = [knots[np.clip(i + k, 0, len(knots) - 1)] for k in (-1, 0, 1, 2)]
        return 0.5 * (2 * p[1] + (p[2] - p[0]) * f + (2 * p[0] - 5 * p[1] + 4 * p[2] - p[3]) * f**2 + (3 * (p[1] - p[2]) + p[3] - p[0]) * f**3)

    def shape(u: Array, v: Array) -> Array:
        r, z = np.moveaxis(curve(v), -1, 0)
        return np.stack([r * np.cos(2 * np.pi * u), r * np.sin(2 * np.pi * u), z], -1)

    length = float(np.linalg.norm(np.diff(knots, axis=0), axis=1).sum())
    return _closed(shape, base, turn, (2 * np.pi * float(knots[:, 0].max()), length), rows, cols, texture)
