"""What adapters of point map networks share: photos in at the network's size, depth and cameras out at the photo's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.capture import View
from ..recon.errors import ShapeError
from ..recon.pointmaps import PointMaps

__all__ = ["IMAGENET", "batch", "from_depth", "work_size"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of the photos that the backbones were trained on


def work_size(width: int, height: int, longer: int, multiple: int = 14) -> tuple[int, int]:
    """(width, height) with the longer side about `longer`, both multiples of the network's patches."""
    scale = longer / max(width, height)
    return max(multiple, round(width * scale / multiple) * multiple), max(multiple, round(height * scale / multiple) * multiple)


def batch(views: Sequence[View], work: tuple[int, int]) -> Float[Tensor, "V 3 h w"]:
    """The photos in [0, 1] at the network's size. Raises ShapeError where they differ in size."""
    if len({v.image.size for v in views}) != 1:
        raise ShapeError(f"Point maps need views of one size, got {sorted({v.image.size for v in views})} (width, height).")
    images = torch.stack([v.image.load().permute(2, 0, 1) for v in views])
    return F.interpolate(images, (work[1], work[0]), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def from_depth(
    views: Sequence[View],
    depth: Float[Tensor, "V h w"],
    certainty: Float[Tensor, "V h w"],
    cam_from_world: Float[Tensor, "V r 4"],
    K: Float[Tensor, "V 3 3"],
    metric: bool = False,
) -> PointMaps:
    """Depth and cameras at the network's size -> point maps at the photos'.

    Args:
        certainty: as these networks give it, 1 = none and more without end; becomes the confidence 1 - 1 / certainty.
        cam_from_world: OpenCV axes; with or without the last row.
        K: in pixels of the depth maps, which span the whole photo.
    """
    h, w = depth.shape[1:]
    width, height = views[0].image.size
    pose = torch.eye(4).repeat(len(views), 1, 1)
    pose[:, : cam_from_world.shape[1]] = cam_from_world.float()
    K = K.float().clone()
    K[:, 0] *= width / w
    K[:, 1] *= height / h
    K[:, 0, 1] = 0.0
    cameras = Cameras(pose, K, width, height)
    full = F.interpolate(torch.stack([depth, certainty], 1).float(), (height, width), mode="bilinear", align_corners=False)
    z, sure = full.unbind(1)
    valid = z.isfinite() & (z > 0)
    for k, view in enumerate(views):
        mask = view.image.load_mask()
        if mask is not None:
            valid[k] &= mask > 0.5
    xyz = cameras.unproject_depth(torch.where(valid, z, 1.0))
    confidence = torch.where(valid, 1.0 - 1.0 / sure.clamp_min(1.0), 0.0)
    return PointMaps(torch.where(valid[..., None], xyz, 0.0), confidence, valid, cameras, metric)
