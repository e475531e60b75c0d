"""Depth where nothing was measured: continued from what was, stopping at colour edges."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .errors import ShapeError

__all__ = ["complete_depth"]


def complete_depth(
    depth: Float[Tensor, "H W"],
    confidence: Float[Tensor, "H W"],
    image: Float[Tensor, "H W 3"],
    colour_scale: float = 6.0,
    data_weight: float = 20.0,
    edge_floor: float = 0.003,
    breaks: int = 2,
) -> Float[Tensor, "H W"]:
    """A dense z-depth: confident pixels keep theirs, the others take the smoothest continuation.

    Minimises sum c (x - 1/depth)^2 + sum w_pq (x_p - x_q)^2 over the inverse depth x, in which planes are linear, so a hole in a plane
    is filled by that plane. w falls with the colour step between neighbours (Levin et al. 2004; Min et al. 2014, eq. 1); after each solve
    large steps are cut further (weak membrane, Blake and Zisserman 1987), so that foreground and background meet in a step, not in a ramp.

    Args:
        depth: 0 = none.
        confidence: [0, 1]; 0 = ignore the depth there.
        image: sRGB in [0, 1].
        colour_scale: a link weakens by e for this colour step (8-bit levels, largest channel).
        data_weight: how firmly a pixel of confidence 1 holds, relative to one link.
        edge_floor: links are never weaker than this.
        breaks: times that large depth steps are cut.

    Returns positive depth everywhere; where nothing at all is confident, the median of the depth given (0 if there is none).
    Raises ShapeError when the sizes differ.
    """
    h, w = depth.shape
    if confidence.shape != (h, w) or image.shape != (h, w, 3):
        raise ShapeError(
            f"complete_depth needs one size: depth {tuple(depth.shape)}, confidence {tuple(confidence.shape)}, image {tuple(image.shape)}."
        )
    known = (depth > 0) & torch.isfinite(depth) & (confidence > 0)
    if not bool(known.any()):
        positive = depth[(depth > 0) & torch.isfinite(depth)]
        return torch.full_like(depth, float(positive.median()) if len(positive) else 0.0)
    with torch.no_grad():
        inv = torch.where(known, 1.0 / depth.clamp(min=1e-12), torch.zeros_like(depth))
        unit = float(inv[known].median())
        data = torch.where(known, confidence.clamp(0, 1) ** 2, torch.zeros_like(depth)) * data_weight
        links = _colour_links(image, colour_scale, edge_floor)
        x = _solve(inv / unit, data, *links)
        for _ in range(breaks):
            cut = [link / (1.0 + (_step(x, d) / (0.03 * _mean(x, d))) ** 2).square() for d, link in enumerate(links)]
            x = _solve(inv / unit, data, *(torch.clamp(c, min=1e-5) for c in cut), start=x)
        low, high = float(inv[known].min()) / unit, float(inv[known].max()) / unit
        return 1.0 / (x.clamp(low, high) * unit)


def _step(x: Tensor, dim: int) -> Tensor:
    """Difference to the next pixel, along columns (dim 0: right) or rows (dim 1: down)."""
    return x[:, 1:] - x[:, :-1] if dim == 0 else x[1:] - x[:-1]


def _mean(x: Tensor, dim: int) -> Tensor:
    m = 0.5 * (x[:, 1:] + x[:, :-1] if dim == 0 else x[1:] + x[:-1])
    return m.abs().clamp(min=1e-6)


def _colour_links(image: Tensor, scale: float, floor: float) -> tuple[Tensor, Tensor]:
    rgb = image.permute(2, 0, 1)
    right = (rgb[:, :, 1:] - rgb[:, :, :-1]).abs().amax(0) * 255
    down = (rgb[:, 1:] - rgb[:, :-1]).abs().amax(0) * 255
    return torch.exp(-right / scale).clamp(min=floor), torch.exp(-down / scale).clamp(min=floor)


def _apply(x: Tensor, data: Tensor, right: Tensor, down: Tensor) -> Tensor:
    out = data * x
    flow = right * _step(x, 0)
    out[:, :-1] -= flow
    out[:, 1:] += flow
    flow = down * _step(x, 1)
    out[:-1] -= flow
    out[1:] += flow
    return out


def _solve(inv: Tensor, data: Tensor, right: Tensor, down: Tensor, start: Tensor | None = None, rounds: int = 40) -> Tensor:
    """Conjugate gradients, preconditioned by the diagonal, from the solution at half size."""
    h, w = inv.shape
    if start is None:
        start = _coarse(inv, data, right, down) if min(h, w) > 8 else torch.full_like(inv, float((data * inv).sum() / data.sum()))
    diagonal = data + 1e-9
    diagonal[:, :-1] += right
    diagonal[:, 1:] += right
    diagonal[:-1] += down
    diagonal[1:] += down
    x = start.clone()
    r = data * inv - _apply(x, data, right, down)
    z = r / diagonal
    p, rz = z.clone(), float((r * z).sum())
    for _ in range(rounds if min(h, w) > 8 else 2 * h * w):
        if rz < 1e-12 * h * w:
            break
        q = _apply(p, data, right, down)
        step = rz / max(float((p * q).sum()), 1e-30)
        x += step * p
        r -= step * q
        z = r / diagonal
        before, rz = rz, float((r * z).sum())
        p = z + (rz / before) * p
    return x


def _coarse(inv: Tensor, data: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """The same problem on 2x2 blocks (weights summed over a block, links over its borders), its solution brought back."""
    h, w = inv.shape
    H, W = (h + 1) // 2, (w + 1) // 2

    def blocks(t: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(t[None, None], (0, 2 * W - w, 0, 2 * H - h)), 2)[0, 0] * 4

    d = blocks(data)
    x = blocks(data * inv) / d.clamp(min=1e-12)
    across = right[:, 1::2]  # links between an odd column and the next even one
    across = F.pad(across, (0, W - 1 - across.shape[1], 0, 2 * H - h))
    along = down[1::2]
    along = F.pad(along, (0, 2 * W - w, 0, H - 1 - along.shape[0]))
    right2 = (across[0::2] + across[1::2]) * 0.5
    down2 = (along[:, 0::2] + along[:, 1::2]) * 0.5
    small = _solve(x, d, right2, down2)
    return F.interpolate(small[None, None], (2 * H, 2 * W), mode="bilinear", align_corners=False)[0, 0, :h, :w].contiguous()
