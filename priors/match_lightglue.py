"""Learned sparse matches: DISK (Tyszkiewicz et al., NeurIPS 2020) or ALIKED (Zhao et al., TIM 2023) keypoints matched by LightGlue (Lindenberger et al., ICCV 2023).

The networks are kornia's; their weights are files found by name (`weight_files`). Slower than `xfeat`, and more often right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.capture import View
from ..recon.matches import Matches
from .kornia_nets import aliked, disk, lightglue, lightglue_tensors
from .weight_files import load_into, load_tensors

__all__ = ["AlikedLightGlue", "DiskLightGlue", "Keypoints"]

# conf of LightGlue for 128-channel features, as the weights were trained
_LAYERS = 9
_LIGHTGLUE = {
    "input_dim": 128,
    "descriptor_dim": 256,
    "n_layers": _LAYERS,
    "num_heads": 4,
    "flash": False,
    "depth_confidence": 0.95,
    "width_confidence": 0.99,
}


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of one view.

    Attributes:
        uv: continuous pixels of the view, best first.
        at: the same in integer-centred pixels of the resized image `work` (width, height) that the networks saw.
        score: of the detector.
        descriptor: unit vectors.
    """

    uv: Float[Tensor, "N 2"]
    at: Float[Tensor, "N 2"]
    work: tuple[int, int]
    score: Float[Tensor, "N"]
    descriptor: Float[Tensor, "N 128"]


@dataclass
class _LightGlueMatches(ABC):
    """A detector and LightGlue.

    Attributes:
        top_k: keypoints per photo.
        min_score: a match below this LightGlue confidence is dropped.
        work_side: photos are resized so that their longer side is about this many pixels (never above twice the photo's size).
        device: where the networks run.
    """

    top_k: int = 2048
    min_score: float = 0.1
    work_side: int = 800
    device: str = "cpu"
    name: str = ""
    version: str = "1"
    license: str = ""
    weights: ClassVar[tuple[str, ...]] = ()
    _features: dict[str, Keypoints] = field(default_factory=dict, repr=False, compare=False)
    _nets: tuple[Any, Any] | None = field(default=None, repr=False, compare=False)

    def predict(self, views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[Matches]:
        """One `Matches` per pair of indices into `views`; score is LightGlue's confidence. Keypoints are the same floats in every pair a view takes
        part in, so that tracks can be joined by equality. Raises BackendUnavailable where the weights are missing."""
        return [self.match(views[i], views[j]) for i, j in pairs]

    def match(self, a: View, b: View) -> Matches:
        fa, fb = self.features(a), self.features(b)
        if min(len(fa.uv), len(fb.uv)) < 2:
            return Matches(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
        _, glue = self._networks()
        with torch.inference_mode():
            out = glue({"image0": self._glue_input(fa), "image1": self._glue_input(fb)})
        index, score = out["matches"][0].cpu(), out["scores"][0].cpu().float()
        return Matches(fa.uv[index[:, 0]], fb.uv[index[:, 1]], score.clone())

    def keypoints(self, view: View) -> int:
        return len(self.features(view).uv)

    def error_px(self, view: View) -> float:
        """Expected localisation error of a keypoint, pixels of the view."""
        w, h = view.image.size
        return max(0.5, max(w, h) / max(_work_size(w, h, self.work_side)))

    def features(self, view: View) -> Keypoints:
        """Detected once per view and kept."""
        key = view.image.digest()
        if key not in self._features:
            self._features[key] = self._detect(view)
        return self._features[key]

    def _detect(self, view: View) -> Keypoints:
        width, height = view.image.size
        work = _work_size(width, height, self.work_side)
        image = view.image.load().permute(2, 0, 1)[None]
        if work != (width, height):
            image = torch.nn.functional.interpolate(image, (work[1], work[0]), mode="bilinear", align_corners=False, antialias=True)
        mask = view.image.load_mask()
        net, _ = self._networks()
        with torch.inference_mode():
            found = self._found(net, image.to(self.device), (4 if mask is not None else 1) * self.top_k)
        at, score, descriptor = (x.cpu().float().clone() for x in found)
        # kornia counts integer pixel centres, we have centres at +0.5
        uv = (at + 0.5) * torch.tensor([width / work[0], height / work[1]])
        keep = torch.ones(len(uv), dtype=torch.bool)
        if mask is not None:
            keep = mask[uv[:, 1].long().clamp(0, height - 1), uv[:, 0].long().clamp(0, width - 1)] > 0.5
        order = score.argsort(descending=True, stable=True)
        pick = order[keep[order]][: self.top_k]
        return Keypoints(uv[pick], at[pick], work, score[pick], descriptor[pick])

    @abstractmethod
    def _detector(self) -> Any:
        """kornia's network with its weights."""

    @abstractmethod
    def _found(self, net: Any, image: Float[Tensor, "1 3 H W"], count: int) -> tuple[Tensor, Tensor, Tensor]:
        """(integer-centred pixels, scores, descriptors) of the best `count` keypoints, or of more."""

    def _glue_input(self, f: Keypoints) -> dict[str, Tensor]:
        return {
            "keypoints": f.at[None].to(self.device),
            "descriptors": f.descriptor[None].to(self.device),
            "image_size": torch.tensor([f.work], device=self.device),
        }

    def _networks(self) -> tuple[Any, Any]:
        if self._nets is None:
            glue = lightglue(**_LIGHTGLUE, filter_threshold=self.min_score)
            lightglue_tensors(glue, load_tensors(self.weights[1]), _LAYERS, self.name)
            self._nets = self._detector().to(self.device).eval(), glue.to(self.device).eval()
        return self._nets


def _work_size(width: int, height: int, side: int) -> tuple[int, int]:
    scale = min(side / max(width, height), 2.0)
    return max(32, round(width * scale / 32) * 32), max(32, round(height * scale / 32) * 32)


@dataclass
class DiskLightGlue(_LightGlueMatches):
    """Of all matchers here the most right matches on hard pairs, at several times the cost of `xfeat`."""

    name: str = "disk-lightglue"
    license: str = "Apache-2.0"
    weights: ClassVar[tuple[str, ...]] = ("disk", "lightglue-disk")

    def _detector(self) -> Any:
        net = disk()
        load_into(net, "disk")
        return net

    def _found(self, net: Any, image: Float[Tensor, "1 3 H W"], count: int) -> tuple[Tensor, Tensor, Tensor]:
        found = net(image, n=count)[0]
        return found.keypoints, found.detection_scores, found.descriptors


@dataclass
class AlikedLightGlue(_LightGlueMatches):
    """Fewer matches than DISK gives, at places more exact than a pixel."""

    name: str = "aliked-lightglue"
    license: str = "BSD-3-Clause"
    weights: ClassVar[tuple[str, ...]] = ("aliked", "lightglue-aliked")

    def _detector(self) -> Any:
        net = aliked(4 * self.top_k)
        load_into(net, "aliked", optional=("hw_grid",))
        return net

    def _found(self, net: Any, image: Float[Tensor, "1 3 H W"], count: int) -> tuple[Tensor, Tensor, Tensor]:
        found = net(image)[0]
        return found.keypoints, found.keypoint_scores, found.descriptors
