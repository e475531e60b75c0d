"""Real spherical harmonics of degree 0 to 3, in the order and with the signs of the 3DGS PLY layout.

Y_lm with the Condon-Shortley phase, m = -l .. l: (1) (-y, z, -x) (xy, -yz, 2zz-xx-yy, -xz, xx-yy) ..., orthonormal on the sphere.
Sloan 2013, "Efficient Spherical Harmonic Evaluation", JCGT 2(2), has the same polynomials. Colour = 0.5 + sum, clamped at 0 by the rasterizers.
"""

from __future__ import annotations

from math import pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SH_C0", "rgb_from_sh", "rgb_from_sh_dc", "sh_basis", "sh_coefficients", "sh_dc_from_rgb", "sh_degree_of"]

SH_C0 = 0.5 / sqrt(pi)
_C1 = 0.5 * sqrt(3 / pi)
_C2_XY, _C2_ZZ, _C2_XX = 0.5 * sqrt(15 / pi), 0.25 * sqrt(5 / pi), 0.25 * sqrt(15 / pi)
_C3_3, _C3_2, _C3_1, _C3_0 = 0.25 * sqrt(35 / (2 * pi)), 0.5 * sqrt(105 / pi), 0.25 * sqrt(21 / (2 * pi)), 0.25 * sqrt(7 / pi)


def sh_coefficients(degree: int) -> int:
    """Number of coefficients per channel, (degree + 1)^2."""
    return (degree + 1) ** 2


def sh_degree_of(coefficients: int) -> int:
    """Degree of a set of 1, 4, 9 or 16 coefficients. Raises KeyError for any other number."""
    return {1: 0, 4: 1, 9: 2, 16: 3}[coefficients]


def sh_basis(directions: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch K"]:
    """Basis functions at unit directions (pointing from the camera to the Gaussian); degree 0 to 3."""
    if not 0 <= degree <= 3:
        raise ValueError(f"spherical harmonics go from degree 0 to 3, got {degree}")
    x, y, z = directions.unbind(-1)
    out = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        out += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        out += [_C2_XY * x * y, -_C2_XY * y * z, _C2_ZZ * (2 * zz - xx - yy), -_C2_XY * x * z, _C2_XX * (xx - yy)]
    if degree >= 3:
        xx, yy, zz = x * x, y * y, z * z
        out += [
            -_C3_3 * y * (3 * xx - yy),
            _C3_2 * x * y * z,
            -_C3_1 * y * (4 * zz - xx - yy),
            _C3_0 * z * (2 * zz - 3 * xx - 3 * yy),
            -_C3_1 * x * (4 * zz - xx - yy),
            0.5 * _C3_2 * z * (xx - yy),
            -_C3_3 * x * (xx - 3 * yy),
        ]
    return torch.stack(out, dim=-1)


def rgb_from_sh(
    sh: Float[Tensor, "*batch K C"], directions: Float[Tensor, "*batch 3"], degree: int | None = None
) -> Float[Tensor, "*batch C"]:
    """Colour seen along unit directions: max(0.5 + sum, 0). `degree` None = all coefficients; a higher one than there is counts as all."""
    there = sh_degree_of(sh.shape[-2])
    degree = there if degree is None else min(degree, there)
    basis = sh_basis(directions, degree)
    return (0.5 + (basis[..., None] * sh[..., : sh_coefficients(degree), :]).sum(-2)).clamp_min(0)


def sh_dc_from_rgb(rgb: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The degree-0 coefficient that shows this colour from everywhere."""
    return (rgb - 0.5) / SH_C0


def rgb_from_sh_dc(dc: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The colour of a degree-0 coefficient, not clamped."""
    return 0.5 + SH_C0 * dc
