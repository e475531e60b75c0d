"""What vouches for a photo's place, on photos whose cameras are known: the true place is believed, wrong ones are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handful.pipelines.init.evidence import CHANCE_SURE, DOUBT, SURE_WEIGHT, believed, doubtful, log_odds, pair_log_odds
from handful.pipelines.init.geometry import Rig, rotation_exp
from handful.pipelines.init.model import evaluate
from handful.pipelines.init.pairing import match_pairs
from handful.pipelines.init.scene import SURE, Scene, agreeing
from handful.pipelines.init.search import FARTHEST, FocalPrior, focal_is_loose, sane, steady_focal
from handful.pipelines.init.tracks import MatchGraph, build_tracks, twins, without_twins
from handful.pipelines.init.witness import witness
from handful.priors.match_xfeat import _once
from handful.recon.matches import Matches

from .captures import HEIGHT, WIDTH, KnownPhotos, known_photos


@pytest.fixture(scope="module")
def photos() -> KnownPhotos:
    return known_photos([-20.0, -10.0, 0.0, 10.0])


def true_rig(known: KnownPhotos) -> Rig:
    T, n = known.cameras.cam_from_world.double().numpy(), len(known.cameras)
    center = np.tile([WIDTH / 2, HEIGHT / 2], (n, 1))
    return Rig(T[:, :3, :3].copy(), T[:, :3, 3].copy(), np.ones(n, dtype=bool), np.full(n, known.focal), np.zeros(n), center, np.ones(n))


def scene_of(known: KnownPhotos, score: float, unlinked: int | None = None) -> Scene:
    """All true links with one confidence; photo `unlinked` has none."""
    n = len(known.capture)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    raw = match_pairs(known.capture.views, pairs, [known.points()], lambda done: None)
    graph = replace(raw, score=tuple(np.full(len(s), score) for s in raw.score), sigma=tuple(np.ones(len(s)) for s in raw.sigma))
    if unlinked is not None:
        graph = graph.keep([np.full(len(link), unlinked not in p) for p, link in zip(graph.pairs, graph.links, strict=True)])
    grey = [v.image.load().mean(-1) for v in known.capture.views]
    return Scene(graph, build_tracks(graph), (WIDTH, HEIGHT), np.zeros(n, dtype=int), 1.0, 0, grey)


def test_sure_links_beyond_chance_add_up(photos: KnownPhotos):
    sure, unsure = scene_of(photos, 0.9), scene_of(photos, SURE)
    n = len(sure.graph.links[sure.pair_index[(0, 1)]])
    expected = SURE_WEIGHT * (1 - CHANCE_SURE) * n
    assert pair_log_odds(sure, 0, 1) == pair_log_odds(sure, 1, 0) == pytest.approx(expected)
    assert pair_log_odds(unsure, 0, 1) == 0.0  # neither confident nor aligned: their number alone proves nothing
    half = np.arange(n) % 2 == 0
    assert pair_log_odds(sure, 0, 1, half) == pytest.approx(expected * half.sum() / n)
    assert pair_log_odds(scene_of(photos, 0.9, unlinked=0), 0, 1) == 0.0


def test_links_agree_with_the_true_cameras_from_either_side(photos: KnownPhotos):
    scene, rig = scene_of(photos, 0.9), true_rig(photos)
    assert agreeing(rig, scene, 0, 2).mean() > 0.99 and agreeing(rig, scene, 2, 0).mean() > 0.99
    turned = rig.with_pose(2, rotation_exp(np.array([[0.0, 0.0, 0.3]]))[0] @ rig.R[2], rig.t[2])
    assert agreeing(turned, scene, 0, 2).mean() < 0.5


def test_the_true_places_are_believed(photos: KnownPhotos):
    scene = scene_of(photos, 0.9)
    model = evaluate(true_rig(photos), scene.tracks)
    assert believed(model, scene) and all(log_odds(model, v, scene) > DOUBT for v in range(4))


def test_what_a_photo_shows_vouches_for_its_place_or_refutes_it(photos: KnownPhotos):
    """No link leads to photo 3: only the known points, looked up in it, can tell."""
    scene = scene_of(photos, 0.9, unlinked=3)
    rig = true_rig(photos)
    there = evaluate(rig, scene.tracks)
    # from the place of photo 0, turned upside down: the points are all in the picture, none where it shows them
    R = np.diag([-1.0, -1.0, 1.0]) @ rig.R[0]
    elsewhere = evaluate(rig.with_pose(3, R, np.diag([-1.0, -1.0, 1.0]) @ rig.t[0]), scene.tracks)
    right, wrong = witness(there, 3, scene.grey), witness(elsewhere, 3, scene.grey)
    assert right.asked >= 30 and right.alike > 0.2 * right.asked
    assert wrong.asked >= 30 and wrong.alike < 0.1 * wrong.asked
    assert not doubtful(there, 3, scene) and doubtful(elsewhere, 3, scene)
    assert log_odds(elsewhere, 3, scene) < -DOUBT


def test_matched_points_do_not_vouch_for_their_own_match(photos: KnownPhotos):
    """They look alike wherever the photo is put: that is why they were matched."""
    rig = true_rig(photos)
    linked, free = scene_of(photos, 0.9), scene_of(photos, 0.9, unlinked=3)
    asked = [witness(evaluate(rig, s.tracks), 3, s.grey).asked for s in (linked, free)]
    assert asked[0] < 0.2 * asked[1], asked


def test_points_are_asked_by_the_angle_others_see_them_from(photos: KnownPhotos):
    scene = scene_of(photos, 0.9, unlinked=3)
    model = evaluate(true_rig(photos), scene.tracks)
    near, far, all_of_them = (witness(model, 3, scene.grey, a, most=10**6) for a in ((0.0, 10.0), (10.0, 180.0), (0.0, 180.0)))
    assert near.asked > 20 and far.asked > 20 and near.asked + far.asked == all_of_them.asked
    assert near.alike + far.alike == all_of_them.alike
    assert witness(model, 3, scene.grey, (90.0, 120.0)).asked == 0, "the photos are ten degrees apart"


def test_padding_is_not_asked(photos: KnownPhotos):
    """A point that falls into the bar beside an upright photo cannot look alike there, wherever the photo was taken."""
    scene = scene_of(photos, 0.9, unlinked=3)
    model, grey = evaluate(true_rig(photos), scene.tracks), list(scene.grey)
    counts = torch.ones(HEIGHT, WIDTH)
    counts[:, : WIDTH // 2] = 0
    grey[3] = grey[3] * counts
    blind, told = witness(model, 3, grey, most=10**6), witness(model, 3, grey, most=10**6, counts=counts)
    assert 20 < told.asked < blind.asked and told.alike / told.asked > 1.5 * blind.alike / blind.asked


def test_without_pixels_nothing_is_doubted(photos: KnownPhotos):
    scene = scene_of(photos, 0.1, unlinked=3)
    scene.grey = ()
    assert believed(evaluate(true_rig(photos), scene.tracks), scene)


def test_tracks_that_only_twins_see_are_left_out():
    rng = np.random.default_rng(0)
    uv = rng.uniform(10, 600, (400, 2))
    every = np.stack([np.arange(400)] * 2, 1)
    one = np.ones(400)
    far = uv + [60.0, 5.0]
    graph = MatchGraph(
        (uv, uv + 0.5, far), (one, one, one), ((0, 1), (0, 2), (1, 2)), (every, every[:200], every[:200]), (one, one[:200], one[:200])
    )
    assert twins(graph, 640) == {(0, 1)}
    left = without_twins(build_tracks(graph), graph, 640)
    assert left.count == 200 and (np.bincount(left.view) == 200).all()
    # two photos close together have nothing else: everything stays
    alone = replace(graph, uv=graph.uv[:2], sigma=graph.sigma[:2], pairs=graph.pairs[:1], links=graph.links[:1], score=graph.score[:1])
    assert without_twins(build_tracks(alone), alone, 640).count == 400


def test_focal_lengths_stay_such_as_cameras_have(photos: KnownPhotos):
    scene = scene_of(photos, 0.9)
    model = evaluate(true_rig(photos), scene.tracks)
    assert sane(model, FocalPrior(np.full(4, photos.focal), 0.3))
    odd = FocalPrior(np.full(4, photos.focal * np.exp(1.2 * FARTHEST * 0.3)), 0.3)
    assert not sane(model, odd)
    assert steady_focal(model, scene, scene.tracks, odd).rig.focal[0] == model.rig.focal[0]  # ends, and leaves it where it was


def test_two_photos_of_one_thing_do_not_tell_their_focal_length(photos: KnownPhotos):
    """Two optical axes that cross leave it open (Sturm 2001); four photos do not, with keypoints good to half a pixel."""
    scene, rig = scene_of(photos, 0.9), true_rig(photos)
    scene.tracks = replace(scene.tracks, sigma=np.full_like(scene.tracks.sigma, 0.5))
    prior = FocalPrior(np.full(4, photos.focal), 0.5)
    pair = replace(rig, placed=np.array([True, True, False, False]))
    assert focal_is_loose(evaluate(pair, scene.tracks), scene, prior)
    assert not focal_is_loose(evaluate(rig, scene.tracks), scene, prior)


def test_matches_of_several_looks_count_once():
    uv = torch.tensor([[10.0, 10.0], [10.5, 10.0], [10.0, 10.4], [50.0, 50.0]])
    other = torch.tensor([[20.0, 20.0], [20.3, 20.0], [40.0, 20.0], [60.0, 60.0]])
    kept = _once(Matches(uv, other, torch.tensor([0.3, 0.8, 0.5, 0.2])), 2.0)
    assert kept.score.tolist() == pytest.approx([0.8, 0.5, 0.2])  # the second is the first again; the third leads elsewhere
    assert torch.equal(kept.uv0, uv[[1, 2, 3]])
