"""A scan drawn over a photo: whether they belong together is seen at a glance."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.colormap import inverse_depth_range, rainbow
from ...recon.scan.between import returns_in_view

__all__ = ["draw_overlay"]

DIMMED = 0.55  # brightness that is left of the photo, in grey, so that colours mean the scan
DOT = 1 / 400  # of the shorter side: half the width of a return
THIN = 3.0  # returns stand at least so many dots apart, or the photo could not be seen


def draw_overlay(image: Float[Tensor, "H W 3"], camera: Cameras, returns: Float[Tensor, "N 3"]) -> Float[Tensor, "H W 3"]:
    """The photo in grey with the returns that its camera sees, near = red, far = blue; of many an even part, and nearer ones over further ones."""
    h, w = image.shape[:2]
    grey = (image.mean(-1, keepdim=True) * DIMMED).expand(-1, -1, 3).clone()
    seen, _ = returns_in_view(camera, returns)
    if len(seen) == 0:
        return grey
    radius = max(0, round(min(w, h) * DOT))
    most = int(w * h / (THIN * (2 * radius + 1)) ** 2) + 1
    order = seen.z.argsort(descending=True)
    order = order[:: -(-len(order) // most)]
    low, high = inverse_depth_range(seen.z)
    colors = rainbow((1 / seen.z[order] - low) / (high - low))
    u, v = seen.uv[order].long().unbind(-1)
    canvas = grey.numpy()
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            canvas[(v + dy).clamp(0, h - 1).numpy(), (u + dx).clamp(0, w - 1).numpy()] = colors.numpy()  # of several the last one stays: the nearest
    return torch.from_numpy(canvas)
