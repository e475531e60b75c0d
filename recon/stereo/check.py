"""After the winner: agreement between views, small patches, normals, confidence."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ..camera import Cameras, pixel_centers
from . import reference
from .setup import back_maps, source_maps

__all__ = ["Agreement", "agreement", "confidence", "drop_speckles", "normals_from_slopes", "support"]


@dataclass(frozen=True)
class Agreement:
    """How the other views agree with a pixel's depth.

    Attributes:
        count: views that agree within the tolerances.
        error_px: smallest reprojection error over all views; inf where none sees the point.
        error_relative: relative depth difference in that view.
    """

    count: Float[Tensor, "H W"]
    error_px: Float[Tensor, "H W"]
    error_relative: Float[Tensor, "H W"]


def agreement(
    inv: Float[Tensor, "V H W"],
    cameras: Cameras,
    i: int,
    sources: list[int],
    check_px: float,
    check_relative: float,
    kernels: ModuleType | None = None,
) -> Agreement:
    """Two-view consistency: the point of a pixel, seen in the other view at that view's depth, must come back to the pixel."""
    if kernels is None:
        return Agreement(*reference.agreement(inv, cameras, i, sources, check_px, check_relative))
    out = [np.empty(tuple(inv.shape[1:]), np.float32) for _ in range(3)]
    maps, backs = source_maps(cameras, i, sources), back_maps(cameras, i, sources)
    kernels.stereo_agreement(inv.contiguous().numpy(), i, sources, maps.numpy(), backs.numpy(), check_px, check_relative, *out, torch.get_num_threads())
    return Agreement(*(torch.from_numpy(a) for a in out))


def support(inv: Float[Tensor, "H W"], slopes: Float[Tensor, "H W 2"], good: Bool[Tensor, "H W"], step: float) -> Float[Tensor, "H W"]:
    """Share of 16 pixels around (2 and 4 away) that are good and lie on this pixel's plane to about a plane step. Low on flying pixels."""
    h, w = inv.shape
    out = torch.zeros(h, w)
    pad_inv = F.pad(torch.where(good, inv, torch.full_like(inv, -1e9))[None], (4, 4, 4, 4), value=-1e9)[0]
    for reach in (2, 4):
        for dy in (-reach, 0, reach):
            for dx in (-reach, 0, reach):
                if dx == 0 and dy == 0:
                    continue
                there = pad_inv[4 + dy : 4 + dy + h, 4 + dx : 4 + dx + w]
                off = (there - inv - slopes[..., 0] * dx - slopes[..., 1] * dy).abs() / step
                out += torch.exp(-((off / 1.5) ** 2))
    return out / 16


def confidence(
    agree: Agreement, planar: Float[Tensor, "H W"], margin: Float[Tensor, "H W"], cost: Float[Tensor, "H W"]
) -> Float[Tensor, "H W"]:
    """Chance that the depth is right: off by less than 2 % or by less than a pixel in every other photo.

    A logistic fit on scenes with dense truth (`python -m handful.benchmarks.stereo` prints how it holds). What tells most is whether the pixels
    around lie on the same plane (`planar`, see `support`); then how clearly the plane won, and a second view that agrees. Where nothing in a
    15x15 window matches (no texture at all) the views agree only because both guessed, so it falls to 0.
    """
    score = 5.5 * planar + 0.6 * margin.clamp(0, 1) + 0.2 * (agree.count >= 2).float() - 1.6
    evidence = F.avg_pool2d((1 - cost).clamp(0, 1)[None, None], 15, 1, 7, count_include_pad=False)[0, 0]
    return torch.where(agree.count > 0, torch.sigmoid(score) * ((evidence - 0.02) / 0.1).clamp(0, 1), torch.zeros_like(cost))


def drop_speckles(inv: Float[Tensor, "H W"], valid: Bool[Tensor, "H W"], smallest: int, jump: float) -> Bool[Tensor, "H W"]:
    """Valid pixels without connected patches (neighbouring inverse depths within `jump`) of fewer than `smallest` pixels."""
    h, w = inv.shape
    value, ok = inv.numpy(), valid.numpy()
    label = np.where(ok, np.arange(h * w).reshape(h, w), -1)
    right = ok[:, 1:] & ok[:, :-1] & (np.abs(value[:, 1:] - value[:, :-1]) <= jump)
    down = ok[1:] & ok[:-1] & (np.abs(value[1:] - value[:-1]) <= jump)
    parent = _components(label, right, down)
    sizes = np.bincount(parent[ok], minlength=h * w)
    return torch.from_numpy(ok & (sizes[np.where(ok, parent, 0)] >= smallest))


def _components(label: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Connected components by hooking and pointer jumping (Shiloach and Vishkin 1982), all edges at once."""
    h, w = label.shape
    index = np.arange(h * w).reshape(h, w)
    a = np.concatenate([index[:, :-1][right], index[:-1][down]])
    b = np.concatenate([index[:, 1:][right], index[1:][down]])
    parent = np.arange(h * w)
    while True:
        pa, pb = parent[a], parent[b]
        differ = pa != pb
        if not differ.any():
            return parent.reshape(h, w)
        a, b, pa, pb = a[differ], b[differ], pa[differ], pb[differ]
        np.minimum.at(parent, np.maximum(pa, pb), np.minimum(pa, pb))
        while True:
            jumped = parent[parent]
            if (jumped == parent).all():
                break
            parent = jumped


def normals_from_slopes(
    inv: Float[Tensor, "H W"], slopes: Float[Tensor, "H W 2"], K: Float[Tensor, "3 3"]
) -> Float[Tensor, "H W 3"]:
    """Unit normals in the camera frame, facing the camera: the inverse depth of a plane is linear in the pixel, 1/z = a u + b v + c,
    and its normal is along K^T (a, b, c). No normal (zero) where there is no depth."""
    h, w = inv.shape
    uv = pixel_centers(w, h)
    c = inv - slopes[..., 0] * uv[..., 0] - slopes[..., 1] * uv[..., 1]
    n = F.normalize(torch.stack([slopes[..., 0], slopes[..., 1], c], -1) @ K.to(inv), dim=-1, eps=1e-20)
    ray = torch.cat([uv, torch.ones_like(uv[..., :1])], -1) @ torch.linalg.inv(K).T.to(inv)
    n = torch.where((n * ray).sum(-1, keepdim=True) > 0, -n, n)
    return torch.where((inv > 0)[..., None], n, torch.zeros_like(n))
