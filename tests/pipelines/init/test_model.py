"""How a hypothesis is scored, and how it settles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from handful.pipelines.init.bundle import BundleOptions
from handful.pipelines.init.model import AGREE, Model, disagreement, evaluate, plausibility, settle, start_rig

from .rigs import SIZE, points_inside, relative, rig_around, rms_px, seen_by, shaken, turn_between, with_outliers

ONE = [np.zeros(n, dtype=int) for n in range(6)]  # all photos of one camera


def test_exact_observations_score_what_they_measure():
    """2n - 3 for a point seen by n photos whose directions are near."""
    rig, xyz = rig_around(4, spread=20.0), points_inside(50)
    tracks = seen_by(rig, xyz, share=0.7)
    m = evaluate(rig, tracks)
    n = np.bincount(tracks.track)
    assert m.good.all() and m.score == pytest.approx((2 * n - 3).sum(), rel=1e-6)
    np.testing.assert_array_equal(m.support, np.bincount(tracks.view))
    assert m.placed == 4


def test_an_error_costs_its_square():
    rig = rig_around(2, spread=30.0)
    tracks = seen_by(rig, np.zeros((1, 3)))
    uv = tracks.uv.copy()
    uv[:, 1] += [1.0, -1.0]  # across the rays' plane: no point can mend it
    m = evaluate(rig, replace(tracks, uv=uv))
    assert m.good.all() and m.score == pytest.approx(1 - (1 / AGREE) ** 2, rel=1e-2)


def test_directions_too_far_apart_count_little():
    np.testing.assert_allclose(plausibility(np.radians([0.0, 80, 100, 114, 120, 180])), [1, 1, 0.5, 0.15, 0.15, 0.15])
    xyz = points_inside(40)
    near, far = (rig_around(2, spread=s) for s in (40.0, 150.0))
    assert evaluate(far, seen_by(far, xyz)).score < 0.2 * evaluate(near, seen_by(near, xyz)).score


def test_a_long_row_of_photos_counts_in_full():
    """Neighbouring photos see a point from near directions, however long its track."""
    rig, xyz = rig_around(12, spread=165.0), points_inside(20)
    tracks = seen_by(rig, xyz)
    assert evaluate(rig, tracks).score == pytest.approx(20 * (2 * 12 - 3), rel=1e-3)


def test_photos_that_are_not_placed_are_not_asked():
    rig, xyz = rig_around(4), points_inside(30)
    tracks = seen_by(rig, xyz, share=0.8)
    R = rig.R.copy()
    R[2] = np.eye(3)
    part = replace(rig, R=R, placed=np.array([True, True, False, True]))
    m = evaluate(part, tracks)
    assert m.good.all() and m.support[2] == 0 and m.placed == 3 and not (m.tracks.view == 2).any()


def test_the_right_place_scores_higher_than_a_wrong_one():
    rig, xyz = rig_around(3), points_inside(60)
    tracks, _ = with_outliers(seen_by(rig, xyz, noise=0.5), 0.1, 30.0)
    right = evaluate(rig, tracks)
    for seed in range(5):
        wrong = evaluate(shaken(rig, 5.0, 0.5, seed), tracks)
        assert wrong.score < 0.5 * right.score and disagreement(wrong) > 3 * disagreement(right)


def test_disagreement_counts_what_does_not_fit():
    rig, xyz = rig_around(4), points_inside(40)
    tracks, wrong = with_outliers(seen_by(rig, xyz), 0.2, 50.0)
    m = evaluate(rig, tracks)
    assert disagreement(m) == pytest.approx(0.5 * AGREE**2 * wrong.mean(), rel=1e-6)
    assert disagreement(m, 2.0) == pytest.approx(0.5 * 4 * wrong.mean(), rel=1e-6)
    assert disagreement(evaluate(replace(rig, placed=np.zeros(4, dtype=bool)), tracks)) == np.inf


def test_nothing_placed_scores_nothing():
    m = evaluate(replace(rig_around(3), placed=np.zeros(3, dtype=bool)), seen_by(rig_around(3), points_inside(5)))
    assert m.score == 0 and m.placed == 0 and len(m.points) == 0


def test_settling_mends_a_shaken_model():
    truth, xyz = rig_around(4), points_inside(80)
    tracks, wrong = with_outliers(seen_by(truth, xyz), 0.15, 40.0)
    start = evaluate(shaken(truth, 0.7, 0.05), tracks)
    assert start.good.mean() < 0.7
    m = settle(start, tracks, BundleOptions(iterations=60), ONE[4], (3 * AGREE, 3 * AGREE, AGREE))
    np.testing.assert_array_equal(m.good, ~wrong)
    assert disagreement(m) < 0.3 * disagreement(start) and m.score > start.score
    right = m.tracks.select(m.good)
    assert rms_px(m.rig, right, m.points) < 0.1
    for v in range(1, 4):
        (Ra, ta), (Rb, tb) = relative(truth, 0, v), relative(m.rig, 0, v)
        assert turn_between(Ra, Rb) < 0.03 and ta @ tb > 1 - 1e-5


def test_settling_keeps_an_exact_model():
    rig, xyz = rig_around(3), points_inside(40)
    tracks = seen_by(rig, xyz)
    m = settle(evaluate(rig, tracks), tracks, BundleOptions(), ONE[3])
    assert m.good.all()
    np.testing.assert_allclose(m.rig.R, rig.R, atol=1e-6)
    np.testing.assert_allclose(m.points, xyz, atol=1e-5)


def test_too_little_to_settle_changes_nothing():
    rig = rig_around(3)
    tracks = seen_by(rig, points_inside(2))
    start = evaluate(rig, tracks)
    assert settle(start, tracks, BundleOptions(), ONE[3]) is start


def test_a_pair_begins_at_the_origin():
    truth = rig_around(4)
    R, t = relative(truth, 1, 3)
    rig = start_rig(4, SIZE, np.full(4, 500.0), 1, 3, R, t)
    np.testing.assert_array_equal(rig.placed, [False, True, False, True])
    np.testing.assert_array_equal(rig.R[1], np.eye(3))
    np.testing.assert_allclose(rig.centers[1], 0)
    np.testing.assert_allclose(relative(rig, 1, 3)[0], R)
    np.testing.assert_allclose(rig.center, np.tile(np.array(SIZE) / 2, (4, 1)))
    tracks = seen_by(truth, points_inside(20))
    m = evaluate(rig, tracks)
    assert isinstance(m, Model) and m.good.all()
