"""Sheets to something that can be seen: one triangle tree, one atlas of colours and one of light, baked once because light is diffuse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...recon.srgb import linear_from_srgb
from .cast import TriangleTree, build_tree, cast
from .scenes import Stage
from .surfaces import TEXELS_PER_UNIT, Sheet

__all__ = ["Atlas", "Baked", "bake"]

_LIGHT_PER_UNIT = 15.0  # lightmap texels per world unit: soft shadows, no more
_SUN_RAYS, _SKY_RAYS = 16, 24
_BOUNCE = 0.45  # share of the incoming light that a hit surface is assumed to pass on, times its mean colour


@dataclass(frozen=True)
class Atlas:
    """Pictures of many sizes in one list of texels: texel (x, y) of sheet s is row offset[s] + y * width[s] + x."""

    texels: Float[Tensor, "T 3"]
    offset: Int[Tensor, "S"]
    width: Int[Tensor, "S"]
    height: Int[Tensor, "S"]

    @staticmethod
    def pack(pictures: list[np.ndarray]) -> Atlas:
        sizes = torch.tensor([p.shape[:2] for p in pictures])
        count = sizes.prod(1)
        texels = torch.from_numpy(np.concatenate([p.reshape(-1, 3) for p in pictures])).float()
        return Atlas(texels, count.cumsum(0) - count, sizes[:, 1], sizes[:, 0])

    def sample(self, sheet: Int[Tensor, "N"], uv: Float[Tensor, "N 2"]) -> Float[Tensor, "N 3"]:
        """Bilinear; uv in [0, 1] from the first texel's centre to the last one's."""
        w, h, offset = self.width[sheet], self.height[sheet], self.offset[sheet]
        x, y = uv[:, 0].clamp(0, 1) * (w - 1), uv[:, 1].clamp(0, 1) * (h - 1)
        x0, y0 = torch.minimum(x.long(), w - 2), torch.minimum(y.long(), h - 2)
        fx, fy = (x - x0)[:, None].float(), (y - y0)[:, None].float()
        i = offset + y0 * w + x0
        top = torch.lerp(self.texels[i], self.texels[i + 1], fx)
        bottom = torch.lerp(self.texels[i + w], self.texels[i + w + 1], fx)
        return torch.lerp(top, bottom, fy)


@dataclass(frozen=True)
class Baked:
    """A scene ready to be looked at. Indices of triangles are those of `Hits.triangle`; `flat` says which sheets lie in a plane."""

    tree: TriangleTree
    sheet: Int[Tensor, "T"]
    uv: Float[Tensor, "T 3 2"]
    normal: Float[Tensor, "T 3"]
    flat: Bool[Tensor, "S"]
    albedo: Atlas
    light: Atlas
    background: tuple[float, float, float]

    def coordinates(self, triangle: Int[Tensor, "N"], bary: Float[Tensor, "N 2"]) -> Float[Tensor, "N 2"]:
        uv, b1, b2 = self.uv[triangle], bary[:, :1].float(), bary[:, 1:].float()
        return uv[:, 0] * (1 - b1 - b2) + uv[:, 1] * b1 + uv[:, 2] * b2

    def radiance(self, triangle: Int[Tensor, "N"], bary: Float[Tensor, "N 2"]) -> Float[Tensor, "N 3"]:
        """Linear RGB seen at hits."""
        uv, sheet = self.coordinates(triangle, bary), self.sheet[triangle]
        return self.albedo.sample(sheet, uv) * self.light.sample(sheet, uv)


def _count(length: float, per_unit: float, least: int, most: int) -> int:
    return int(np.clip(round(length * per_unit), least, most))


def _paint(sheet: Sheet, seed: int) -> np.ndarray:
    """The sheet's colours, linear RGB."""
    cols, rows = (_count(s, TEXELS_PER_UNIT * min(1.0, (3.0 / max(sheet.size)) ** 0.5), 16, 1400) for s in sheet.size)
    v, u = np.meshgrid(np.linspace(0, sheet.size[1], rows), np.linspace(0, sheet.size[0], cols), indexing="ij")
    xyz = sheet.resample(sheet.local.astype(np.float32), rows, cols)
    return linear_from_srgb(torch.from_numpy(sheet.texture(seed, xyz, np.stack([u, v], -1).astype(np.float32)).astype(np.float32))).numpy()


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _frame(n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two directions that with n make a right-handed frame."""
    helper = np.where(np.abs(n[..., 2:]) < 0.9, np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0]))
    a = _unit(np.cross(helper, n))
    return a, np.cross(n, a)


def _disc(count: int) -> np.ndarray:
    """Points spread evenly over the unit disc (Vogel's spiral)."""
    k = np.arange(count) + 0.5
    r, a = np.sqrt(k / count), k * np.pi * (3 - 5**0.5)
    return np.stack([r * np.cos(a), r * np.sin(a)], -1)


def _directions(n: np.ndarray, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """Rays per texel: towards the softened sun (P, SUN, 3), and over the hemisphere with density cosine / pi (P, SKY, 3)."""
    sun = _unit(np.array(stage.sun))
    a, b = _frame(sun)
    d = _disc(_SUN_RAYS) * np.tan(np.deg2rad(stage.spread))
    to_sun = np.broadcast_to(_unit(sun + d[:, :1] * a + d[:, 1:] * b), (len(n), _SUN_RAYS, 3))
    d = _disc(_SKY_RAYS)
    a, b = _frame(n)
    up = np.sqrt(1 - (d**2).sum(-1, keepdims=True))
    to_sky = d[None, :, :1] * a[:, None] + d[None, :, 1:] * b[:, None] + up[None] * n[:, None]
    return to_sun, to_sky


def _bake_light(tree: TriangleTree, sheets: list[Sheet], sheet_of: Tensor, mean: np.ndarray, stage: Stage) -> list[np.ndarray]:
    """Light falling on each sheet, linear RGB / pi: the sun through soft shadows, the sky where it is open, one guessed bounce where not."""
    grids, points, normals = [], [], []
    for s in sheets:
        cols, rows = (_count(x, _LIGHT_PER_UNIT, 5, 64) for x in s.size)
        grids.append((rows, cols))
        points.append(s.resample(s.points, rows, cols).reshape(-1, 3))
        normals.append(_unit(s.resample(s.normals, rows, cols)).reshape(-1, 3))
    p, n = np.concatenate(points), np.concatenate(normals)
    p = p + 0.012 * n
    to_sun, to_sky = _directions(n, stage)
    rays = np.concatenate([to_sun, to_sky], 1).reshape(-1, 3)
    origins = np.repeat(p, _SUN_RAYS + _SKY_RAYS, 0)
    facing = np.concatenate([(to_sun * n[:, None]).sum(-1), np.ones(to_sky.shape[:2])], 1).reshape(-1)
    tri = torch.full((len(rays),), -1, dtype=torch.int64)
    need = torch.from_numpy((facing > 0).nonzero()[0])  # the sun below a texel's horizon needs no ray
    tri[need] = cast(tree, torch.from_numpy(origins).float()[need], torch.from_numpy(rays).float()[need]).triangle
    tri_np, sheet_np = tri.reshape(len(p), -1).numpy(), sheet_of.numpy()
    sun_open = (tri_np[:, :_SUN_RAYS] < 0) * np.maximum(facing.reshape(len(p), -1)[:, :_SUN_RAYS], 0)
    sky = tri_np[:, _SUN_RAYS:]
    bounce = _BOUNCE * mean[sheet_np[np.maximum(sky, 0)]] * (np.array(stage.sun_color) * 0.6 + np.array(stage.sky_color))
    from_sky = np.where((sky < 0)[..., None], np.array(stage.sky_color), bounce)
    light = sun_open.mean(1)[:, None] * np.array(stage.sun_color) + from_sky.mean(1)
    parts = np.split(light.astype(np.float32), np.cumsum([r * c for r, c in grids])[:-1])
    return [part.reshape(r, c, 3) for part, (r, c) in zip(parts, grids, strict=True)]


def bake(stage: Stage, seed: int) -> Baked:
    """Triangles, colours and light of a stage."""
    sheets = [s for o in stage.objects for s in o]
    tree = build_tree([np.concatenate([s.triangles for s in o]) for o in stage.objects])
    triangles = np.concatenate([s.triangles for s in sheets])
    normal = _unit(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]))
    sheet_of = torch.from_numpy(np.repeat(np.arange(len(sheets)), [len(s.triangles) for s in sheets]))
    colors = [_paint(s, seed * 1009 + 31 * k) for k, s in enumerate(sheets)]
    light = _bake_light(tree, sheets, sheet_of, np.stack([c.mean((0, 1)) for c in colors]), stage)
    return Baked(
        tree,
        sheet_of,
        torch.from_numpy(np.concatenate([s.triangle_uv for s in sheets])).float(),
        torch.from_numpy(normal),
        torch.tensor([s.points.shape[:2] == (2, 2) for s in sheets]),
        Atlas.pack(colors),
        Atlas.pack(light),
        stage.background,
    )
