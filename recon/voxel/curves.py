"""Space-filling curves: numbers of cells such that cells near each other mostly have near numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import ShapeError

__all__ = ["CURVES", "curve_order", "hilbert", "z_order"]

BITS = 20  # an axis; three axes and no sign fit an int64
# how bits are drawn apart, three places each: shift, and what stays
SPREAD = ((32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3), (2, 0x1249249249249249))


def z_order(ijk: Int[Tensor, "M 3"], bits: int = 16) -> Int[Tensor, "M"]:
    """Morton's number of each cell: the bits of its coordinates in turn, i first. Coordinates in [0, 2^bits).

    Raises ShapeError where they are not, or for more than 20 bits.
    """
    _check(ijk, bits)
    spread = ijk
    for shift, mask in SPREAD:
        spread = (spread | (spread << shift)) & mask
    return (spread[:, 0] << 2) | (spread[:, 1] << 1) | spread[:, 2]


def hilbert(ijk: Int[Tensor, "M 3"], bits: int = 16) -> Int[Tensor, "M"]:
    """Place of each cell along Hilbert's curve through [0, 2^bits)^3: cells with numbers next to each other touch (Skilling 2004, "Programming the Hilbert curve").

    Raises ShapeError as z_order does.
    """
    _check(ijk, bits)
    axes = list(ijk.unbind(1))
    for level in reversed(range(1, bits)):
        top, rest = 1 << level, (1 << level) - 1
        for a in range(3):
            here = (axes[a] & top) != 0
            swap = torch.where(here, 0, (axes[0] ^ axes[a]) & rest)  # exchange the low bits of the axes, or turn those of the first round
            axes[0] = axes[0] ^ torch.where(here, rest, swap)
            axes[a] = axes[a] ^ swap if a else axes[a]
    axes[1] = axes[1] ^ axes[0]
    axes[2] = axes[2] ^ axes[1]
    turn = torch.zeros_like(axes[2])
    for level in range(1, bits):
        turn = turn ^ torch.where((axes[2] & (1 << level)) != 0, (1 << level) - 1, 0)
    return z_order(torch.stack([a ^ turn for a in axes], 1), bits)


def _check(ijk: Tensor, bits: int) -> None:
    if not 1 <= bits <= BITS:
        raise ShapeError(f"bits must be 1 to {BITS}; got {bits}.")
    if bool(((ijk < 0) | (ijk >= 1 << bits)).any()):
        raise ShapeError(f"A curve of {bits} bits takes coordinates from 0 to {(1 << bits) - 1}; got {int(ijk.min())} to {int(ijk.max())}.")


CURVES: dict[str, Callable[[Int[Tensor, "M 3"], int], Int[Tensor, "M"]]] = {
    "z": z_order,
    "hilbert": hilbert,
    "z-turned": lambda ijk, bits: z_order(ijk[:, [1, 0, 2]], bits),
    "hilbert-turned": lambda ijk, bits: hilbert(ijk[:, [1, 0, 2]], bits),
}


def curve_order(coords: Int[Tensor, "M 4"], shape: tuple[int, int, int], curve: str) -> Int[Tensor, "M"]:
    """Rows by scene, and within a scene along the curve of this name."""
    bits = max(1, (max(shape) - 1).bit_length())
    code = CURVES[curve](coords[:, 1:], bits)
    return (coords[:, 0] << (3 * bits) | code).argsort() if 3 * bits < 56 else _two_keys(coords[:, 0], code)


def _two_keys(first: Tensor, second: Tensor) -> Tensor:
    order = second.argsort()
    return order[first[order].argsort(stable=True)]
