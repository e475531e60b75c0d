"""Momentum whose step is a rotation: every direction a weight matrix could learn in is learned at one speed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import CheckpointError, ShapeError

__all__ = ["Muon", "orthogonalised"]

ROUNDS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: singular values end between .7 and 1.2, which is near enough, and soon
ADAM_RMS = 0.2  # of a step of Adam's, relative to its rate: so large a step is taken here, too (Liu et al. 2025, section 2.2)


def orthogonalised(matrix: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
    """About the nearest matrix whose singular values are all one, by Newton and Schulz's iteration; 0 stays 0."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp_min(1e-30)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon:
    """Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") for weights of linear and convolutional layers, which count as matrices of
    outputs by all the rest. Used as SparseAdam is; rates are as large as Adam's.

    Raises ShapeError for a parameter that is no matrix.
    """

    def __init__(self, params: Mapping[str, Tensor], lr: Mapping[str, float] | float, momentum: float = 0.95) -> None:
        flat = next((name for name, p in params.items() if p.ndim < 2), None)
        if flat is not None:
            raise ShapeError(f"Muon moves matrices, and {flat!r} is {tuple(params[flat].shape)}.")
        self.params, self.momentum = dict(params), momentum
        self.rates = {name: lr if isinstance(lr, (int, float)) else lr[name] for name in params}
        self.before = {name: torch.zeros_like(p, requires_grad=False) for name, p in params.items()}

    def set_lr(self, name: str, lr: float) -> None:
        self.rates[name] = lr

    def zero_grad(self) -> None:
        for p in self.params.values():
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for name, p in self.params.items():
            if p.grad is None:
                continue
            mean = self.before[name].mul_(self.momentum).add_(p.grad)
            ahead = (p.grad + self.momentum * mean).flatten(1)
            p.sub_(orthogonalised(ahead).view_as(p), alpha=self.rates[name] * ADAM_RMS * max(ahead.shape) ** 0.5)

    def state_dict(self) -> dict[str, Tensor]:
        """Flat, for safetensors: the gathered gradients by name (the live tensors)."""
        return dict(self.before)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from `state_dict()`. Raises CheckpointError when names or shapes differ."""
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in self.before.items()}:
            raise CheckpointError(f"The optimiser has parameters {sorted(self.before)}, the checkpoint {sorted(state)}, or they are of other shapes.")
        for name, old in self.before.items():
            old.copy_(state[name])
