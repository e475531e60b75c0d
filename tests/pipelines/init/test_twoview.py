"""Two photos: the poses of a plane, agreement with an epipolar geometry, and hypotheses where repeated things speak for a wrong pose."""

from __future__ import annotations

import math

import numpy as np
import pytest
from handful.pipelines.init.geometry import project
from handful.pipelines.init.twoview import epipolar_agreement, pair_hypotheses, planar_poses, ray_angles
from scipy import optimize

from .rigs import SIZE, points_inside, relative, rig_around, turn_between

FOCALS = (500.0, 500.0)


def pose(seed: int = 0, spread: float = 24.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two cameras (R, t of the second from the first, t not scaled) and how the first sees the world."""
    rig = rig_around(2, spread=spread, seed=seed)
    R = rig.R[1] @ rig.R[0].T
    return R, rig.t[1] - R @ rig.t[0], rig.R[0], rig.t[0]


def pixels(x: np.ndarray, focal: float = 500.0) -> np.ndarray:
    return focal * x[:, :2] / x[:, 2:] + np.array(SIZE) / 2


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return math.degrees(math.acos(min(1.0, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))))


# ---- planes ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("focals", [(500.0, 500.0), (450.0, 600.0)])
@pytest.mark.parametrize("sign", [1.0, -3.0])  # a homography has no scale, not even a sign
def test_a_known_plane_gives_its_pose(seed, focals, sign):
    R, t, _, _ = pose(seed)
    rng = np.random.default_rng(seed)
    n = np.array([0.3, -0.2, -1.0]) + 0.2 * rng.normal(size=3)
    n /= np.linalg.norm(n)
    d = abs(n[2]) * 5.0  # plane n.x = -d in the axes of the first camera, 5 in front of it
    uv0 = rng.uniform([60, 60], [580, 420], (40, 2))
    K0, K1 = (np.array([[f, 0, 320], [0, f, 240], [0, 0, 1.0]]) for f in focals)
    H = K1 @ (R - np.outer(t, n) / d) @ np.linalg.inv(K0)
    found = planar_poses(sign * H, SIZE, focals, uv0)
    assert 1 <= len(found) <= 2
    errors = [(turn_between(R, a), angle(t, b)) for a, b in found]
    assert min(max(e) for e in errors) < 1e-4
    for a, b in found:
        np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(a) == pytest.approx(1) and np.linalg.norm(b) == pytest.approx(1)


def test_turning_on_the_spot_is_no_plane():
    R = pose()[0]
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    assert planar_poses(K @ R @ np.linalg.inv(K), SIZE, FOCALS, np.array([[100.0, 100], [300, 200], [400, 400]])) == []


# ---- agreement ------------------------------------------------------------------------------------------------------------------------------


def test_agreement_is_that_of_the_best_point_there_is():
    """Brute force: the point whose two pixels are nearest to the match, found by a general-purpose optimiser, must be near and in front."""
    R, t, R0, t0 = pose(1)
    rng = np.random.default_rng(5)
    x = points_inside(60) @ R0.T + t0
    x[:8] *= -1  # true geometry, but behind both cameras
    uv0, uv1 = pixels(x), pixels(x @ R.T + t)
    uv1 = uv1 + rng.normal(0, 3, uv1.shape) * (rng.random((60, 1)) < 0.7)
    got = epipolar_agreement(R, t / np.linalg.norm(t), uv0, uv1, SIZE, FOCALS, 2.0)
    judged = 0
    for k in range(60):

        def off(X, k=k):
            return np.concatenate([pixels(X[None])[0] - uv0[k], pixels((X @ R.T + t)[None])[0] - uv1[k]])

        best = optimize.least_squares(off, x[k], x_scale=np.abs(x[k]) + 0.1, xtol=1e-12, ftol=1e-12)
        distance = math.sqrt(2 * best.cost)
        if abs(distance - 2.0) < 0.1:
            continue  # Sampson's distance is the first order of this one
        judged += 1
        assert got[k] == (distance < 2.0 and best.x[2] > 0 and (best.x @ R.T + t)[2] > 0), (k, distance)
    assert judged > 45 and 10 < got.sum() < 50


def test_agreement_is_along_the_epipolar_line_only():
    R, t = np.eye(3), np.array([-1.0, 0, 0])  # a step to the right: points move left along rows
    uv0 = np.tile([330.0, 250.0], (6, 1))
    uv1 = np.array([[300.0, 250.0], [100, 250], [300, 251], [300, 254], [340, 250], [300, 246]])
    agrees = epipolar_agreement(R, t, uv0, uv1, SIZE, FOCALS, 2.0)
    # along the row, along the row, 1 px off, 4 px off, rays that part, 4 px off
    np.testing.assert_array_equal(agrees, [True, True, True, False, False, False])


def test_the_two_focal_lengths_are_told_apart():
    R, t, R0, t0 = pose(2)
    x = points_inside(50) @ R0.T + t0
    uv0, uv1 = pixels(x, 450.0), pixels(x @ R.T + t, 560.0)
    assert epipolar_agreement(R, t / np.linalg.norm(t), uv0, uv1, SIZE, (450.0, 560.0), 0.5).all()
    assert epipolar_agreement(R, t / np.linalg.norm(t), uv0, uv1, SIZE, (560.0, 450.0), 0.5).mean() < 0.3


def test_ray_angles_by_hand():
    rig = rig_around(2, spread=30.0)
    R, _ = relative(rig, 0, 1)
    xyz = points_inside(20)
    uv = [project(rig, np.full(20, v), xyz)[0] for v in (0, 1)]
    d = rig.centers[:, None] - xyz[None]
    expected = [math.radians(angle(a, b)) for a, b in zip(d[0], d[1], strict=True)]
    np.testing.assert_allclose(ray_angles(R, uv[0], uv[1], SIZE, FOCALS), expected, atol=1e-7)


# ---- hypotheses -----------------------------------------------------------------------------------------------------------------------------


def two_structures(true: int, wrong: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Matches of the true scene, and of repeated things that agree with another pose."""
    R, t, R0, t0 = pose(3)
    S, s, _, _ = pose(11, spread=-30.0)
    rng = np.random.default_rng(6)
    x = points_inside(true, 1) @ R0.T + t0
    y = points_inside(wrong, 2) * [1.0, 1.0, 0.7] @ R0.T + t0
    uv0 = np.concatenate([pixels(x), pixels(y)])
    uv1 = np.concatenate([pixels(x @ R.T + t), pixels(y @ S.T + s)])
    return uv0 + noise * rng.normal(size=uv0.shape), uv1 + noise * rng.normal(size=uv1.shape), R, t, S, s


@pytest.mark.parametrize("true,wrong", [(150, 0), (120, 60), (70, 110)])
def test_the_true_pose_is_among_the_hypotheses(true, wrong):
    uv0, uv1, R, t, S, s = two_structures(true, wrong)
    found = pair_hypotheses(uv0, uv1, SIZE, FOCALS, 1.5, 0)
    assert 1 <= len(found) <= 4
    hits = [p for p in found if turn_between(p.R, R) < 1.0 and angle(p.t, t) < 5.0]
    assert hits and max(p.inliers[:true].mean() for p in hits) > 0.9
    if wrong >= 60:  # the other structure is offered too: only more photos can tell which is right
        assert any(turn_between(p.R, S) < 1.0 and angle(p.t, s) < 5.0 and p.inliers[true:].mean() > 0.9 for p in found)
    for p in found:
        assert (p.inliers == epipolar_agreement(p.R, p.t, uv0, uv1, SIZE, FOCALS, 1.5)).mean() > 0.9
        assert np.linalg.norm(p.t) == pytest.approx(1)
    support = [int(p.inliers.sum()) for p in found]
    assert support == sorted(support, reverse=True) and support[0] >= max(true, wrong) * 0.9
    for a in range(len(found)):
        for b in range(a):
            assert turn_between(found[a].R, found[b].R) > 3.9 or angle(found[a].t, found[b].t) > 11.9


def test_a_plane_offers_the_true_pose():
    R, t, R0, t0 = pose(4)
    x = points_inside(120) * [1.0, 1.0, 0.0] @ R0.T + t0
    noise = 0.2 * np.random.default_rng(7).normal(size=(2, 120, 2))
    found = pair_hypotheses(pixels(x) + noise[0], pixels(x @ R.T + t) + noise[1], SIZE, FOCALS, 1.5, 0)
    assert any(turn_between(p.R, R) < 1.0 and angle(p.t, t) < 6.0 for p in found)


def test_chance_offers_little():
    rng = np.random.default_rng(8)
    uv = rng.uniform([0, 0], SIZE, (2, 60, 2))
    assert all(p.inliers.sum() < 30 for p in pair_hypotheses(uv[0], uv[1], SIZE, FOCALS, 1.0, 0))
    assert pair_hypotheses(uv[0][:7], uv[1][:7], SIZE, FOCALS, 1.0, 0) == []
    assert pair_hypotheses(uv[0][:0], uv[1][:0], SIZE, FOCALS, 1.0, 0) == []


def test_the_same_question_gets_the_same_answer():
    uv0, uv1, *_ = two_structures(60, 60)
    a, b = (pair_hypotheses(uv0, uv1, SIZE, FOCALS, 1.5, 3) for _ in range(2))
    assert len(a) == len(b)
    for p, q in zip(a, b, strict=True):
        np.testing.assert_array_equal(p.R, q.R)
        np.testing.assert_array_equal(p.inliers, q.inliers)
