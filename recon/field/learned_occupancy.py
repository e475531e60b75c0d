"""Occupancy learned together with the field: a small network that tells occupied places from free ones (after Mi and Xu 2024, LeC2O-NeRF: "Learning Continuous and Compact
Large-Scale Occupancy for Urban Scenes").

Of the paper: the classifier, learned with the field and from nothing but it; a loss that holds the share of occupied places small; a loss on the density of what is
called free. Otherwise here: the paper multiplies what the field answers by the classifier's certainty, so that colours teach it too, and lets a tiny second network
answer for free places; here density alone teaches it, and there is one field. The forms of the losses are ours, after the paper's description of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .frequency import FrequencyEncoding
from .occupancy import DensityFn, OpacityFn

__all__ = ["LearnedOccupancy", "empty_loss", "imbalance_loss"]

FREQUENCIES, HIDDEN = 6, 32
PLACES = 4096  # that the losses are taken over in each step, anywhere in the cube
CERTAIN = 2.0  # logit of everything at the start: all is occupied
EMPTY, BALANCE = 1e-2, 3e-5  # weights of the two losses: with a ratio of 3e-3 a place is occupied from about the density on that the grid goes by
BAKE_EVERY = 32  # steps between two bakes


def imbalance_loss(p: Float[Tensor, "N"], share: float) -> Float[Tensor, ""]:
    """Holds the share of occupied places at about `share`: with P the mean probability to be occupied, and f the share of places where it is above a half, held fixed,
    f P / share + (1 - f) (1 - P) / (1 - share).

    That is the load balancing loss of Fedus et al. 2021 (Switch Transformers, equation 4), for two choices of uneven weight. Its slope in P is
    f / share - (1 - f) / (1 - share): down where too many are occupied, up where too few, 0 at f = share, where it is 1 whatever P is.
    """
    f, P = (p > 0.5).float().mean(), p.mean()
    return f * P / share + (1 - f) * (1 - P) / (1 - share)


def empty_loss(p: Float[Tensor, "N"], opacity: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """Mean of (1 - p) opacity: what is called free should not be seen, and what is seen not be called free. The opacity of one step of the march stands for the
    paper's density: it has a bound."""
    return ((1 - p) * opacity).mean()


class LearnedOccupancy(nn.Module):
    """The classifier, and what it says of `side`^3 cells: the march asks only those. They are baked, all of them by their centres, every BAKE_EVERY steps.

    With both losses a place becomes occupied where one step of the march at it is more opaque than BALANCE / EMPTY (f / share - (1 - f) / (1 - share)): a threshold
    that rises with the share f of the cube that is occupied. `share` is a prior, not a bound: it gives way to matter.

    Args:
        warm_up: steps in which all is occupied and nothing learned: the field is fog then.
    """

    baked: Bool[Tensor, "G G G"]

    def __init__(self, side: int = 96, share: float = 0.1, warm_up: int = 100, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.side, self.share, self.warm_up = side, share, warm_up
        self.encoding = FrequencyEncoding(FREQUENCIES)
        sizes = (self.encoding.features, HIDDEN, HIDDEN, 1)
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(a, b, generator=rng) * (2 / a) ** 0.5) for a, b in zip(sizes, sizes[1:], strict=False)])
        self.biases = nn.ParameterList([nn.Parameter(torch.full((b,), CERTAIN if b == 1 else 0.0)) for b in sizes[1:]])
        self.register_buffer("baked", torch.ones((side,) * 3, dtype=torch.bool))
        with torch.no_grad():
            self.weights[2].mul_(0.1)

    @property
    def cells(self) -> Bool[Tensor, "G G G"]:
        return self.baked

    def forward(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Logits of being occupied."""
        return self._beyond_first(self.encoding(xyz) @ self.weights[0] + self.biases[0])

    def _beyond_first(self, first: Float[Tensor, "*N H"]) -> Float[Tensor, "*N"]:
        hidden = torch.relu(torch.relu(first) @ self.weights[1] + self.biases[1])
        return (hidden @ self.weights[2] + self.biases[2])[..., 0]

    def loss(self, step: int, opacity: OpacityFn, rng: torch.Generator) -> Float[Tensor, ""] | None:
        if step < self.warm_up:
            return None
        xyz = torch.rand(PLACES, 3, generator=rng).to(self.baked.device)
        p = torch.sigmoid(self(xyz))
        return EMPTY * empty_loss(p, opacity(xyz)) + BALANCE * imbalance_loss(p, self.share)

    def after_step(self, step: int, density: DensityFn, rng: torch.Generator) -> None:
        if step > self.warm_up and (step - self.warm_up) % BAKE_EVERY == 0:
            self.bake()

    @torch.no_grad()
    def bake(self) -> None:
        """Each feature of the encoding is of one axis, so that what the first layer makes of a cell is a sum of three vectors, made once for each slice of cells."""
        middle = (torch.arange(self.side, device=self.baked.device) + 0.5) / self.side
        features = self.encoding(middle[:, None].expand(-1, 3))  # feature k is of axis k % 3
        x, y, z = (features[:, a::3] @ self.weights[0][a::3] for a in range(3))
        for i, own in enumerate(x + self.biases[0]):
            self.baked[i] = self._beyond_first(own + y[:, None] + z) > 0
