"""What a backend of sparse convolutions must do, and the rulebooks it makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Rulebook", "Shape3", "SparseBackend"]

Shape3 = tuple[int, int, int]


@dataclass(frozen=True)
class Rulebook:
    """Which input row goes to which output row, for each place of a kernel.

    `src[t]` and `dst[t]` (int64) are the pairs of kernel place t, places in the order of a weight's three middle axes. Within a place no row occurs twice in
    `dst` nor in `src`, so threads that add to outputs place by place never meet at one row. `centre` is the place that takes every row to
    itself, where there is one.
    """

    src: tuple[Int[Tensor, "P"], ...]
    dst: tuple[Int[Tensor, "P"], ...]
    inputs: int
    outputs: int
    centre: int | None = None
    native: Any = None  # the backend's own tables, for one that needs more than pairs
    inverted: bool = False

    @property
    def pairs(self) -> int:
        return sum(len(s) for s in self.src)

    def inverse(self) -> Rulebook:
        """The same pairs from outputs to inputs."""
        return replace(self, src=self.dst, dst=self.src, inputs=self.outputs, outputs=self.inputs, inverted=not self.inverted)


class SparseBackend(Protocol):
    """Makes rulebooks and convolves by them. Coordinates are unique and ascending, (b, i, j, k), as SparseVoxels has them."""

    name: str

    def subm(self, coords: Int[Tensor, "M 4"], shape: Shape3, kernel: int) -> Rulebook:
        """Outputs on the inputs' voxels; `kernel` odd; the output at c takes inputs at c + place - kernel // 2."""
        ...

    def down(self, coords: Int[Tensor, "M 4"], shape: Shape3) -> tuple[Rulebook, Int[Tensor, "L 4"], Shape3]:
        """Kernel 2, stride 2: the rulebook, and coordinates and shape of the outputs: every cell with a child; half as many cells, rounded up."""
        ...

    def convolve(self, feats: Float[Tensor, "M C"], weight: Float[Tensor, "K r s t C"], book: Rulebook) -> Float[Tensor, "L K"]:
        """Sum over pairs of the input row times the weight of its place; differentiable in feats and weight."""
        ...
