"""What every dense flow shares: a network run both ways on resized photos, and how far to trust it (where the way there and the way back agree)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..recon.capture import View
from ..recon.errors import ShapeError
from ..recon.matches import FlowField

__all__ = ["agreement", "network_flow", "same_size"]


def same_size(a: View, b: View) -> None:
    if a.image.size != b.image.size:
        raise ShapeError(f"Flow needs two views of one size; {a.name} is {a.image.size} and {b.name} is {b.image.size} (width, height).")


def agreement(forward: Float[Tensor, "H W 2"], backward: Float[Tensor, "H W 2"], a: View, b: View, scale: float) -> Float[Tensor, "H W"]:
    """Confidence of `forward` (from `a` to `b`): exp(-1/2) where `backward` misses the start by `scale` pixels, 0 where the flow leaves `b` or a mask is 0."""
    h, w = forward.shape[:2]
    y, x = torch.meshgrid(torch.arange(h, dtype=torch.float32), torch.arange(w, dtype=torch.float32), indexing="ij")
    at = torch.stack([x, y], -1) + 0.5 + forward  # continuous pixels of the second view
    grid = (at * 2 / torch.tensor([w, h]) - 1)[None]
    second = [backward[..., 0], backward[..., 1]]
    mask = b.image.load_mask()
    if mask is not None:
        second.append(mask)
    read = torch.nn.functional.grid_sample(torch.stack(second)[None], grid, align_corners=False, padding_mode="border")[0]
    error = (forward + read[:2].permute(1, 2, 0)).norm(dim=-1)
    inside = ((at >= 0) & (at <= torch.tensor([w, h]))).all(-1)
    confidence = torch.exp(-0.5 * (error / scale) ** 2) * inside
    if mask is not None:
        confidence = confidence * (read[2] > 0.5)
    own = a.image.load_mask()
    return confidence if own is None else confidence * (own > 0.5)


def network_flow(
    net: Callable[[Tensor, Tensor], Tensor],
    a: View,
    b: View,
    work: tuple[int, int],
    tolerance_px: float,
    device: torch.device | str = "cpu",
) -> FlowField:
    """Flow by a network that wants photos of `work` = (width, height): resized to it, run in both directions at once, brought back to the photo's pixels.

    Args:
        net: two batches B,3,H,W in [0, 1] -> displacement B,2,H,W in pixels of its input.
        tolerance_px: forward-backward disagreement, in pixels of 500 along the longer side, at which the confidence is exp(-1/2).
    """
    same_size(a, b)
    w, h = a.image.size
    images = torch.stack([v.image.load().permute(2, 0, 1) for v in (a, b)])
    images = F.interpolate(images, (work[1], work[0]), mode="bilinear", align_corners=False, antialias=True).to(device)
    with torch.inference_mode():
        flow = net(images, images.flip(0)).float().cpu().clone()
    # pixel centres at +0.5 on both sides, so resizing is plain scaling
    flow = F.interpolate(flow, (h, w), mode="bilinear", align_corners=False) * torch.tensor([w / work[0], h / work[1]]).reshape(1, 2, 1, 1)
    forward, backward = flow.permute(0, 2, 3, 1).contiguous()
    return FlowField(forward, agreement(forward, backward, a, b, tolerance_px * max(w, h) / 500))
