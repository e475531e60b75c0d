"""The contraction: there and back, rays as straight pieces, depth along them, samples on them."""

from __future__ import annotations

import pytest
import torch
from handful.recon.errors import ShapeError
from handful.recon.field.contracted import PIECES, ContractedSpace
from handful.recon.field.occupancy import march, march_torch
from handful.recon.field.samples import Segments
from handful.recon.field.space import space_from_tensors, space_to_tensors
from handful.recon.field.volume import composite_torch
from handful.recon.kernels import native_or_none
from torch import Tensor

SPACE = ContractedSpace(torch.tensor([0.3, -0.2, 0.5]), 2.0)
EVERYWHERE = torch.ones(1, 1, 1, dtype=torch.bool)


def rays(count: int, reach: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Origins up to `reach` radii from the centre along each axis, directions, and viewing axes up to a right angle away."""
    rng = torch.Generator().manual_seed(seed)
    origins = SPACE.center + reach * SPACE.radius * (2 * torch.rand(count, 3, generator=rng) - 1)
    directions, aside = torch.nn.functional.normalize(torch.randn(2, count, 3, generator=rng), dim=2)
    return origins, directions, torch.nn.functional.normalize(directions + 0.9 * aside, dim=1)


def as_pieces(segments: Segments, s: float) -> Tensor:
    """That place of every piece, cube coordinates."""
    return (segments.start + s * segments.span).view(-1, segments.pieces, 3)


def test_there_and_back() -> None:
    rng = torch.Generator().manual_seed(0)
    near, cube = SPACE.center + 2 * SPACE.radius * torch.randn(500, 3, generator=rng), torch.rand(2000, 3, generator=rng)
    torch.testing.assert_close(SPACE.to_world(SPACE.to_cube(near)), near, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(SPACE.to_cube(SPACE.to_world(cube)), cube, rtol=0, atol=1e-6)
    inside = SPACE.center + SPACE.radius * (2 * torch.rand(500, 3, generator=rng) - 1)
    torch.testing.assert_close(SPACE.to_cube(inside), (inside - SPACE.center) / (4 * SPACE.radius) + 0.5)
    # by hand: at 4 radii the norm is 2 - 1/4
    assert SPACE.to_cube(SPACE.center + torch.tensor([[8.0, -4.0, 2.0]]))[0].tolist() == pytest.approx([0.5 + 1.75 / 4, 0.5 - 1.75 / 8, 0.5 + 1.75 / 16])
    far = SPACE.to_cube(1e7 * torch.nn.functional.normalize(torch.randn(500, 3, generator=rng), dim=1))
    assert float(far.min()) >= 0 and float(far.max()) <= 1
    assert float(torch.minimum(far, 1 - far).amin(1).max()) < 1e-6, "what is far lies at the cube's faces"


@pytest.mark.parametrize(("reach", "aside", "off"), [(0.95, 0.002, 0.01), (3.0, 0.01, 0.02)])
def test_pieces_lie_on_the_rays_and_tell_depth(reach: float, aside: float, off: float) -> None:
    """`aside`: how far from the ray, `off`: how wrong the depth, both as shares of the distance or of the radius where that is more."""
    origins, directions, forward = rays(3000, reach)
    segments = SPACE.segments(origins, directions, forward)
    assert len(segments) == 3000 and segments.start.shape == (3000 * PIECES, 3) and segments.pieces == PIECES
    starts, stops = as_pieces(segments, 0.0), as_pieces(segments, 1.0)
    torch.testing.assert_close(starts[:, 0], SPACE.to_cube(origins), rtol=0, atol=1e-6)
    torch.testing.assert_close(starts[:, 1:], stops[:, :-1], rtol=0, atol=1e-6)
    assert float(torch.minimum(stops[:, -1], 1 - stops[:, -1]).amin(1).max()) < 1e-6, "all the way to a face"
    (before, total), cosine = segments.before, (directions * forward).sum(1)
    for s in (0.0, 0.3, 0.5, 0.8):
        world = SPACE.to_world(as_pieces(segments, s)) - origins[:, None]
        along = (world * directions[:, None]).sum(2)
        unit, near = along.clamp_min(SPACE.radius), along < 30 * SPACE.radius  # further off a place says little in float32
        across = torch.linalg.vector_norm(world - along[..., None] * directions[:, None], dim=2) / unit
        assert float(across[near].max()) < (aside if s else 1e-4)
        places = (before + s * segments.length).view(-1, PIECES) / total[:, None]
        depths = along * cosine[:, None]
        wrong = torch.stack([segments.depth_at(p) for p in places.unbind(1)], 1) / cosine[:, None] - along
        assert float((wrong.abs() / unit)[near].max()) < (off if s else 1e-3), "exact at the knots"
        back = torch.stack([segments.place_of(d) for d in depths.unbind(1)], 1)
        assert float((back - places)[near].abs().max()) < off


def test_within_the_radius_depth_is_exact() -> None:
    origins, directions, forward = rays(500, 0.5)
    segments = SPACE.segments(origins, directions, forward)
    t = 0.4 * SPACE.radius * torch.rand(500, generator=torch.Generator().manual_seed(4))
    depth, (_, total) = t * (directions * forward).sum(1), segments.before
    torch.testing.assert_close(segments.place_of(depth), t / (4 * SPACE.radius) / total, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(segments.depth_at(segments.place_of(depth)), depth, rtol=1e-4, atol=1e-5)
    place = torch.full((500,), 0.3, requires_grad=True)
    (slope,) = torch.autograd.grad(segments.depth_at(place).sum(), place)
    assert bool(torch.isfinite(slope).all()) and float(slope.min()) > 0


def test_rays_along_the_axes() -> None:
    eye = torch.eye(3)
    directions = torch.cat([eye, -eye])
    for at in (torch.zeros(3), torch.tensor([1.0, 1.0, 1.0]), torch.tensor([3.0, 0.0, -3.0])):
        segments = SPACE.segments((SPACE.center + at * SPACE.radius).expand(6, 3), directions, directions)
        assert all(bool(torch.isfinite(t).all()) for t in (segments.start, segments.span, segments.ends, segments.shift, segments.rate))
        depth = torch.full((6,), 1.7)
        torch.testing.assert_close(segments.depth_at(segments.place_of(depth)), depth, rtol=1e-3, atol=1e-4)


def test_parts_of_rays() -> None:
    segments = SPACE.segments(*rays(60, 0.9))
    picked = torch.tensor([3, 50, 7])
    some, place = segments.select(picked), torch.tensor([0.1, 0.5, 0.9])
    whole = torch.zeros(60)
    whole[picked] = place
    torch.testing.assert_close(some.depth_at(place), segments.depth_at(whole)[picked])
    again = Segments.joined([segments.select(slice(0, 20)), segments.select(slice(20, 60))])
    assert len(again) == 60 and again.pieces == PIECES and torch.equal(again.depth_at(whole), segments.depth_at(whole))
    for share in (0.05, 0.4, 0.8):
        first = segments.cut(share)
        torch.testing.assert_close(first.before[1], share * segments.before[1])
        for s in (0.0, 0.5, 1.0):
            torch.testing.assert_close(first.depth_at(torch.full((60,), s)), segments.depth_at(torch.full((60,), s * share)), rtol=2e-3, atol=1e-4)


def test_steps_go_on_evenly_from_piece_to_piece() -> None:
    segments = SPACE.segments(*rays(200, 0.9))
    jitter = torch.rand(200, generator=torch.Generator().manual_seed(3))
    samples, (_, total) = march_torch(segments, EVERYWHERE, 200.0, jitter), segments.before
    first = samples.starts[:-1]
    torch.testing.assert_close(samples.s[first] * total, jitter / 200, rtol=0, atol=2e-5)
    gap = (samples.s * total[samples.rays]).diff()[samples.rays.diff() == 0]
    torch.testing.assert_close(gap, torch.full_like(gap, 1 / 200), rtol=0, atol=2e-5)
    torch.testing.assert_close(samples.delta, torch.full_like(samples.delta, 1 / 200))
    on_ray, s = segments.piece_at(samples.s[first + 30])
    torch.testing.assert_close(on_ray.start + s[:, None] * on_ray.span, samples.xyz[first + 30], rtol=0, atol=1e-4)


@pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")
def test_marching_natively_equals_the_twin() -> None:
    rng = torch.Generator().manual_seed(2)
    segments, cells, jitter = SPACE.segments(*rays(300, 1.5)), torch.rand(20, 20, 20, generator=rng) < 0.4, torch.rand(300, generator=rng)
    fast, slow = march(segments, cells, 100.0, jitter), march_torch(segments, cells, 100.0, jitter)
    # a sample on the border of two cells, or of two pieces, may fall into either
    assert abs(len(fast) - len(slow)) <= 5 and len(slow) > 1000 and len(fast.starts) == 301
    same = (fast.starts.diff() == slow.starts.diff())[slow.rays]
    mine = (fast.starts.diff() == slow.starts.diff())[fast.rays]
    for a, b in ((fast.xyz, slow.xyz), (fast.delta, slow.delta), (fast.s, slow.s)):
        torch.testing.assert_close(a[mine], b[same], rtol=1e-4, atol=1e-5)


def test_constant_density_within_the_radius() -> None:
    """Density 6 per edge: alpha = 1 - exp(-6 of the length within the radius), and the expected depth is that of the cut exponential."""
    origins, directions, _ = rays(50, 0.7)
    exact = ContractedSpace(SPACE.center.double(), SPACE.radius)
    segments = exact.segments(origins.double(), directions.double(), directions.double())
    samples = march_torch(segments, EVERYWHERE, 4096.0, torch.full((50,), 0.5, dtype=torch.float64))
    inside = ((samples.xyz - 0.5).abs() < 0.25).all(1)
    out = composite_torch(6.0 * inside, samples.xyz.new_ones(len(samples), 3), samples)
    o = (origins - exact.center) / exact.radius
    leaves = ((1 - o * directions.sign()) / directions.abs()).amin(1) / 4  # edges
    alpha = 1 - torch.exp(-6 * leaves)
    torch.testing.assert_close(out.alpha, alpha, rtol=0, atol=2e-3)
    mean = 1 / 6 - leaves * torch.exp(-6 * leaves) / alpha
    torch.testing.assert_close(segments.depth_at(out.place / out.alpha), mean * 4 * exact.radius, rtol=2e-3, atol=2e-3)


def test_saved_and_read() -> None:
    again = space_from_tensors(space_to_tensors(SPACE))
    assert isinstance(again, ContractedSpace) and again.radius == SPACE.radius and torch.equal(again.to("cpu").center, SPACE.center)
    with pytest.raises(ShapeError, match="no space"):
        space_from_tensors({"contracted": torch.zeros(3)})
