"""What the initialiser makes of EXIF, of the same picture twice, and of photos that cannot be placed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handful.pipelines.init.from_matches import FromMatches, FromMatchesConfig
from handful.pipelines.init.pairing import duplicates
from handful.pipelines.init.tracks import MatchGraph
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.errors import CaptureError
from handful.recon.matches import Matches


def capture(*focals: float | None, size: tuple[int, int] = (400, 300)) -> Capture:
    grey = torch.full((size[1], size[0], 3), 0.5)
    return Capture(tuple(View(f"{n}.jpg", ArrayImage(grey), f) for n, f in enumerate(focals)))


def prior(*focals: float | None, **more):
    return FromMatches(FromMatchesConfig(matchers=()), [])._focal_prior(capture(*focals, **more))


# ---- focal lengths --------------------------------------------------------------------------------------------------------------------------


def test_without_exif_the_longer_side_tells():
    c = FromMatchesConfig()
    for size in ((400, 300), (300, 400)):
        p, camera_of, source = prior(None, None, None, size=size)
        np.testing.assert_allclose(p.mean, c.focal_guess * 400)
        assert p.spread == c.focal_spread and source == "estimated" and (camera_of == 0).all()


def test_exif_of_one_camera():
    p, camera_of, source = prior(510.0, 510.0, 510.0)
    np.testing.assert_allclose(p.mean, 510)
    assert (camera_of == 0).all() and source == "exif" and p.spread == FromMatchesConfig().exif_spread


def test_two_cameras_are_kept_apart_and_numbered():
    p, camera_of, _ = prior(500.0, 800.0, 500.0, 800.0)
    np.testing.assert_allclose(p.mean, [500, 800, 500, 800])
    assert camera_of[0] == camera_of[2] != camera_of[1] == camera_of[3] and set(camera_of) == {0, 1}


@pytest.mark.parametrize("focal", np.geomspace(300, 330, 13))
def test_nearly_equal_focal_lengths_are_one_camera_wherever_they_lie(focal):
    p, camera_of, _ = prior(float(focal), float(focal) * 1.01, float(focal) * 0.995)
    assert (camera_of == 0).all()
    np.testing.assert_allclose(p.mean, focal * (1.01 * 0.995) ** (1 / 3))


def test_a_zoom_ring_turned_slowly_is_not_one_camera():
    _, camera_of, _ = prior(*(500.0 * 1.02**k for k in range(8)))
    focal = 500 * 1.02 ** np.arange(8)
    for c in np.unique(camera_of):
        assert np.ptp(np.log(focal[camera_of == c])) <= 0.0301
    assert len(np.unique(camera_of)) >= 3


def test_a_photo_without_exif_is_taken_for_the_middle_one():
    p, camera_of, source = prior(500.0, None, 505.0, 0.0)
    assert source == "exif" and (camera_of == 0).all()
    np.testing.assert_allclose(p.mean, 502.5, rtol=1e-3)


def test_one_photo_with_exif_among_many_does_not_decide():
    p, _, source = prior(900.0, None, None, None)
    assert source == "estimated"
    np.testing.assert_allclose(p.mean, FromMatchesConfig().focal_guess * 400)


# ---- the same picture twice -----------------------------------------------------------------------------------------------------------------


def raw(moves: dict[tuple[int, int], np.ndarray]) -> MatchGraph:
    """Per pair, how far each match moves; every match has keypoints of its own."""
    views = 1 + max(j for _, j in moves)
    rng = np.random.default_rng(0)
    uv: list[list[np.ndarray]] = [[np.zeros((0, 2))] for _ in range(views)]
    links = []
    for (i, j), d in moves.items():
        at = rng.uniform(20, 380, (len(d), 2))
        n = [sum(len(x) for x in uv[v]) for v in (i, j)]
        uv[i].append(at)
        uv[j].append(at + np.stack([d, 0 * d], 1))
        links.append(np.stack([n[0] + np.arange(len(d)), n[1] + np.arange(len(d))], 1))
    each = tuple(np.concatenate(u) for u in uv)
    return MatchGraph(each, tuple(np.ones(len(u)) for u in each), tuple(moves), tuple(links), tuple(np.ones(len(x)) for x in links))


STILL, MOVING = np.full(60, 0.2), np.full(60, 5.0)


def test_what_stays_in_place_is_the_same_picture():
    assert duplicates(raw({(0, 1): STILL, (0, 2): MOVING, (1, 2): MOVING})) == {1: 0}
    assert duplicates(raw({(0, 1): MOVING})) == {}


def test_three_times_the_same_picture_names_the_first():
    assert duplicates(raw({(0, 1): STILL, (0, 2): STILL, (1, 2): STILL})) == {1: 0, 2: 0}
    assert duplicates(raw({(0, 1): STILL, (1, 2): STILL})) == {1: 0, 2: 0}


def test_some_wrong_matches_do_not_hide_it_and_some_still_ones_do_not_make_it():
    mixed = np.concatenate([np.full(85, 0.1), np.full(15, 40.0)])
    assert duplicates(raw({(0, 1): mixed})) == {1: 0}
    far_away = np.concatenate([np.full(60, 0.1), np.full(40, 6.0)])  # a distant background hardly moves
    assert duplicates(raw({(0, 1): far_away})) == {}


def test_few_matches_prove_nothing():
    assert duplicates(raw({(0, 1): STILL[:20]})) == {}


# ---- what it says -----------------------------------------------------------------------------------------------------------------------------


class Fixed:
    """A matcher that gives the same answer for every pair."""

    def __init__(self, keypoints: int, answer: Matches) -> None:
        self.count, self.answer = keypoints, answer

    def keypoints(self, view: View) -> int:
        return self.count

    def predict(self, views, pairs):
        return [self.answer for _ in pairs]


def still(count: int) -> Matches:
    uv = 20 + 260 * torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    return Matches(uv, uv + 0.05, torch.ones(count))


NOTHING = Matches(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))


def run(matcher: Fixed, *focals: float | None):
    return FromMatches(matchers=[matcher]).run(capture(*focals))


def test_one_photo_alone():
    with pytest.raises(CaptureError, match="One photo alone"):
        run(Fixed(500, NOTHING), None)


def test_photos_without_texture():
    with pytest.raises(CaptureError, match=r"too little texture.*0\.jpg has 12 distinct points"):
        run(Fixed(12, NOTHING), None, None, None)


def test_photos_that_do_not_overlap():
    with pytest.raises(CaptureError, match="3 photos do not overlap"):
        run(Fixed(500, NOTHING), None, None, None)


def test_all_the_same_picture():
    with pytest.raises(CaptureError, match=r"All 3 photos show the same view \(0\.jpg and 1\.jpg"):
        run(Fixed(500, still(200)), 400.0, 400.0, 400.0)
