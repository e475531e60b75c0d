"""Spaces: what of a ray lies in the cube, and the way back to the world and to depth. Marching, native and by torch."""

from __future__ import annotations

import pytest
import torch
from handful.recon.camera import Cameras
from handful.recon.errors import ShapeError
from handful.recon.field.contracted import ContractedSpace
from handful.recon.field.occupancy import OccupancyGrid, march, march_torch
from handful.recon.field.scene import FieldScene, pixel_segments
from handful.recon.field.space import BoxSpace, FrustumSpace, Space, space_from_tensors, space_to_tensors
from handful.recon.kernels import native_or_none
from handful.recon.se3 import se3_exp
from torch import Tensor

K = torch.tensor([[[50.0, 0.0, 32.0], [0.0, 55.0, 24.0], [0.0, 0.0, 1.0]]])


def cameras(count: int, spread: float, back: float, seed: int = 0) -> Cameras:
    """Near each other, looking along +z from z = -back."""
    rng = torch.Generator().manual_seed(seed)
    poses = se3_exp(spread * torch.randn(count, 6, generator=rng))
    poses[:, 2, 3] += back
    return Cameras(poses, K.expand(count, 3, 3).contiguous(), 64, 48)


SPACES: list[tuple[Space, Cameras]] = [
    (BoxSpace(torch.tensor([0.1, -0.2, 0.3]), 2.5), cameras(4, 0.1, 4.0)),
    (BoxSpace(torch.tensor([0.0, 0.0, 0.0]), 9.0), cameras(4, 0.1, 1.0)),  # the cameras stand inside
    (FrustumSpace(cameras(1, 0.0, 0.0), 1.5), cameras(4, 0.05, 0.0)),
]


@pytest.mark.parametrize(("space", "views"), SPACES)
def test_segments_lie_on_the_rays_and_tell_depth(space: Space, views: Cameras) -> None:
    rng = torch.Generator().manual_seed(1)
    index = torch.randint(len(views), (400,), generator=rng)
    uv = torch.rand(400, 2, generator=rng) * torch.tensor([64.0, 48.0])
    segments = pixel_segments(space, views, index, uv)
    hit = segments.length > 0
    assert 0.3 < float(hit.float().mean()) <= 1
    for s in (0.001, 0.3, 0.9):
        place = torch.full((400,), s)
        cube = segments.start + s * segments.span
        assert float(cube[hit].min()) > -1e-4 and float(cube[hit].max()) < 1 + 1e-4
        world = space.to_world(cube)
        pixels, z = views.project(world)
        got = pixels[index, torch.arange(400)]
        torch.testing.assert_close(got[hit], uv[hit], rtol=0, atol=2e-2)
        own = z[index, torch.arange(400)]
        torch.testing.assert_close(segments.depth_at(place)[hit], own[hit], rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(segments.place_of(own)[hit], place[hit], rtol=0, atol=3e-3)
        torch.testing.assert_close(space.to_cube(world)[hit], cube[hit], rtol=0, atol=1e-4)


class Slope:
    """Stands in for a field: density falls towards `out`, evenly in the world."""

    def __init__(self, space: Space, out: Tensor) -> None:
        self.space, self.out = space, out

    def raw(self, xyz: Tensor) -> Tensor:
        return -20 * (self.space.to_world(xyz) @ self.out)[:, None]


@pytest.mark.parametrize("space", [BoxSpace(torch.tensor([0.0, 0.0, 3.0]), 6.0), FrustumSpace(cameras(1, 0.0, 0.0), 1.0), ContractedSpace(torch.zeros(3), 1.0)])
def test_normals_are_those_of_the_world(space: Space) -> None:
    out = torch.nn.functional.normalize(torch.tensor([0.5, 0.2, -1.0]), dim=0)
    scene = FieldScene(Slope(space, out), space, torch.ones(2, 2, 2, dtype=torch.bool), 256, cameras(1, 0.0, 0.0), ("a",))  # pyright: ignore[reportArgumentType]
    world = torch.rand(100, 3) * torch.tensor([2.0, 2.0, 3.0]) + torch.tensor([-1.0, -1.0, 2.0])
    assert float((scene.normals(space.to_cube(world)) @ out).min()) > 0.9999


def test_rays_that_miss() -> None:
    box = BoxSpace(torch.zeros(3), 2.0)
    z = torch.tensor([[0.0, 0.0, 1.0]])
    beside, behind, inside = (box.segments(torch.tensor([p]), z, z) for p in ([3.0, 0.0, -4.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]))
    assert float(beside.length) == 0 and float(behind.length) == 0
    assert float(inside.length) == pytest.approx(0.5) and inside.ends.tolist() == [[0.0, 1.0]]
    frustum = FrustumSpace(cameras(1, 0.0, 0.0), 1.0)
    back = frustum.segments(torch.zeros(1, 3), -z, -z)
    assert float(back.length) == 0 and bool(torch.isfinite(back.start).all() and torch.isfinite(back.span).all())
    ahead = frustum.segments(torch.zeros(1, 3), z, z)
    assert float(ahead.length) == pytest.approx(1.0) and ahead.depth_at(torch.zeros(1)).tolist() == pytest.approx([1.0]) and float(ahead.depth_at(torch.ones(1))) > 1e5
    assert frustum.to_cube(torch.tensor([[0.0, 0.0, -1.0]])).min() < 0, "behind the camera lies nothing"


@pytest.mark.parametrize("space", [s for s, _ in SPACES])
def test_saved_and_read(space: Space) -> None:
    again = space_from_tensors(space_to_tensors(space))
    xyz = torch.rand(50, 3) + torch.tensor([0.0, 0.0, 2.0])
    torch.testing.assert_close(again.to_cube(xyz), space.to_cube(xyz))
    with pytest.raises(ShapeError, match="no space"):
        space_from_tensors({"box": torch.zeros(3)})


@pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")
@pytest.mark.parametrize(("space", "views"), SPACES)
def test_marching_natively_equals_the_twin(space: Space, views: Cameras) -> None:
    rng = torch.Generator().manual_seed(2)
    index, uv = torch.randint(len(views), (300,), generator=rng), torch.rand(300, 2, generator=rng) * torch.tensor([64.0, 48.0])
    segments, cells, jitter = pixel_segments(space, views, index, uv), torch.rand(20, 20, 20, generator=rng) < 0.4, torch.rand(300, generator=rng)
    fast, slow = march(segments, cells, 100.0, jitter), march_torch(segments, cells, 100.0, jitter)
    # a sample on the border of two cells may fall into either
    assert abs(len(fast) - len(slow)) <= 3 and len(slow) > 1000
    same = (fast.starts.diff() == slow.starts.diff())[slow.rays]
    mine = (fast.starts.diff() == slow.starts.diff())[fast.rays]
    for a, b in ((fast.xyz, slow.xyz), (fast.delta, slow.delta), (fast.s, slow.s)):
        torch.testing.assert_close(a[mine], b[same], rtol=1e-4, atol=1e-5)


def test_steps_are_even_and_jitter_moves_them() -> None:
    box = BoxSpace(torch.zeros(3), 2.0)
    z = torch.tensor([[0.0, 0.0, 1.0]])
    segments = box.segments(torch.tensor([[0.0, 0.0, -5.0]]), z, z)
    everywhere = torch.ones(4, 4, 4, dtype=torch.bool)
    for way in (march, march_torch):
        samples = way(segments, everywhere, 10.0, torch.tensor([0.25]))
        assert samples.xyz[:, 2].tolist() == pytest.approx([0.025 + 0.1 * i for i in range(10)], abs=1e-6)
        assert samples.delta.tolist() == pytest.approx([0.1] * 10) and samples.starts.tolist() == [0, 10]
    half = everywhere.clone()
    half[:, :, :2] = False
    assert march(segments, half, 10.0).xyz[:, 2].tolist() == pytest.approx([0.55 + 0.1 * i for i in range(5)], abs=1e-6)


def test_the_grid_forgets_what_has_gone() -> None:
    grid = OccupancyGrid(8, fade=0.5, threshold=1.0)
    rng = torch.Generator().manual_seed(0)
    assert bool(grid.cells.all()), "before it has looked, anything may be anywhere"
    grid.update(lambda p: 10.0 * (p[:, 0] < 0.5), rng)
    assert grid.cells[:4].all() and not grid.cells[4:].any()
    for _ in range(4):
        grid.update(lambda p: torch.zeros(len(p)), rng)
    assert not grid.cells.any()
    for _ in range(200):
        grid.update(lambda p: 10.0 * (p[:, 0] > 0.5), rng, share=0.1)
    assert grid.cells[4:].float().mean() > 0.99 and not grid.cells[:4].any()
