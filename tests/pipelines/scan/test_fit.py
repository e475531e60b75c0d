"""How well photos and scans fit, against exact scans of made-up scenes: in place, off by known amounts, in a frame of their own, and of another scene."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.pipelines.scan import fit as fit_module
from handful.pipelines.scan import search
from handful.pipelines.scan.fit import FitReport, fit_scans, place_scans
from handful.pipelines.scan.score import ScanScorer
from handful.recon.capture import ArrayImage
from handful.recon.depth import DepthMap
from handful.recon.errors import CaptureError
from handful.recon.points import PointCloud
from handful.recon.se3 import Similarity, so3_exp
from handful.recon.sweeps import world_returns
from torch import Tensor

from .scenes import Scene, motion

MAP = torch.tensor([3_451_000.0, 5_412_000.0, 0.0])  # map coordinates


def pushed(scene: Scene, share: float) -> Tensor:
    """The scan further from the photos, by a share of its depth."""
    assert scene.capture.cameras is not None
    return scene.returns + share * scene.depth * scene.capture.cameras.world_from_cam[1, :3, 2].double()


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.0, "fits"), (0.01, "fits"), (-0.01, "fits"), (0.05, "nearly fits"), (-0.05, "nearly fits"), (0.3, "does not fit"), (-0.3, "does not fit")],
)
def test_the_verdict_on_a_scan_that_is_off(scene: Scene, share: float, verdict: str) -> None:
    score = ScanScorer(scene.capture, scene.points).score(pushed(scene, share))
    assert score.verdict == verdict
    assert score.near is not None and score.offset is not None and score.covered > 0.8
    if abs(share) <= 0.05:  # the figures say how far: a push of the whole scan is less of the depth where things are further away
        assert score.offset == pytest.approx(-share, abs=0.35 * abs(share) + 0.001)
    if share == 0:
        assert score.near > 0.8 and score.contrast is not None and score.contrast < 0.5 and score.drift == 0


def test_colours_alone_know_the_place(scene: Scene) -> None:
    """Without triangulated points: a clear minimum in place, and the way back from beside it."""
    scorer = ScanScorer(scene.capture, None)
    assert scorer.score(scene.returns).verdict == "fits"
    for share in (0.05, -0.05, 0.3):
        score = scorer.score(pushed(scene, share))
        assert score.verdict == "cannot tell" and score.near is None
        if abs(share) < 0.1:
            assert score.drift is not None and score.drift * share < 0


def test_one_colour_tells_nothing(tabletop: Scene) -> None:
    grey = replace(tabletop.capture, views=tuple(replace(v, image=ArrayImage(torch.full((240, 320, 3), 0.5))) for v in tabletop.capture.views))
    score = ScanScorer(grey, None).score(tabletop.returns)
    assert score.colors is None and score.contrast is None and score.verdict == "cannot tell"


def test_a_scan_of_elsewhere_covers_nothing(tabletop: Scene) -> None:
    score = ScanScorer(tabletop.capture, tabletop.points).score(tabletop.returns + 1000)
    assert score.covered == 0 and score.near is None and score.verdict == "does not fit"


@pytest.mark.parametrize(
    ("kind", "degrees", "shift", "scale"),
    [
        ("tabletop", 0.0, 0.0, 1.0), ("tabletop", 0.3, 0.01, 1.0), ("tabletop", 2.0, 0.05, 1.05), ("tabletop", 0.0, 0.0, 0.8), ("room", 2.0, 0.05, 1.0),
        ("room", 4.0, 0.08, 1.1),
    ],
)  # fmt: skip
def test_a_scan_that_is_off_is_brought_into_place(kind: str, degrees: float, shift: float, scale: float, request: pytest.FixtureRequest) -> None:
    scene: Scene = request.getfixturevalue(kind)
    displaced = scene.displaced(motion(scene, degrees, shift, scale))
    fit = fit_scans(displaced, scene.points)
    assert fit.report.verdict == "fits" and scene.off(fit.capture) < 0.004
    assert fit.capture.cameras is displaced.cameras and fit.points is scene.points
    if scale == 1:  # where nothing speaks for a scale none is invented
        assert float(fit.report.similarity.scale) == pytest.approx(1.0, abs=1e-6)
    if shift == 0 and scale == 1:
        assert fit.report.moved is None and fit.capture is displaced
    moved = world_returns(fit.capture.sweeps)
    torch.testing.assert_close(moved, fit.report.similarity.apply(world_returns(displaced.sweeps)), atol=1e-5, rtol=1e-5)


def test_the_cameras_move_where_that_is_wanted(room: Scene) -> None:
    """Into the scan's frame and metres: with their points, their sensor depth, and the same pixels."""
    depth = tuple(DepthMap(torch.full((240, 320), 2.0), torch.ones(240, 320), torch.ones(240, 320, dtype=torch.bool)) for _ in room.capture.views)
    displaced = replace(room.displaced(motion(room, 2.0, 0.05, 1.1)), depth=depth)
    fit = fit_scans(displaced, room.points, move="cameras")
    assert fit.report.verdict == "fits" and fit.capture.sweeps is displaced.sweeps and fit.points is not None
    back = ScanScorer(fit.capture, fit.points).score(world_returns(fit.capture.sweeps))
    assert back.near is not None and back.near > 0.8
    assert displaced.cameras is not None and fit.capture.cameras is not None
    before, _ = displaced.cameras.project(room.points.xyz)
    after, _ = fit.capture.cameras.project(fit.points.xyz)
    torch.testing.assert_close(before, after, atol=0.02, rtol=1e-4)
    assert float(fit.report.similarity.scale) == pytest.approx(1.1, rel=0.005)
    sensor = fit.capture.depth[0]
    assert sensor is not None and float(sensor.depth[0, 0]) == pytest.approx(2 * float(fit.report.similarity.scale))


def test_nothing_is_moved_where_nothing_fits(tabletop: Scene, room: Scene) -> None:
    """Another scene's scan, or one that is asked to stay."""
    wrong = replace(tabletop.capture, sweeps=tuple(s.moved(motion(tabletop, 40, 0.3).matrix) for s in room.capture.sweeps))
    fit = fit_scans(wrong, tabletop.points)
    assert fit.report.verdict != "fits" and fit.report.moved is None and fit.capture is wrong
    near = tabletop.displaced(motion(tabletop, 2.0, 0.05))
    left = fit_scans(near, tabletop.points, refine=False)
    assert left.capture is near and left.report.verdict == "nearly fits"
    assert left.report.sentences()[0].startswith("The scan nearly fits (") and "% of the depth" in left.report.sentences()[0]


def of_their_own(scene: Scene) -> tuple[Similarity, Scene]:
    """As the initialiser leaves cameras: another place, other axes, another scale."""
    own = Similarity(torch.tensor(7.3).double(), so3_exp(torch.tensor([1.0, -2.0, 0.5]).double()), torch.tensor([30.0, -4.0, 12.0]).double())
    assert scene.capture.cameras is not None
    cameras = own.apply_to_cameras(scene.capture.cameras.to(dtype=torch.float64)).to(dtype=torch.float32)
    points = replace(scene.points, xyz=own.apply(scene.points.xyz.double()).float())
    return own, replace(scene, capture=replace(scene.capture, cameras=cameras), points=points)


def test_cameras_in_a_frame_of_their_own_are_brought_to_a_scan_of_a_map(tabletop: Scene) -> None:
    """The scan has coordinates of millions, which cameras cannot: both come near the origin, by whole thousands, and nothing is lost."""
    _, there = of_their_own(tabletop)
    far = torch.eye(4)
    far[:3, 3] = MAP
    fit = place_scans(replace(there.capture, sweeps=tuple(s.moved(far) for s in there.capture.sweeps)), there.points)
    assert fit.report.verdict == "fits" and fit.report.moved == "cameras" and fit.capture.cameras is not None
    assert fit.report.shift == tuple((-MAP).tolist())
    assert float(fit.report.similarity.scale) * 7.3 == pytest.approx(1.0, abs=0.005)
    assert tabletop.capture.cameras is not None
    off = (fit.capture.cameras.centers - tabletop.capture.cameras.centers).norm(dim=-1)
    assert float(off.max()) < 0.006 * tabletop.depth
    assert tabletop.off(fit.capture) < 1e-3  # a pose in float32 holds millions to a quarter of a unit
    moved, shifted = fit.report.sentences()[1:]
    assert "The cameras were moved and scaled by 0.13" in moved and "(-3451000, -5412000, 0) was added" in shifted


def test_a_scan_of_a_map_is_brought_to_the_cameras(tabletop: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the report says maps the scan as it was given; the photos' frame needs no shift. The start is given, to be quick."""
    own, there = of_their_own(tabletop)
    far = torch.eye(4)
    far[:3, 3] = MAP
    away = replace(there.capture, sweeps=tuple(s.moved(far) for s in there.capture.sweeps))
    near = motion(tabletop, 1.0, 0.02).matrix @ own.inverse().matrix

    class Start:
        transform = near

    monkeypatch.setattr(fit_module, "rough_places", lambda points, returns, tell: [Start])
    fit = place_scans(away, there.points, move="scan")
    assert fit.report.verdict == "fits" and fit.report.moved == "scan" and not any(fit.report.shift)
    now = world_returns(fit.capture.sweeps)
    assert float((now - own.apply(tabletop.returns)).norm(dim=-1).max()) < 0.01 * 7.3 * tabletop.depth
    torch.testing.assert_close(fit.report.similarity.apply(world_returns(away.sweeps)), now, atol=1e-2, rtol=0)


def test_with_too_little_to_look_by_nothing_is_moved(tabletop: Scene) -> None:
    _, there = of_their_own(tabletop)
    for points, step in ((5, 1), (0, 1), (2000, 2000)):
        few = PointCloud(there.points.xyz[:points])
        thin = replace(there.capture, sweeps=tuple(s.kept(torch.arange(0, len(s), step)) for s in there.capture.sweeps))
        fit = place_scans(thin, few)
        assert fit.report.moved is None and fit.report.tried == 0 and fit.capture is thin
        assert "too few points" in fit.report.sentences()[1]


def test_what_lies_in_place_is_not_refined(tabletop: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(fit_module, "align_clouds", lambda *a, **k: asked.append(1))
    told: list[float] = []
    assert fit_scans(tabletop.capture, tabletop.points, progress=lambda what, done: told.append(done)).report.verdict == "fits" and not asked
    assert told == sorted(told) and told[-1] == 1
    with pytest.raises(AttributeError):  # and what does not is
        fit_scans(tabletop.displaced(motion(tabletop, 0.0, 0.05)), tabletop.points)
    assert asked


def test_a_scan_to_aim_at_is_never_too_large(tabletop: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thinned evenly in space first, and then by number; what no photo looks at is left out."""
    assert tabletop.capture.cameras is not None
    cameras = tabletop.capture.cameras.to(dtype=torch.float64)
    behind = cameras.centers.mean(0) - 2 * tabletop.depth * cameras.world_from_cam[1, :3, 2]
    both = torch.cat([tabletop.returns, behind.expand(500, 3)])
    whole = fit_module._around(cameras, both)
    assert 0 < len(whole) <= len(tabletop.returns)
    monkeypatch.setattr(fit_module, "TARGET", 1000)
    thin = fit_module._around(cameras, both)
    assert 300 < len(thin) <= 1000
    assert float((thin - behind).norm(dim=-1).min()) > 0.5 * tabletop.depth


def test_a_search_that_finds_nothing_says_so(tabletop: Scene, room: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCALES", (1.0,))  # quick: of one size
    monkeypatch.setattr(search, "KEPT", 4)
    wrong = replace(tabletop.capture, sweeps=room.capture.sweeps)
    told: list[float] = []
    fit = place_scans(wrong, tabletop.points, progress=lambda what, done: told.append(done))
    assert fit.report.verdict != "fits" and fit.report.moved is None and fit.capture is wrong
    assert "none led to a place where it fits" in fit.report.sentences()[1]
    assert told == sorted(told) and told[-1] == 1


def test_even_parts_of_very_many_returns() -> None:
    """float32 cannot count them: the last would lie behind the end."""
    many = torch.zeros(1, 3).expand(17_000_004, 3)
    assert search._even(many, 5).shape == (5, 3) and search._even(many[:3], 5).shape == (3, 3)


def test_what_is_said_of_open_motions_and_of_scatter(tabletop: Scene) -> None:
    """A place that was searched for is a guess in them; and errors of both signs do not hide each other."""
    score = replace(ScanScorer(tabletop.capture, tabletop.points).score(tabletop.returns), apart=0.034, offset=0.0)
    same = fit_scans(tabletop.capture, tabletop.points, refine=False).report.similarity
    placed, fitted = FitReport(None, score, "cameras", same, 2, 120), FitReport(score, score, "scan", same, 1)
    assert placed.sentences()[-1].endswith("leave 2 motions open (along a wall or a corridor, round a ball); in that its place is a guess.")
    assert fitted.sentences()[-1].endswith("in that nothing was moved.") and "off by 3.4 % of the depth" in fitted.sentences()[0]


def test_what_cannot_be_judged_is_refused(tabletop: Scene) -> None:
    with pytest.raises(CaptureError, match="no scan"):
        fit_scans(replace(tabletop.capture, sweeps=()), tabletop.points)
    with pytest.raises(CaptureError, match="cameras"):
        fit_scans(replace(tabletop.capture, cameras=None), tabletop.points)
