"""Stereo on a made scene with exact depth (a textured wall at a slant behind a textured board), its kernels against their slow twins."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
import torch
from handful.priors.depth_stereo import StereoDepth
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, View
from handful.recon.errors import CaptureError, ShapeError
from handful.recon.kernels import native_or_none
from handful.recon.points import PointCloud
from handful.recon.stereo import StereoConfig, reference, stereo_depth
from handful.recon.stereo.check import drop_speckles, normals_from_slopes
from handful.recon.stereo.hypotheses import large_planes, plane_maps, point_maps
from handful.recon.stereo.refine import _taps
from handful.recon.stereo.setup import back_maps, choose_sources, inverse_depths, range_from_points, source_maps
from handful.recon.stereo.stages import match_view, penalties

needs_kernels = pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")

# wall: z = 4 + 0.4 x; board: z = 2.4 + 0.2 y over |x| < 0.55, |y| < 0.4
WALL, BOARD = (torch.tensor([-0.4, 0.0, 1.0]), 4.0), (torch.tensor([0.0, -0.2, 1.0]), 2.4)


def cameras_at(xs: list[float], width: int, height: int) -> Cameras:
    poses = torch.eye(4).repeat(len(xs), 1, 1)
    for i, x in enumerate(xs):
        a = torch.tensor(-0.12 * x)
        poses[i, :3, :3] = torch.tensor([[torch.cos(a), 0, torch.sin(a)], [0, 1, 0], [-torch.sin(a), 0, torch.cos(a)]])
        poses[i, :3, 3] = -poses[i, :3, :3] @ torch.tensor([x, 0.1 * x * x, 0.0])
    f = 0.9 * width
    K = torch.tensor([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]]).repeat(len(xs), 1, 1)
    return Cameras(poses, K, width, height)


def texture(p: torch.Tensor, seed: int) -> torch.Tensor:
    """Band-limited colour of surface points: sums of waves in random directions."""
    g = torch.Generator().manual_seed(seed)
    out = torch.full((*p.shape[:-1], 3), 0.5)
    for frequency in (4.0, 9.0, 17.0, 26.0):
        d = torch.randn(5, 3, generator=g)
        d = frequency * d / d.norm(dim=1, keepdim=True)
        phase, colour = 6.28 * torch.rand(5, generator=g), 0.06 * torch.randn(5, 3, generator=g)
        out = out + torch.sin(p @ d.T + phase) @ colour
    return out.clamp(0, 1)


@lru_cache(maxsize=8)
def scene(xs: tuple[float, ...] = (-0.35, 0.0, 0.35), width: int = 160, height: int = 120) -> tuple[torch.Tensor, Cameras, torch.Tensor, torch.Tensor]:
    """Photos V,H,W,3, cameras, true z-depth V,H,W and true normals in the camera frame."""
    cams = cameras_at(list(xs), width, height)
    origins, rays = cams.rays()
    hit = torch.full(rays.shape[:3], float("inf"))
    color, normal = torch.zeros_like(rays), torch.zeros_like(rays)
    for seed, (n, offset) in enumerate((WALL, BOARD)):
        t = (offset - origins @ n) / (rays @ n)
        p = origins + t[..., None] * rays
        on = (t > 0) & (t < hit)
        if seed == 1:
            on &= (p[..., 0].abs() < 0.55) & (p[..., 1].abs() < 0.4)
        hit = torch.where(on, t, hit)
        color = torch.where(on[..., None], texture(p, seed), color)
        facing = -n / n.norm()
        normal = torch.where(on[..., None], (facing @ cams.cam_from_world[:, :3, :3].transpose(1, 2))[:, None, None], normal)
    points = origins + hit[..., None] * rays
    R, t3 = cams.cam_from_world[:, :3, :3], cams.cam_from_world[:, :3, 3]
    depth = torch.einsum("vj,vhwj->vhw", R[:, 2], points) + t3[:, 2, None, None]
    return color, cams, depth, normal


def seen_elsewhere(cams: Cameras, depth: torch.Tensor, i: int) -> torch.Tensor:
    """Pixels of photo i whose surface point another photo sees unoccluded."""
    world = cams.unproject_depth(depth)[i].reshape(-1, 3)
    uv, z = cams.project(world)
    out = torch.zeros(len(world), dtype=torch.bool)
    for j in range(len(cams)):
        inside = (uv[j] >= 1).all(-1) & (uv[j, :, 0] < cams.width - 1) & (uv[j, :, 1] < cams.height - 1) & (z[j] > 0)
        x, y = uv[j, :, 0].long().clamp(0, cams.width - 1), uv[j, :, 1].long().clamp(0, cams.height - 1)
        if j != i:
            out |= inside & ((depth[j][y, x] - z[j]).abs() < 0.03 * z[j])
    return out.reshape(depth.shape[1:])


def inputs(backend_sources: bool = True):
    """What the kernels take for photo 1 of the scene, at a small size with odd numbers."""
    images, cams, depth, _ = scene((-0.35, 0.0, 0.35), 75, 53)
    grey = (images @ torch.tensor([0.299, 0.587, 0.114])).contiguous()
    rgb = (images * 255 + 0.5).to(torch.uint8)
    mask = torch.ones(3, 53, 75, dtype=torch.uint8)
    mask[0, :10, :20] = 0
    mask[1, 40:, 60:] = 0
    maps = source_maps(cams, 1, [0, 2])
    planes = torch.linspace(0.15, 0.6, 32)
    return grey, rgb, mask, cams, maps, planes, depth


@needs_kernels
def test_depth_is_accurate_and_confidence_means_something():
    images, cams, depth, normal = scene()
    maps = stereo_depth(images, cams)
    for i, m in enumerate(maps):
        visible = seen_elsewhere(cams, depth, i)
        error = (m.depth - depth[i]).abs() / depth[i]
        assert float(error[m.valid].median()) < 0.004
        assert float((error[m.valid] < 0.02).float().mean()) > 0.95
        assert float(m.valid[visible].float().mean()) > 0.85
        sure, unsure = m.confidence > 0.7, m.valid & (m.confidence < 0.4)
        assert float(sure.float().mean()) > 0.4
        assert float((error[sure] < 0.02).float().mean()) > 0.96
        if int(unsure.sum()) > 50:
            assert float(error[unsure].median()) > float(error[sure].median())
        assert m.normal is not None
        cosine = (m.normal * normal[i]).sum(-1)[sure]
        assert float(cosine.median()) > 0.97
        rays = cams.unproject_depth(torch.ones_like(depth))[i] - cams.centers[i]
        assert bool(((m.normal * rays).sum(-1)[m.valid] < 0).all()), "surfaces face the photo they were measured in"


@needs_kernels
def test_what_no_other_photo_sees_is_not_valid():
    images, cams, depth, _ = scene()
    for i, m in enumerate(stereo_depth(images, cams)):
        hidden = ~seen_elsewhere(cams, depth, i)
        wrong = (m.depth - depth[i]).abs() / depth[i] > 0.05
        assert int(hidden.sum()) > 100
        assert float((m.valid & wrong)[hidden].float().mean()) < 0.1
        assert float((m.confidence * (hidden & wrong)).sum()) < 0.05 * float(hidden.sum())


@needs_kernels
def test_points_and_search_find_the_same_range():
    images, cams, depth, _ = scene()
    g = torch.Generator().manual_seed(0)
    world = cams.unproject_depth(depth).reshape(-1, 3)
    some = world[torch.randint(len(world), (300,), generator=g)]
    limits = range_from_points(cams, some)
    assert bool((limits[:, 0] < 1 / depth.amax((1, 2))).all()) and bool((limits[:, 1] > 1 / depth.amin((1, 2))).all())
    for searched, given in zip(stereo_depth(images, cams), stereo_depth(images, cams, xyz=some), strict=True):
        both = searched.valid & given.valid
        assert float(both.float().mean()) > 0.7
        assert float(((searched.depth - given.depth).abs() / given.depth)[both].median()) < 0.004


def test_far_range_is_open_to_the_horizon():
    cams = cameras_at([0.0, 0.2], 64, 48)
    pts = torch.cat([torch.rand(60, 3) + torch.tensor([0.0, 0.0, 3.0]), torch.tensor([[0.0, 0.0, 500.0]]).repeat(40, 1)])
    assert float(range_from_points(cams, pts)[0, 0]) == 0.0
    assert torch.isnan(range_from_points(cams, pts[:5])).all()


@needs_kernels
def test_cost_volume_matches_its_slow_twin():
    grey, rgb, mask, _, maps, planes, _ = inputs()
    config = StereoConfig()
    want = reference.cost_volume(grey, mask, 1, [0, 2], maps, planes, config).numpy().astype(int)
    kernels = native_or_none()
    assert kernels is not None
    best = kernels.stereo_isa()
    try:
        for isa in ("base", "avx2", "avx512"):
            if not kernels.stereo_select(isa):
                continue
            got = np.empty(want.shape, np.uint8)
            kernels.stereo_cost_volume(
                grey.numpy(), mask.numpy(), 1, [0, 2], maps.numpy(), planes.numpy(), config.noise, config.second_weight, config.unknown_cost, got, 3
            )
            off = np.abs(got.astype(int) - want)
            assert (off <= 1).mean() > 0.999, isa  # a pixel on the border of the source may fall on either side
            assert off.mean() < 0.05, isa
    finally:
        kernels.stereo_select(best)


@needs_kernels
@pytest.mark.parametrize("paths", [2, 4, 8])
def test_aggregation_and_winner_match_their_slow_twins(paths: int):
    rng = np.random.default_rng(paths)
    cost = rng.integers(0, 201, (19, 45, 32), dtype=np.uint8)
    rgb = rng.integers(0, 256, (19, 45, 3), dtype=np.uint8)
    config = StereoConfig()
    kernels = native_or_none()
    assert kernels is not None
    total = np.empty(cost.shape, np.uint16)
    kernels.stereo_aggregate(cost, rgb, config.p1, penalties(config), paths, total, 3)
    want = reference.aggregate(torch.from_numpy(cost), torch.from_numpy(rgb), config.p1, torch.from_numpy(penalties(config)), paths)
    assert (total == want.numpy()).all()
    out = [np.empty(cost.shape[:2], np.float32) for _ in range(3)]
    kernels.stereo_winner(cost, total, *out, 3)
    for got, expected in zip(out, reference.winner(torch.from_numpy(cost), want), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-5)


@needs_kernels
def test_plane_cost_matches_its_slow_twin():
    grey, rgb, mask, cams, maps, _, depth = inputs()
    config = StereoConfig()
    taps = _taps(config.window)
    g = torch.Generator().manual_seed(3)
    inv = 1 / depth[1] + 0.02 * torch.randn(53, 75, generator=g)
    plane = torch.stack([inv, 0.002 * torch.randn(53, 75, generator=g), 0.002 * torch.randn(53, 75, generator=g)], -1).contiguous()
    want = reference.plane_cost(grey, rgb[1], mask, 1, [0, 2], maps, torch.from_numpy(taps), plane, config)
    backs = back_maps(cams, 1, [0, 2])
    settings = [config.noise, config.second_weight, config.unknown_cost, config.colour_scale, 0.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 0.0, 1.0]
    kernels = native_or_none()
    assert kernels is not None
    state, cost = plane.numpy().copy(), np.empty((53, 75), np.float32)
    kernels.stereo_refine(
        grey.numpy(), rgb[1].numpy(), mask.numpy(), 1, [0, 2], maps.numpy(), backs.numpy(), taps, np.zeros((53, 75, 2), np.float32),
        np.zeros((3, 53, 75), np.float32), False, np.zeros((0, 53, 75, 3), np.float32), settings, 0, state, cost, 3,
    )  # fmt: skip
    assert (state == plane.numpy()).all()
    off = np.abs(cost - want.numpy())
    assert np.median(off) < 1e-3 and np.quantile(off, 0.99) < 0.02


@needs_kernels
def test_agreement_and_slopes_match_their_slow_twins():
    _, cams, depth, _ = scene((-0.35, 0.0, 0.35), 75, 53)
    g = torch.Generator().manual_seed(5)
    inv = (1 / depth) * (1 + 0.01 * torch.randn(depth.shape, generator=g))
    inv[0, :5] = 0
    want = reference.agreement(inv, cams, 1, [0, 2], 1.0, 0.02)
    kernels = native_or_none()
    assert kernels is not None
    out = [np.empty((53, 75), np.float32) for _ in range(3)]
    kernels.stereo_agreement(inv.numpy(), 1, [0, 2], source_maps(cams, 1, [0, 2]).numpy(), back_maps(cams, 1, [0, 2]).numpy(), 1.0, 0.02, *out, 3)
    for got, expected in zip(out, want, strict=True):
        same = np.isclose(got, expected.numpy(), rtol=0.02, atol=0.02)
        assert same.mean() > 0.995  # a neighbour just across an edge may be sampled the other way
    plane = np.empty((53, 75, 3), np.float32)
    kernels.stereo_fit_planes(inv[1].numpy(), 0.01, plane, 3)
    np.testing.assert_allclose(plane[..., 1:], reference.fit_planes(inv[1], 0.01).numpy(), rtol=1e-3, atol=2e-5)


@needs_kernels
def test_the_slow_backend_gives_the_same_depth():
    images, cams, depth, _ = scene((-0.35, 0.0, 0.35), 75, 53)
    limits = torch.tensor([[0.15, 0.6]]).repeat(3, 1)
    config = StereoConfig(refine_rounds=0)
    fast = stereo_depth(images, cams, limits, config)
    slow = stereo_depth(images, cams, limits, config, backend="reference")
    for a, b in zip(fast, slow, strict=True):
        assert float((a.valid == b.valid).float().mean()) > 0.97
        both = a.valid & b.valid
        assert float(((a.depth - b.depth).abs() / b.depth < 1e-3)[both].float().mean()) > 0.97


def test_without_kernels_it_still_works():
    images, cams, depth, _ = scene((-0.35, 0.35), 48, 36)
    limits = torch.tensor([[0.15, 0.6]]).repeat(2, 1)
    for i, m in enumerate(stereo_depth(images, cams, limits, StereoConfig(planes_max=64), backend="reference")):
        assert m.depth.shape == (36, 48) and m.normal is not None
        error = (m.depth - depth[i]).abs() / depth[i]
        assert float(m.valid.float().mean()) > 0.3 and float(error[m.valid].median()) < 0.02


@needs_kernels
def test_no_texture_no_confidence():
    _, cams, _, _ = scene()
    g = torch.Generator().manual_seed(0)
    flat = (0.5 + 0.002 * torch.randn(3, 120, 160, 3, generator=g)).clamp(0, 1)
    for m in stereo_depth(flat, cams):
        assert float(m.confidence.mean()) < 0.05
        assert float((m.confidence > 0.5).float().mean()) < 0.01
        assert float(m.valid.float().mean()) < 0.1


@needs_kernels
def test_photos_that_share_nothing():
    images, cams, _, _ = scene((-0.35, 0.35), 80, 60)
    turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    poses = torch.stack([cams.cam_from_world[0], turn @ cams.cam_from_world[1]])
    for m in stereo_depth(images, Cameras(poses, cams.K, 80, 60)):
        assert float(m.confidence.max()) == 0 and not bool(m.valid.any())
        assert torch.isfinite(m.depth).all()


@needs_kernels
@pytest.mark.parametrize("width,height", [(97, 61), (160, 17), (33, 130)])
def test_two_photos_of_odd_size(width: int, height: int):
    images, cams, depth, _ = scene((-0.3, 0.3), width, height)
    maps = stereo_depth(images, cams)
    for i, m in enumerate(maps):
        for t in (m.depth, m.confidence):
            assert t.shape == (height, width) and torch.isfinite(t).all()
        assert float(m.confidence.min()) >= 0 and float(m.confidence.max()) <= 1
        shift = (1 / m.depth - 1 / depth[i]).abs() * float(cams.K[0, 0, 0]) * 0.6  # pixels in the other photo
        assert float(m.valid.float().mean()) > 0.3
        assert float((shift[m.valid] < 1).float().mean()) > 0.95


@needs_kernels
def test_masked_pixels_get_nothing_and_are_never_matched():
    images, cams, depth, _ = scene()
    masks = torch.ones(3, 120, 160)
    masks[:, :, :40] = 0
    poisoned = images.clone()
    poisoned[:, :, :40] = torch.rand(3, 120, 40, 3, generator=torch.Generator().manual_seed(1))
    for i, m in enumerate(stereo_depth(poisoned, cams, masks=masks)):
        assert not bool(m.valid[:, :40].any()) and float(m.depth[:, :40].max()) == 0 and float(m.confidence[:, :40].max()) == 0
        error = (m.depth - depth[i]).abs() / depth[i].clamp(min=1e-6)
        assert float((error[m.valid] < 0.02).float().mean()) > 0.93


@needs_kernels
def test_large_photos_are_matched_small_and_come_back_large():
    images, cams, depth, _ = scene()
    for i, m in enumerate(stereo_depth(images, cams, config=StereoConfig(max_side=100))):
        assert m.depth.shape == (120, 160) and m.normal is not None and m.normal.shape == (120, 160, 3)
        error = (m.depth - depth[i]).abs() / depth[i]
        assert float((error[m.valid] < 0.03).float().mean()) > 0.93


@needs_kernels
def test_same_result_again_and_with_any_number_of_threads():
    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]); import test_stereo as t\n"
        "images, cams, _, _ = t.scene((-0.35, 0.0, 0.35), 97, 61)\n"
        "h = hashlib.sha256()\n"
        "for m in t.stereo_depth(images, cams):\n"
        "    h.update(m.depth.numpy().tobytes()); h.update(m.confidence.numpy().tobytes())\n"
        "again = t.stereo_depth(images, cams)\n"
        "assert all(t.torch.equal(a.depth, b.depth) for a, b in zip(again, t.stereo_depth(images, cams)))\n"
        "print(h.hexdigest())"
    )
    runs = []
    for threads in ("1", "3"):
        env = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__)], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        runs.append(done.stdout)
    assert runs[0] == runs[1]


def test_sources_are_those_that_share_ground_at_a_fair_angle():
    cams = cameras_at([0.0, 0.001, 0.4, -0.4, 12.0], 160, 120)
    limits = torch.tensor([[0.2, 0.5]]).repeat(5, 1)
    picked = choose_sources(cams, limits, 4)
    assert set(picked[0][:2]) == {2, 3} and 4 not in picked[0]
    assert picked[4] == []


def test_planes_follow_the_disparity():
    cams = cameras_at([0.0, 0.4], 640, 480)
    maps = source_maps(cams, 0, [1])
    few = inverse_depths(cams, maps, torch.tensor([0.2, 0.25]), StereoConfig())
    many = inverse_depths(cams, maps, torch.tensor([0.0, 2.0]), StereoConfig())
    assert len(few) == 64 and len(many) == 192 and len(many) % 16 == 0
    assert float(many[0]) == 0 and float(many[-1]) == 2


def test_speckles_go_and_surfaces_stay():
    inv = torch.full((20, 30), 0.3)
    valid = torch.zeros(20, 30, dtype=torch.bool)
    valid[2:12, 3:15] = True
    valid[15:17, 20:23] = True
    inv[5, 5] = 0.9
    kept = drop_speckles(inv, valid, 10, 0.01)
    assert int(kept.sum()) == 119 and not bool(kept[5, 5]) and not bool(kept[15:].any())


def test_normals_of_a_plane():
    K = torch.tensor([[100.0, 0, 20], [0, 110.0, 15], [0, 0, 1]])
    n = torch.nn.functional.normalize(torch.tensor([0.3, -0.2, -1.0]), dim=0)
    coefficient = torch.linalg.inv(K).T @ n / -3.0
    v, u = torch.meshgrid(torch.arange(30) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    inv = coefficient[0] * u + coefficient[1] * v + coefficient[2]
    got = normals_from_slopes(inv, coefficient[:2].expand(30, 40, 2), K)
    assert torch.allclose(got, n.expand(30, 40, 3), atol=1e-4)


def test_large_planes_are_found_and_seen_where_they_are():
    _, cams, depth, normal = scene()
    world = cams.unproject_depth(depth)
    planes = large_planes(world, depth, depth > 0, 4)
    assert len(planes) == 2
    for (n, offset), got in zip((WALL, BOARD), planes, strict=True):
        truth = torch.cat([n, torch.tensor([offset])]) / n.norm()
        assert torch.allclose(got * torch.sign(got[2]), truth, atol=5e-3)
    maps = plane_maps(planes, cams, 0)
    nearest = torch.minimum((maps[0, ..., 0] * depth[0] - 1).abs(), (maps[1, ..., 0] * depth[0] - 1).abs())
    assert float(nearest.max()) < 5e-3
    found = normals_from_slopes(maps[0, ..., 0].contiguous(), maps[0, ..., 1:].contiguous(), cams.K[0])
    on_wall = (maps[0, ..., 0] * depth[0] - 1).abs() < 1e-3
    assert float((found * normal[0]).sum(-1)[on_wall].min()) > 0.999
    assert len(large_planes(world, depth, depth < 0, 4)) == 0


def test_points_become_small_squares():
    cams = cameras_at([0.0], 40, 30)
    got = point_maps(torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 4.0], [0.0, 0.0, -1.0], [50.0, 0, 1]]), cams, 0, reach=2)
    assert int((got[..., 0] > 0).sum()) == 25 and float(got[15, 20, 0]) == 0.5 and float(got[..., 1:].abs().max()) == 0


@needs_kernels
def test_the_prior_speaks_the_protocol():
    images, cams, depth, _ = scene((-0.3, 0.3), 97, 61)
    views = [View(f"{i}.png", ArrayImage(im, torch.ones(61, 97) if i else None)) for i, im in enumerate(images)]
    prior = StereoDepth()
    world = cams.unproject_depth(depth).reshape(-1, 3)[::37]
    maps = prior.predict(views, cams, PointCloud(world))
    assert len(maps) == 2 and maps[0].kind == "metric" and maps[0].depth.dtype == torch.float32
    with pytest.raises(CaptureError, match="needs cameras"):
        prior.predict(views, None, None)
    with pytest.raises(CaptureError, match="two photos"):
        prior.predict(views[:1], cams[0], None)
    with pytest.raises(ShapeError, match="one 97x61 camera per photo"):
        stereo_depth(images, cams[0])


@needs_kernels
def test_wrong_arrays_are_refused():
    kernels = native_or_none()
    assert kernels is not None
    a = np.zeros((4, 5, 32), np.uint8)
    with pytest.raises(ValueError, match="sum must be"):
        kernels.stereo_winner(a, np.zeros((4, 5, 16), np.uint16), *[np.zeros((4, 5), np.float32) for _ in range(3)], 1)
    with pytest.raises(TypeError):
        kernels.stereo_winner(a.astype(np.float32), np.zeros((4, 5, 32), np.uint16), *[np.zeros((4, 5), np.float32) for _ in range(3)], 1)


@needs_kernels
def test_match_view_says_when_it_is_slow(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    from handful.recon.stereo import stages

    grey, rgb, mask, _, maps, planes, _ = inputs()
    monkeypatch.setattr(stages, "native_or_none", lambda: None)
    win = match_view(grey, rgb[1], mask, 1, [0, 2], maps, planes, StereoConfig(paths=2))
    assert win.plane.shape == (53, 75) and "minutes instead of seconds" in caplog.text
