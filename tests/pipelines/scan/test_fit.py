"""How well photos and scans fit, against exact scans of made-up scenes: in place, off by known amounts, in a frame of their own, and of another scene."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from handful.data.synthetic import demo_capture
from handful.pipelines.init.registry import get_initializer
from handful.pipelines.scan.fit import fit_scans, place_scans
from handful.pipelines.scan.score import ScanScorer
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, Capture
from handful.recon.depth import DepthMap
from handful.recon.errors import CaptureError
from handful.recon.points import PointCloud
from handful.recon.se3 import Similarity, so3_exp
from handful.recon.sweeps import Sweep, world_returns
from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """Three photos with their true cameras, what the initialiser triangulates from them, and an exact scan from a fourth place."""

    capture: Capture
    points: PointCloud
    depth: float  # median, of what the scan shows

    @property
    def returns(self) -> Tensor:
        return world_returns(self.capture.sweeps)

    def displaced(self, similarity: Similarity) -> Capture:
        return replace(self.capture, sweeps=tuple(s.carried(similarity) for s in self.capture.sweeps))

    def off(self, fitted: Capture) -> float:
        """Largest distance of a return from its true place, in depths."""
        return float((world_returns(fitted.sweeps) - self.returns).norm(dim=-1).max()) / self.depth


def scan_of(camera: Cameras, depth: Tensor, step: int) -> Sweep:
    """Every `step`-th pixel's exact depth, as a scanner at the camera would give it."""
    camera = camera.to(dtype=torch.float64)
    xyz = camera.unproject_depth(depth.double()[None])[0][depth > 0][::step]
    local = (xyz - camera.centers[0]) @ camera.cam_from_world[0, :3, :3].T
    return Sweep(local, camera.world_from_cam[0])


def made(kind: str) -> Scene:
    demo = demo_capture(3, 1, 320, 240, kind=kind, supersample=1)
    depth = demo.held_out_truth.depth[0]
    capture = replace(demo.photos, cameras=demo.photo_cameras, sweeps=(scan_of(demo.held_out.cameras[0], depth, 5),))
    return Scene(capture, get_initializer("given").run(capture).points, float(depth[depth > 0].median()))


@pytest.fixture(scope="module")
def tabletop() -> Scene:
    return made("tabletop")


@pytest.fixture(scope="module")
def room() -> Scene:
    return made("room")


@pytest.fixture(params=["tabletop", "room"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return request.getfixturevalue(request.param)


def motion(scene: Scene, degrees: float = 0.0, shift: float = 0.0, scale: float = 1.0) -> Similarity:
    """Turned and scaled about the scan's middle, shifted by a share of the depth."""
    axis = torch.tensor([0.5, -0.6, 0.62], dtype=torch.float64)
    R = so3_exp(axis / axis.norm() * math.radians(degrees))
    way = torch.tensor([0.3, 0.8, -0.4], dtype=torch.float64)
    s, c = torch.tensor(scale, dtype=torch.float64), scene.returns.mean(0)
    return Similarity(s, R, c - s * (R @ c) + shift * scene.depth * way / way.norm())


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
    ("degrees", "shift", "scale"), [(0.0, 0.0, 1.0), (0.3, 0.01, 1.0), (2.0, 0.05, 1.0), (2.0, 0.05, 1.05), (4.0, 0.08, 1.1), (0.0, 0.0, 0.8)]
)
def test_a_scan_that_is_off_is_brought_into_place(scene: Scene, degrees: float, shift: float, scale: float) -> None:
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


def test_cameras_in_a_frame_of_their_own_are_brought_to_the_scan(tabletop: Scene) -> None:
    """As the initialiser leaves them: another place, other axes, another scale."""
    own = Similarity(torch.tensor(7.3).double(), so3_exp(torch.tensor([1.0, -2.0, 0.5]).double()), torch.tensor([30.0, -4.0, 12.0]).double())
    assert tabletop.capture.cameras is not None
    cameras = own.apply_to_cameras(tabletop.capture.cameras.to(dtype=torch.float64)).to(dtype=torch.float32)
    points = replace(tabletop.points, xyz=own.apply(tabletop.points.xyz.double()).float())
    fit = place_scans(replace(tabletop.capture, cameras=cameras), points)
    assert fit.report.verdict == "fits" and fit.report.moved == "cameras" and fit.capture.cameras is not None
    assert float(fit.report.similarity.scale) * 7.3 == pytest.approx(1.0, abs=0.005)
    off = (fit.capture.cameras.centers - tabletop.capture.cameras.centers).norm(dim=-1)
    assert float(off.max()) < 0.006 * tabletop.depth
    assert "The cameras were moved and scaled by 0.13" in fit.report.sentences()[1]


def test_a_search_that_finds_nothing_says_so(tabletop: Scene, room: Scene) -> None:
    wrong = replace(tabletop.capture, sweeps=room.capture.sweeps)
    told: list[float] = []
    fit = place_scans(wrong, tabletop.points, progress=lambda what, done: told.append(done))
    assert fit.report.verdict != "fits" and fit.report.moved is None and fit.capture is wrong
    assert "none led to a place where it fits" in fit.report.sentences()[1]
    assert told == sorted(told) and told[-1] == 1


def test_what_cannot_be_judged_is_refused(tabletop: Scene) -> None:
    with pytest.raises(CaptureError, match="no scan"):
        fit_scans(replace(tabletop.capture, sweeps=()), tabletop.points)
    with pytest.raises(CaptureError, match="cameras"):
        fit_scans(replace(tabletop.capture, cameras=None), tabletop.points)
