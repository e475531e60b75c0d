"""Projection and triangulation against closed forms and slow twins; what they do with wrong, missing and impossible observations."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from handful.pipelines.init.geometry import Rig, nearest_angles, project, rotation_exp, triangulate, triangulation_angles
from handful.pipelines.init.tracks import Tracks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from .rigs import pixel_of, points_inside, rig_around, seen_by, with_outliers


def stereo(baseline: float = 1.0, focal: float = 100.0) -> Rig:
    """Two cameras side by side, looking along z."""
    t = np.array([[0.0, 0, 0], [-baseline, 0, 0]])
    two = np.ones(2)
    return Rig(np.tile(np.eye(3), (2, 1, 1)), t, two > 0, focal * two, 0 * two, np.tile([50.0, 40.0], (2, 1)), two)


def pair_tracks(uv: list[tuple[tuple[float, float], tuple[float, float]]]) -> Tracks:
    n = len(uv)
    view, track = np.tile([0, 1], n), np.repeat(np.arange(n), 2)
    return Tracks(view, track.copy(), track, np.array(uv, dtype=float).reshape(-1, 2), np.ones(2 * n), n)


# ---- rotation and projection ----------------------------------------------------------------------------------------------------------------


def test_quarter_turns():
    R = rotation_exp(np.pi / 2 * np.eye(3))
    np.testing.assert_allclose(R[0], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-15)
    np.testing.assert_allclose(R[1], [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], atol=1e-15)
    np.testing.assert_allclose(R[2], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 0.99e-8, 1.01e-8, 1e-5, 0.3, np.pi - 1e-9, np.pi, 5.0])
def test_rotation_is_the_exponential_series(angle):
    axis = np.array([0.6, -0.48, 0.64])
    x, y, z = angle * axis
    S = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    series, term = np.eye(3), np.eye(3)
    for k in range(1, 40):
        term = term @ S / k
        series = series + term
    R = rotation_exp((angle * axis)[None])[0]
    np.testing.assert_allclose(R, series, atol=1e-13)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)


def test_one_pixel_by_hand():
    rig = replace(stereo(), k1=np.array([0.1, 0.1]), aspect=np.array([1.2, 1.2]))
    uv, z = project(rig, np.array([0, 1]), np.array([[0.4, -0.2, 2.0], [0.4, -0.2, 2.0]]))
    # normalised (0.2, -0.1) and (-0.3, -0.1); bent by 1 + 0.1 r^2
    np.testing.assert_allclose(uv[0], [50 + 100 * 1.005 * 0.2, 40 - 120 * 1.005 * 0.1])
    np.testing.assert_allclose(uv[1], [50 - 100 * 1.010 * 0.3, 40 - 120 * 1.010 * 0.1])
    np.testing.assert_allclose(z, [2, 2])


def test_projection_is_that_of_the_slow_twin():
    rig = replace(rig_around(5, k1=-0.07), aspect=np.linspace(0.9, 1.1, 5), focal=np.linspace(400, 600, 5))
    xyz = points_inside(40)
    view = np.arange(40) % 5
    uv, z = project(rig, view, xyz)
    slow = np.array([pixel_of(rig, int(v), X) for v, X in zip(view, xyz, strict=True)])
    np.testing.assert_allclose(np.c_[uv, z], slow, rtol=1e-12)


def test_nothing_behind_the_camera_has_a_pixel():
    rig = stereo()
    xyz = np.array([[0.0, 0, -2], [0, 0, 0], [0.1, 0.1, 1e-12], [np.nan, 0, 1], [0, 0, np.nan], [0.0, 0, 2]])
    uv, z = project(rig, np.zeros(6, dtype=int), xyz)
    assert np.isfinite(uv[:3]).all() and (np.abs(uv[:3]) > 1e8).all()
    assert not np.isfinite(uv[3, 0]) or abs(uv[3, 0]) > 1e8
    assert (np.abs(uv[4]) > 1e8).all() and np.isnan(z[4])
    np.testing.assert_allclose(uv[5], [50, 40])


# ---- triangulation --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0.5, 3.0, 40.0])
def test_depth_from_disparity(depth):
    rig = stereo(baseline=0.7, focal=120.0)
    u = 50 + 120 * 0.3 / depth
    tracks = pair_tracks([((u, 44.0), (u - 120 * 0.7 / depth, 44.0))])
    points, good = triangulate(rig, tracks)
    np.testing.assert_allclose(points[0], [0.3, 4.0 / 120 * depth, depth], rtol=1e-8)
    assert good.all()
    expected = math.atan(0.3 / math.hypot(depth, points[0, 1])) + math.atan(0.4 / math.hypot(depth, points[0, 1]))
    assert triangulation_angles(rig, tracks, points, good)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("views", [2, 3, 7])
@pytest.mark.parametrize("k1", [0.0, 0.1])
def test_exact_observations_give_the_points_back(views, k1):
    rig, xyz = rig_around(views, k1=k1), points_inside()
    points, good = triangulate(rig, seen_by(rig, xyz, share=0.7))
    assert good.all()
    np.testing.assert_allclose(points, xyz, atol=1e-8 if k1 == 0 else 1e-5)


def slow_triangulate(rig: Rig, tracks: Tracks, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """One track at a time: every pair of rays, the hypothesis with the largest gain, then a general-purpose optimiser on what agrees."""
    points, good = np.full((tracks.count, 3), np.nan), np.zeros(len(tracks.view), dtype=bool)
    for n in range(tracks.count):
        mine = np.flatnonzero(tracks.track == n)

        def errors(X, which):
            uv = np.array([pixel_of(rig, int(tracks.view[o]), X)[:2] for o in which])
            return np.minimum((uv - tracks.uv[which]) / tracks.sigma[which][:, None], 1e6)

        best, best_gain = None, 0.0
        for a, b in combinations(mine, 2):
            C, D = [], []
            for o in (a, b):
                v = tracks.view[o]
                ray = rig.R[v].T @ np.append((tracks.uv[o] - rig.center[v]) / rig.focal[v], 1.0)
                C.append(-rig.R[v].T @ rig.t[v])
                D.append(ray / np.linalg.norm(ray))
            (s, u), *_ = np.linalg.lstsq(np.stack([D[0], -D[1]], 1), C[1] - C[0], rcond=None)
            if s <= 0 or u <= 0:
                continue
            X = (C[0] + s * D[0] + C[1] + u * D[1]) / 2
            e = np.linalg.norm(errors(X, mine), axis=1)
            gain = (1 - np.minimum((e / threshold) ** 2, 1)).sum()
            if gain > best_gain:
                best, best_gain = X, gain
        if best is None:
            continue
        agree = mine[np.linalg.norm(errors(best, mine), axis=1) < threshold]
        if len(agree) >= 2:
            X = optimize.least_squares(lambda X, a=agree: errors(X, a).ravel(), best, xtol=1e-14, ftol=1e-14, gtol=1e-14).x
            agree = mine[np.linalg.norm(errors(X, mine), axis=1) < threshold]
            if len(agree) >= 2:
                points[n], good[agree] = X, True
    return points, good


@pytest.mark.parametrize("views", [2, 3, 4])  # up to four photos every pair of rays is tried
def test_noisy_points_are_those_of_the_slow_twin(views):
    rig = rig_around(views)
    tracks, _ = with_outliers(seen_by(rig, points_inside(25), noise=0.8, share=0.8, sigma=0.9), 0.1, 30.0)
    points, good = triangulate(rig, tracks, threshold=3.0)
    twin_points, twin_good = slow_triangulate(rig, tracks, 3.0)
    np.testing.assert_array_equal(good, twin_good)
    np.testing.assert_allclose(points, twin_points, atol=2e-5)  # a thousandth of what the noise does to them


def test_outliers_are_told_apart_and_do_not_move_the_points():
    rig, xyz = rig_around(6), points_inside(80)
    tracks, wrong = with_outliers(seen_by(rig, xyz), 0.15, 25.0)
    assert wrong.sum() > 50
    points, good = triangulate(rig, tracks)
    np.testing.assert_array_equal(good, ~wrong)
    np.testing.assert_allclose(points, xyz, atol=1e-8)


def test_the_limit_is_in_sigmas():
    rig, xyz = rig_around(4), points_inside(30)
    tracks = seen_by(rig, xyz, noise=3.0, sigma=3.0)
    assert triangulate(rig, tracks)[1].mean() > 0.97
    sharp = triangulate(rig, replace(tracks, sigma=np.full(len(tracks.view), 0.3)))[1]
    assert sharp.mean() < 0.5  # two rays often meet, four no longer


def test_points_behind_the_cameras_are_no_points():
    rig = stereo()
    behind = project(rig, np.array([0, 1]), np.array([[0.2, 0.1, 3.0]] * 2))[0]
    mirrored = pair_tracks([(tuple(behind[1]), tuple(behind[0]))])  # rays swapped: they meet at negative depth
    points, good = triangulate(rig, mirrored)
    assert np.isnan(points).all() and not good.any()
    # parallel rays meet nowhere
    points, good = triangulate(rig, pair_tracks([((60.0, 44.0), (60.0, 44.0))]))
    assert np.isnan(points).all() and not good.any()


def test_narrow_points_are_left_out_on_demand():
    rig = stereo(baseline=0.1)
    xyz = np.array([[0.0, 0, 2], [0, 0, 200]])
    tracks = seen_by(rig, xyz)
    assert triangulate(rig, tracks)[1].all()
    points, good = triangulate(rig, tracks, min_angle=np.radians(1.0))
    assert np.isfinite(points[0]).all() and np.isnan(points[1]).all()
    np.testing.assert_array_equal(good, [True, True, False, False])


def test_missing_numbers_spoil_only_their_own_observation():
    rig, xyz = rig_around(4), points_inside(10)
    tracks = seen_by(rig, xyz)
    uv = tracks.uv.copy()
    uv[1] = np.nan
    uv[4:8] = np.nan  # all of the second track
    points, good = triangulate(rig, replace(tracks, uv=uv))
    expected = np.isfinite(uv).all(1)
    np.testing.assert_array_equal(good, expected)
    np.testing.assert_allclose(points[[0, *range(2, 10)]], xyz[[0, *range(2, 10)]], atol=1e-8)
    assert np.isnan(points[1]).all()


def test_no_tracks():
    empty = Tracks(*(np.zeros(0, dtype=int),) * 3, np.zeros((0, 2)), np.zeros(0), 0)
    points, good = triangulate(rig_around(3), empty)
    assert points.shape == (0, 3) and good.shape == (0,)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(0, 1))
def test_whatever_agrees_lies_in_front_and_near_its_pixel(seed, views, nonsense):
    rng = np.random.default_rng(seed)
    rig = rig_around(views, spread=300.0, seed=seed % 100)
    tracks = seen_by(rig, points_inside(15, seed), noise=1.0, share=0.7, seed=seed)
    pick = rng.random(len(tracks.view)) < nonsense
    tracks = replace(tracks, uv=np.where(pick[:, None], rng.uniform(-200, 800, tracks.uv.shape), tracks.uv))
    points, good = triangulate(rig, tracks)
    has = np.bincount(tracks.track[good], minlength=tracks.count)
    np.testing.assert_array_equal(np.isfinite(points).all(1), has >= 2)
    assert not (has == 1).any()
    for o in np.flatnonzero(good):
        u, v, z = pixel_of(rig, int(tracks.view[o]), points[tracks.track[o]])
        assert z > 0 and math.hypot(u - tracks.uv[o, 0], v - tracks.uv[o, 1]) < 4.0


# ---- angles ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [2, 4, 9, 14])
def test_angles_to_the_nearest_agreeing_ray(views):
    rig = rig_around(views, spread=150.0)
    tracks = seen_by(rig, points_inside(12), share=0.9)
    points, good = triangulate(rig, tracks)
    good = good & (np.random.default_rng(0).random(len(good)) < 0.8)
    expected = np.full(len(good), np.pi)
    for o, p in ((o, p) for o in range(len(good)) for p in range(len(good))):
        if o != p and tracks.track[o] == tracks.track[p] and good[o] and good[p]:
            d = [rig.centers[tracks.view[k]] - points[tracks.track[k]] for k in (o, p)]
            expected[o] = min(expected[o], math.acos(min(1.0, d[0] @ d[1] / np.linalg.norm(d[0]) / np.linalg.norm(d[1]))))
    np.testing.assert_allclose(nearest_angles(rig, tracks, points, good), expected, atol=1e-7)


def test_the_widest_angle_counts_agreeing_rays_only():
    rig = rig_around(3, spread=60.0)
    tracks = seen_by(rig, np.zeros((1, 3)))
    points = np.zeros((1, 3))
    c = rig.centers / np.linalg.norm(rig.centers, axis=1, keepdims=True)
    assert triangulation_angles(rig, tracks, points, np.array([True, True, True]))[0] == pytest.approx(math.acos(c[0] @ c[2]))
    assert triangulation_angles(rig, tracks, points, np.array([True, True, False]))[0] == pytest.approx(math.acos(c[0] @ c[1]))
    assert triangulation_angles(rig, tracks, points, np.array([True, False, False]))[0] == pytest.approx(0.0)
