"""Clouds brought together: closed forms, partial overlap, outliers, clouds that leave motions open, and another program's answer."""

from __future__ import annotations

import math

import pytest
import torch
from handful.recon.errors import ShapeError
from handful.recon.icp import Alignment, align_clouds, normals_of, thinned
from handful.recon.neighbours import Neighbours, nearest
from handful.recon.se3 import rotation_angle, so3_exp
from torch import Tensor

TEN_DEGREES = math.radians(10)


def box(n: int, seed: int = 0, sides: tuple[float, float, float] = (3.0, 2.0, 1.0)) -> Tensor:
    """Random points on a box with a smaller one on it: no symmetry is left."""
    g = torch.Generator().manual_seed(seed)

    def surface(count: int, size: tuple[float, float, float], at: tuple[float, float, float]) -> Tensor:
        a, b, c = size
        areas = torch.tensor([b * c, b * c, a * c, a * c, a * b, a * b])
        face = torch.multinomial(areas, count, True, generator=g)
        p = torch.rand(count, 3, generator=g, dtype=torch.float64)
        p[torch.arange(count), face // 2] = (face % 2).double()
        return p * torch.tensor(size, dtype=torch.float64) + torch.tensor(at, dtype=torch.float64)

    small = surface(n // 3, (0.9, 0.5, 0.8), (0.3, 1.1, sides[2]))
    return torch.cat([surface(n - len(small), sides, (0.0, 0.0, 0.0)), small])


def motion(points: Tensor, angle: float = TEN_DEGREES, shift: float = 0.1, scale: float = 1.0) -> Tensor:
    """target_from_source about the middle of the points; `shift` in their extent."""
    M = torch.eye(4, dtype=torch.float64)
    axis = torch.tensor([0.5, -0.6, 0.62], dtype=torch.float64)
    M[:3, :3] = scale * so3_exp(axis / axis.norm() * angle)
    extent = (points.max(0).values - points.min(0).values).norm()
    way = torch.tensor([0.6, 0.5, -0.62], dtype=torch.float64)
    M[:3, 3] = points.mean(0) - M[:3, :3] @ points.mean(0) + way / way.norm() * shift * extent
    return M


def carried(M: Tensor, points: Tensor) -> Tensor:
    return points @ M[:3, :3].T + M[:3, 3]


def errors(found: Alignment, M: Tensor) -> tuple[float, float, float]:
    """Rotation (radians), relative scale, and shift of the origin's neighbourhood."""
    off = found.transform @ torch.linalg.inv(M)
    scale = float(torch.linalg.det(off[:3, :3])) ** (1 / 3)
    return float(rotation_angle(off[:3, :3] / scale)), scale - 1, float((carried(off, torch.ones(1, 3, dtype=torch.float64)) - 1).norm())


@pytest.mark.parametrize("scale", [1.0, 0.9, 1.1])
def test_an_exact_copy_is_found_exactly(scale: float) -> None:
    """10 degrees, a tenth of the extent and 10 % of scale off, far from the origin."""
    target = box(30_000) + torch.tensor([1000.0, -500.0, 20.0])
    M = motion(target, scale=scale)
    source = carried(torch.linalg.inv(M), target[::3])
    found = align_clouds(source, target, with_scale=scale != 1)
    assert max(map(abs, errors(found, M))) < 1e-6
    assert found.rms < 1e-6 and found.overlap == 1 and len(found.open) == 0 and found.scale == pytest.approx(scale, abs=1e-6)


def test_without_scale_the_scale_stays() -> None:
    target = box(10_000)
    start = torch.eye(4, dtype=torch.float64) * 1.05
    start[3, 3] = 1
    found = align_clouds(target[::2], target, start=start)
    assert found.scale == pytest.approx(1.05) and found.rms > 0.005


def test_other_samples_of_the_same_surfaces_with_noise() -> None:
    target, source = box(30_000, 0), box(3_000, 1)
    g = torch.Generator().manual_seed(2)
    target, source = (x + 0.01 * torch.randn(x.shape, generator=g, dtype=torch.float64) for x in (target, source))
    M = motion(target, scale=1.1)
    found = align_clouds(carried(torch.linalg.inv(M), source), target, with_scale=True)
    turned, scaled, shifted = errors(found, M)
    assert turned < 0.003 and abs(scaled) < 0.003 and shifted < 0.008
    assert 0.008 < found.rms < 0.02


def test_clouds_that_overlap_in_part() -> None:
    """Each has a third that the other lacks."""
    whole = box(40_000)
    target, source = whole[whole[:, 0] < 2.0], box(8_000, 1)
    source = source[source[:, 0] > 0.6]
    M = motion(whole, math.radians(5), 0.04)
    found = align_clouds(carried(torch.linalg.inv(M), source), target)
    turned, _, shifted = errors(found, M)
    assert turned < 0.004 and shifted < 0.01
    shared = float((source[:, 0] < 2.0).double().mean())
    assert abs(found.overlap - shared) < 0.05


def test_a_third_of_outliers_changes_little() -> None:
    target = box(30_000)
    M = motion(target, scale=1.05)
    g = torch.Generator().manual_seed(3)
    stray = torch.rand(2_000, 3, generator=g, dtype=torch.float64) * 5 - 1
    found = align_clouds(carried(torch.linalg.inv(M), torch.cat([box(4_000, 1), stray])), target, with_scale=True)
    turned, scaled, shifted = errors(found, M)
    assert turned < 0.003 and abs(scaled) < 0.003 and shifted < 0.008
    assert 0.6 < found.overlap < 0.8


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_a_wall_says_what_it_leaves_open(noise: float) -> None:
    """Along a plane and about its normal nothing holds: it is brought into the plane, and does not slide."""
    g = torch.Generator().manual_seed(0)
    wall = torch.rand(20_000, 3, generator=g, dtype=torch.float64) * torch.tensor([4.0, 3.0, 0.0])
    wall[:, 2] = noise * torch.randn(len(wall), generator=g, dtype=torch.float64)
    source = wall[::5] * torch.tensor([0.5, 0.5, 1.0]) + torch.tensor([1.0, 0.5, 0.3])  # the middle of it, before the wall
    found = align_clouds(source, wall)
    assert len(found.open) == 3
    assert float(found.open[:, 2].abs().max()) < 0.05  # towards the wall is held
    moved = carried(found.transform, source)
    torch.testing.assert_close(moved[:, :2], source[:, :2], atol=0.01, rtol=0)
    assert float(moved[:, 2].mean().abs()) < 0.002
    assert len(align_clouds(source, wall, with_scale=True).open) == 4


def test_a_corridor_leaves_its_length_open() -> None:
    g = torch.Generator().manual_seed(0)
    n = 5_000
    x, y = torch.rand(n, generator=g, dtype=torch.float64) * 20, torch.rand(n, generator=g, dtype=torch.float64) * 3
    walls = torch.cat([torch.stack(c, -1) for c in ((x, y, 0 * x), (x, y, 0 * x + 2.5), (x, 0 * y, 2.5 * y / 3), (x, 0 * y + 3, 2.5 * y / 3))])
    inner = walls[(walls[:, 0] > 5) & (walls[:, 0] < 15)]
    M = motion(inner, math.radians(2), 0.01)
    found = align_clouds(carried(torch.linalg.inv(M), inner), walls)
    assert len(found.open) == 1 and abs(float(found.open[0, 0])) > 0.95
    assert errors(found, M)[0] < 1e-3


def test_a_ball_leaves_its_turns_open() -> None:
    g = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(20_000, 3, generator=g, dtype=torch.float64), dim=-1)
    found = align_clouds(1.2 * ball[::4] + 0.2, ball, ball, with_scale=True)
    assert len(found.open) == 3 and float(found.open[:, :3].abs().max()) < 0.1 and float(found.open[:, 6].abs().max()) < 0.1
    assert found.scale == pytest.approx(1 / 1.2, rel=0.01)


def test_normals_that_mean_nothing_do_not_count() -> None:
    """A bush before the walls: its normals point anywhere, and what is off there must not pull."""
    g = torch.Generator().manual_seed(5)
    walls, bush = box(12_000), torch.rand(6_000, 3, generator=g, dtype=torch.float64) * 0.8 + 1
    target = torch.cat([walls, bush])
    source = torch.cat([box(3_000, 1), bush[::4] + torch.tensor([0.05, 0.02, 0.03])])  # blown aside
    normals = torch.nn.functional.normalize(torch.randn(len(target), 3, generator=g, dtype=torch.float64), dim=-1)
    normals[: len(walls)] = normals_of(walls)[0]
    flat = torch.cat([torch.ones(len(walls)), torch.zeros(len(bush))])

    def off(flatness: Tensor | None) -> float:
        return errors(align_clouds(source, target, normals, flatness, reach=0.2), torch.eye(4, dtype=torch.float64))[2]

    assert off(flat) < 0.002 and off(flat) < 0.5 * off(None)


def test_clouds_that_never_meet_say_so() -> None:
    found = align_clouds(box(2_000), box(2_000) + 100)
    assert found.overlap == 0 and found.rms == math.inf and found.iterations == 0


@pytest.mark.parametrize("broken", [torch.zeros(5, 3), torch.full((50, 3), math.nan), torch.zeros(50, 2)])
def test_what_is_no_cloud_is_refused(broken: Tensor) -> None:
    with pytest.raises(ShapeError, match="align_clouds needs at least 12 finite points in source"):
        align_clouds(broken, box(1_000))


def test_nearly_as_open3d_does() -> None:
    """Its point-to-plane ICP from the same start, without robust weights, on clean clouds."""
    o3d = pytest.importorskip("open3d", reason="needs open3d")
    target, source = box(20_000, 0), box(5_000, 1)
    M = motion(target, math.radians(4), 0.03)
    source = carried(torch.linalg.inv(M), source)
    clouds = []
    for points in (source, target):
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points.numpy()))
        cloud.estimate_normals(o3d.geometry.KDTreeSearchParamKNN(12))
        clouds.append(cloud)
    theirs = o3d.pipelines.registration.registration_icp(
        *clouds, 0.5, torch.eye(4).double().numpy(), o3d.pipelines.registration.TransformationEstimationPointToPlane()
    )
    ours = align_clouds(source, target)
    assert errors(ours, M)[0] < 2e-3
    torch.testing.assert_close(ours.transform, torch.tensor(theirs.transformation), atol=0.01, rtol=0)


def test_normals_of_a_box_and_of_a_line() -> None:
    p = box(20_000)
    n, flat = normals_of(p)
    assert float((n.abs().max(-1).values > 0.999).double().mean()) > 0.8 and float(flat.median()) == 1  # but for the edges
    line = torch.rand(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([[1.0, 2.0, 0.5]])
    assert float(normals_of(line)[1].max()) < 0.01


def test_thinned_keeps_one_of_each_cube() -> None:
    p = box(5_000)
    pick = thinned(p, 0.25)
    cubes = {tuple(c) for c in ((p - p.min(0).values) / 0.25).long().tolist()}
    kept = [tuple(c) for c in ((p[pick] - p.min(0).values) / 0.25).long().tolist()]
    assert len(kept) == len(set(kept)) and set(kept) == cubes


def test_a_tree_asked_twice_answers_as_the_function() -> None:
    g = torch.Generator().manual_seed(0)
    p, q = torch.rand(300, 3, generator=g), torch.rand(50, 3, generator=g)
    tree = Neighbours(p)
    for query in (q, q + 0.5):
        for ours, theirs in zip(tree.nearest(query, 4), nearest(p, query, 4), strict=True):
            assert torch.equal(ours, theirs)
    assert Neighbours(p[:0]).nearest(q, 3)[0].shape == (50, 0)
