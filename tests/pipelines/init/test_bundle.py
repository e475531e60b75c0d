"""Bundle adjustment: its slopes against finite differences of its cost, what it recovers, what holds it, and how others solve the same problem."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from handful.data.pycolmap_bridge import _pycolmap
from handful.pipelines.init.bundle import BundleOptions, _Problem, adjust, robust_cost
from handful.pipelines.init.geometry import Rig, project, rotation_exp
from handful.pipelines.init.tracks import Tracks
from scipy import optimize

from .rigs import SIZE, points_inside, relative, rig_around, rms_px, seen_by, shaken, turn_between, with_outliers

LONG = {"iterations": 200, "tolerance": 1e-13}


def moved(rig: Rig, points: np.ndarray, x: np.ndarray, camera_of: np.ndarray) -> tuple[Rig, np.ndarray]:
    """The unknowns as `adjust` counts them: per photo turn and shift, per camera log focal, per camera k1, per point xyz."""
    n, g = len(rig.t), camera_of.max() + 1
    pose, logf, k1, dx = x[: 6 * n].reshape(n, 6), x[6 * n : 6 * n + g], x[6 * n + g : 6 * n + 2 * g], x[6 * n + 2 * g :].reshape(-1, 3)
    E = rotation_exp(pose[:, :3])
    t = np.einsum("vij,vj->vi", E, rig.t) + pose[:, 3:]
    return replace(rig, R=E @ rig.R, t=t, focal=rig.focal * np.exp(logf[camera_of]), k1=rig.k1 + k1[camera_of]), points + dx


# ---- slopes ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cameras", [1, 2])
def test_slopes_are_those_of_the_cost(cameras):
    rig, xyz = rig_around(4, k1=0.05), points_inside(12)
    tracks = seen_by(replace(rig, k1=0 * rig.k1), xyz + 0.02, noise=1.0, share=0.8, sigma=0.7)
    camera_of = np.arange(4) % cameras
    rig = replace(rig, focal=rig.focal * (1 + 0.1 * camera_of), aspect=np.full(4, 1.1))
    o = BundleOptions(focal=True, focal_mean=np.full(4, 450.0), focal_prior=0.2, distortion=True)
    _, g, _, gx, _ = _Problem(rig, tracks, o, camera_of).linearise(rig, xyz)

    def cost(x: np.ndarray) -> float:
        there, points = moved(rig, xyz, x, camera_of)
        return robust_cost(there, tracks, points, o, camera_of)

    h, slope = 2e-6, np.zeros(24 + 2 * cameras + 36)
    for k in range(len(slope)):
        step = np.eye(len(slope))[k] * h
        slope[k] = (cost(step) - cost(-step)) / (2 * h)
    np.testing.assert_allclose(g, slope[6 : 24 + 2 * cameras], rtol=1e-5, atol=1e-4)  # the first pose is held
    np.testing.assert_allclose(gx.ravel(), slope[24 + 2 * cameras :], rtol=1e-5, atol=1e-4)


def test_curvature_is_that_of_the_residuals():
    """U, V and W against J^T J with J by finite differences of the projection."""
    rig, xyz = rig_around(3, k1=0.05), points_inside(8)
    tracks = seen_by(rig, xyz, noise=1.5, share=0.8)
    o = BundleOptions(focal=True, distortion=True)
    U, _, V, _, W = _Problem(rig, tracks, o, np.zeros(3, dtype=int)).linearise(rig, xyz)

    def residuals(x: np.ndarray) -> np.ndarray:
        r, p = moved(rig, xyz, x, np.zeros(3, dtype=int))
        return (project(r, tracks.view, p[tracks.track])[0] - tracks.uv) / tracks.sigma[:, None]

    weight = 1 / (1 + (residuals(np.zeros(44)) ** 2).sum(1) / o.loss_scale**2)
    h = 1e-6
    J = np.stack([(residuals(h * e) - residuals(-h * e)) / (2 * h) for e in np.eye(44)], -1) * np.sqrt(weight)[:, None, None]
    J = J.reshape(-1, 44)
    H = J.T @ J
    H[19, 19] += 1 / o.distortion_prior**2
    scale = np.abs(H).max()
    np.testing.assert_allclose(U, H[6:20, 6:20], atol=1e-7 * scale)
    np.testing.assert_allclose(W.reshape(14, -1), H[6:20, 20:], atol=1e-7 * scale)
    blocks = H[20:, 20:].reshape(8, 3, 8, 3)
    np.testing.assert_allclose(V, blocks[np.arange(8), :, np.arange(8)], atol=1e-7 * scale)


def test_cost_by_hand():
    rig, xyz = rig_around(2), points_inside(3)
    exact = seen_by(rig, xyz, sigma=2.0)
    o = BundleOptions(loss_scale=1.5)
    assert robust_cost(rig, exact, xyz, o) == pytest.approx(0.0, abs=1e-20)
    uv = exact.uv.copy()
    uv[0] += [3.0, 4.0]  # 2.5 sigmas
    assert robust_cost(rig, replace(exact, uv=uv), xyz, o) == pytest.approx(0.5 * 2.25 * np.log1p(6.25 / 2.25))
    prior = replace(o, focal=True, focal_mean=rig.focal * np.e, focal_prior=0.5, distortion=True, distortion_prior=0.1)
    assert robust_cost(replace(rig, focal=rig.focal), exact, xyz, prior) == pytest.approx(0.5 * 4)
    bent = replace(rig, k1=np.full(2, 0.2))
    assert robust_cost(bent, seen_by(bent, xyz), xyz, replace(prior, focal=False)) == pytest.approx(0.5 * 4)


# ---- what it recovers -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views,free", [(2, "poses"), (3, "focal"), (5, "focal"), (5, "distortion")])
def test_a_shaken_rig_comes_back(views, free):
    k1 = 0.06 if free == "distortion" else 0.0
    truth, xyz = rig_around(views, k1=k1, spread=50.0), points_inside(60)
    tracks = seen_by(truth, xyz, share=0.9)
    rng = np.random.default_rng(7)
    start = shaken(truth, 2.0, 0.1)
    if free != "poses":
        start = replace(start, focal=1.08 * start.focal, k1=0 * start.k1)
    o = BundleOptions(focal=free != "poses", distortion=free == "distortion", distortion_prior=1e3, **LONG)
    noisy = xyz + 0.05 * rng.normal(size=xyz.shape)
    assert rms_px(start, tracks, noisy) > 10
    rig, points, cost = adjust(start, tracks, noisy, o)
    assert rms_px(rig, tracks, points) < 1e-3 and cost < 1e-5
    for v in range(1, views):
        (Ra, ta), (Rb, tb) = relative(truth, 0, v), relative(rig, 0, v)
        assert turn_between(Ra, Rb) < 2e-3 and ta @ tb > 1 - 1e-8
    np.testing.assert_allclose(rig.focal, truth.focal, rtol=1e-4)
    np.testing.assert_allclose(rig.k1, k1, atol=1e-4)


def test_held_things_stay():
    truth, xyz = rig_around(4), points_inside(30)
    tracks = seen_by(truth, xyz)
    start = shaken(truth, 1.0, 0.05)
    rig, points, _ = adjust(start, tracks, xyz, BundleOptions())
    np.testing.assert_array_equal(rig.R[0], start.R[0])
    np.testing.assert_array_equal(rig.t[0], start.t[0])
    np.testing.assert_array_equal(rig.focal, start.focal)
    np.testing.assert_array_equal(rig.k1, start.k1)
    rig, points, _ = adjust(truth, tracks, xyz + 0.03, BundleOptions(poses=False, **LONG))
    np.testing.assert_array_equal(rig.R, truth.R)
    np.testing.assert_array_equal(rig.t, truth.t)
    np.testing.assert_allclose(points, xyz, atol=1e-6)


def test_turns_stay_turns():
    truth, xyz = rig_around(5), points_inside(40)
    rig, _, _ = adjust(shaken(truth, 4.0, 0.2), seen_by(truth, xyz, noise=1.0), xyz, BundleOptions(focal=True, **LONG))
    np.testing.assert_allclose(rig.R @ rig.R.transpose(0, 2, 1), np.tile(np.eye(3), (5, 1, 1)), atol=1e-12)


def test_the_cost_returned_is_the_cost_reached_and_never_rises():
    truth, xyz = rig_around(4), points_inside(40)
    tracks, _ = with_outliers(seen_by(truth, xyz, noise=1.0), 0.1, 40.0)
    o = BundleOptions(focal=True, focal_mean=1.2 * truth.focal, focal_prior=0.1)
    rig, points, before = shaken(truth, 3.0, 0.2), xyz, np.inf
    for _ in range(6):
        rig, points, cost = adjust(rig, tracks, points, replace(o, iterations=2))
        assert cost == robust_cost(rig, tracks, points, o) and cost <= before
        before = cost


def test_two_cameras_keep_their_own_focal_lengths_and_left_out_photos_follow():
    truth, xyz = rig_around(6, spread=60.0), points_inside(80)
    camera_of = np.array([0, 1, 0, 1, 0, 1])
    truth = replace(truth, focal=np.where(camera_of == 0, 480.0, 620.0))
    placed = np.array([True, True, True, True, False, False])
    tracks = seen_by(truth, xyz)
    tracks = tracks.select(placed[tracks.view])
    start = replace(shaken(truth, 1.0, 0.05), placed=placed, focal=np.full(6, 540.0))
    o = BundleOptions(focal=True, focal_mean=np.where(camera_of == 0, 500.0, 600.0), focal_prior=50.0, **LONG)
    rig, points, cost = adjust(start, tracks, xyz, o, camera_of)
    np.testing.assert_allclose(rig.focal, truth.focal, rtol=1e-4)
    np.testing.assert_array_equal(rig.R[4:], start.R[4:])
    assert cost == robust_cost(rig, tracks, points, o, camera_of)


# ---- what holds it --------------------------------------------------------------------------------------------------------------------------


def test_the_prior_pulls_the_focal_length():
    """Tight: it stays at the guess; loose: the photos decide; between: between, where the two slopes cancel."""
    truth, xyz = rig_around(3), points_inside(60)
    tracks = seen_by(truth, xyz, noise=0.5)
    guess = 1.25 * truth.focal
    reached = []
    for spread in (1e-4, 0.003, 0.01, 0.03, 10.0):
        o = BundleOptions(focal=True, focal_mean=guess, focal_prior=spread, **LONG)
        rig, points, _ = adjust(replace(truth, focal=guess), tracks, xyz, o)
        reached.append(rig.focal[0] / truth.focal[0])
        assert (rig.focal == rig.focal[0]).all()
    free = adjust(truth, tracks, xyz, BundleOptions(focal=True, **LONG))[0].focal[0] / truth.focal[0]
    assert reached[0] == pytest.approx(1.25, rel=1e-4) and reached[-1] == pytest.approx(free, rel=1e-4)
    assert reached == sorted(reached, reverse=True) and reached[1] - reached[3] > 0.05
    assert free == pytest.approx(1.0, abs=0.03)


def test_without_observations_of_it_distortion_stays_at_its_prior():
    truth, xyz = rig_around(3), points_inside(40)
    tracks = seen_by(truth, xyz, sigma=1e4)
    rig, _, _ = adjust(replace(truth, k1=np.full(3, 0.1)), tracks, xyz, BundleOptions(distortion=True, **LONG))
    np.testing.assert_allclose(rig.k1, 0, atol=1e-4)


def test_outliers_hardly_move_it():
    truth, xyz = rig_around(5, spread=60.0), points_inside(100)
    tracks, wrong = with_outliers(seen_by(truth, xyz), 0.18, 60.0)
    assert wrong.mean() > 0.17
    right = tracks.select(~wrong)
    start = shaken(truth, 0.5, 0.03)
    robust = adjust(start, tracks, xyz, BundleOptions(focal=True, **LONG))
    squares = adjust(start, tracks, xyz, BundleOptions(focal=True, loss_scale=1e6, **LONG))
    clean = np.unique(tracks.track[~wrong])
    assert len(clean) == len(xyz)
    assert rms_px(robust[0], right, robust[1]) < 0.1 < 5 < rms_px(squares[0], right, squares[1])
    assert robust[0].focal[0] == pytest.approx(truth.focal[0], rel=2e-3)
    worst = max(turn_between(relative(truth, 0, v)[0], relative(robust[0], 0, v)[0]) for v in range(1, 5))
    assert worst < 0.02


def test_hopeless_starts_do_no_harm():
    """Points behind a camera or not finite: no exception, nothing gets worse."""
    truth, xyz = rig_around(3), points_inside(20)
    tracks = seen_by(truth, xyz)
    start = xyz.copy()
    start[3] = -1.5 * truth.centers[1]
    start[4] = 3 * truth.centers[0]
    rig, points, cost = adjust(truth, tracks, start, BundleOptions())
    assert np.isfinite(rig.R).all() and np.isfinite(points).all() and cost <= robust_cost(truth, tracks, start, BundleOptions())
    start[5] = np.nan
    rig, points, cost = adjust(truth, tracks, start, BundleOptions())
    assert cost == np.inf and np.isfinite(rig.R).all() and np.isfinite(rig.t).all()


# ---- outside judges -------------------------------------------------------------------------------------------------------------------------


def judged_problem() -> tuple[Rig, Tracks, np.ndarray]:
    truth, xyz = rig_around(4, spread=50.0), points_inside(30)
    tracks, _ = with_outliers(seen_by(truth, xyz, noise=1.0, share=0.9), 0.1, 20.0)
    return replace(shaken(truth, 1.0, 0.05), focal=1.05 * truth.focal), tracks, xyz + 0.02 * np.random.default_rng(8).normal(size=xyz.shape)


def test_scipy_finds_nothing_better():
    start, tracks, xyz = judged_problem()
    o = BundleOptions(focal=True, focal_mean=np.full(4, 480.0), focal_prior=0.02, **LONG)
    one = np.zeros(4, dtype=int)

    def residuals(y: np.ndarray) -> np.ndarray:
        x = np.concatenate([np.zeros(6), y[:19], [0.0], y[19:]])
        rig, points = moved(start, xyz, x, one)
        r = (project(rig, tracks.view, points[tracks.track])[0] - tracks.uv) / tracks.sigma[:, None]
        s = (r * r).sum(1)
        root = np.sqrt(o.loss_scale**2 * np.log1p(s / o.loss_scale**2) / np.maximum(s, 1e-30))  # so that half the squares sum to the robust cost
        return np.append((r * root[:, None]).ravel(), np.log(rig.focal[0] / 480.0) / o.focal_prior)

    y0 = np.zeros(19 + 90)
    judge = optimize.least_squares(residuals, y0, x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=60)
    rig, points, cost = adjust(start, tracks, xyz, o)
    assert 0.5 * (residuals(y0) ** 2).sum() == pytest.approx(robust_cost(start, tracks, xyz, o), rel=1e-9)  # the same question was asked
    assert cost < 0.5 * robust_cost(start, tracks, xyz, o)
    assert cost == pytest.approx(judge.cost, rel=1e-5)
    assert rig.focal[0] == pytest.approx(float(start.focal[0] * np.exp(judge.x[18])), rel=1e-4)


def test_colmap_finds_nothing_better():
    """COLMAP's adjuster (Ceres) with the same Cauchy loss, on the same start."""
    c = _pycolmap()
    start, tracks, xyz = judged_problem()
    scene = c.Reconstruction()
    scene.add_camera_with_trivial_rig(c.Camera(model="SIMPLE_PINHOLE", width=SIZE[0], height=SIZE[1], params=[start.focal[0], *start.center[0]], camera_id=1))
    for v in range(4):
        mine = tracks.view == v
        image = c.Image(name=str(v), keypoints=tracks.uv[mine], camera_id=1, image_id=v + 1)
        scene.add_image_with_trivial_frame(image, c.Rigid3d(np.c_[start.R[v], start.t[v]]))
    index = np.zeros(len(tracks.view), dtype=int)
    for v in range(4):
        index[tracks.view == v] = np.arange((tracks.view == v).sum())
    for n in range(tracks.count):
        elements = [c.TrackElement(int(tracks.view[o]) + 1, int(index[o])) for o in np.flatnonzero(tracks.track == n)]
        scene.add_point3D(xyz[n], c.Track(elements), np.zeros(3, dtype=np.uint8))
    options = c.BundleAdjustmentOptions()
    options.refine_extra_params = options.print_summary = False
    ceres = getattr(options, "ceres", options)  # from version 4 on in a drawer of their own
    ceres.loss_function_type, ceres.loss_function_scale = c.LossFunctionType.CAUCHY, 1.5
    ceres.solver_options.num_threads, ceres.solver_options.max_num_iterations = 1, 200
    c.bundle_adjustment(scene, options)
    poses = [scene.image(v + 1).cam_from_world().matrix() for v in range(4)]
    theirs = replace(start, R=np.stack([p[:, :3] for p in poses]), t=np.stack([p[:, 3] for p in poses]), focal=np.full(4, scene.camera(1).params[0]))
    their_points = np.stack([scene.point3D(n + 1).xyz for n in range(tracks.count)])
    o = BundleOptions(focal=True, **LONG)
    rig, points, cost = adjust(start, tracks, xyz, o)
    assert robust_cost(theirs, tracks, their_points, o) < 0.5 * robust_cost(start, tracks, xyz, o)  # they did adjust
    assert cost == pytest.approx(robust_cost(theirs, tracks, their_points, o), rel=1e-4)
    assert rig.focal[0] == pytest.approx(theirs.focal[0], rel=1e-3)
