"""Attention over only the blocks of tokens that matter, for the global layers of VGGT-like networks, in plain torch.

After "Faster VGGT with Block-Sparse Global Attention" (Wang et al., arXiv 2509.07120): between photos almost all attention goes to the few patches that show the same
thing. Averaged queries and keys of blocks tell which; the special tokens (camera, registers), which serve everybody, are always kept, and see everything.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..recon.errors import ConfigError

__all__ = ["block_sparse_attention", "choose_blocks"]

_CHUNK = 16  # query blocks computed at once: bounds the memory of gathered keys


def choose_blocks(
    q: Float[Tensor, "B H N D"], k: Float[Tensor, "B H N D"], block: int, keep: float, mass: float = 0.0
) -> tuple[Tensor, Bool[Tensor, "B H Q K"]]:
    """Which key blocks each query block attends to, best first.

    Args:
        block: tokens per block; the last one may hold fewer.
        keep: at least this share of the key blocks.
        mass: more blocks, until they hold this share of the estimated attention.

    Returns:
        Indices B,H,Q,K of key blocks and whether each is used (rows that need fewer than K are padded).
    """
    pooled_q, pooled_k = _pool(q, block), _pool(k, block)
    estimate = (pooled_q @ pooled_k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    share, order = estimate.sort(dim=-1, descending=True, stable=True)
    before = share.cumsum(-1) - share
    used = (before < mass) if mass < 1 else torch.ones_like(before, dtype=torch.bool)  # rounding must not lose the last ones
    used[..., : math.ceil(keep * used.shape[-1])] = True
    most = int(used.sum(-1).max())
    return order[..., :most], used[..., :most]


def _pool(x: Float[Tensor, "B H N D"], block: int) -> Float[Tensor, "B H Q D"]:
    """Mean of each block; the last one over the tokens it has."""
    n = x.shape[2]
    sums = _blocks(x, block).sum(3)
    count = torch.full((sums.shape[2],), float(block), device=x.device, dtype=x.dtype)
    if n % block:
        count[-1] = n % block
    return sums / count[:, None]


def _blocks(x: Float[Tensor, "B H N D"], block: int) -> Float[Tensor, "B H Q P D"]:
    b, h, n, d = x.shape
    return F.pad(x, (0, 0, 0, -n % block)).reshape(b, h, -1, block, d)


def block_sparse_attention(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B H N D"],
    v: Float[Tensor, "B H N D"],
    special: Bool[Tensor, "N"],
    block: int = 64,
    keep: float = 0.25,
    mass: float = 0.0,
) -> Float[Tensor, "B H N D"]:
    """Softmax attention of every token to the blocks chosen for it and to all special tokens; special tokens attend to everything.

    With `keep` = 1 this is dense attention. Raises ConfigError for a share or block that makes no sense.
    """
    if not 0 < keep <= 1 or not 0 <= mass <= 1 or block < 1:
        raise ConfigError(f"Block-sparse attention needs 0 < keep <= 1, 0 <= mass <= 1 and block >= 1; got {keep}, {mass} and {block}.")
    out = torch.empty_like(q)
    if special.any():
        out[:, :, special] = F.scaled_dot_product_attention(q[:, :, special], k, v)
    if special.all():
        return out
    patch = ~special
    qp, kp, vp = q[:, :, patch], k[:, :, patch], v[:, :, patch]
    index, used = choose_blocks(qp, kp, block, keep, mass)
    queries, keys, values = _blocks(qp, block), _blocks(kp, block), _blocks(vp, block)
    real = _blocks(torch.ones_like(qp[:1, :1, :, :1]), block)[0, 0, :, :, 0] > 0
    shared = k[:, :, None, special], v[:, :, None, special]
    parts = []
    for start in range(0, queries.shape[2], _CHUNK):
        at = slice(start, start + _CHUNK)
        parts.append(_attend(queries[:, :, at], keys, values, index[:, :, at], used[:, :, at], real, shared))
    out[:, :, patch] = torch.cat(parts, 2).flatten(2, 3)[:, :, : qp.shape[2]]
    return out


def _attend(
    q: Float[Tensor, "B H C P D"],
    keys: Float[Tensor, "B H Q P D"],
    values: Float[Tensor, "B H Q P D"],
    index: Tensor,
    used: Bool[Tensor, "B H C K"],
    real: Bool[Tensor, "Q P"],
    shared: tuple[Tensor, Tensor],
) -> Float[Tensor, "B H C P D"]:
    """A few query blocks against their own key blocks and the shared tokens."""
    b, h, c, kept = index.shape
    row, head = torch.arange(b, device=q.device)[:, None, None, None], torch.arange(h, device=q.device)[None, :, None, None]
    k, v = (
        torch.cat([x[row, head, index].flatten(3, 4), s.expand(-1, -1, c, -1, -1)], 3) for x, s in zip((keys, values), shared, strict=True)
    )
    open_ = (real[index] & used[..., None]).flatten(3)
    open_ = torch.cat([open_, open_.new_ones(b, h, c, shared[0].shape[3])], 3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=open_[:, :, :, None, :])
