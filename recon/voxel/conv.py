"""Layers of sparse convolutions, and the rulebooks that they share.

Weights lie as spconv's (out, three places, in), so that they can be moved between backends and to and from spconv itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from .backends import get_backend
from .protocol import Rulebook, SparseBackend
from .tensors import SparseVoxels

__all__ = ["DownConv", "Rulebooks", "SubMConv", "UpConv"]

T = TypeVar("T")


class Rulebooks:
    """Everything that depends on where voxels are and not on their features: made when first needed, for one set of coordinates and its coarser levels.

    Keep it beside the voxels to run several passes, or several networks, over the same scan.
    """

    def __init__(self, voxels: SparseVoxels, backend: SparseBackend | str = "auto") -> None:
        """Raises ShapeError where the voxels are not in order, BackendUnavailable or ConfigError for a backend given by name."""
        voxels.validate()
        self.backend = get_backend(backend, voxels.coords.device) if isinstance(backend, str) else backend
        self._levels = {voxels.stride: replace(voxels, feats=voxels.feats.new_zeros(len(voxels), 0))}
        self._kept: dict[Hashable, object] = {}

    def level(self, stride: int) -> SparseVoxels:
        """The voxels of a level, without features. Raises ShapeError for a stride finer than the voxels', or no power of two times it."""
        if stride not in self._levels:
            self.down(stride // 2)
        return self._levels[stride]

    def subm(self, stride: int, kernel: int) -> Rulebook:
        """From a level's voxels to themselves."""
        at = self.level(stride)
        return self.keep(("subm", stride, kernel), lambda: self.backend.subm(at.coords, at.shape, kernel))

    def down(self, stride: int) -> Rulebook:
        """From the level of this stride to that of twice the stride."""
        finest = min(self._levels)
        if stride < finest:
            raise ShapeError(f"These rulebooks begin at stride {finest} and have no level that leads to stride {2 * stride}.")

        def make() -> Rulebook:
            at = self.level(stride)
            book, coords, shape = self.backend.down(at.coords, at.shape)
            self._levels[2 * stride] = replace(at, coords=coords, feats=at.feats.new_zeros(len(coords), 0), shape=shape, stride=2 * stride)
            return book

        return self.keep(("down", stride), make)

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once for each key: a place for whatever else depends on coordinates only, as the groups of an attention."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]  # pyright: ignore[reportReturnType]

    def check(self, x: SparseVoxels) -> None:
        """Raises ShapeError where x does not have the coordinates that these rulebooks are made for."""
        own = self.level(x.stride).coords
        if own is not x.coords and not (own.device == x.coords.device and torch.equal(own, x.coords)):
            raise ShapeError(
                f"These rulebooks are made for {len(own)} other voxels of stride {x.stride}, not for the {len(x)} given; make new ones."
            )


class _Conv(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int, fan: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cout, kernel, kernel, kernel, cin))
        self.bias = nn.Parameter(torch.zeros(cout)) if bias else None
        bound = math.sqrt(3 / max(1, fan * cin))  # outputs of unit variance when `fan` places of the kernel meet a voxel of unit variance
        nn.init.uniform_(self.weight, -bound, bound)

    def _apply_book(self, x: SparseVoxels, books: Rulebooks, book: Rulebook) -> Tensor:
        if x.channels != self.weight.shape[-1]:
            raise ShapeError(f"This layer takes {self.weight.shape[-1]} channels; got {x.channels}.")
        out = books.backend.convolve(x.feats, self.weight, book)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        cout, kernel, _, _, cin = self.weight.shape
        return f"{cin}, {cout}, kernel={kernel}, bias={self.bias is not None}"


class SubMConv(_Conv):
    """Submanifold convolution (Graham et al. 2018, section 3): outputs only where there are inputs. Equals a dense one read at those voxels."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, bias: bool = True) -> None:
        """`kernel` cells along each axis, odd. Raises ShapeError for an even one."""
        if kernel < 1 or kernel % 2 == 0:
            raise ShapeError(f"The kernel of a submanifold convolution must be odd; got {kernel}.")
        super().__init__(cin, cout, kernel, kernel * kernel, bias)  # scans are surfaces: about kernel^2 of kernel^3 places are occupied

    def forward(self, x: SparseVoxels, books: Rulebooks) -> SparseVoxels:
        books.check(x)
        return x.with_feats(self._apply_book(x, books, books.subm(x.stride, self.weight.shape[1])))


class DownConv(_Conv):
    """Kernel 2, stride 2: eight cells to one; outputs wherever one of the eight is occupied."""

    def __init__(self, cin: int, cout: int, bias: bool = True) -> None:
        super().__init__(cin, cout, 2, 4, bias)  # about four of eight, of a surface

    def forward(self, x: SparseVoxels, books: Rulebooks) -> SparseVoxels:
        books.check(x)
        out = self._apply_book(x, books, books.down(x.stride))
        return books.level(2 * x.stride).with_feats(out)


class UpConv(_Conv):
    """The way back of a DownConv: from a level to the voxels of the next finer one, by the same pairs the other way round.

    Equals a dense transposed convolution of kernel 2 and stride 2, read at the finer voxels.
    """

    def __init__(self, cin: int, cout: int, bias: bool = True) -> None:
        super().__init__(cin, cout, 2, 1, bias)  # one parent each

    def forward(self, x: SparseVoxels, books: Rulebooks) -> SparseVoxels:
        """Raises ShapeError where the rulebooks have no finer level than x."""
        books.check(x)
        out = self._apply_book(x, books, books.down(x.stride // 2).inverse())
        return books.level(x.stride // 2).with_feats(out)
