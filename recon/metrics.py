"""How near a picture is to the truth: PSNR and SSIM, each with everything spelt out that papers leave open.

All take float images in [0, 1], V,H,W,3, and return one number per view. Inputs are not clamped or rounded: call `quantize_8bit` first where a
protocol says so. Learned distances are in lpips.py.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ShapeError

__all__ = ["composite", "gaussian_window", "psnr", "quantize_8bit", "ssim", "ssim_map"]

_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 for a dynamic range L = 1, Wang et al. 2004, section III-C


def _check(a: Tensor, b: Tensor, mask: Tensor | None = None) -> None:
    if a.ndim != 4 or a.shape[-1] != 3 or a.shape != b.shape:
        raise ShapeError(f"Metrics compare two stacks of images of one shape (V, H, W, 3); got {tuple(a.shape)} and {tuple(b.shape)}.")
    if mask is not None and mask.shape != a.shape[:3]:
        raise ShapeError(f"A mask for images {tuple(a.shape)} has the shape {tuple(a.shape[:3])}; got {tuple(mask.shape)}.")


def quantize_8bit(image: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Clamped to [0, 1] and rounded to the nearest of 256 levels, as a saved picture would be."""
    return (image.clamp(0, 1) * 255).round() / 255


def composite(image: Float[Tensor, "V H W 3"], mask: Float[Tensor, "V H W"], background: float = 1.0) -> Float[Tensor, "V H W 3"]:
    """The image where the mask is 1, `background` where it is 0, a blend between."""
    m = mask[..., None].to(image)
    return image * m + background * (1 - m)


def psnr(a: Float[Tensor, "V H W 3"], b: Float[Tensor, "V H W 3"], mask: Float[Tensor, "V H W"] | None = None) -> Float[Tensor, "V"]:
    """Peak signal-to-noise ratio in dB for a peak of 1, from the mean squared error over pixels and channels; inf for equal images.

    With a mask the mean is weighted by it (a pixel of mask 0 does not exist); nan for a view whose mask is empty.
    """
    _check(a, b, mask)
    error = (a.double() - b.double()).square().mean(-1)
    if mask is None:
        mse = error.mean((1, 2))
    else:
        weight = mask.double()
        mse = (error * weight).sum((1, 2)) / weight.sum((1, 2))
    return -10 * torch.log10(mse)


def gaussian_window(size: int = 11, sigma: float = 1.5) -> Float[Tensor, "size"]:
    """A normalised Gaussian; the 2D window is its outer product with itself."""
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    w = torch.exp(-0.5 * (x / sigma).square())
    return w / w.sum()


def _blur(x: Tensor, window: Tensor, pad: int) -> Tensor:
    """V,C,H,W blurred along both axes, `pad` zeros on each side."""
    flat = x.reshape(-1, 1, *x.shape[2:])
    flat = torch.nn.functional.conv2d(flat, window.reshape(1, 1, -1, 1), padding=(pad, 0))
    flat = torch.nn.functional.conv2d(flat, window.reshape(1, 1, 1, -1), padding=(0, pad))
    return flat.reshape(*x.shape[:2], *flat.shape[2:])


def ssim_map(
    a: Float[Tensor, "V H W 3"], b: Float[Tensor, "V H W 3"], window: int = 11, sigma: float = 1.5, padding: Literal["zero", "valid"] = "zero"
) -> Float[Tensor, "V h w 3"]:
    """Structural similarity (Wang et al. 2004) at every pixel and channel; Gaussian window, K1 0.01, K2 0.03, range 1, covariances not
    Bessel-corrected.

    padding "zero": outside the image both pictures are 0 and the window is not renormalised; h, w = H, W. This is what the tables of 3D Gaussian
    Splatting and its descendants average. "valid": only windows that lie inside; h, w = H, W less window - 1 (the original definition).
    """
    _check(a, b)
    if padding == "valid" and min(a.shape[1:3]) < window:
        raise ShapeError(f"SSIM with a window of {window} needs images at least that large; got {a.shape[2]}x{a.shape[1]}.")
    pad = window // 2 if padding == "zero" else 0
    g = gaussian_window(window, sigma).to(a.device)
    x, y = a.double().permute(0, 3, 1, 2), b.double().permute(0, 3, 1, 2)
    mx, my = _blur(x, g, pad), _blur(y, g, pad)
    vx, vy, vxy = _blur(x * x, g, pad) - mx * mx, _blur(y * y, g, pad) - my * my, _blur(x * y, g, pad) - mx * my
    value = (2 * mx * my + _C1) * (2 * vxy + _C2) / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
    return value.permute(0, 2, 3, 1)


def ssim(
    a: Float[Tensor, "V H W 3"], b: Float[Tensor, "V H W 3"], window: int = 11, sigma: float = 1.5, padding: Literal["zero", "valid"] = "zero"
) -> Float[Tensor, "V"]:
    """Mean of `ssim_map` over pixels and channels."""
    return ssim_map(a, b, window, sigma, padding).mean((1, 2, 3))
