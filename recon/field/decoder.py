"""From features to density and colour: one hidden layer; colour as spherical harmonics of the viewing direction, through a sigmoid."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .volume import MOST_LOG_DENSITY

__all__ = ["Decoder", "colors_of", "density_of"]


class Decoder(nn.Module):
    """Raw outputs: logarithm of density, then for each colour channel the coefficients of `(degree + 1)^2` harmonics.

    Args:
        features: inputs; hidden: units of the one hidden layer, a multiple of 16 (ReLU).
        density: at the start, about everywhere.
    """

    def __init__(self, features: int, hidden: int = 64, degree: int = 1, density: float = 1.0, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.degree, self.bands = degree, (degree + 1) ** 2
        outputs = 1 + 3 * self.bands
        self.w1 = nn.Parameter(torch.randn(features, hidden, generator=rng) * (2 / features) ** 0.5)
        self.b1 = nn.Parameter(torch.zeros(hidden))
        self.w2 = nn.Parameter(torch.randn(hidden, outputs, generator=rng) * (1 / hidden) ** 0.5)
        self.b2 = nn.Parameter(torch.zeros(outputs))
        with torch.no_grad():
            self.b2[0] = torch.tensor(density).log()
            self.w2[:, 2:] *= torch.tensor([1.0 if k % self.bands == 0 else 0.1 for k in range(1, 3 * self.bands)])

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.w1, self.b1, self.w2, self.b2

    def forward(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N O"]:
        return torch.relu(features @ self.w1 + self.b1) @ self.w2 + self.b2


def density_of(raw: Float[Tensor, "N O"]) -> Float[Tensor, "N"]:
    return raw[:, 0].clamp_max(MOST_LOG_DENSITY).exp()


def colors_of(raw: Float[Tensor, "N O"], basis: Float[Tensor, "N K"]) -> Float[Tensor, "N 3"]:
    """sRGB in (0, 1)."""
    return torch.sigmoid((raw[:, 1:].view(len(raw), 3, basis.shape[1]) * basis[:, None]).sum(-1))
