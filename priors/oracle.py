"""Priors that know the truth: for tests of everything that uses a prior, and for asking how good a prior would have to be.

The caller hands in exact depth and cameras (of a synthetic scene, or of a scanner); noise is added on request, the same for the same seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras, pixel_centers
from ..recon.capture import View
from ..recon.depth import DepthMap
from ..recon.errors import ConfigError
from ..recon.matches import FlowField, Matches
from ..recon.pointmaps import PointMaps
from ..recon.points import PointCloud

__all__ = ["OracleDepth", "OracleFlow", "OracleMatches", "OraclePointMaps"]


def _find(names: tuple[str, ...], view: View) -> int:
    if view.name not in names:
        raise ConfigError(f"The oracle was given no truth for the photo {view.name!r}; it knows {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}.")
    return names.index(view.name)


def _generator(seed: int, *names: str) -> torch.Generator:
    """The same noise for the same seed and photos, whatever else was asked before."""
    key = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:7], "little"))


@dataclass(frozen=True)
class _Oracle:
    """Shared by all: `names` of the photos, and for each its exact z-depth (0 = none)."""

    names: tuple[str, ...]
    depth: Float[Tensor, "V H W"]

    name = "oracle"
    version = "1"
    license = "Apache-2.0"


@dataclass(frozen=True)
class OracleDepth(_Oracle):
    """True depth, made worse as asked.

    Attributes:
        normal: true normals (camera frame, facing the camera), handed on unchanged.
        noise: standard deviation of the relative depth error, the same kind everywhere.
        outliers: share of pixels whose depth is drawn at random from the range of depths; they keep full confidence.
        holes: share of pixels without an answer.
        kind: "affine" and "affine_inverse" answer up to a scale and shift per photo, as learned single-image priors do.
    """

    normal: Float[Tensor, "V H W 3"] | None = None
    noise: float = 0.0
    outliers: float = 0.0
    holes: float = 0.0
    kind: Literal["metric", "affine", "affine_inverse"] = "metric"
    seed: int = 0

    def predict(self, views: Sequence[View], cameras: Cameras | None = None, points: PointCloud | None = None) -> list[DepthMap]:
        return [self._one(view) for view in views]

    def _one(self, view: View) -> DepthMap:
        index, rng = _find(self.names, view), _generator(self.seed, view.name)
        truth = self.depth[index]
        known = truth > 0
        depth = truth * (1 + self.noise * torch.randn(truth.shape, generator=rng)).clamp_min(0.05)
        if self.outliers > 0 and known.any():
            low, high = truth[known].min(), truth[known].max()
            wrong = torch.rand(truth.shape, generator=rng) < self.outliers
            depth = torch.where(wrong, low + (high - low) * torch.rand(truth.shape, generator=rng), depth)
        valid = known & (torch.rand(truth.shape, generator=rng) >= self.holes)
        if self.kind != "metric":
            scale, shift = 0.5 + torch.rand(2, generator=rng)
            depth = depth * scale + shift if self.kind == "affine" else scale / depth.clamp_min(1e-6) + shift
        normal = None if self.normal is None else self.normal[index]
        return DepthMap(torch.where(valid, depth, torch.zeros(())), valid.float(), valid, normal, self.kind)


def _flow(cameras: Cameras, depth: Tensor, source: int, target: int, tolerance: float = 0.01) -> FlowField:
    """Flow from depth and cameras; seen where the target's depth at the nearest pixel agrees within `tolerance` (relative)."""
    v, h, w = depth.shape
    xyz = cameras[source].unproject_depth(depth[source][None])[0]
    uv, z = (x[0] for x in cameras[target].project(xyz.reshape(-1, 3)))
    iu, iv = uv[:, 0].floor().long(), uv[:, 1].floor().long()
    inside = (depth[source].reshape(-1) > 0) & (z > 0) & (iu >= 0) & (iu < w) & (iv >= 0) & (iv < h)
    there = depth[target][iv.clamp(0, h - 1), iu.clamp(0, w - 1)]
    seen = inside & (there > 0) & ((there - z).abs() <= tolerance * z)
    flow = uv.reshape(h, w, 2) - pixel_centers(w, h)
    return FlowField(torch.where((depth[source] > 0)[..., None], flow, torch.zeros(())), seen.reshape(h, w).float())


@dataclass(frozen=True)
class OracleFlow(_Oracle):
    """True flow from depth and cameras of the photos; confidence 1 where the target sees the same point, else 0.

    Attributes:
        cameras: one per name; frame and scale of `depth`.
        noise: standard deviation of the flow error, pixels.
    """

    cameras: Cameras | None = None
    noise: float = 0.0
    seed: int = 0

    def field(self, source: View, target: View) -> FlowField:
        if self.cameras is None:
            raise ConfigError("An oracle for flow or matches needs `cameras`, one per photo.")
        true = _flow(self.cameras, self.depth, _find(self.names, source), _find(self.names, target))
        if self.noise == 0:
            return true
        error = torch.randn(true.flow.shape, generator=_generator(self.seed, source.name, target.name))
        return FlowField(true.flow + self.noise * error, true.confidence)

    def predict(self, pairs: Sequence[tuple[View, View]]) -> list[FlowField]:
        return [self.field(source, target) for source, target in pairs]


@dataclass(frozen=True)
class OracleMatches(OracleFlow):
    """True matches at random pixels seen by both photos.

    Attributes:
        count: at most this many per pair.
        outliers: share of matches whose second point is anywhere in the picture; they keep score 1.
    """

    count: int = 1000
    outliers: float = 0.0

    def predict(self, views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[Matches]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [self._pair(views[i], views[j]) for i, j in pairs]

    def _pair(self, source: View, target: View) -> Matches:
        field, rng = self.field(source, target), _generator(self.seed, "matches", source.name, target.name)
        h, w = field.confidence.shape
        at = field.confidence.nonzero()
        at = at[torch.randperm(len(at), generator=rng)[: self.count]]
        uv0 = pixel_centers(w, h)[at[:, 0], at[:, 1]]
        uv1 = uv0 + field.flow[at[:, 0], at[:, 1]]
        wrong = torch.rand(len(at), generator=rng) < self.outliers
        anywhere = torch.rand(len(at), 2, generator=rng) * torch.tensor([w, h])
        return Matches(uv0, torch.where(wrong[:, None], anywhere, uv1), torch.ones(len(at)))


@dataclass(frozen=True)
class OraclePointMaps(_Oracle):
    """True points and cameras.

    Attributes:
        cameras: one per name; frame and scale of `depth`.
        blind: tell no cameras, as some networks do.
    """

    cameras: Cameras | None = None
    blind: bool = False

    def predict(self, views: Sequence[View]) -> PointMaps:
        if self.cameras is None:
            raise ConfigError("An oracle for point maps needs `cameras`, one per photo.")
        pick = [_find(self.names, v) for v in views]
        depth, cameras = self.depth[pick], self.cameras[pick]
        valid = depth > 0
        xyz = cameras.unproject_depth(torch.where(valid, depth, 1.0))
        return PointMaps(torch.where(valid[..., None], xyz, 0.0), valid.float(), valid, None if self.blind else cameras)
