"""Compositing against closed forms, finite differences, and the slow twin."""

from __future__ import annotations

import math

import pytest
import torch
from handful.recon.errors import ShapeError
from handful.recon.field.occupancy import march_torch
from handful.recon.field.samples import Samples, Segments
from handful.recon.field.volume import LEAST_TRANSMITTANCE, composite, composite_torch, sample_weights
from handful.recon.kernels import native_or_none
from torch import Tensor

EVERYWHERE = torch.ones(1, 1, 1, dtype=torch.bool)


def along_x(steps: float, rays: int = 1, dtype: torch.dtype = torch.float32) -> Samples:
    """Rays from face to face of the cube, through its middle."""
    start = torch.tensor([0.0, 0.5, 0.5], dtype=dtype).expand(rays, 3)
    span = torch.tensor([1.0, 0.0, 0.0], dtype=dtype).expand(rays, 3)
    one = torch.ones(rays, dtype=dtype)
    segments = Segments(start, span, one, span, torch.tensor([[1.0, 2.0]], dtype=dtype).expand(rays, 2), 0 * one, one)
    return march_torch(segments, EVERYWHERE, steps, 0.5 * one)


def random_rays(seed: int, rays: int = 40, most: int = 60) -> Samples:
    """Of uneven lengths, some empty."""
    rng = torch.Generator().manual_seed(seed)
    counts = torch.randint(most, (rays,), generator=rng) * (torch.rand(rays, generator=rng) > 0.2)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    n = int(starts[-1])
    s = torch.cat([torch.rand(int(c), generator=rng).sort().values for c in counts])
    return Samples(torch.rand(n, 3, generator=rng), torch.rand(n, generator=rng) * 0.1, s, starts)


def test_constant_density_in_a_slab() -> None:
    """Density 3 from x = .25 to .75: alpha = 1 - exp(-1.5), and the expected place is that of the cut exponential."""
    samples = along_x(4096, dtype=torch.float64)
    inside = (samples.xyz[:, 0] > 0.25) & (samples.xyz[:, 0] < 0.75)
    out = composite_torch(3.0 * inside, torch.tensor([0.2, 0.4, 0.8], dtype=torch.float64).expand(len(samples), 3), samples)
    alpha = 1 - math.exp(-1.5)
    assert float(out.alpha) == pytest.approx(alpha, rel=1e-6)
    assert out.color[0].tolist() == pytest.approx([0.2 * alpha, 0.4 * alpha, 0.8 * alpha], rel=1e-6)
    mean = 0.25 + 1 / 3 - 0.5 * math.exp(-1.5) / alpha  # of an exponential of rate 3 cut at .5
    assert float(out.place / out.alpha) == pytest.approx(mean, rel=1e-5)


def test_a_sphere_lets_through_what_its_chord_does() -> None:
    """Rays at distance b from the middle of a sphere of radius r and density k: exp(-2 k sqrt(r^2 - b^2)) is left."""
    offsets = torch.tensor([0.0, 0.1, 0.2, 0.29, 0.31], dtype=torch.float64)
    start = torch.stack([torch.zeros(5, dtype=torch.float64), 0.5 + offsets, torch.full((5,), 0.5, dtype=torch.float64)], 1)
    span = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(5, 3)
    one = torch.ones(5, dtype=torch.float64)
    samples = march_torch(Segments(start, span, one, span, torch.stack([0 * one, one], 1), 0 * one, one), EVERYWHERE, 8192, torch.full((5,), 0.5).double())
    density = 4.0 * ((samples.xyz - 0.5).norm(dim=1) < 0.3)
    out = composite_torch(density, torch.ones(len(samples), 3, dtype=torch.float64), samples)
    chord = 2 * (0.09 - offsets.square()).clamp_min(0).sqrt()
    torch.testing.assert_close(1 - out.alpha, torch.exp(-4 * chord), rtol=2e-3, atol=0)


def test_distortion_of_two_sheets() -> None:
    """Two thin sheets: 2 w w' |s - s'|; one sheet: nothing."""
    s = torch.tensor([0.2, 0.7, 0.4])
    samples = Samples(torch.rand(3, 3), torch.ones(3), s, torch.tensor([0, 2, 3]))
    out = composite_torch(torch.tensor([math.log(2.0), 1e3, 1e3]), torch.ones(3, 3), samples)
    assert out.distortion.tolist() == pytest.approx([2 * 0.5 * 0.5 * 0.5, 0.0], abs=1e-6)


def test_the_twin_by_finite_differences() -> None:
    samples = random_rays(3, rays=4, most=6)
    samples = Samples(samples.xyz.double(), samples.delta.double(), samples.s.double(), samples.starts)
    density = (torch.rand(len(samples), dtype=torch.float64) * 5).requires_grad_()
    rgb = torch.rand(len(samples), 3, dtype=torch.float64, requires_grad=True)

    def flat(density: Tensor, rgb: Tensor) -> Tensor:
        out = composite_torch(density, rgb, samples)
        return torch.cat([out.color, out.alpha[:, None], out.place[:, None], out.distortion[:, None]], 1)

    assert torch.autograd.gradcheck(flat, (density, rgb))


@pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("thick", [3.0, 300.0])  # light gets through; light ends within the ray
def test_native_equals_the_twin(seed: int, thick: float) -> None:
    samples = random_rays(seed)
    rng = torch.Generator().manual_seed(100 + seed)
    values = torch.rand(len(samples), 4, generator=rng)
    pull = torch.randn(len(samples.starts) - 1, 6, generator=rng)
    results = []
    for way in (composite, composite_torch):
        density, rgb = (values[:, 0] * thick).requires_grad_(), values[:, 1:].clone().requires_grad_()
        out = way(density, rgb, samples)
        flat = torch.cat([out.color, out.alpha[:, None], out.place[:, None], out.distortion[:, None]], 1)
        (flat * pull).sum().backward()
        results.append((flat.detach(), density.grad, rgb.grad))
    (out, d_density, d_rgb), (twin, twin_density, twin_rgb) = results
    torch.testing.assert_close(out, twin, rtol=1e-4, atol=2e-6)
    assert d_density is not None and twin_density is not None
    torch.testing.assert_close(d_density, twin_density, rtol=1e-3, atol=2e-6 * float(twin_density.abs().max()))
    torch.testing.assert_close(d_rgb, twin_rgb, rtol=1e-4, atol=1e-6)
    assert bool((sample_weights(values[:, 0] * 300, samples) == 0).any()), "some samples lie behind everything"


def test_what_lies_behind_everything_gets_no_gradient() -> None:
    samples = along_x(8)
    density = torch.full((len(samples),), 1e3, requires_grad=True)
    composite(density, torch.rand(len(samples), 3), samples).color.sum().backward()
    assert density.grad is not None and density.grad[1:].tolist() == [0.0] * (len(samples) - 1)
    assert math.exp(-1e3 / 8) < LEAST_TRANSMITTANCE


def test_no_rays_and_rays_of_nothing() -> None:
    none = Samples(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0), torch.tensor([0, 0, 0]))
    out = composite(torch.zeros(0), torch.zeros(0, 3), none)
    assert out.color.tolist() == [[0.0] * 3] * 2 and out.over(torch.tensor([0.1, 0.2, 0.3])).flatten().tolist() == pytest.approx([0.1, 0.2, 0.3] * 2)
    with pytest.raises(ShapeError, match="0 samples need as many"):
        composite(torch.zeros(1), torch.zeros(0, 3), none)
