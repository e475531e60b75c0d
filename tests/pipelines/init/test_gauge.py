"""The world frame of estimated cameras: a similarity that changes nothing the photos can see, upright, of known size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handful.pipelines.init.gauge import MEDIAN_DEPTH, cameras_of, level, point_cloud, relative_baseline, reprojection_px
from handful.pipelines.init.geometry import Rig, project, rotation_exp
from handful.pipelines.init.model import Model, evaluate
from handful.recon.capture import ArrayImage, Capture, View

from .rigs import SIZE, points_inside, rig_around, seen_by, turn_between, with_outliers


def elsewhere(rig: Rig, xyz: np.ndarray, seed: int = 5) -> tuple[Rig, np.ndarray]:
    """The same scene in another frame: turned, moved, 7 times as large."""
    rng = np.random.default_rng(seed)
    Q, c, s = rotation_exp(rng.normal(0, 1.5, (1, 3)))[0], rng.normal(0, 4, 3), 7.0
    R = rig.R @ Q.T
    return replace(rig, R=R, t=s * rig.t - np.einsum("vij,j->vi", R, c)), s * xyz @ Q.T + c


def model(views: int = 4, seed: int = 5, **more: float) -> Model:
    rig, xyz = elsewhere(rig_around(views, spread=60.0), points_inside(), seed)
    tracks, _ = with_outliers(seen_by(rig, xyz, noise=0.5, share=0.9), 0.1, 40.0)
    return evaluate(rig, tracks)


def seen(m: Model) -> tuple[np.ndarray, np.ndarray]:
    return project(m.rig, m.tracks.view[m.good], m.points[m.tracks.track[m.good]])


@pytest.mark.parametrize("seed", range(5))
def test_levelling_is_a_similarity(seed):
    before = model(seed=seed)
    after = level(before)
    (uv0, z0), (uv1, z1) = seen(before), seen(after)
    np.testing.assert_allclose(uv1, uv0, atol=1e-8)
    scale = np.median(z1 / z0)
    np.testing.assert_allclose(z1, scale * z0, rtol=1e-10)
    np.testing.assert_allclose(after.rig.R @ after.rig.R.transpose(0, 2, 1), np.tile(np.eye(3), (4, 1, 1)), atol=1e-12)
    assert (np.linalg.det(after.rig.R) > 0).all()
    a, b = (m.rig.centers[:, None] - m.rig.centers[None] for m in (before, after))
    np.testing.assert_allclose(np.linalg.norm(b, axis=-1), scale * np.linalg.norm(a, axis=-1), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(after.good, before.good)
    assert after.score == before.score and after.tracks is before.tracks
    np.testing.assert_array_equal(np.isfinite(after.points), np.isfinite(before.points))


@pytest.mark.parametrize("seed", range(5))
def test_the_frame_is_the_promised_one(seed):
    m = level(model(seed=seed))
    assert np.median(seen(m)[1]) == pytest.approx(MEDIAN_DEPTH)
    np.testing.assert_allclose(np.median(m.points[np.isfinite(m.points).all(1)], 0), 0, atol=1.0)  # the median of a turned cloud is not the turned median
    down, forward = m.rig.R[:, 1].mean(0), m.rig.R[:, 2].mean(0)
    np.testing.assert_allclose(down / np.linalg.norm(down), [0, 1, 0], atol=1e-12)
    assert abs(forward[0]) < 1e-12 and forward[2] > 0.5


def test_the_median_point_becomes_the_origin():
    before = model()
    has = np.isfinite(before.points).all(1)
    middle = np.median(before.points[has], 0)
    near = int(np.nanargmin(np.linalg.norm(before.points - middle, axis=1)))
    scale = MEDIAN_DEPTH / np.median(seen(before)[1])
    after = level(before)
    assert np.linalg.norm(after.points[near]) == pytest.approx(scale * np.linalg.norm(before.points[near] - middle), rel=1e-9)


def test_levelling_again_changes_nothing_but_the_origin():
    once = level(model())
    twice = level(once)
    assert max(turn_between(a, b) for a, b in zip(once.rig.R, twice.rig.R, strict=True)) < 1e-6
    moved = twice.rig.centers - once.rig.centers
    np.testing.assert_allclose(moved, np.tile(moved[:1], (4, 1)), atol=1e-9)


def test_photos_that_are_not_placed_have_no_say():
    m = model(5)
    placed = np.array([True, True, False, True, True])
    R = m.rig.R.copy()
    R[2] = np.diag([1.0, -1, -1]) @ R[2]  # upside down
    part = evaluate(replace(m.rig, placed=placed, R=R), m.tracks)
    down = level(part).rig.R[placed, 1].mean(0)
    np.testing.assert_allclose(down / np.linalg.norm(down), [0, 1, 0], atol=1e-12)


def test_photos_all_around_stand_upright_too():
    rig, xyz = elsewhere(rig_around(8, spread=315.0), points_inside())
    m = level(evaluate(rig, seen_by(rig, xyz)))
    down = m.rig.R[:, 1].mean(0)
    np.testing.assert_allclose(down / np.linalg.norm(down), [0, 1, 0], atol=1e-12)
    assert m.rig.R[0, 2, 2] > 0.9  # z along the first photo


def test_photos_from_straight_above_have_a_frame():
    """Rolled by quarter turns, looking down the same axis: neither a common down nor trouble."""
    R = rotation_exp(np.outer(np.arange(4) * np.pi / 2, [0, 0, 1.0]))
    base = rig_around(4)
    center = np.array([[0.0, 0, -5], [1, 0, -5], [0, 1, -5], [1, 1, -5]])
    rig = replace(base, R=R, t=-np.einsum("vij,vj->vi", R, center))
    m = level(evaluate(rig, seen_by(rig, points_inside())))
    assert np.isfinite(m.rig.R).all() and np.isfinite(m.rig.t).all()
    np.testing.assert_allclose(m.rig.R @ m.rig.R.transpose(0, 2, 1), np.tile(np.eye(3), (4, 1, 1)), atol=1e-12)
    assert np.median(seen(m)[1]) == pytest.approx(MEDIAN_DEPTH)


def test_cameras_are_those_placed():
    m = level(model(5))
    rig = replace(m.rig, placed=np.array([True, False, True, True, False]), aspect=np.full(5, 1.1), center=m.rig.center + [3.0, -2.0])
    cameras = cameras_of(rig, SIZE)
    assert len(cameras) == 3 and (cameras.width, cameras.height) == SIZE
    xyz = points_inside(10)
    uv, z = cameras.to(dtype=torch.float64).project(torch.from_numpy(xyz))
    for n, v in enumerate((0, 2, 3)):
        mine, depth = project(rig, np.full(10, v), xyz)
        np.testing.assert_allclose(uv[n], mine, atol=1e-2)  # float32 cameras
        np.testing.assert_allclose(z[n], depth, rtol=1e-5)


# ---- points and numbers of the report -------------------------------------------------------------------------------------------------------


def coloured(views: int, size: tuple[int, int] = SIZE) -> Capture:
    """Photo v is of one colour: (v / 10, 0.5, left half 0 and right half 1)."""
    photos = torch.zeros(views, size[1], size[0], 3)
    photos[..., 0] = torch.arange(views)[:, None, None] / 10
    photos[..., 1] = 0.5
    photos[:, :, size[0] // 2 :, 2] = 1
    return Capture(tuple(View(f"{v}.png", ArrayImage(p)) for v, p in enumerate(photos)))


def test_points_have_the_mean_colour_of_what_sees_them():
    m = model(4)
    cloud = point_cloud(m, coloured(4))
    counts = np.bincount(m.tracks.track[m.good], minlength=m.tracks.count)
    keep = np.flatnonzero(counts >= 2)
    assert len(cloud) == len(keep)
    np.testing.assert_allclose(cloud.xyz, m.points[keep], rtol=1e-6)
    for row, n in zip(cloud.rgb.numpy(), keep, strict=True):
        mine = np.flatnonzero(m.good & (m.tracks.track == n))
        np.testing.assert_allclose(row, [m.tracks.view[mine].mean() / 10, 0.5, (m.tracks.uv[mine, 0] >= SIZE[0] // 2).mean()], atol=1e-6)


def test_confidence_falls_with_error_and_narrow_angles():
    rig = rig_around(2, spread=20.0)
    xyz = np.array([[0.0, 0, 0], [0.1, 0.1, 40.0], [0.3, 0.2, 0.1]])
    tracks = seen_by(rig, xyz)
    uv = tracks.uv.copy()
    uv[4:, 1] += [2.5, -2.5]
    m = evaluate(rig, replace(tracks, uv=uv))
    assert m.good.all()
    near, far, wrong = (float(c) for c in point_cloud(m, coloured(2)).confidence)
    assert near == pytest.approx(20 / 22, abs=0.02) and far < 0.75 * near and wrong < 0.75 * near


def test_numbers_of_the_report():
    rig, xyz = rig_around(3), points_inside(20)
    m = evaluate(rig, seen_by(rig, xyz))
    assert reprojection_px(m) == pytest.approx(0.0, abs=1e-6)
    off = replace(m, tracks=replace(m.tracks, uv=m.tracks.uv + [3.0, 4.0]))
    assert reprojection_px(off) == pytest.approx(5.0, rel=1e-6)
    assert reprojection_px(replace(m, good=np.zeros_like(m.good))) is None is relative_baseline(replace(m, good=np.zeros_like(m.good)))
    far = np.linalg.norm(rig.centers[0] - rig.centers[2])
    assert relative_baseline(m) == pytest.approx(far / np.median(seen(m)[1]), rel=1e-6)
    assert relative_baseline(level(m)) == pytest.approx(relative_baseline(m), rel=1e-6)
