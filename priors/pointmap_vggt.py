"""VGGT (Wang et al., CVPR 2025): cameras and depth of all photos in one pass, by the authors' package. The only file that imports vggt.

Its global attention, which grows with the square of the number of photos, can be replaced by a block-sparse one (`block_sparse`) without retraining.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.capture import View
from ..recon.errors import BackendUnavailable
from ..recon.pointmaps import PointMaps
from .block_sparse import block_sparse_attention
from .pointmap_common import batch, from_depth, work_size
from .weight_files import load_into

__all__ = ["Vggt", "make_sparse"]

_INSTALL = "pip install --no-deps git+https://github.com/facebookresearch/vggt && pip install einops huggingface_hub"


@dataclass
class Vggt:
    """Point maps and cameras, in a frame of the network's own scale.

    Attributes:
        weights: "vggt-1b-commercial" (Meta's own terms, asked for by hand) or "vggt-1b", which may not be used commercially.
        side: the photo's longer side as the network sees it.
        keep: share of the blocks of patches that global attention keeps; 1 = dense, as trained.
        mass: more blocks, until they hold this share of the estimated attention.
        block: patches per block.
        device: where the network runs; it has 1.2 billion parameters.
    """

    weights: tuple[str, ...] = ("vggt-1b-commercial",)
    side: int = 518
    keep: float = 1.0
    mass: float = 0.0
    block: int = 64
    device: str = "cpu"
    name: str = "vggt"
    version: str = "1"
    license: str = "VGGT License (Meta's own terms)"
    packages: ClassVar[dict[str, str]] = {"vggt": _INSTALL}
    _net: Any = field(default=None, repr=False, compare=False)
    _cameras_of: Any = field(default=None, repr=False, compare=False)

    def predict(self, views: Sequence[View]) -> PointMaps:
        if self._net is None:
            self._net, self._cameras_of = self._load()
        images = batch(views, work_size(*views[0].image.size, self.side))
        if self.keep < 1.0:
            make_sparse(self._net.aggregator, len(views), self.keep, self.mass, self.block)
        with torch.inference_mode():
            out = self._net(images[None].to(self.device))
            pose, K = self._cameras_of(out["pose_enc"], images.shape[-2:])
        rest = (out["depth"][0, ..., 0], out["depth_conf"][0], pose[0], K[0])
        return from_depth(views, *(x.float().cpu().clone() for x in rest))

    def _load(self) -> tuple[Any, Any]:
        try:
            from vggt.models.vggt import VGGT
            from vggt.utils.pose_enc import pose_encoding_to_extri_intri
        except ImportError as e:
            raise BackendUnavailable(f"VGGT needs its package ({e}); run `{_INSTALL}`.") from e
        net = VGGT()
        load_into(net, self.weights[0], optional=("track_head.",))  # never asked for tracks
        return net.to(self.device).eval(), pose_encoding_to_extri_intri


def make_sparse(aggregator: Any, views: int, keep: float, mass: float, block: int) -> None:
    """Every global attention layer of `aggregator` looks only at the blocks that matter, for sequences of `views` photos."""
    for layer in aggregator.global_blocks:
        layer.attn.forward = partial(_sparse, layer.attn, aggregator.patch_start_idx, views, keep, mass, block)


def _sparse(
    attn: Any, first_patch: int, views: int, keep: float, mass: float, block: int, x: Float[Tensor, "B N C"], pos: Tensor | None = None
) -> Float[Tensor, "B N C"]:
    """The layer's own projections, norms and positions around block-sparse attention. Each photo's tokens begin with `first_patch` special ones."""
    b, n, c = x.shape
    q, k, v = attn.qkv(x).reshape(b, n, 3, attn.num_heads, c // attn.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attn.q_norm(q), attn.k_norm(k)
    if attn.rope is not None:
        q, k = attn.rope(q, pos), attn.rope(k, pos)
    special = (torch.arange(n, device=x.device) % (n // views)) < first_patch
    out = block_sparse_attention(q, k, v, special, block, keep, mass)
    return attn.proj(out.transpose(1, 2).reshape(b, n, c))
