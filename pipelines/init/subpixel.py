"""Sharpens matched keypoints: each observation of a track is aligned with the track's reference patch.

Learned keypoints sit on a pixel grid and are about a pixel off; between neighbouring photos that is as much as the parallax itself. Inverse compositional
alignment (Baker and Matthews, IJCV 2004) with an affine warp on mean- and variance-normalised patches brings them to a fraction of a pixel. Where the
patches do not agree afterwards (occlusion, strong perspective) the keypoint stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .tracks import MatchGraph, Tracks

SHARP_PX = 0.3  # error expected of an aligned keypoint

__all__ = ["SHARP_PX", "SubpixelOptions", "align_patches", "sharpen"]


@dataclass(frozen=True)
class SubpixelOptions:
    """Patch of (2 radius + 1)^2 samples; `limit_px` the farthest a keypoint may move; `min_ncc` the least agreement of the aligned patches."""

    radius: int = 6
    iterations: int = 12
    limit_px: float = 3.0
    min_ncc: float = 0.8


def sharpen(graph: MatchGraph, tracks: Tracks, grey: Sequence[Float[Tensor, "H W"]], options: SubpixelOptions | None = None) -> tuple[MatchGraph, float]:
    """Moves the keypoints of `graph` that take part in `tracks`.

    Args:
        grey: the photos, one channel.

    Returns:
        The graph with moved keypoints and their new sigmas, and the share of observations that could be aligned.
    """
    o = options or SubpixelOptions()
    if not len(tracks.view):
        return graph, 0.0
    reference = _reference_of(tracks)
    uv, sigma = [u.copy() for u in graph.uv], [s.copy() for s in graph.sigma]
    affine = _local_affine(tracks, reference)
    aligned = 0
    for v in range(len(uv)):
        for w in range(len(uv)):
            pick = np.flatnonzero((tracks.view == v) & (tracks.view[reference] == w) & (np.arange(len(tracks.view)) != reference))
            if v == w or not len(pick):
                continue
            moved, good = align_patches(grey[w], grey[v], tracks.uv[reference[pick]], tracks.uv[pick], affine[pick], o)
            hit = pick[good]
            aligned += len(hit)
            uv[v][tracks.keypoint[hit]] = moved[good]
            sigma[v][tracks.keypoint[hit]] = np.minimum(tracks.sigma[hit], SHARP_PX)
            ref = reference[hit]  # the reference defines the point: as sharp as what was aligned with it
            sigma[w][tracks.keypoint[ref]] = np.minimum(sigma[w][tracks.keypoint[ref]], SHARP_PX)
    moving = int((np.arange(len(tracks.view)) != reference).sum())
    return replace(graph, uv=tuple(uv), sigma=tuple(sigma)), aligned / max(moving, 1)


def _reference_of(tracks: Tracks) -> np.ndarray:
    """Per observation the observation that its track is aligned with: the sharpest one, among equals the one in the middle of the track."""
    start = np.searchsorted(tracks.track, np.arange(tracks.count))
    length = np.bincount(tracks.track, minlength=tracks.count)
    middle = np.abs(np.arange(len(tracks.view)) - (start + length // 2)[tracks.track])
    order = np.lexsort((middle, tracks.sigma, tracks.track))
    first = order[np.searchsorted(tracks.track[order], np.arange(tracks.count))]
    return first[tracks.track]


def _local_affine(tracks: Tracks, reference: np.ndarray, neighbours: int = 12) -> Float[np.ndarray, "O 2 2"]:
    """How a patch around the reference maps to the observation, by the tracks around it that both photos see; near identity where there are few."""
    out = np.tile(np.eye(2), (len(tracks.view), 1, 1))
    for v in np.unique(tracks.view):
        for w in np.unique(tracks.view):
            pick = np.flatnonzero((tracks.view == v) & (tracks.view[reference] == w))
            if v == w or len(pick) < 8:
                continue
            a, b = tracks.uv[reference[pick]], tracks.uv[pick]
            d = ((a[:, None] - a[None]) ** 2).sum(-1)
            near = np.argsort(d, axis=1, kind="stable")[:, : min(neighbours, len(pick))]
            radius2 = np.maximum(np.take_along_axis(d, near, 1)[:, -1], 1.0)
            weight = np.exp(-np.take_along_axis(d, near, 1) / (0.5 * radius2[:, None]))
            da, db = a[near] - a[:, None], b[near] - b[:, None]
            # robust against mismatched neighbours: those that move differently from the median count less
            r = np.linalg.norm(db - da, axis=-1)
            weight = weight / (1 + (r / (np.median(r, axis=1, keepdims=True) + 2.0)) ** 2)
            ridge = 0.05 * radius2[:, None, None] * np.eye(2)
            xx = np.einsum("nk,nki,nkj->nij", weight, da, da) + ridge
            yx = np.einsum("nk,nki,nkj->nij", weight, db, da) + ridge
            A = yx @ np.linalg.inv(xx)
            s = np.linalg.svd(A, compute_uv=False)
            sane = (s[:, 0] < 2.5) & (s[:, 1] > 0.4) & (np.linalg.det(A) > 0)
            out[pick[sane]] = A[sane]
    return out


def align_patches(
    source: Tensor, target: Tensor, uv0: np.ndarray, uv1: np.ndarray, affine: np.ndarray, o: SubpixelOptions
) -> tuple[Float[np.ndarray, "N 2"], np.ndarray]:
    """Where the patch of `source` around uv0 lies in `target`, starting from uv1; and which ended well."""
    p0 = torch.from_numpy(uv0).float()
    A, b = torch.from_numpy(affine).float(), torch.from_numpy(uv1).float()
    start = b.clone()
    r = torch.arange(-o.radius, o.radius + 1, dtype=torch.float32)
    offset = torch.stack(torch.meshgrid(r, r, indexing="xy"), -1).reshape(-1, 2)
    window = torch.exp(-(offset**2).sum(1) / (2 * (0.6 * o.radius) ** 2))
    window = window / window.sum()
    e = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    T = _sample(source, p0[:, None] + offset)
    gx = _sample(source, p0[:, None] + offset + e[0]) - _sample(source, p0[:, None] + offset - e[0])
    gy = _sample(source, p0[:, None] + offset + e[1]) - _sample(source, p0[:, None] + offset - e[1])
    T, contrast = _normalise(T, window)
    g = torch.stack([gx, gy], -1) / contrast[:, None, None]
    J = torch.stack([g[..., 0], g[..., 1], g[..., 0] * offset[:, 0], g[..., 0] * offset[:, 1], g[..., 1] * offset[:, 0], g[..., 1] * offset[:, 1]], -1)
    J = J - (window[:, None] * J).sum(1, keepdim=True)  # the mean is taken out of the patches, hence of their derivative
    JW = J * window[:, None]
    H = JW.transpose(1, 2) @ J
    # the affine part is held near its guess: a patch of a few pixels says little about it
    H = H + torch.diag(torch.tensor([1e-4, 1e-4, *[0.02 * o.radius**2 / 3] * 4]))
    Hinv = torch.linalg.inv(H)
    for _ in range(o.iterations):
        seen, _ = _normalise(_sample(target, b[:, None] + offset @ A.transpose(1, 2)), window)
        step = (Hinv @ (JW.transpose(1, 2) @ (seen - T)[..., None]))[..., 0].clamp(-1.0, 1.0)
        # compose with the inverse of the step's warp: x -> x - D x - d
        D = step[:, 2:].reshape(-1, 2, 2).clamp(-0.2, 0.2)
        inverse = torch.linalg.inv(torch.eye(2) + D)
        b = b - (A @ (inverse @ step[:, :2, None]))[..., 0]
        A = A @ inverse
    seen, sharp = _normalise(_sample(target, b[:, None] + offset @ A.transpose(1, 2)), window)
    ncc = 1 - 0.5 * (window * (seen - T) ** 2).sum(1)
    h, w = target.shape
    inside = (b > 1).all(1) & (b[:, 0] < w - 1) & (b[:, 1] < h - 1)
    weakest = torch.linalg.eigvalsh(H[:, :2, :2])[:, 0]  # edges slide
    good = (ncc > o.min_ncc) & ((b - start).norm(dim=1) < o.limit_px) & inside & torch.isfinite(b).all(1) & (contrast > 0.01) & (sharp > 0.01) & (weakest > 0.02)
    return b.double().numpy(), good.numpy()


def _sample(image: Tensor, uv: Tensor) -> Tensor:
    h, w = image.shape
    grid = uv * 2 / torch.tensor([w, h]) - 1  # continuous pixels: exactly grid_sample's convention without aligned corners
    return torch.nn.functional.grid_sample(image[None, None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0, 0]


def _normalise(patch: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    centred = patch - (window * patch).sum(1, keepdim=True)
    spread = (window * centred**2).sum(1).sqrt().clamp(min=1e-4)
    return centred / spread[:, None], spread
