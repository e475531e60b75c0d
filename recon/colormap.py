"""Depth and normals as pictures people can read."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["colorize_depth", "colorize_normal", "inverse_depth_range", "rainbow"]

# far to near: violet, blue, cyan, green, yellow, orange, dark red; brightness rises to the middle and falls again, so that
# neighbouring depths differ in hue and both ends stay distinguishable from black
_ANCHORS = (
    (0.27, 0.18, 0.50),
    (0.27, 0.32, 0.78),
    (0.25, 0.52, 0.97),
    (0.11, 0.78, 0.84),
    (0.22, 0.94, 0.56),
    (0.62, 0.98, 0.25),
    (0.90, 0.84, 0.20),
    (0.99, 0.60, 0.19),
    (0.91, 0.32, 0.09),
    (0.72, 0.13, 0.02),
    (0.54, 0.04, 0.02),
)


def rainbow(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s 3"]:
    """Colours for x in [0, 1] (clamped; NaN is 0), linear between fixed anchors."""
    anchors = torch.tensor(_ANCHORS, dtype=torch.float32, device=x.device)
    t = x.float().nan_to_num(0.0).clamp(0, 1) * (len(_ANCHORS) - 1)
    low = t.floor().long().clamp(max=len(_ANCHORS) - 2)
    f = (t - low)[..., None]
    return anchors[low] * (1 - f) + anchors[low + 1] * f


def inverse_depth_range(depth: Float[Tensor, "*s"], low: float = 0.02, high: float = 0.98) -> tuple[float, float]:
    """Robust (smallest, largest) inverse depth over all pixels with depth > 0: percentiles, so that a floater does not eat the scale.

    Returns (0, 1) when there is no depth at all. Never empty: the second number is above the first.
    """
    d = depth[torch.isfinite(depth) & (depth > 0)].float().flatten()
    if d.numel() == 0:
        return 0.0, 1.0
    d = d[:: max(1, d.numel() // 200_000)]  # torch.quantile is limited in size, and a sample is as good
    lo, hi = torch.quantile(1.0 / d, torch.tensor([low, high], device=d.device)).tolist()
    return lo, max(hi, lo * (1 + 1e-3) + 1e-12)


def colorize_depth(
    depth: Float[Tensor, "*s H W"], value_range: tuple[float, float] | None = None, alpha: Float[Tensor, "*s H W"] | None = None
) -> Float[Tensor, "*s H W 3"]:
    """Depth as colours, near = red, far = blue, by inverse depth (as even to the eye as perspective is); black where there is none.

    Args:
        depth: z-depth, 0 or not finite = none.
        value_range: inverse depth at the two ends of the scale (`inverse_depth_range`); None = from this image.
        alpha: accumulated opacity; fades to black where little is there.
    """
    lo, hi = inverse_depth_range(depth) if value_range is None else value_range
    has = torch.isfinite(depth) & (depth > 0)
    x = (1.0 / torch.where(has, depth, torch.ones_like(depth)) - lo) / (hi - lo)
    weight = has.float() if alpha is None else has * alpha.clamp(0, 1)
    return rainbow(x) * weight[..., None]


def colorize_normal(normal: Float[Tensor, "*s H W 3"], alpha: Float[Tensor, "*s H W"] | None = None) -> Float[Tensor, "*s H W 3"]:
    """Normals in the camera frame (OpenCV axes) as colours: red = right, green = up, blue = towards the viewer; black where there is none.

    Args:
        normal: sum(w n) of the rasterizer or unit normals; zero or not finite = none.
        alpha: accumulated opacity; None = full wherever there is a normal.
    """
    n = torch.nan_to_num(normal.float())
    length = torch.linalg.vector_norm(n, dim=-1)
    unit = n / length.clamp(min=1e-8)[..., None]
    axes = torch.tensor([1.0, -1.0, -1.0], device=n.device)
    weight = (length > 1e-6).float() * (1.0 if alpha is None else alpha.clamp(0, 1))
    return (unit * axes * 0.5 + 0.5) * weight[..., None]
