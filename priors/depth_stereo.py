"""Depth from the photos themselves: multi-view stereo as a prior. Nothing is learned, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..recon.camera import Cameras
from ..recon.capture import View
from ..recon.depth import DepthMap
from ..recon.depth_support import fade_unsupported
from ..recon.errors import CaptureError
from ..recon.points import PointCloud
from ..recon.stereo import StereoConfig, stereo_depth

__all__ = ["StereoDepth"]


class StereoDepth:
    """Plane sweep with semi-global aggregation over all neighbouring photos (see `recon.stereo`)."""

    name = "stereo"
    version = "1"
    license = "Apache-2.0"

    def __init__(self, config: StereoConfig | None = None, backend: str = "auto") -> None:
        self.config = config or StereoConfig()
        self.backend = backend

    def predict(self, views: Sequence[View], cameras: Cameras | None, points: PointCloud | None) -> list[DepthMap]:
        """One metric depth map per view, in the cameras' world units. Raises CaptureError without cameras or with fewer than two views."""
        if cameras is None:
            raise CaptureError("Stereo depth needs cameras; estimate them first (handful reconstruct does) or choose another depth prior.")
        if len(views) < 2:
            raise CaptureError("Stereo depth needs two photos or more of the same scene; add a photo or choose another depth prior.")
        images = torch.stack([v.image.load() for v in views])
        masks = [v.image.load_mask() for v in views]
        mask = None
        if any(m is not None for m in masks):
            mask = torch.stack([torch.ones(images.shape[1:3]) if m is None else m for m in masks])
        xyz = None if points is None else points.xyz
        return [fade_unsupported(d) for d in stereo_depth(images, cameras, None, self.config, mask, xyz, self.backend)]
