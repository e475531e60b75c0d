"""What every single-photo depth network shares as a prior: stereo measures, the network completes (`depth_align`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.capture import View
from ..recon.depth import DepthMap
from ..recon.points import PointCloud
from .depth_align import completed
from .depth_stereo import StereoDepth
from .protocol import DepthPrior

__all__ = ["RelativeDepth", "at_size", "network_size"]

UNALIGNED = 0.5  # confidence of relative depth that nothing was compared with


@dataclass
class RelativeDepth(ABC):
    """Stereo completed by a network.

    Attributes:
        reference: the prior that measures.
        side: the photo's shorter side as the network sees it, pixels.
        device: where the network runs.
    """

    reference: DepthPrior = field(default_factory=StereoDepth)
    side: int = 518
    device: str = "cpu"

    @abstractmethod
    def inverse_depth(self, views: Sequence[View]) -> list[Float[Tensor, "H W"]]:
        """Per view, inverse depth up to scale and shift (larger = nearer), at the view's resolution. Raises BackendUnavailable."""

    def predict(self, views: Sequence[View], cameras: Cameras | None, points: PointCloud | None) -> list[DepthMap]:
        """With cameras and two views or more: metric, the reference's pixels untouched and the rest completed. Otherwise `affine_inverse`."""
        relative = self.inverse_depth(views)
        masks = [v.image.load_mask() for v in views]
        if cameras is None or len(views) < 2:
            return [self._alone(r, m) for r, m in zip(relative, masks, strict=True)]
        measured = self.reference.predict(views, cameras, points)
        return [completed(r, d, m) for r, d, m in zip(relative, measured, masks, strict=True)]

    @staticmethod
    def _alone(relative: Float[Tensor, "H W"], mask: Float[Tensor, "H W"] | None) -> DepthMap:
        valid = relative.isfinite() if mask is None else relative.isfinite() & (mask > 0.5)
        return DepthMap(torch.where(valid, relative, 0.0), UNALIGNED * valid.float(), valid, None, "affine_inverse")


def network_size(width: int, height: int, side: int, multiple: int = 14) -> tuple[int, int]:
    """(width, height) with the shorter side about `side`, the photo's shape, both multiples of the network's patches."""
    scale = side / min(width, height)
    return max(multiple, round(width * scale / multiple) * multiple), max(multiple, round(height * scale / multiple) * multiple)


def at_size(maps: Float[Tensor, "B h w"], width: int, height: int) -> Float[Tensor, "B H W"]:
    return F.interpolate(maps[:, None].float(), (height, width), mode="bilinear", align_corners=False)[:, 0]
