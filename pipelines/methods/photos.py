"""All that a run is given to learn from, on its device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.depth import DepthMap
from ...recon.depth_fill import complete_depth
from ...recon.hull import Hull
from ...recon.matches import FlowField
from ..protocol import Start

__all__ = ["Photos", "background_of"]


@dataclass(frozen=True)
class Photos:
    """The photos, as placed and measured before the run.

    Attributes:
        cameras, images, masks, depth: one per photo; no masks = everywhere counts.
        extents: where each picture is a photo, not padding or a corner that the lens left out; None = everywhere.
        cut_out: the masks leave out what the photos show (see Capture.is_cut_out), not only padding.
        white: the photos show an object on white (its outline is then the mask).
        guide: the depth that ranking and correlation compare with; `depth` itself unless the method names another prior.
        nearest: of each photo, the other that was taken nearest to it; neighbour: how far from it, world units. A single photo is its own, at 0.
        flow: from photo i to photo j, by (i, j); empty unless the method asks for it.
        completed: dense z-depth of each photo: the measured, continued to where nothing was.
        scan: z-depth of the sensor's returns in each photo, 0 = none there; None without a sensor.
        scene_depth: median depth of the confident pixels: the unit that position steps are measured in.
    """

    cameras: Cameras
    images: Float[Tensor, "V H W 3"]
    masks: Float[Tensor, "V H W"] | None
    extents: Float[Tensor, "V H W"] | None
    cut_out: bool
    depth: tuple[DepthMap, ...]
    guide: tuple[DepthMap, ...]
    nearest: tuple[int, ...]
    neighbour: tuple[float, ...]
    scene_depth: float
    flow: Mapping[tuple[int, int], FlowField]
    scan: Float[Tensor, "V H W"] | None = None
    white: bool = False

    @cached_property
    def completed(self) -> Float[Tensor, "V H W"]:
        maps = zip(self.depth, self.images, strict=True)
        return torch.stack([complete_depth(d.depth.cpu(), d.confidence.cpu(), image.cpu()) for d, image in maps]).to(self.images.device)

    @cached_property
    def hull(self) -> Hull | None:
        """Of the object that masks cut out; None where they do not, or no photo shows it whole."""
        return None if self.masks is None or not self.cut_out else Hull.of(self.cameras, self.masks, self.extents)

    @staticmethod
    def of(start: Start) -> Photos:
        capture = start.init.capture
        assert capture.cameras is not None, "training follows the initialiser, which gives every view a camera"
        cameras, masks, extents = capture.cameras.to(start.device, torch.float32), capture.masks(), capture.extents()
        return Photos(
            cameras,
            capture.images().to(start.device),
            None if masks is None else masks.to(start.device),
            None if extents is None else extents.to(start.device),
            capture.is_cut_out(),
            depth := tuple(_to(d, start.device) for d in start.depth),
            tuple(_to(d, start.device) for d in start.guide) or depth,
            *_neighbours(cameras),
            _median_depth(start.depth),
            {pair: FlowField(f.flow.to(start.device), f.confidence.to(start.device)) for pair, f in start.flow.items()},
            None if start.scan is None else start.scan.to(start.device),
            capture.white_background,
        )

    def __len__(self) -> int:
        return len(self.cameras)


def _to(depth: DepthMap, device: torch.device) -> DepthMap:
    return replace(depth, depth=depth.depth.to(device), confidence=depth.confidence.to(device), valid=depth.valid.to(device), normal=None)


def _neighbours(cameras: Cameras) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if len(cameras) < 2:
        return (0,), (0.0,)
    distance = cameras.distances
    distance.fill_diagonal_(math.inf)
    near = distance.min(1)
    return tuple(near.indices.tolist()), tuple(near.values.tolist())


def _median_depth(depth: tuple[DepthMap, ...]) -> float:
    """Of what was measured; of everything that is given where nothing was."""
    for which in ([d.depth[d.valid] for d in depth], [d.depth[d.depth > 0] for d in depth]):
        known = torch.cat(which)
        if known.numel():
            return float(known.median())
    return 1.0


def background_of(photos: Photos, white: bool, rule: str) -> tuple[float, float, float]:
    """What shows where nothing is known: white for objects on white, else black, or the least wrong colour. Holes lie behind things, so that is the mean of
    all but the nearer half of what was measured; of the whole object where masks cut one out."""
    if white:
        return (1.0, 1.0, 1.0)
    if rule == "black":
        return (0.0, 0.0, 0.0)
    images = photos.images
    weight = torch.ones_like(images[..., 0]) if photos.masks is None else photos.masks
    if not photos.cut_out:
        near = [d.valid & (d.depth < d.depth[d.valid].median()) if bool(d.valid.any()) else d.valid for d in photos.depth]
        weight = weight * ~torch.stack(near)
    r, g, b = ((images * weight[..., None]).sum((0, 1, 2)) / weight.sum().clamp_min(1)).tolist()
    return (r, g, b)
