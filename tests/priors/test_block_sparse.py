"""Block-sparse attention equals dense attention when every block is kept, nears it as more are, and never loses what all of the attention goes to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from handful.priors.block_sparse import block_sparse_attention, choose_blocks
from handful.priors.pointmap_vggt import make_sparse
from handful.recon.errors import ConfigError
from torch import Tensor, nn


def scene(views: int = 4, patches: int = 50, specials: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries and keys of photos of one thing: each patch looks like the patches of its own part of the scene, in every photo."""
    g = torch.Generator().manual_seed(seed)
    part = torch.randn(10, 16, generator=g)
    n = specials + patches
    token = torch.zeros(views, n, 16)
    token[:, specials:] = 2.5 * part[torch.arange(patches) // 5]
    token = token.reshape(1, 1, -1, 16) + 0.3 * torch.randn(1, 2, views * n, 16, generator=g)
    special = (torch.arange(views * n) % n) < specials
    return token, token + 0.1 * torch.randn(token.shape, generator=g), torch.randn(token.shape, generator=g), special


@pytest.mark.parametrize("block", [1, 7, 16, 64, 1000])
def test_all_blocks_are_dense_attention(block):
    q, k, v, special = scene()
    for kept in ({"keep": 1.0}, {"keep": 1e-6, "mass": 1.0}):
        assert torch.allclose(block_sparse_attention(q, k, v, special, block, **kept), F.scaled_dot_product_attention(q, k, v), atol=2e-5)
    nobody = torch.zeros_like(special)
    assert torch.allclose(block_sparse_attention(q, k, v, nobody, block, 1.0), F.scaled_dot_product_attention(q, k, v), atol=2e-5)
    assert torch.allclose(block_sparse_attention(q, k, v, ~nobody, block, 0.1), F.scaled_dot_product_attention(q, k, v), atol=2e-5)


def test_error_falls_with_the_share_kept_and_is_small_where_attention_is_concentrated():
    q, k, v, special = scene()
    dense = F.scaled_dot_product_attention(q, k, v)
    error = [
        float((block_sparse_attention(q, k, v, special, 5, keep) - dense).norm() / dense.norm()) for keep in (0.05, 0.1, 0.25, 0.5, 1.0)
    ]
    assert all(a > b for a, b in zip(error[:-1], error[1:], strict=True)), error
    assert error[2] < 0.1 and error[-1] < 1e-5, error
    # the same share of blocks chosen without looking
    g = torch.Generator().manual_seed(1)
    shuffled = k[:, :, torch.randperm(k.shape[2], generator=g)]
    index, used = choose_blocks(q[:, :, ~special], shuffled[:, :, ~special], 5, 0.25)
    assert index.shape == used.shape == (1, 2, 40, 10) and used.all()


def test_special_tokens_see_and_are_seen_by_all():
    q, k, v, special = scene()
    q = 0.2 * q  # so that nothing is drowned
    dense = F.scaled_dot_product_attention(q, k, v)
    out = block_sparse_attention(q, k, v, special, 5, 0.05)
    assert torch.allclose(out[:, :, special], dense[:, :, special], atol=1e-5)
    loud = v.clone()
    loud[:, :, special] += 100.0
    moved = block_sparse_attention(q, k, loud, special, 5, 0.05) - out
    assert (moved[:, :, ~special].abs().amax(-1) > 1e-3).all(), "every patch hears every special token"


def test_mass_takes_as_many_blocks_as_it_needs():
    q, k, _, special = scene()
    q, k = q[:, :, ~special], k[:, :, ~special]
    share = (q.unflatten(2, (-1, 5)).mean(3) @ k.unflatten(2, (-1, 5)).mean(3).transpose(2, 3) / 4).softmax(-1)
    index, used = choose_blocks(q, k, 5, 1e-6, 0.9)
    taken = share.gather(-1, index) * used
    assert (taken.sum(-1) >= 0.9 - 1e-5).all() and (used.sum(-1) >= 1).all()
    least = torch.where(used, taken, torch.inf).amin(-1)
    assert (taken.sum(-1) - least < 0.9 + 1e-5).all(), "one block fewer would not have been enough"


def test_settings_that_make_no_sense():
    q, k, v, special = scene(1)
    for wrong in ({"keep": 0.0}, {"keep": 1.5}, {"mass": -0.1}, {"block": 0}):
        with pytest.raises(ConfigError, match="0 < keep <= 1"):
            block_sparse_attention(q, k, v, special, **wrong)


class Layer(nn.Module):
    """Attention with the parts that VGGT's has; positions by a rotation, which must be applied to queries and keys alike."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = nn.LayerNorm(dim // heads), nn.LayerNorm(dim // heads)

    def rope(self, x: Tensor, pos: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        c, s = pos[:, None, :, :1].cos(), pos[:, None, :, :1].sin()
        return torch.cat([a * c - b * s, a * s + b * c], -1)

    def forward(self, x: Tensor, pos: Tensor | None = None) -> Tensor:
        b, n, c = x.shape
        q, k, v = (t.reshape(b, n, self.num_heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        q, k = self.rope(self.q_norm(q), pos), self.rope(self.k_norm(k), pos)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


def test_a_networks_layers_are_replaced_and_equal_when_all_is_kept():
    layers = [SimpleNamespace(attn=Layer()) for _ in range(2)]
    aggregator = SimpleNamespace(global_blocks=layers, patch_start_idx=5)
    x, pos = torch.randn(2, 3 * 25, 32), torch.rand(2, 3 * 25, 2)
    with torch.inference_mode():
        before = [layer.attn(x, pos=pos) for layer in layers]
        make_sparse(aggregator, 3, 1.0, 0.0, 8)
        assert all(torch.allclose(layer.attn(x, pos=pos), b, atol=1e-5) for layer, b in zip(layers, before, strict=True))
        make_sparse(aggregator, 3, 0.2, 0.0, 4)
        sparse = layers[0].attn(x, pos=pos)
    assert sparse.shape == x.shape and not torch.allclose(sparse, before[0], atol=1e-4)
    first = (torch.arange(75) % 25) < 5
    assert torch.allclose(sparse[:, first], before[0][:, first], atol=1e-5)
