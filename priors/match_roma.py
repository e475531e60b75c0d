"""Dense learned matches: RoMa (Edstedt et al., CVPR 2024), by the authors' package. The only file that imports romatch.

It looks at every pixel with a large backbone: minutes a pair without a GPU, for pairs where nothing else finds enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import pixel_centers
from ..recon.capture import View
from ..recon.errors import BackendUnavailable
from ..recon.matches import Matches
from .weight_files import load_tensors

__all__ = ["RomaMatches"]

# without its dependencies: among them is another OpenCV, which overwrites ours
_INSTALL = "pip install --no-deps romatch==0.1.2 && pip install torchvision einops loguru"


@dataclass
class RomaMatches:
    """Matches at a grid of pixels of the first photo, to a fraction of a pixel in the second.

    Attributes:
        spacing: pixels of the first photo between two matches.
        top_k: at most this many per pair, the surest.
        min_score: a match below this certainty is dropped.
        coarse: side of the square in which the photos are matched, a multiple of 14; fine: side in which the matches are refined (0 = not).
        device: where the network runs.
    """

    spacing: int = 8
    top_k: int = 4096
    min_score: float = 0.3
    coarse: int = 560
    fine: int = 864
    device: str = "cpu"
    name: str = "roma"
    version: str = "1"
    license: str = "MIT"
    weights: ClassVar[tuple[str, ...]] = ("roma-outdoor", "dinov2-vitl14")
    packages: ClassVar[dict[str, str]] = {"romatch": _INSTALL}
    _net: Any = field(default=None, repr=False, compare=False)

    def predict(self, views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[Matches]:
        """One `Matches` per pair of indices into `views`; score is RoMa's certainty. The first points lie on one grid in every pair that begins with a view;
        the second ones lie anywhere. Raises BackendUnavailable where the package or the weights are missing."""
        if self._net is None:
            self._net = self._load()
        return [self._pair(views[i], views[j]) for i, j in pairs]

    def error_px(self, view: View) -> float:
        """Expected localisation error of a match, pixels of the view."""
        return max(0.5, max(view.image.size) / max(self.coarse, self.fine))

    def _pair(self, a: View, b: View) -> Matches:
        with torch.inference_mode():
            warp, certainty = self._net.match(_picture(a), _picture(b), device=self.device)
        warp, certainty = warp[0].float().cpu().clone(), certainty[0].float().cpu().clone()
        (w, h), (w1, h1) = a.image.size, b.image.size
        n = self.spacing
        uv0 = pixel_centers(w, h)[n // 2 :: n, n // 2 :: n].reshape(-1, 2)
        # both sides count from -1 to 1 between the edges of the picture, as our pixels do from 0 to its size
        at = (uv0 * 2 / torch.tensor([w, h]) - 1)[None, None]
        maps = torch.cat([warp.permute(2, 0, 1)[2:], certainty[None]])[None]
        found = torch.nn.functional.grid_sample(maps, at, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0]
        uv1 = (found[:2].T + 1) / 2 * torch.tensor([w1, h1])
        score = found[2].clamp(0, 1) * _inside(a, uv0) * _inside(b, uv1)
        order = score.argsort(descending=True, stable=True)[: self.top_k]
        order = order[score[order] >= self.min_score]
        return Matches(uv0[order], uv1[order], score[order])

    def _load(self) -> Any:
        try:
            from romatch import roma_outdoor
        except (ImportError, RuntimeError) as e:  # a torchvision made for another torch raises RuntimeError
            raise BackendUnavailable(f"RoMa needs its package ({e}); run `{_INSTALL}`, or choose the matcher `xfeat`.") from e
        return roma_outdoor(
            device=self.device,
            weights=load_tensors("roma-outdoor"),
            dinov2_weights=load_tensors("dinov2-vitl14"),
            coarse_res=self.coarse,
            upsample_res=self.fine or self.coarse,
            upsample_preds=self.fine > 0,
            symmetric=False,
            use_custom_corr=False,
        )


def _picture(view: View) -> Any:
    from PIL import Image

    return Image.fromarray((view.image.load().numpy() * 255 + 0.5).clip(0, 255).astype(np.uint8))


def _inside(view: View, uv: Float[Tensor, "N 2"]) -> Float[Tensor, "N"]:
    """1 where the point lies on the photo and its mask, else 0."""
    w, h = view.image.size
    on = ((uv >= 0) & (uv <= torch.tensor([w, h]))).all(1).float()
    mask = view.image.load_mask()
    return on if mask is None else on * (mask[uv[:, 1].long().clamp(0, h - 1), uv[:, 0].long().clamp(0, w - 1)] > 0.5)
