"""The scene representation that travels: raw 3D Gaussians, as optimised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import ShapeError

__all__ = ["Gaussians"]


@dataclass(frozen=True)
class Gaussians:
    """N anisotropic Gaussians with raw (unconstrained) parameters, as in Kerbl et al. 2023, section 4.

    Attributes:
        means: centres, world units.
        quats_wxyz: rotation world_from_gaussian, any non-zero length.
        log_scales: natural logarithm of the standard deviations along the local axes, world units.
        logit_opacities: opacity = sigmoid(logit).
        sh: real spherical-harmonic colour coefficients, K = (degree + 1)^2, degree 0 to 3; colour = 0.5 + sum.
    """

    means: Float[Tensor, "N 3"]
    quats_wxyz: Float[Tensor, "N 4"]
    log_scales: Float[Tensor, "N 3"]
    logit_opacities: Float[Tensor, "N"]
    sh: Float[Tensor, "N K 3"]

    def __len__(self) -> int:
        return self.means.shape[0]

    def __getitem__(self, index: slice | Int[Tensor, "M"] | Bool[Tensor, "N"]) -> Gaussians:
        return Gaussians(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def concatenate(parts: Sequence[Gaussians]) -> Gaussians:
        """All rows of at least one set, in order; the sets have one SH degree."""
        return Gaussians(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Gaussians)))

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def sh_degree(self) -> int:
        return {1: 0, 4: 1, 9: 2, 16: 3}[self.sh.shape[1]]

    @property
    def opacities(self) -> Float[Tensor, "N"]:
        return torch.sigmoid(self.logit_opacities)

    @property
    def scales(self) -> Float[Tensor, "N 3"]:
        return torch.exp(self.log_scales)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Gaussians:
        return Gaussians(*(getattr(self, f.name).to(device=device, dtype=dtype) for f in fields(self)))

    def detach(self) -> Gaussians:
        return Gaussians(*(getattr(self, f.name).detach() for f in fields(self)))

    def clone(self) -> Gaussians:
        return Gaussians(*(getattr(self, f.name).detach().clone() for f in fields(self)))

    def flattened(self, thin: float = 0.01) -> Gaussians:
        """The same surfels (flat Gaussians whose third axis is their normal) with that share of the shorter side as their thickness, so that a program that draws
        ellipsoids shows nearly the same."""
        sides = self.log_scales[:, :2]
        return replace(self, log_scales=torch.cat([sides, sides.amin(1, keepdim=True) + math.log(thin)], 1))

    def validate(self) -> Gaussians:
        """Raises ShapeError unless the shapes fit together. Values may be anything: the rasterizers skip what is not finite."""
        n = self.means.shape[0]
        want = {"means": (n, 3), "quats_wxyz": (n, 4), "log_scales": (n, 3), "logit_opacities": (n,)}
        for name, shape in want.items():
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise ShapeError(f"Gaussians.{name}: expected shape {shape}, got {got}.")
        if self.sh.ndim != 3 or self.sh.shape[0] != n or self.sh.shape[1] not in (1, 4, 9, 16) or self.sh.shape[2] != 3:
            raise ShapeError(f"Gaussians.sh: expected ({n}, 1|4|9|16, 3), got {tuple(self.sh.shape)}.")
        return self
