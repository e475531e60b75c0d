"""Photometric losses in plain torch, unreduced: the twins of the native ones in fused.py, and what runs without compiled kernels or on a GPU.

Images are (..., H, W, C), sRGB in [0, 1]; weights (..., H, W).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["dssim_map", "l1_dssim", "l1_map", "ssim_map", "ssim_window"]

SSIM_RADIUS = 5
SSIM_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def l1_map(pred: Float[Tensor, "*v H W C"], target: Float[Tensor, "*v H W C"]) -> Float[Tensor, "*v H W C"]:
    """|pred - target| per channel."""
    return (pred - target).abs()


def ssim_window(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Float[Tensor, "11"]:
    """The 1D Gaussian window of 11 taps, sigma 1.5, sum 1."""
    taps = [math.exp(-(k**2) / (2 * SSIM_SIGMA**2)) for k in range(-SSIM_RADIUS, SSIM_RADIUS + 1)]
    return torch.tensor([t / sum(taps) for t in taps], dtype=dtype, device=device)


def ssim_map(pred: Float[Tensor, "*v H W C"], target: Float[Tensor, "*v H W C"]) -> Float[Tensor, "*v H W C"]:
    """Structural similarity per pixel and channel (Wang et al. 2004, eq. 13), images in [0, 1], zero padding as is usual in 3DGS training."""
    channels_first = [t.reshape(-1, *t.shape[-3:]).permute(0, 3, 1, 2) for t in (pred, target)]
    p, t = channels_first
    h, w = p.shape[2:]
    window = ssim_window(p.dtype, p.device)

    def blur(x: Tensor) -> Tensor:
        rows = torch.nn.functional.conv2d(x.reshape(-1, 1, h, w), window.view(1, 1, 1, -1), padding=(0, SSIM_RADIUS))
        return torch.nn.functional.conv2d(rows, window.view(1, 1, -1, 1), padding=(SSIM_RADIUS, 0)).view(x.shape)

    mp, mt, pp, tt, pt = blur(torch.stack([p, t, p * p, t * t, p * t]))  # at once: on a GPU it is the launches that take time
    vp, vt, cov = pp - mp * mp, tt - mt * mt, pt - mp * mt
    s = (2 * mp * mt + SSIM_C1) * (2 * cov + SSIM_C2) / ((mp * mp + mt * mt + SSIM_C1) * (vp + vt + SSIM_C2))
    return s.permute(0, 2, 3, 1).reshape(pred.shape)


def dssim_map(pred: Float[Tensor, "*v H W C"], target: Float[Tensor, "*v H W C"]) -> Float[Tensor, "*v H W C"]:
    """1 - SSIM per pixel and channel."""
    return 1 - ssim_map(pred, target)


def l1_dssim(
    pred: Float[Tensor, "*v H W C"],
    target: Float[Tensor, "*v H W C"],
    weight: Float[Tensor, "*v H W"] | None = None,
    ssim_weight: float = 0.2,
) -> Float[Tensor, ""]:
    """(1 - ssim_weight) L1 + ssim_weight (1 - SSIM), each the mean over pixels and channels, weighted by `weight` where given.

    Kerbl et al. 2023, section 5. A weight of zero everywhere gives zero.
    """
    both = (1 - ssim_weight) * l1_map(pred, target) + ssim_weight * dssim_map(pred, target)
    if weight is None:
        return both.mean()
    total = weight.sum()
    return (both * weight[..., None]).sum() / torch.where(total > 0, 3 * total, torch.ones_like(total))
