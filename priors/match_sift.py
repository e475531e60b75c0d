"""Classical sparse matches: SIFT (Lowe, IJCV 2004) with root descriptors (Arandjelovic and Zisserman, CVPR 2012), ratio test, mutual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.capture import View
from ..recon.matches import Matches

__all__ = ["SiftFeatures", "SiftMatches"]


@dataclass(frozen=True)
class SiftFeatures:
    """Keypoints of one view, continuous pixels, strongest first; unit root-SIFT descriptors."""

    uv: Float[Tensor, "N 2"]
    score: Float[Tensor, "N"]
    descriptor: Float[Tensor, "N 128"]


@dataclass
class SiftMatches:
    """Sub-pixel matches for neighbouring photos; exact where views are close, few where they are far apart.

    Attributes:
        top_k: keypoints per photo.
        ratio: nearest distance over second nearest distance at most this.
        contrast: OpenCV's contrast threshold; lower than its default, because few photos need every point.
        max_side: larger photos are reduced to this longer side before detection.
    """

    top_k: int = 4096
    ratio: float = 0.85
    contrast: float = 0.015
    max_side: int = 1600
    name: str = "sift"
    version: str = "1"
    license: str = "Apache-2.0"
    _features: dict[str, SiftFeatures] = field(default_factory=dict, repr=False, compare=False)

    def predict(self, views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[Matches]:
        """One `Matches` per pair of indices into `views`; score falls from 1 to 0 as the ratio rises to 1. Keypoints are the same floats
        in every pair a view takes part in, so that tracks can be joined by equality."""
        return [self.match(views[i], views[j]) for i, j in pairs]

    def match(self, a: View, b: View) -> Matches:
        fa, fb = self.features(a), self.features(b)
        if min(len(fa.uv), len(fb.uv)) < 2:
            return Matches(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
        sim = fa.descriptor @ fb.descriptor.T
        ab, ratio_ab = _nearest(sim)
        ba, ratio_ba = _nearest(sim.T)
        ratio = torch.maximum(ratio_ab, ratio_ba[ab])
        keep = (ba[ab] == torch.arange(len(ab))) & (ratio < self.ratio)
        return Matches(fa.uv[keep], fb.uv[ab[keep]], (1.0 - ratio[keep]).clamp(0, 1))

    def keypoints(self, view: View) -> int:
        return len(self.features(view).uv)

    def error_px(self, view: View) -> float:
        """Expected localisation error of a keypoint, pixels of the view."""
        return 0.4 * max(1.0, max(view.image.size) / self.max_side)

    def features(self, view: View) -> SiftFeatures:
        """Detected once per view and kept."""
        key = view.image.digest()
        if key not in self._features:
            self._features[key] = self._detect(view)
        return self._features[key]

    def _detect(self, view: View) -> SiftFeatures:
        import cv2

        rgb = view.image.load()
        height, width = rgb.shape[:2]
        grey = cv2.cvtColor((rgb.numpy() * 255 + 0.5).clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        scale = min(1.0, self.max_side / max(width, height))
        if scale < 1.0:
            grey = cv2.resize(grey, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
        mask = view.image.load_mask()
        mask8 = None
        if mask is not None:
            mask8 = cv2.resize((mask.numpy() > 0.5).astype(np.uint8), (grey.shape[1], grey.shape[0]), interpolation=cv2.INTER_NEAREST)
        # precise upscale: without it OpenCV's keypoints are a quarter pixel off
        sift = cv2.SIFT.create(nfeatures=0, contrastThreshold=self.contrast, enable_precise_upscale=True)
        points, descriptors = sift.detectAndCompute(grey, mask8)
        if not points or descriptors is None:
            return SiftFeatures(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 128))
        table = np.array([(*p.pt, p.response) for p in points], dtype=np.float32)
        # sorted by every column, so that the order does not depend on OpenCV's threads; strongest first, one descriptor per place
        order = np.lexsort((table[:, 0], table[:, 1], -table[:, 2]))
        _, first = np.unique(table[order][:, :2], axis=0, return_index=True)
        order = order[np.sort(first)][: self.top_k]
        d = torch.from_numpy(descriptors[order].astype(np.float32))
        d = torch.nn.functional.normalize((d / d.sum(1, keepdim=True).clamp(min=1e-6)).sqrt(), dim=1)
        shrink = torch.tensor([width / grey.shape[1], height / grey.shape[0]])
        # OpenCV counts integer pixel centres, we have centres at +0.5
        return SiftFeatures((torch.from_numpy(table[order, :2]) + 0.5) * shrink, torch.from_numpy(table[order, 2]), d)


def _nearest(sim: Float[Tensor, "N M"]) -> tuple[Tensor, Tensor]:
    """Index of the most similar column and the ratio of the two smallest distances (unit vectors)."""
    best, index = sim.topk(2, dim=1)
    distance = (2.0 - 2.0 * best).clamp(min=1e-9).sqrt()
    return index[:, 0], distance[:, 0] / distance[:, 1]
