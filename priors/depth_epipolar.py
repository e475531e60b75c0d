"""Depth from optical flow and cameras: the flow's end is put on the epipolar line, triangulated, and blended over the other photos.

Zheng et al. 2025, NexusGS, section 3: epipolar depth, flow-resilient blending, flow-filtered pruning. Any flow prior of the registry serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..recon.camera import Cameras, pixel_centers
from ..recon.capture import View
from ..recon.depth import DepthMap
from ..recon.errors import CaptureError
from ..recon.points import PointCloud
from .protocol import FlowPrior
from .registry import get_prior

__all__ = ["EpipolarDepth", "FlowDepth", "blend", "depth_from_flow"]


@dataclass(frozen=True)
class FlowDepth:
    """What the flow into one other photo says about the depth of each pixel.

    Attributes:
        depth: z-depth of the flow's end put on the epipolar line; not positive or not finite where the rays do not meet before both cameras.
        distance_px: from the flow's end to the epipolar line: how wrong the flow is at least.
        sensitivity: relative change of the depth for one pixel along the line: how much a wrong flow would matter.
    """

    depth: Float[Tensor, "H W"]
    distance_px: Float[Tensor, "H W"]
    sensitivity: Float[Tensor, "H W"]


def depth_from_flow(flow: Float[Tensor, "H W 2"], source: Cameras, target: Cameras) -> FlowDepth:
    """Of every pixel of `source` (one camera); exact for exact flow, whatever the error across the line."""
    h, w = flow.shape[:2]
    uv = pixel_centers(w, h).double()
    target_from_source = (target.cam_from_world[0].double()) @ torch.linalg.inv(source.cam_from_world[0].double())
    K, K_inv = target.K[0].double(), torch.linalg.inv(source.K[0].double())
    # the point of pixel p at depth z is seen at far * z + epipole (homogeneous)
    far = torch.cat([uv, torch.ones_like(uv[..., :1])], -1) @ (K @ target_from_source[:3, :3] @ K_inv).T
    epipole = (K @ target_from_source[:3, 3]).expand_as(far)
    line = torch.linalg.cross(far, epipole)
    normal = line[..., :2].norm(dim=-1).clamp_min(1e-12)
    end = uv + flow.double()
    offset = ((line[..., :2] * end).sum(-1) + line[..., 2]) / normal
    foot = end - (offset / normal)[..., None] * line[..., :2]
    a, b = foot * far[..., 2:] - far[..., :2], epipole[..., :2] - foot * epipole[..., 2:]  # z a = b
    z = (a * b).sum(-1) / (a * a).sum(-1).clamp_min(1e-12)
    z_target = z * far[..., 2] + epipole[..., 2]
    speed = a.norm(dim=-1) / z_target.abs().clamp_min(1e-12)  # pixels the foot moves per unit of depth
    sensitivity = 1 / (speed * z.abs()).clamp_min(1e-12)
    depth = torch.where((z > 0) & (z_target > 0), z, 0.0)
    return FlowDepth(depth.float(), offset.abs().float(), sensitivity.float())


def blend(
    depths: Float[Tensor, "S H W"], weights: Float[Tensor, "S H W"], margins: Float[Tensor, "S H W"]
) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """The depth of the largest weight, averaged with those that agree with it within both margins (relative); 0 where all weights are 0. And the share of the
    weight that agrees."""
    best = weights.argmax(0, keepdim=True)
    first, first_margin = depths.gather(0, best), margins.gather(0, best)
    agree = (depths / first.clamp_min(1e-12) - 1).abs() <= torch.maximum(margins, first_margin)
    total = (weights * agree).sum(0)
    mean = (weights * agree * depths).sum(0) / total.clamp_min(1e-12)
    share = total / weights.sum(0).clamp_min(1e-12)
    return torch.where(total > 0, mean, 0.0), torch.where(total > 0, share, 0.0)


class EpipolarDepth:
    """Depth of each photo from the flow into its neighbours.

    Args:
        flow: name of a flow prior, or one.
        tolerance_px: distance of the flow's end to the epipolar line above which a pixel is dropped, in pixels of 500 along the longer side.
        least_confidence: of the flow (forward against backward), below which a pixel is dropped.
        coarsest: largest sensitivity (relative change of depth per pixel) that is a measurement.
        max_sources: so many nearest photos are asked.
    """

    name = "epipolar"
    version = "1"
    license = "Apache-2.0"

    def __init__(
        self,
        flow: str | FlowPrior = "dis",
        tolerance_px: float = 2.0,
        least_confidence: float = 0.3,
        coarsest: float = 0.2,
        max_sources: int = 4,
        device: str = "cpu",
    ) -> None:
        self.flow: FlowPrior = get_prior("flow", flow, torch.device(device)) if isinstance(flow, str) else flow
        self.tolerance_px, self.least_confidence, self.coarsest, self.max_sources = tolerance_px, least_confidence, coarsest, max_sources

    def predict(self, views: Sequence[View], cameras: Cameras | None, points: PointCloud | None) -> list[DepthMap]:
        """One metric depth map per view, in the cameras' world units. Raises CaptureError without cameras or with fewer than two views."""
        if cameras is None:
            raise CaptureError(
                "Depth from flow needs cameras; estimate them first (handful reconstruct does) or choose another depth prior."
            )
        if len(views) < 2:
            raise CaptureError("Depth from flow needs two photos or more of the same scene; add a photo or choose another depth prior.")
        cameras = cameras.to("cpu")
        near = cameras.distances.argsort(1)
        return [self._one(views, cameras, i, [j for j in near[i].tolist() if j != i][: self.max_sources]) for i in range(len(views))]

    def _one(self, views: Sequence[View], cameras: Cameras, i: int, sources: list[int]) -> DepthMap:
        fields = self.flow.predict([(views[i], views[j]) for j in sources])
        found = [depth_from_flow(f.flow, cameras[i], cameras[j]) for f, j in zip(fields, sources, strict=True)]
        depths = torch.stack([f.depth for f in found])
        distance = torch.stack([f.distance_px for f in found])
        sensitivity = torch.stack([f.sensitivity for f in found])
        tolerance = self.tolerance_px * max(cameras.width, cameras.height) / 500
        trust = torch.stack([f.confidence for f in fields]) * torch.exp(-0.5 * (2 * distance / tolerance) ** 2)
        good = self._kept(depths, distance, sensitivity, tolerance) & (torch.stack([f.confidence for f in fields]) >= self.least_confidence)
        weights = torch.where(good, trust / sensitivity.square().clamp_min(1e-12), 0.0)
        depth, share = blend(depths, weights, 2 * tolerance * sensitivity)
        confidence = torch.where(good, trust, 0.0).amax(0) * share
        return DepthMap(depth, confidence, depth > 0)

    def _kept(self, depth: Tensor, distance: Tensor, sensitivity: Tensor, tolerance: float) -> Bool[Tensor, "S H W"]:
        return (depth > 0) & torch.isfinite(depth) & (distance <= tolerance) & (sensitivity <= self.coarsest)
