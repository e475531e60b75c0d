"""Spherical harmonics: orthonormal, in the PLY's order and signs, gradients right. (gsplat's own agree: raster/test_against_gsplat.py.)"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from handful.recon.sh import SH_C0, rgb_from_sh, rgb_from_sh_dc, sh_basis, sh_coefficients, sh_dc_from_rgb, sh_degree_of

from ..golden.splat_numpy import harmonics


def _sphere(n_theta: int = 24, n_phi: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss-Legendre x uniform quadrature: exact for the products of two harmonics."""
    z, w = np.polynomial.legendre.leggauss(n_theta)
    phi = 2 * np.pi * np.arange(n_phi) / n_phi
    s = np.sqrt(1 - z**2)
    d = np.stack([s[:, None] * np.cos(phi), s[:, None] * np.sin(phi), np.repeat(z[:, None], n_phi, 1)], -1).reshape(-1, 3)
    return torch.tensor(d), torch.tensor(np.repeat(w, n_phi) * 2 * np.pi / n_phi)


def test_orthonormal() -> None:
    d, w = _sphere()
    y = sh_basis(d, 3)
    torch.testing.assert_close((y * w[:, None]).T @ y, torch.eye(16, dtype=torch.float64), atol=1e-12, rtol=0)


def test_equals_the_legendre_recursion() -> None:
    d = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    want = torch.tensor(np.stack([harmonics(one, 3) for one in d.numpy()]))
    torch.testing.assert_close(sh_basis(d, 3), want, atol=1e-12, rtol=0)
    for degree in range(3):
        torch.testing.assert_close(sh_basis(d, degree), want[:, : sh_coefficients(degree)], atol=1e-12, rtol=0)


def test_signs_of_the_ply_layout() -> None:
    """Degree 1 is -y, z, -x; the z-only functions are 0, 2, 6, 12."""
    x, y, z = torch.eye(3, dtype=torch.float64)
    c1 = math.sqrt(3 / (4 * math.pi))
    assert sh_basis(y, 1)[1].item() == pytest.approx(-c1) and sh_basis(z, 1)[2].item() == pytest.approx(c1)
    assert sh_basis(x, 1)[3].item() == pytest.approx(-c1)
    assert set(sh_basis(z, 3).nonzero()[:, 0].tolist()) == {0, 2, 6, 12}


def test_colour_round_trip_and_clamp() -> None:
    rgb = torch.tensor([[0.1, 0.5, 1.2]])
    torch.testing.assert_close(rgb_from_sh_dc(sh_dc_from_rgb(rgb)), rgb)
    sh = torch.zeros(1, 16, 3)
    sh[:, 0] = sh_dc_from_rgb(torch.tensor([-0.2, 0.3, 2.0]))
    torch.testing.assert_close(rgb_from_sh(sh, torch.tensor([[0.0, 0.6, 0.8]])), torch.tensor([[0.0, 0.3, 2.0]]))
    assert pytest.approx(0.28209479177387814) == SH_C0
    assert [sh_degree_of(sh_coefficients(d)) for d in range(4)] == [0, 1, 2, 3]


def test_degree_is_what_is_asked_and_there() -> None:
    sh, d = torch.randn(7, 9, 3), torch.nn.functional.normalize(torch.randn(7, 3), dim=-1)
    assert torch.equal(rgb_from_sh(sh, d), rgb_from_sh(sh, d, 3))
    torch.testing.assert_close(rgb_from_sh(sh, d, 1), rgb_from_sh(sh[:, :4], d))
    with pytest.raises(ValueError, match="degree 0 to 3"):
        sh_basis(d, 4)


def test_gradients() -> None:
    d = torch.nn.functional.normalize(torch.randn(4, 3, dtype=torch.float64), dim=-1).requires_grad_()
    sh = torch.randn(4, 16, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, v: rgb_from_sh(s, torch.nn.functional.normalize(v, dim=-1)), (sh, d))
