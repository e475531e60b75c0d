"""Sparse convolutions in torch alone, on any device: sorted keys for the rulebook; gather, multiply, add for the rest."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from .protocol import Rulebook, Shape3
from .tensors import voxel_keys

__all__ = ["TorchBackend", "gather_multiply_add", "make"]


def make() -> TorchBackend:
    return TorchBackend()


class TorchBackend:
    name = "torch"

    def subm(self, coords: Int[Tensor, "M 4"], shape: Shape3, kernel: int) -> Rulebook:
        """One binary search a line of the kernel: keys along the last axis follow each other, so the next place is found at the same row or the one after.

        Only the first half of the places is searched; the other half has the same pairs the other way round.
        """
        reach, places = kernel // 2, kernel**3
        keys = voxel_keys(coords, shape, reach)  # with a margin: a neighbour outside the grid is nobody's key
        row_step = shape[2] + 2 * reach
        plane_step = (shape[1] + 2 * reach) * row_step
        everyone = torch.arange(len(keys), device=keys.device)
        src: list[Tensor] = [everyone] * places
        dst: list[Tensor] = [everyone] * places
        for line in range(kernel * kernel // 2 + 1):
            first = line * kernel
            ask = keys + ((line // kernel - reach) * plane_step + (line % kernel - reach) * row_step - reach)
            row = torch.searchsorted(keys, ask)
            for place in range(first, min(first + kernel, places // 2)):
                hit = keys[row.clamp_max(len(keys) - 1)] == ask if len(keys) else ask == 0
                out = hit.nonzero()[:, 0]
                src[place], dst[place] = row[out], out
                src[places - 1 - place], dst[places - 1 - place] = out, row[out]
                row, ask = row + hit, ask + 1
        return Rulebook(tuple(src), tuple(dst), len(keys), len(keys), places // 2)

    def down(self, coords: Int[Tensor, "M 4"], shape: Shape3) -> tuple[Rulebook, Int[Tensor, "L 4"], Shape3]:
        half = (-(-shape[0] // 2), -(-shape[1] // 2), -(-shape[2] // 2))
        parent = torch.cat([coords[:, :1], coords[:, 1:] // 2], 1)
        _, index = torch.unique(voxel_keys(parent, half), return_inverse=True)
        count = int(index.max()) + 1 if len(index) else 0
        out = parent.new_zeros(count, 4).index_copy_(0, index, parent)  # repeats write the same row
        place = (coords[:, 1:] % 2 * coords.new_tensor([4, 2, 1])).sum(1)
        src = tuple((place == t).nonzero()[:, 0] for t in range(8))
        return Rulebook(src, tuple(index[s] for s in src), len(coords), count), out, half

    def convolve(self, feats: Float[Tensor, "M C"], weight: Float[Tensor, "K r s t C"], book: Rulebook) -> Float[Tensor, "L K"]:
        return gather_multiply_add(feats, weight, book)


def gather_multiply_add(feats: Float[Tensor, "M C"], weight: Float[Tensor, "K r s t C"], book: Rulebook) -> Float[Tensor, "L K"]:
    """Convolution by a rulebook: for each place of the kernel gather rows, multiply, add to the outputs. Threads never meet at one row."""
    return _GatherMultiplyAdd.apply(feats, weight, book)  # pyright: ignore[reportReturnType]


class _GatherMultiplyAdd(torch.autograd.Function):
    """Gathers again in backward, so that no copy of the features is kept for each place of the kernel."""

    @staticmethod
    def forward(ctx: Any, feats: Tensor, weight: Tensor, book: Rulebook) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.book = book
        w = weight.reshape(weight.shape[0], -1, weight.shape[-1])
        return _run(feats, [w[:, t].T for t in range(w.shape[1])], book)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        feats, weight = ctx.saved_tensors
        book: Rulebook = ctx.book
        w = weight.reshape(weight.shape[0], -1, weight.shape[-1])
        g_feats = g_weight = None
        if ctx.needs_input_grad[0]:
            g_feats = _run(grad, [w[:, t] for t in range(w.shape[1])], book.inverse())
        if ctx.needs_input_grad[1]:
            g = torch.zeros_like(w)
            for t, (src, dst) in enumerate(zip(book.src, book.dst, strict=True)):
                if t == book.centre:
                    g[:, t] = grad.T @ feats
                elif len(src):
                    g[:, t] = grad.index_select(0, dst).T @ feats.index_select(0, src)
            g_weight = g.view_as(weight)
        return g_feats, g_weight, None


def _run(feats: Tensor, weights: list[Tensor], book: Rulebook) -> Tensor:
    out = feats.new_zeros(book.outputs, weights[0].shape[1]) if book.centre is None else feats @ weights[book.centre]
    for t, (src, dst) in enumerate(zip(book.src, book.dst, strict=True)):
        if t != book.centre and len(src):
            out.index_add_(0, dst, feats.index_select(0, src) @ weights[t])
    return out
