"""Focal convolutions and selective kernels, against one voxel at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from handful.recon.voxel import Rulebooks, SparseVoxels
from handful.recon.voxel.focal import FocalConv, FocalUNet, offsets
from handful.recon.voxel.select import SelectiveBlock
from torch import Tensor
from torch.nn.functional import gelu

from .made import some_voxels

CENTRE = 13


def _slow_conv(conv: Any, feats: dict[tuple[int, ...], Tensor], at: tuple[int, ...]) -> Tensor:
    reach = conv.weight.shape[1] // 2
    out = conv.bias
    for u in range(-reach, reach + 1):
        for v in range(-reach, reach + 1):
            for w in range(-reach, reach + 1):
                near = feats.get((at[0], at[1] + u, at[2] + v, at[3] + w))
                if near is not None:
                    out = out + conv.weight[:, u + reach, v + reach, w + reach] @ near
    return out


def _by_cell(x: SparseVoxels, feats: Tensor) -> dict[tuple[int, ...], Tensor]:
    return {tuple(c): f for c, f in zip(x.coords.tolist(), feats, strict=True)}


def _slow_focal(layer: FocalConv, x: SparseVoxels) -> dict[tuple[int, ...], Tensor]:
    """Section 3.2 in loops."""
    normed = _by_cell(x, layer.norm(x.feats))
    cells = [tuple(c) for c in x.coords.tolist()]
    importance = {c: torch.sigmoid(_slow_conv(layer.importance, normed, c)) for c in cells}
    factor = {c: importance[c][CENTRE] for c in cells}
    new: dict[tuple[int, ...], Tensor] = {}
    for c in cells:
        for place, step in enumerate(offsets().tolist()):
            to = (c[0], *(a + s for a, s in zip(c[1:], step, strict=True)))
            inside = all(0 <= a < n for a, n in zip(to[1:], x.shape, strict=True))
            if importance[c][CENTRE] >= 0.5 and importance[c][place] >= 0.5 and inside and to not in factor:
                new[to] = max(new.get(to, importance[c][place]), importance[c][place])
    best = sorted(new, key=lambda c: -float(new[c].detach()))[: int(layer.limit * len(x))]
    factor |= {c: new[c] for c in best}
    feats = _by_cell(x, x.feats)
    return {c: _slow_conv(layer.conv, feats, c) * factor[c] for c in sorted(factor)}


@pytest.mark.parametrize("limit", [10.0, 0.5, 0.0])
def test_focal_against_loops(limit: float) -> None:
    x = some_voxels((5, 4, 6), 2, 4, 0.12, seed=3)
    x = x.with_feats(x.feats.requires_grad_())
    torch.manual_seed(2)
    layer = FocalConv(4, 3, limit).double()
    torch.nn.init.constant_(layer.importance.bias, 0.0)  # pyright: ignore[reportArgumentType]
    focal = layer(x, Rulebooks(x))
    want = _slow_focal(layer, x)
    assert [tuple(c) for c in focal.voxels.validate().coords.tolist()] == list(want)
    assert torch.equal(focal.voxels.coords[focal.rows], x.coords)
    spread = len(focal.voxels) - len(x)
    assert {10.0: spread > 0.5 * len(x), 0.5: spread == len(x) // 2, 0.0: spread == 0}[limit]
    slow = torch.stack(list(want.values()))
    torch.testing.assert_close(focal.voxels.feats, slow, rtol=1e-10, atol=1e-10)
    inputs = [x.feats, *layer.parameters()]
    for a, b in zip(
        torch.autograd.grad(focal.voxels.feats.sin().sum(), inputs), torch.autograd.grad(slow.sin().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_importance_learns_where_to_spread() -> None:
    """Asked to answer at an empty neighbour, a voxel that hardly spreads there comes to do so surely, by the output's factor alone."""
    x = SparseVoxels(torch.tensor([[0, 1, 1, 1]]), torch.ones(1, 2), torch.zeros(3), torch.ones(3), (3, 3, 3))
    layer = FocalConv(2, 1, limit=26.0)
    assert layer.importance.bias is not None and layer.conv.bias is not None
    with torch.no_grad():
        layer.importance.weight.zero_()
        layer.importance.bias.fill_(0.1)
    chosen = 16  # one cell further along the second axis
    optimiser = torch.optim.Adam(layer.importance.parameters(), 0.1)
    layer.conv.weight.requires_grad_(False).fill_(0.0)
    layer.conv.bias.requires_grad_(False).fill_(1.0)
    books = Rulebooks(x)
    for _ in range(60):
        focal = layer(x, books)
        target = (focal.voxels.coords[:, 1:] == torch.tensor([1, 2, 1])).all(1).float()
        loss = (focal.voxels.feats[:, 0] - target).square().sum() - focal.importance[0, CENTRE]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    focal = layer(x, books)
    assert focal.importance[0, chosen] > 0.7
    assert [[0, 1, 2, 1]] == [c for c in focal.voxels.coords.tolist() if c != [0, 1, 1, 1]]


def test_caller_may_have_a_loss_on_importance() -> None:
    x = some_voxels((12, 12, 12), 1, 4, 0.1, dtype=torch.float32)
    net = FocalUNet(4, 2, (8, 8, 8))
    _, spread = net.forward_focal(x)
    assert [f.voxels.stride for f in spread] == [1, 2] and [len(f.rows) for f in spread] == [len(f.importance) for f in spread]
    sum(f.importance.mean() for f in spread).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(f.importance.weight.grad is not None and bool(f.importance.weight.grad.any()) for f in net.focal)  # pyright: ignore[reportAttributeAccessIssue]


def test_selective_kernels_against_loops() -> None:
    x = some_voxels((5, 4, 6), 2, 4, 0.3)
    x = x.with_feats(x.feats.requires_grad_())
    layer = SelectiveBlock(4, (1, 3, 5)).double()
    out = layer(x, Rulebooks(x)).feats
    feats = _by_cell(x, gelu(layer.norm(x.feats)))
    parts = {c: [_slow_conv(branch, feats, c) for branch in layer.branches] for c in feats}
    rows: list[Tensor] = []
    for row, c in enumerate(feats):
        scene = [sum(parts[d]) for d in parts if d[0] == c[0]]
        told = layer.gates(torch.stack(scene).mean(0)).view(3, 4)  # pyright: ignore[reportArgumentType, reportCallIssue]
        gates = [[float("nan")] * 4] * 3 if not len(scene) else torch.stack([told[:, k].softmax(0) for k in range(4)], 1)
        rows.append(x.feats[row] + sum(gates[b] * parts[c][b] for b in range(3)))  # pyright: ignore[reportArgumentType]
    want = torch.stack(rows)
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-10)
    inputs = [x.feats, *layer.parameters()]
    for a, b in zip(torch.autograd.grad(out.sin().sum(), inputs), torch.autograd.grad(want.sin().sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_gates_choose_the_reach() -> None:
    """Where only the wide branch sees the answer, training opens its gate."""
    x = some_voxels((8, 8, 8), 1, 4, 0.3, dtype=torch.float32)
    layer = SelectiveBlock(4, (1, 5))
    books = Rulebooks(x)
    with torch.no_grad():
        want = layer.branches[1](x.with_feats(gelu(layer.norm(x.feats))), books).feats + x.feats
    for p in [*layer.branches.parameters(), *layer.norm.parameters()]:
        p.requires_grad_(False)
    optimiser = torch.optim.Adam(layer.gates.parameters(), 0.05)
    for _ in range(80):
        loss = (layer(x, books).feats - want).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    y = x.with_feats(gelu(layer.norm(x.feats)))
    gates = layer.weights(sum(b(y, books).feats for b in layer.branches), x)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(gates.sum(1), torch.ones(1, 4))
    assert bool((gates[:, 1] > 0.9).all())
