"""Depth where nothing was measured: continued from what was, planes as planes, stopping at colour edges."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .errors import ShapeError
from .kernels import native_or_none

__all__ = ["complete_depth"]

_EDGE = 0.03  # relative step of the inverse depth that counts as an edge of the surface
_WEAKEST = 1e-5
_REACH = 10  # half width in pixels of the windows that slopes are measured in


def complete_depth(
    depth: Float[Tensor, "H W"],
    confidence: Float[Tensor, "H W"],
    image: Float[Tensor, "H W 3"],
    colour_scale: float = 8.0,
    data_weight: float = 20.0,
    edge_floor: float = 0.003,
    breaks: int = 2,
    slopes: bool = True,
) -> Float[Tensor, "H W"]:
    """A dense z-depth: confident pixels keep theirs, the others take the smoothest continuation.

    Minimises sum c (x - 1/depth)^2 + sum w_pq (x_q - x_p - g_pq)^2 over the inverse depth x, in which planes are linear. w falls with the colour
    step between neighbours (Levin et al. 2004); after each solve large steps are cut further (weak membrane, Blake and Zisserman 1987), so that
    foreground and background meet in a step, not in a ramp. g is first 0, which fills a hole in a plane by that plane; then the slope of the
    surface, measured in windows of confident depth and continued in the same way, so that floors and walls also run on beyond where they were seen.

    Args:
        depth: 0 = none.
        confidence: [0, 1]; 0 = ignore the depth there.
        image: sRGB in [0, 1].
        colour_scale: a link weakens by e for this colour step (8-bit levels, largest channel).
        data_weight: how firmly a pixel of confidence 1 holds, relative to one link.
        edge_floor: links are never weaker than this.
        breaks: times that large depth steps are cut.
        slopes: continue slopes too; without, open ends level off.

    Returns positive depth everywhere, at most half as near and one and a half times as far as any given; where nothing at all is confident, the
    median of the depth given (0 if there is none). Raises ShapeError when the sizes differ.
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
        inv = inv / unit
        sure = torch.where(known, confidence.clamp(0, 1), torch.zeros_like(depth))
        data = sure**2 * data_weight
        links = _colour_links(image, colour_scale, edge_floor)
        cut = links
        x = _solve(data * inv, data, *links)
        for _ in range(breaks):
            cut = tuple((k / (1.0 + (_step(x, d) / (_EDGE * _mean(x, d))) ** 2).square()).clamp(min=_WEAKEST) for d, k in enumerate(links))
            x = _solve(data * inv, data, *cut, start=x)
        low, high = float(inv[known].min()), float(inv[known].max())
        if slopes and min(h, w) > 2 * _REACH:
            x = _with_slopes(inv, data, sure, x, links, cut)
            low, high = low / 1.5, high * 1.5
        return 1.0 / (x.clamp(low, high) * unit)


def _with_slopes(inv: Tensor, data: Tensor, sure: Tensor, x: Tensor, links: tuple[Tensor, ...], cut: tuple[Tensor, ...]) -> Tensor:
    du, dv, trust = _local_slopes(x, sure)
    trust = 5.0 * trust * (sure > 0.5)
    if not bool((trust > 0.05).any()):
        return x
    wide = [_solve(trust * s, trust, *links, rounds=8) for s in (du, dv)]
    goal = data * inv
    for d, (slope, link) in enumerate(zip(wide, cut, strict=True)):
        flow = link * 0.5 * (slope[:, 1:] + slope[:, :-1] if d == 0 else slope[1:] + slope[:-1])
        _spread(goal, flow, d)
    return _solve(goal, data, *cut, start=x)


def _local_slopes(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of planes fitted to windows of x, and how far to trust them: little where the window bends, breaks or is mostly unknown."""
    h, w = x.shape
    u = ((torch.arange(w, dtype=torch.float64) - w / 2) / _REACH).expand(h, w)
    v = ((torch.arange(h, dtype=torch.float64)[:, None] - h / 2) / _REACH).expand(h, w)
    g, t = weight.double(), x.double()

    def box(q: Tensor) -> Tensor:
        n = 2 * _REACH + 1
        p = F.avg_pool2d(q[None, None], (1, n), 1, (0, _REACH), count_include_pad=False)
        return F.avg_pool2d(p, (n, 1), 1, (_REACH, 0), count_include_pad=False)[0, 0]

    share = box(g)
    n = share.clamp(min=1e-9)
    mu, mv, mt = box(g * u) / n, box(g * v) / n, box(g * t) / n
    uu, vv, uv = box(g * u * u) / n - mu * mu, box(g * v * v) / n - mv * mv, box(g * u * v) / n - mu * mv
    ut, vt, tt = box(g * u * t) / n - mu * mt, box(g * v * t) / n - mv * mt, box(g * t * t) / n - mt * mt
    det = uu * vv - uv * uv + 1e-4
    a, b = (vv * ut - uv * vt) / det, (uu * vt - uv * ut) / det
    rough = (tt - a * ut - b * vt).clamp(min=0).sqrt() / mt.abs().clamp(min=1e-6)
    trust = share.clamp(max=1) * torch.exp(-((rough / (0.7 * _EDGE)) ** 2)) * (det > 5e-3)
    return (a / _REACH).float(), (b / _REACH).float(), trust.float()


def _step(x: Tensor, dim: int) -> Tensor:
    """Difference to the next pixel, along columns (dim 0: right) or rows (dim 1: down)."""
    return x[:, 1:] - x[:, :-1] if dim == 0 else x[1:] - x[:-1]


def _spread(out: Tensor, flow: Tensor, dim: int) -> None:
    """Adds what flows over each link: taken from its first pixel, given to its second."""
    if dim == 0:
        out[:, :-1] -= flow
        out[:, 1:] += flow
    else:
        out[:-1] -= flow
        out[1:] += flow


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
    _spread(out, right * _step(x, 0), 0)
    _spread(out, down * _step(x, 1), 1)
    return out


Level = tuple[Tensor, Tensor, Tensor, Tensor]  # data, right, down, and the diagonal of the whole


def _levels(data: Tensor, right: Tensor, down: Tensor) -> list[Level]:
    """The problem and its coarser copies on 2x2 blocks: data summed, links summed over the blocks' borders, half as stiff for twice the way."""
    out: list[Level] = []
    while True:
        diagonal = data + 1e-9
        diagonal[:, :-1] += right
        diagonal[:, 1:] += right
        diagonal[:-1] += down
        diagonal[1:] += down
        out.append((data, right, down, diagonal))
        h, w = data.shape
        if max(h, w) <= 4:
            return out
        H, W = (h + 1) // 2, (w + 1) // 2
        across = right[:, 1::2]  # links between an odd column and the next even one
        across = F.pad(across, (0, W - 1 - across.shape[1], 0, 2 * H - h))
        along = down[1::2]
        along = F.pad(along, (0, 2 * W - w, 0, H - 1 - along.shape[0]))
        data, right, down = _blocks(data), (across[0::2] + across[1::2]) * 0.5, (along[:, 0::2] + along[:, 1::2]) * 0.5


def _blocks(t: Tensor) -> Tensor:
    h, w = t.shape
    return F.avg_pool2d(F.pad(t[None, None], (0, w % 2, 0, h % 2)), 2)[0, 0] * 4


def _cycle(levels: list[Level], k: int, r: Tensor) -> Tensor:
    """One symmetric V-cycle: an approximate solution for the residual r."""
    *operator, diagonal = levels[k]
    x = 0.7 * r / diagonal
    if k + 1 == len(levels):
        for _ in range(20):
            x += 0.7 * (r - _apply(x, *operator)) / diagonal
        return x
    h, w = r.shape
    coarse = _cycle(levels, k + 1, _blocks(r - _apply(x, *operator)))
    x += coarse.repeat_interleave(2, 0).repeat_interleave(2, 1)[:h, :w]
    return x + 0.7 * (r - _apply(x, *operator)) / diagonal


def _solve(goal: Tensor, data: Tensor, right: Tensor, down: Tensor, start: Tensor | None = None, rounds: int = 12) -> Tensor:
    """(data + Laplacian of the links) x = goal, by conjugate gradients with a multigrid cycle as preconditioner; compiled where it can be."""
    kernels = native_or_none()
    if kernels is None or goal.device.type != "cpu" or goal.dtype != torch.float32:
        return _solve_in_torch(goal, data, right, down, start, rounds)
    tensors = [None if t is None else t.contiguous() for t in (goal, data, right, down, start)]
    return kernels.solve_links(*tensors, rounds)


def _solve_in_torch(goal: Tensor, data: Tensor, right: Tensor, down: Tensor, start: Tensor | None, rounds: int) -> Tensor:
    levels = _levels(data, right, down)
    x = torch.full_like(goal, float(goal.sum() / data.sum())) if start is None else start.clone()
    r = goal - _apply(x, data, right, down)
    z = _cycle(levels, 0, r)
    p, rz = z.clone(), float((r * z).sum())
    for _ in range(rounds):
        if rz < 1e-12 * goal.numel():
            break
        q = _apply(p, data, right, down)
        step = rz / max(float((p * q).sum()), 1e-30)
        x += step * p
        r -= step * q
        z = _cycle(levels, 0, r)
        before, rz = rz, float((r * z).sum())
        p = z + (rz / before) * p
    return x
