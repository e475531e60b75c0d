"""The initialiser as a whole on photos whose cameras are known, with matches that are true, noisy or partly wrong.

Bounds are about twice what was measured. Errors are after alignment by a similarity: degrees, percent of the largest distance between two cameras, and
percent of the focal length. Two photos without EXIF hardly determine the focal length; from three on the photos do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from handful.pipelines.init import from_matches, search
from handful.pipelines.init.from_capture import FromCapture, FromCaptureConfig
from handful.pipelines.init.from_matches import FromMatches, FromMatchesConfig
from handful.pipelines.init.gauge import MEDIAN_DEPTH
from handful.pipelines.init.model import evaluate
from handful.pipelines.init.pairing import PairingOptions
from handful.pipelines.init.protocol import InitState
from handful.pipelines.init.registry import get_initializer
from handful.pipelines.poses import pose_errors
from handful.priors.oracle import OracleMatches
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.errors import CaptureError
from handful.recon.matches import Matches

from .captures import KnownPhotos, known_photos

PICK = {2: (1, 3), 3: (1, 2, 3), 5: (0, 1, 2, 3, 4)}


@pytest.fixture(scope="module")
def photos() -> KnownPhotos:
    """Five photos of an object, 12 degrees apart."""
    return known_photos([-24.0, -12.0, 0.0, 12.0, 24.0])


def place(capture: Capture, matcher: object, sharpen: bool = False, seed: int = 0) -> InitState:
    """Keypoints of an oracle are exact already: aligning small pictures would only move them."""
    return FromMatches(FromMatchesConfig(pairing=PairingOptions(sharpen=sharpen)), [matcher]).run(capture, seed)


def errors(state: InitState, known: KnownPhotos) -> tuple[float, float, float]:
    """Largest rotation (degrees), centre and focal error (percent) over the placed photos."""
    assert state.capture.cameras is not None
    at = [known.capture.names.index(n) for n in state.capture.names]
    e = pose_errors(state.capture.cameras, known.cameras[at])
    return float(e.rotation_deg.max()), float(e.center.max()), float(e.focal.abs().max())


# ---- true matches ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [2, 3, 5])
def test_true_matches_and_exif(photos, views):
    known = photos.of(*PICK[views])
    state = place(known.told(), known.points(30))
    assert state.report.registered == state.report.photos == views and state.report.focal_source == "exif" and not state.report.unplaced
    e = errors(state, known)
    assert e[0] < 0.02 and e[1] < 0.02 and e[2] < 0.1, e
    assert state.report.reprojection_px < 0.01


@pytest.mark.parametrize("views,turn,center,focal", [(2, 4.0, 1.5, 30.0), (3, 0.5, 0.3, 5.0), (5, 0.2, 0.1, 1.5)])
def test_true_matches_without_exif(photos, views, turn, center, focal):
    known = photos.of(*PICK[views])
    state = place(known.capture, known.points(30))
    assert state.report.registered == views and state.report.focal_source == "estimated"
    e = errors(state, known)
    assert e[0] < turn and e[1] < center and e[2] < focal, e
    assert state.report.reprojection_px < 0.05


def test_exif_that_is_a_little_off_does_little_harm(photos):
    known = photos.of(*PICK[3])
    e = errors(place(known.told(1.05), known.points(50)), known)
    assert e[0] < 1.0 and e[1] < 0.5 and e[2] < 5.5, e


def test_matches_of_random_pixels(photos):
    """Each pair with keypoints of its own: hardly a point is seen by three photos."""
    known = photos.of(*PICK[3])
    matcher = OracleMatches(known.capture.names, known.truth.depth, cameras=known.cameras, count=150, noise=0.2)
    state = place(known.told(), matcher)
    assert state.report.registered == 3
    e = errors(state, known)
    assert e[0] < 0.6 and e[1] < 2.0 and e[2] < 3.0, e


# ---- noise and wrong matches ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views,turn,center", [(2, 1.5, 5.0), (3, 1.0, 3.0), (5, 1.0, 1.5)])
def test_a_third_of_the_matches_wrong(photos, views, turn, center):
    known = photos.of(*PICK[views])
    state = place(known.told(), known.points(30 if views == 5 else 50, noise=0.3, outliers=0.3))
    assert state.report.registered == views
    e = errors(state, known)
    assert e[0] < turn and e[1] < center and e[2] < 4.0, e
    assert 0.1 < state.report.reprojection_px < 0.5


@pytest.mark.parametrize("views,turn,center,focal", [(3, 1.5, 3.0, 10.0), pytest.param(5, 0.7, 1.5, 5.0, marks=pytest.mark.slow)])
def test_a_third_wrong_and_no_exif(photos, views, turn, center, focal):
    known = photos.of(*PICK[views])
    state = place(known.capture, known.points(50, noise=0.3, outliers=0.3))
    assert state.report.registered == views
    e = errors(state, known)
    assert e[0] < turn and e[1] < center and e[2] < focal, e


def test_coarse_keypoints_are_sharpened(photos):
    known = photos.of(*PICK[2])
    matcher = known.points(80, noise=1.0)
    coarse, sharp = (errors(place(known.told(), matcher, sharpen=s), known) for s in (False, True))
    assert sharp[0] < 0.6 * coarse[0] and sharp[0] < 0.7 and sharp[1] < 2.0, (coarse, sharp)


# ---- what is handed on ------------------------------------------------------------------------------------------------------------------------


def test_the_world_and_the_points(photos):
    known = photos.of(*PICK[3])
    state = place(known.told(), known.points(50))
    cameras = state.capture.cameras
    assert cameras is not None and (cameras.width, cameras.height) == known.capture.views[0].image.size
    down = cameras.cam_from_world[:, 1, :3].mean(0)
    assert float(down[1] / down.norm()) > 0.9999  # upright
    _, z = cameras.project(state.points.xyz)
    assert float(z.median()) == pytest.approx(MEDIAN_DEPTH, rel=0.03)
    assert len(state.points) == state.report.points > 100
    assert state.points.rgb is not None and state.points.rgb.shape == (len(state.points), 3)
    # every point lies on the true surface: depths agree up to one scale
    given = known.truth.depth[1]
    uv, z = (x[0] for x in cameras[1].project(state.points.xyz))
    iu, iv = uv.floor().long().unbind(-1)
    inside = (iu >= 0) & (iu < given.shape[1]) & (iv >= 0) & (iv < given.shape[0])
    there = given[iv.clamp(0, given.shape[0] - 1), iu.clamp(0, given.shape[1] - 1)]
    ratio = (z / there)[inside & (there > 0)]
    assert float(((ratio / ratio.median() - 1).abs() < 0.01).float().mean()) > 0.8
    truth = torch.cdist(known.cameras.centers, known.cameras.centers).max() / given[given > 0].median()
    assert state.report.baseline == pytest.approx(float(truth), rel=0.15)


def test_the_same_photos_and_seed_give_the_same_cameras(photos):
    known = photos.of(*PICK[2])
    a, b = (place(known.told(), known.points(50, noise=0.3, outliers=0.3), seed=4) for _ in range(2))
    assert torch.equal(a.capture.cameras.cam_from_world, b.capture.cameras.cam_from_world) and torch.equal(a.points.xyz, b.points.xyz)


# ---- photos that find no place ------------------------------------------------------------------------------------------------------------------


class Blind:
    """A matcher that finds nothing in one photo; `counts` = whether it tells how many keypoints it has there."""

    def __init__(self, inner: object, blind: str, counts: dict[str, int] | None = None) -> None:
        self.inner, self.blind = inner, blind
        if counts is not None:
            self.keypoints = lambda view: counts.get(view.name, 500)

    def predict(self, views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[Matches]:
        nothing = Matches(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
        return [nothing if self.blind in (views[i].name, views[j].name) else self.inner.predict(views, [(i, j)])[0] for i, j in pairs]  # type: ignore[attr-defined]


@pytest.mark.parametrize("counts,reason", [({}, "it shows nothing that the placed photos show"), ({"photo_2.png": 7}, "too little texture (7 distinct points)")])
def test_a_photo_without_matches_is_named_with_the_reason(photos, counts, reason):
    known = photos.of(*PICK[3])
    state = place(known.told(), Blind(known.points(60), "photo_2.png", counts))
    assert state.report.registered == 2 and state.report.photos == 3
    assert state.capture.names == ("photo_1.png", "photo_3.png") and len(state.capture.cameras) == 2
    assert [u.name for u in state.report.unplaced] == ["photo_2.png"] and reason in state.report.unplaced[0].reason
    assert state.capture.unplaced == state.report.unplaced
    e = errors(state, known)
    assert e[0] < 0.2, e


def test_a_photo_that_comes_into_doubt_last_is_left_out_and_the_rest_goes_on(photos, monkeypatch):
    """Links found on the second look, or the steadied focal length, may speak against a place that the search had believed."""
    known = photos.of(*PICK[3])
    real, doubted = search.prune, []

    def without_the_last(model, scene, tracks, options):
        doubted.append(True)
        placed = model.rig.placed.copy()
        placed[2] = False
        return evaluate(replace(model.rig, placed=placed), tracks)

    monkeypatch.setattr(from_matches, "prune", without_the_last)
    monkeypatch.setattr(from_matches, "believed", lambda model, scene: model.placed < 3)
    state = place(known.told(), known.points(60))
    assert doubted and state.report.registered == 2 and [u.name for u in state.report.unplaced] == ["photo_3.png"]
    assert "do not agree on one place for it" in state.report.unplaced[0].reason, "it shares many points: too few would be untrue"
    monkeypatch.setattr(from_matches, "prune", real)
    monkeypatch.setattr(from_matches, "believed", lambda model, scene: False)
    with pytest.raises(CaptureError, match="cannot be told with any certainty"):
        place(known.told(), known.points(60))


def test_given_cameras_at_one_point_are_refused(photos):
    cameras = photos.cameras
    T = cameras.cam_from_world.clone()
    T[:, :3, 3] = 0
    capture = replace(photos.capture, cameras=replace(cameras, cam_from_world=T))
    with pytest.raises(CaptureError, match="All 5 given cameras stand at one point"):
        FromCapture(FromCaptureConfig(), [photos.points()]).run(capture)


def test_given_cameras_that_no_match_vouches_for(photos):
    """Photos a quarter turn apart share nothing: what asks for no points takes the cameras as they are."""
    nothing = [photos.points(count=0)]
    given = replace(photos.capture, cameras=photos.cameras)
    with pytest.raises(CaptureError, match="Nothing in the 5 photos fits the given cameras"):
        FromCapture(FromCaptureConfig(), nothing).run(given)
    state = FromCapture(FromCaptureConfig(needs_points=False), nothing).run(given)
    assert len(state.points) == 0 and state.report.reprojection_px is None and state.capture is given
    made = get_initializer("auto", None, given, points=False)
    assert isinstance(made, FromCapture) and not made.config.needs_points


def test_the_same_picture_twice_is_named(photos):
    known = photos.of(1, 3, 3)
    views = (*known.capture.views[:2], replace(known.capture.views[2], name="again.png"))
    known = replace(known, capture=replace(known.capture, views=views))
    state = place(known.told(), known.points(60))
    assert [(u.name, u.reason) for u in state.report.unplaced] == [("again.png", "it is the same picture as photo_3.png")]
    assert state.report.registered == 2


def test_photos_taken_from_one_spot_are_refused(photos):
    """Turning the camera moves pixels like a homography: nothing tells where anything is."""
    rng = torch.Generator().manual_seed(0)
    uv0 = torch.rand(200, 2, generator=rng) * torch.tensor([120.0, 130.0]) + 10
    x = (uv0 - torch.tensor([100.0, 75.0])) / 220
    a = torch.tensor(0.15)
    bent = torch.stack([x[:, 0] * a.cos() + a.sin(), x[:, 1]], 1) / (a.cos() - x[:, :1] * a.sin())
    turned = Matches(uv0, 220 * bent + torch.tensor([100.0, 75.0]), torch.ones(200))

    class Turned:
        def predict(self, views, pairs):
            return [turned for _ in pairs]

    grey = ArrayImage(torch.full((150, 200, 3), 0.5))
    capture = Capture((View("left.png", grey, 220.0), View("right.png", grey, 220.0)))
    with pytest.raises(CaptureError, match=r"left\.png and right\.png share \d+ points.*from one spot.*focal length in their EXIF"):
        place(capture, Turned())
