"""Photos of a made-up object with known cameras, and a matcher that knows the truth and names the same scene points in every photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from handful.data.synthetic import SyntheticScene, Truth, arc_cameras, make_scene, render_truth
from handful.priors.oracle import OracleMatches
from handful.recon.camera import Cameras, pixel_centers
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.matches import Matches
from torch import Tensor

WIDTH, HEIGHT = 200, 150


@dataclass(frozen=True)
class KnownPhotos:
    """Photos without cameras, and what only a judge may know of them."""

    scene: SyntheticScene
    capture: Capture
    cameras: Cameras
    truth: Truth

    @property
    def focal(self) -> float:
        return float(self.cameras.K[0, 0, 0])

    def of(self, *pick: int) -> KnownPhotos:
        i = list(pick)
        t = self.truth
        truth = Truth(t.images[i], t.depth[i], t.normal[i], t.mask[i], t.sheet[i])
        return KnownPhotos(self.scene, self.capture.select([self.capture.names[k] for k in i]), self.cameras[i], truth)

    def told(self, factor: float = 1.0) -> Capture:
        """The photos with a focal length in their EXIF, off by `factor`."""
        return replace(self.capture, views=tuple(replace(v, focal_prior_px=factor * self.focal) for v in self.capture.views))

    def points(self, count: int = 160, **more: float) -> SharedPoints:
        return SharedPoints(self.capture.names, self.truth.depth, cameras=self.cameras, count=count, **more)  # pyright: ignore


def known_photos(azimuths: list[float], kind: str = "object") -> KnownPhotos:
    scene = make_scene(0, kind)
    cameras = arc_cameras(scene, azimuths, WIDTH, HEIGHT)
    truth = render_truth(scene, cameras, 1)
    views = tuple(View(f"photo_{i}.png", ArrayImage((im * 255).round() / 255)) for i, im in enumerate(truth.images))
    return KnownPhotos(scene, Capture(views, None), cameras, truth)


@dataclass(frozen=True)
class SharedPoints(OracleMatches):
    """Like the oracle, but the same `count` points per photo are named in all pairs, so that tracks are as long as with a real detector.

    `noise` moves each keypoint, the same way in every pair; `outliers` of the matches of a pair go to a keypoint anywhere.
    """

    def error_px(self, view: View) -> float:
        return max(self.noise, 0.25)

    def predict(self, views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[Matches]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [self._shared(views[i].name, views[j].name) for i, j in pairs]

    def _shared(self, source: str, target: str) -> Matches:
        i, j = self.names.index(source), self.names.index(target)
        uv, seen = self._keypoints()
        both = (seen[i] & seen[j]).nonzero()[:, 0]
        rng = torch.Generator().manual_seed(1000 + 50 * i + j)
        wrong = torch.rand(len(both), generator=rng) < self.outliers
        anywhere = both[torch.randperm(len(both), generator=rng)]  # another point's keypoint: wrong links grow into wrong tracks
        uv1 = uv[j, torch.where(wrong, anywhere, both)]
        return Matches(uv[i, both], uv1, torch.ones(len(both)))

    def _keypoints(self) -> tuple[Tensor, Tensor]:
        """Where each photo shows each point (V, N, 2), and whether it does."""
        assert self.cameras is not None
        v, h, w = self.depth.shape
        rng = torch.Generator().manual_seed(self.seed)
        xyz = []
        for k in range(v):
            inner = torch.zeros(h, w, dtype=torch.bool)
            inner[8:-8, 8:-8] = True
            at = (inner & (self.depth[k] > 0)).nonzero()
            at = at[torch.randperm(len(at), generator=rng)[: self.count]]
            z = self.depth[k][at[:, 0], at[:, 1]].double()
            p = pixel_centers(w, h, dtype=torch.float64)[at[:, 0], at[:, 1]]
            K, T = self.cameras.K[k].double(), self.cameras.cam_from_world[k].double()
            rays = torch.cat([(p - K[:2, 2]) / torch.stack([K[0, 0], K[1, 1]]), torch.ones(len(p), 1)], 1)
            xyz.append((rays * z[:, None] - T[:3, 3]) @ T[:3, :3])
        uv, z = self.cameras.to(dtype=torch.float64).project(torch.cat(xyz))
        iu, iv = uv[..., 0].floor().long(), uv[..., 1].floor().long()
        inside = (z > 0) & (iu >= 4) & (iu < w - 4) & (iv >= 4) & (iv < h - 4)
        there = self.depth[torch.arange(v)[:, None], iv.clamp(0, h - 1), iu.clamp(0, w - 1)]
        seen = inside & (there > 0) & ((there - z).abs() < 0.01 * z)
        return (uv + self.noise * torch.randn(uv.shape, generator=rng)).float(), seen
