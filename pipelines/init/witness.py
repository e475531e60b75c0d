"""Do the photos bear out where a camera is said to stand? What other photos see must be seen there too, pixel for pixel.

Repeated things (roses of a wallpaper, two sides of a toy) make matches that agree with each other and with a wrong place. But from a wrong place the photo
should show much that it does not: known points that fall into it, seen from about the same direction by a photo that has them, must look alike there. Only
points that no match has linked to the photo are asked: those that one has look alike in any case, that is why they were matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...recon.windows import window_max
from .geometry import project
from .model import Model
from .subpixel import SubpixelOptions, align_patches

PATCH = 10  # radius, pixels: larger patches agree by chance less often

__all__ = ["Witness", "witness"]


@dataclass(frozen=True)
class Witness:
    """Known points that should look alike in a photo (`asked`) and those that do (`alike`), by the angle between the two viewing directions."""

    asked: int
    alike: int


def witness(
    model: Model,
    view: int,
    grey: Sequence[Float[Tensor, "H W"]],
    angles: tuple[float, float] = (0.0, 30.0),
    most: int = 200,
    counts: Float[Tensor, "H W"] | None = None,
) -> Witness:
    """Asks points that other photos agree on and that are not matched to this one. None may be asked when no other photo looks from a similar direction.

    Args:
        counts: mask of the photo; a point whose patch it touches (padding, transparency) is not asked. None = the whole photo counts.
        angles: degrees between the direction from which the photo sees the point and the nearest from which another one does.
    """
    rig, t = model.rig, model.tracks
    seen = np.zeros((t.count, len(rig.t)), dtype=bool)
    seen[t.track[model.good], t.view[model.good]] = True
    seen[t.track[t.view == view]] = False
    ask = np.flatnonzero(seen.sum(1) >= 2)
    uv, z = project(rig, np.full(len(ask), view), model.points[ask])
    h, w = grey[view].shape
    ask_in = (z > 0) & (uv > 8).all(1) & (uv[:, 0] < w - 8) & (uv[:, 1] < h - 8)
    ask, uv = ask[ask_in], uv[ask_in]
    if counts is not None and len(ask):
        within = (window_max((counts <= 0.5).float(), PATCH) == 0).numpy()
        there = within[uv[:, 1].astype(int), uv[:, 0].astype(int)]
        ask, uv = ask[there], uv[there]
    if not len(ask):
        return Witness(0, 0)
    d = rig.centers[:, None] - model.points[ask][None]
    d = d / np.linalg.norm(d, axis=2, keepdims=True)
    cos = np.where(seen[ask].T, (d * d[view][None]).sum(2), -1)
    nearest = cos.argmax(0)
    apart = np.degrees(np.arccos(np.clip(cos.max(0), -1, 1)))
    pick = np.flatnonzero((apart >= angles[0]) & (apart < angles[1]))
    pick = pick[np.linspace(0, len(pick) - 1, min(most, len(pick))).astype(int)] if len(pick) else pick
    options = SubpixelOptions(radius=PATCH, limit_px=2.5 * max(h, w) / 800)
    alike = 0
    for other in np.unique(nearest[pick]):
        p = pick[nearest[pick] == other]
        source, _ = project(rig, np.full(len(p), other), model.points[ask[p]])
        facing = _flow_affine(model, ask[p], int(other), view)
        found = align_patches(grey[other], grey[view], source, uv[p], facing, options)[1]
        slanted = _surface_affine(model, ask[p], int(other), view, facing)
        found |= align_patches(grey[other], grey[view], source, uv[p], slanted, options)[1]
        alike += int(found.sum())
    return Witness(len(pick), alike)


def _flow_affine(model: Model, points: np.ndarray, source: int, target: int) -> Float[np.ndarray, "N 2 2"]:
    """How a fronto-parallel patch around each point maps from one photo to the other."""
    rig, X = model.rig, model.points[points]
    one = np.full(len(X), source)
    uv0, z = project(rig, one, X)
    A = np.empty((len(X), 2, 2))
    uv1, _ = project(rig, np.full(len(X), target), X)
    for k in range(2):
        step = np.zeros(3)
        step[k] = 1.0
        moved = X + (z / rig.focal[source])[:, None] * (rig.R[source].T @ step)  # one pixel in the source photo
        A[:, :, k] = project(rig, np.full(len(X), target), moved)[0] - uv1
    s = np.linalg.svd(A, compute_uv=False)
    A[(s[:, 0] > 3) | (s[:, 1] < 0.33) | ~np.isfinite(s).all(1)] = np.eye(2)
    return A


def _surface_affine(model: Model, points: np.ndarray, source: int, target: int, fallback: np.ndarray, neighbours: int = 8) -> Float[np.ndarray, "N 2 2"]:
    """How a patch of the surface that the points around it form maps from one photo to the other; near `fallback` where they are few or far."""
    known = np.flatnonzero(np.isfinite(model.points).all(1))
    (a, za), (b, zb) = (project(model.rig, np.full(len(known), v), model.points[known]) for v in (source, target))
    (qa, z), (qb, _) = (project(model.rig, np.full(len(points), v), model.points[points]) for v in (source, target))
    seen = (za > 0) & (zb > 0)
    a, b, za = a[seen], b[seen], za[seen]
    if len(a) <= neighbours:
        return fallback
    d2 = ((qa[:, None] - a[None]) ** 2).sum(-1)
    near = np.argpartition(d2, neighbours, axis=1)[:, : neighbours + 1]  # itself among them, with no effect
    d2 = np.take_along_axis(d2, near, 1)
    reach = np.maximum(d2.max(1), 1.0)
    weight = np.exp(-d2 / (0.5 * reach[:, None])) * np.exp(-0.5 * ((za[near] - z[:, None]) / (0.05 * z[:, None])) ** 2)  # the same surface
    da, db = a[near] - qa[:, None], b[near] - qb[:, None]
    ridge = (0.1 * weight.sum(1) * reach + 1e-3)[:, None, None] * np.eye(2)
    A = (np.einsum("nk,nki,nkj->nij", weight, db, da) + fallback @ ridge) @ np.linalg.inv(np.einsum("nk,nki,nkj->nij", weight, da, da) + ridge)
    s = np.linalg.svd(A, compute_uv=False)
    wild = (s[:, 0] > 3) | (s[:, 1] < 0.33) | (np.linalg.det(A) < 0)
    return np.where(wild[:, None, None], fallback, A)
