"""Depth Anything V2 Small (Yang et al., NeurIPS 2024): inverse depth of a single photo, by the network in `transformers`. The only file that imports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..recon.capture import View
from ..recon.errors import BackendUnavailable
from .depth_relative import RelativeDepth, at_size, network_size
from .weight_files import load_into

__all__ = ["DepthAnythingV2", "small_network"]

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# the small model: a ViT-S/14 backbone and a narrow decoder
_BACKBONE = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
_STAGES, _NECK, _FUSION, _HEAD = (3, 6, 9, 12), (48, 96, 192, 384), 64, 32


@dataclass
class DepthAnythingV2(RelativeDepth):
    """Stereo, completed by what Depth Anything V2 Small sees in each photo alone.

    The larger models of the family are not offered: their weights may not be used commercially.
    """

    name: str = "depth-anything-v2"
    version: str = "1"
    license: str = "Apache-2.0"
    weights: ClassVar[tuple[str, ...]] = ("depth-anything-v2-small",)
    packages: ClassVar[dict[str, str]] = {"transformers": "pip install 'handful[depth]'"}
    _net: Any = field(default=None, repr=False, compare=False)

    def inverse_depth(self, views: Sequence[View]) -> list[Float[Tensor, "H W"]]:
        if self._net is None:
            net = small_network()
            load_into(net, self.weights[0])
            self._net = net.to(self.device).eval()
        return [self._one(view) for view in views]

    def _one(self, view: View) -> Float[Tensor, "H W"]:
        width, height = view.image.size
        w, h = network_size(width, height, self.side)
        image = F.interpolate(view.image.load().permute(2, 0, 1)[None], (h, w), mode="bicubic", align_corners=False, antialias=True)
        mean, deviation = (torch.tensor(v).reshape(3, 1, 1) for v in (_MEAN, _DEVIATION))
        with torch.inference_mode():
            out = self._net(pixel_values=((image.clamp(0, 1) - mean) / deviation).to(self.device)).predicted_depth
        return at_size(out.cpu().float(), width, height)[0].clone()


def small_network(**smaller: Any) -> Any:
    """The network with random weights; `smaller` changes its backbone (tests)."""
    try:
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
    except ImportError as e:
        raise BackendUnavailable(
            f"Depth Anything V2 needs the package transformers ({e}); run `pip install 'handful[depth]'`, or choose depth_prior=stereo."
        ) from e
    backbone = Dinov2Config(
        **{**_BACKBONE, **smaller},
        image_size=518,
        patch_size=14,
        out_features=[f"stage{k}" for k in _STAGES],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        neck_hidden_sizes=list(_NECK),
        fusion_hidden_size=_FUSION,
        head_hidden_size=_HEAD,
        reassemble_hidden_size=backbone.hidden_size,
        reassemble_factors=[4, 2, 1, 0.5],
    )
    return DepthAnythingForDepthEstimation(config)
