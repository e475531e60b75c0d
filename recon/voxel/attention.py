"""Attention within groups of voxels, whoever made the groups."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import ShapeError

__all__ = ["FeedForward", "GroupAttention", "Groups", "attend"]


@dataclass(frozen=True)
class Groups:
    """G groups of K slots over M voxels; every voxel sits in at least one.

    `index` is the voxel's row in each slot; `valid` is False where a slot repeats a voxel of its group and must not be seen (None: all count);
    `slot` is the one slot, counted through all groups, from which each voxel takes its result.
    """

    index: Int[Tensor, "G K"]
    valid: Bool[Tensor, "G K"] | None
    slot: Int[Tensor, "M"]

    def fill(self) -> float:
        """Share of slots that hold a voxel of their own: what is left of the work when repeats are taken away. 1 without groups."""
        return len(self.slot) / self.index.numel() if self.index.numel() else 1.0


class GroupAttention(nn.Module):
    """Multi-head attention of each voxel to those of its group; `place`, where given, is added to what is compared and not to what is taken."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        """Raises ShapeError where the heads do not share the channels evenly."""
        super().__init__()
        check_heads(channels, heads)
        self.heads = heads
        self.compare = nn.Linear(channels, 2 * channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, feats: Float[Tensor, "M C"], groups: Groups, place: Float[Tensor, "M C"] | None = None) -> Float[Tensor, "M C"]:
        if not len(feats):
            return feats
        query, key = self.compare(feats if place is None else feats + place).chunk(2, 1)
        flat = groups.index.flatten()
        q, k, v = (t.index_select(0, flat).view(*groups.index.shape, -1) for t in (query, key, self.value(feats)))
        mixed = attend(q, k, v, groups.valid, self.heads)
        return self.out(mixed.flatten(0, 1).index_select(0, groups.slot))


def attend(
    query: Float[Tensor, "G Q C"], key: Float[Tensor, "G K C"], value: Float[Tensor, "G K C"], valid: Bool[Tensor, "G K"] | None, heads: int
) -> Float[Tensor, "G Q C"]:
    """Softmax attention in `heads` parts of the channels; keys that are not valid get no weight."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    mask = None if valid is None else valid[:, None, None]
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)


def check_heads(channels: int, heads: int) -> None:
    if channels % heads:
        raise ShapeError(f"{heads} heads cannot share {channels} channels; give a multiple of {heads}.")


class FeedForward(nn.Sequential):
    """Two layers, twice as wide between them."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))
