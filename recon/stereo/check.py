"""After the winner: agreement between views, small patches, normals, confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ..camera import Cameras, pixel_centers

__all__ = ["Agreement", "agreement", "drop_speckles", "normals_from_depth"]


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


def _sample_inverse(inv: Float[Tensor, "H W"], u: Tensor, v: Tensor) -> Tensor:
    """Inverse depth at continuous pixels: bilinear on a smooth surface, the nearest pixel across an edge."""
    h, w = inv.shape
    x, y = (u - 0.5).clamp(0, w - 1), (v - 0.5).clamp(0, h - 1)
    x0, y0 = x.floor().long().clamp(max=max(w - 2, 0)), y.floor().long().clamp(max=max(h - 2, 0))
    x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
    fx, fy = x - x0, y - y0
    a, b, c, d = inv[y0, x0], inv[y0, x1], inv[y1, x0], inv[y1, x1]
    high = torch.maximum(torch.maximum(a, b), torch.maximum(c, d))
    low = torch.minimum(torch.minimum(a, b), torch.minimum(c, d))
    smooth = (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy
    nearest = inv[y.round().long(), x.round().long()]
    return torch.where(high - low < 0.05 * high, smooth, nearest)


def agreement(
    inv: Float[Tensor, "V H W"], cameras: Cameras, i: int, sources: list[int], check_px: float, check_relative: float
) -> Agreement:
    """Two-view consistency: the point of a pixel, seen in the other view at that view's depth, must come back to the pixel."""
    h, w = inv.shape[1:]
    uv = pixel_centers(w, h).reshape(1, -1, 2)
    depth = 1.0 / inv[i].reshape(1, -1).clamp(min=1e-9)
    world = cameras[i].unproject(uv, depth)[0]
    count = torch.zeros(h * w)
    best_px = torch.full((h * w,), float("inf"))
    best_rel = torch.full((h * w,), float("inf"))
    for j in sources:
        uv_j, z_j = (t[0] for t in cameras[j].project(world))
        seen = (z_j > 0) & (uv_j[:, 0] >= 0) & (uv_j[:, 1] >= 0) & (uv_j[:, 0] <= w) & (uv_j[:, 1] <= h)
        uv_j = torch.nan_to_num(uv_j)
        inv_j = _sample_inverse(inv[j], uv_j[:, 0], uv_j[:, 1])
        back = cameras[j].unproject(uv_j[None], 1.0 / inv_j[None].clamp(min=1e-9))[0]
        uv_i, z_i = (t[0] for t in cameras[i].project(back))
        px = torch.where(seen & (z_i > 0) & (inv_j > 0), (uv_i - uv[0]).norm(dim=-1), torch.full_like(z_i, float("inf")))
        relative = (1.0 - z_j * inv_j).abs()
        count += ((px < check_px) & (relative < check_relative)).float()
        better = px < best_px
        best_px = torch.where(better, px, best_px)
        best_rel = torch.where(better, relative, best_rel)
    return Agreement(count.reshape(h, w), best_px.reshape(h, w), best_rel.reshape(h, w))


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


def normals_from_depth(inv: Float[Tensor, "H W"], K: Float[Tensor, "3 3"], weight: Float[Tensor, "H W"]) -> Float[Tensor, "H W 3"]:
    """Unit normals in the camera frame, facing the camera: a plane fitted to the inverse depths of a 5x5 window.

    Inverse depth of a plane is linear in the pixel, 1/z = a u + b v + c, and its normal is along K^T (a, b, c).
    """
    h, w = inv.shape
    near = inv.clamp(min=1e-12)
    du = torch.arange(-2.0, 3.0).repeat(5)
    dv = torch.arange(-2.0, 3.0).repeat_interleave(5)
    pad = F.pad(near[None, None], (2, 2, 2, 2), mode="replicate")
    window = F.unfold(pad, 5).reshape(25, h, w)
    wpad = F.unfold(F.pad(weight[None, None], (2, 2, 2, 2)), 5).reshape(25, h, w)
    step = (window - near).abs() / near
    g = (wpad + 1e-3) * torch.exp(-((step / 0.05) ** 2))
    # weighted least squares of the offset from the centre, two slopes through the centre's own value
    diff = window - near
    suu, svv, suv = ((g * (p * q)[:, None, None]).sum(0) for p, q in ((du, du), (dv, dv), (du, dv)))
    su, sv = ((g * p[:, None, None] * diff).sum(0) for p in (du, dv))
    det = (suu * svv - suv * suv).clamp(min=1e-9)
    a, b = (svv * su - suv * sv) / det, (suu * sv - suv * su) / det
    uv = pixel_centers(w, h)
    c = near - a * uv[..., 0] - b * uv[..., 1]
    n = torch.stack([a, b, c], -1) @ K.to(near)
    n = F.normalize(n, dim=-1, eps=1e-20)
    ray = torch.cat([uv, torch.ones_like(uv[..., :1])], -1) @ torch.linalg.inv(K).T.to(near)
    return torch.where((n * ray).sum(-1, keepdim=True) > 0, -n, n)
