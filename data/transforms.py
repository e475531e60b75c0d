"""Capture -> Capture: other sizes and evenly spaced subsets, whatever the photos come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.capture import Capture, ImageSource
from ..recon.depth import DepthMap
from .assemble import subset_indices
from .image_io import resize, resize_depth

__all__ = ["ResizedImage", "resize_capture", "subset_evenly"]


@dataclass(frozen=True)
class ResizedImage:
    """An ImageSource at another size (by area when reducing)."""

    source: ImageSource
    size: tuple[int, int]

    def load(self) -> Float[Tensor, "H W 3"]:
        return torch.from_numpy(resize(self.source.load().numpy(), self.size))

    def load_mask(self) -> Float[Tensor, "H W"] | None:
        mask = self.source.load_mask()
        return None if mask is None else torch.from_numpy(resize(mask.numpy(), self.size))

    def digest(self) -> str:
        return hashlib.sha256(f"{self.source.digest()} {self.size}".encode()).hexdigest()


def resize_capture(capture: Capture, max_side: int) -> Capture:
    """Photos, cameras, focal priors and depth reduced so that the longer side is at most `max_side` pixels; never enlarged."""
    if not capture.views:
        return capture
    w, h = capture.views[0].image.size
    scale = max_side / max(w, h)
    if scale >= 1:
        return capture
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    views = tuple(
        replace(v, image=ResizedImage(v.image, size), focal_prior_px=None if v.focal_prior_px is None else v.focal_prior_px * scale)
        for v in capture.views
    )
    cameras = None if capture.cameras is None else capture.cameras.resized(*size)
    return replace(capture, views=views, cameras=cameras, depth=tuple(_resized_depth(d, size) for d in capture.depth))


def _resized_depth(depth: DepthMap | None, size: tuple[int, int]) -> DepthMap | None:
    if depth is None:
        return None

    def nearest(t: Tensor) -> Tensor:
        return torch.from_numpy(resize_depth(t.numpy(), size))

    normal = None if depth.normal is None else torch.stack([nearest(depth.normal[..., i]) for i in range(3)], dim=-1)
    return replace(depth, depth=nearest(depth.depth), confidence=nearest(depth.confidence), valid=nearest(depth.valid), normal=normal)


def subset_evenly(capture: Capture, k: int) -> Capture:
    """At most k photos, evenly over the order of the views: index int(i * n / k). Points are dropped as in `Capture.select`."""
    if k >= len(capture):
        return capture
    return capture.select([capture.names[i] for i in subset_indices(len(capture), k)])
