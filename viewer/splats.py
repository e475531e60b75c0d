"""Gaussians as a browser's splat renderer wants them: plain colours, covariances in half precision, and not too many. No viser here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.gaussians import Gaussians
from ..recon.se3 import matrix_from_quat
from ..recon.sh import rgb_from_sh, rgb_from_sh_dc, sh_dc_from_rgb

__all__ = ["PackedSplats", "ViewFrame", "faded", "pack_splats", "tinted"]

SCENE_DEPTH = 10.0  # viewer units: half precision holds covariances best when a pixel's footprint is about 0.02
MAX_VARIANCE = 3e4  # half precision ends at 65504
MIN_SIZE = 8e-4  # of the distance to the photos: half a pixel in a window 600 high; the browser drops what is smaller than that
MIN_OPACITY = 0.012  # the browser draws nothing below 0.01
MAX_EYES = 8


@dataclass(frozen=True)
class ViewFrame:
    """The viewer's frame: x_view = scale * (x_world - origin). Axes stay the world's."""

    scale: float = 1.0
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def apply(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        return (xyz - torch.tensor(self.origin, dtype=xyz.dtype)) * self.scale

    def undo(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Back to the world."""
        return xyz / self.scale + torch.tensor(self.origin, dtype=xyz.dtype)


@dataclass(frozen=True)
class PackedSplats:
    """N splats in the viewer's frame; rgb and opacity in [0, 1]."""

    centers: Float[np.ndarray, "N 3"]
    covariances: Float[np.ndarray, "N 3 3"]
    rgbs: Float[np.ndarray, "N 3"]
    opacities: Float[np.ndarray, "N 1"]

    def __len__(self) -> int:
        return self.centers.shape[0]


@torch.no_grad()
def pack_splats(
    gaussians: Gaussians, frame: ViewFrame = ViewFrame(), photos: Cameras | None = None, max_splats: int = 1_000_000, size: float = 1.0
) -> PackedSplats:
    """Splats ready to send.

    Leaves out what cannot be seen (not finite, a zero quaternion, fainter than the browser draws), and of more than `max_splats` those
    that cover least. Browsers draw one colour per splat: with view-dependent colours it is the mean over the photos that see it.

    Args:
        photos: cameras the colours are taken from; None = the colour without direction.
        size: factor on every splat's size.
    """
    g = gaussians.to("cpu", torch.float32).detach()
    finite = torch.isfinite(g.means).all(-1) & torch.isfinite(g.log_scales).all(-1) & torch.isfinite(g.quats_wxyz).all(-1)
    finite &= torch.isfinite(g.sh).flatten(1).all(-1) & (torch.linalg.vector_norm(g.quats_wxyz, dim=-1) > 1e-12)
    g = g[finite & (g.opacities > MIN_OPACITY)]  # a NaN opacity compares false
    eyes = None if photos is None else _eyes(photos)
    floor = MIN_SIZE * (torch.full_like(g.logit_opacities, SCENE_DEPTH) if eyes is None else frame.scale * _nearest(g.means, eyes.centers))
    scales = torch.maximum(g.scales * (frame.scale * size), floor[:, None]).clamp(max=MAX_VARIANCE**0.5)
    if len(g) > max_splats:
        area = torch.sort(scales, dim=-1).values[:, 1:].prod(-1)
        keep = (g.opacities * area).topk(max_splats).indices.sort().values
        g, scales = g[keep], scales[keep]
    M = matrix_from_quat(g.quats_wxyz) * scales[:, None, :]
    return PackedSplats(
        centers=frame.apply(g.means).numpy(),
        covariances=(M @ M.transpose(1, 2)).numpy(),
        rgbs=_colors(g, eyes).clamp(0, 1).numpy(),
        opacities=g.opacities[:, None].numpy(),
    )


FADE, TINT = 0.1, (1.0, 0.1, 0.45)


@torch.no_grad()
def faded(gaussians: Gaussians, which: Bool[Tensor, "N"]) -> Gaussians:
    """The same with these nearly clear: what a crop would cut."""
    opacity = torch.where(which, FADE * gaussians.opacities, gaussians.opacities).clamp(1e-6, 1 - 1e-6)
    return replace(gaussians, logit_opacities=torch.logit(opacity))


@torch.no_grad()
def tinted(gaussians: Gaussians, which: Bool[Tensor, "N"]) -> Gaussians:
    """The same with these in pink: what would be dropped."""
    sh = gaussians.sh.clone()
    sh[which] = 0
    sh[which, 0] = sh_dc_from_rgb(torch.tensor(TINT, dtype=sh.dtype))
    return replace(gaussians, sh=sh)


def _eyes(photos: Cameras) -> Cameras:
    """At most MAX_EYES of them, evenly spaced."""
    photos = photos.to("cpu", torch.float32)
    return photos[sorted({round(i * (len(photos) - 1) / (MAX_EYES - 1)) for i in range(MAX_EYES)})]


def _nearest(xyz: Float[Tensor, "N 3"], eyes: Float[Tensor, "E 3"]) -> Float[Tensor, "N"]:
    distance = torch.full_like(xyz[:, 0], float("inf"))
    for eye in eyes:
        distance = torch.minimum(distance, torch.linalg.vector_norm(xyz - eye, dim=-1))
    return distance


def _colors(g: Gaussians, eyes: Cameras | None) -> Float[Tensor, "N 3"]:
    base = rgb_from_sh_dc(g.sh[:, 0])
    if g.sh.shape[1] == 1 or eyes is None or len(g) == 0:
        return base
    total, weight = base * 1e-3, torch.full_like(base[:, :1], 1e-3)
    for i in range(len(eyes)):
        camera = eyes[i]
        uv, z = camera.project(g.means)
        seen = (z[0] > 0) & (uv[0] >= 0).all(-1) & (uv[0, :, 0] <= camera.width) & (uv[0, :, 1] <= camera.height)
        w = seen.float()[:, None]
        direction = torch.nn.functional.normalize(g.means - camera.centers, dim=-1)
        total += w * rgb_from_sh(g.sh, direction)
        weight += w
    return total / weight
