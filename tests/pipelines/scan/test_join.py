"""What becomes of scans before they have a say: those that fit stay, those that nearly do are moved, strangers are left out with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.pipelines import job
from handful.pipelines.events import Event, StageProgress
from handful.pipelines.init.protocol import CameraReport, InitState
from handful.pipelines.methods.config import SplatConfig
from handful.pipelines.protocol import Start
from handful.pipelines.scan import join
from handful.pipelines.scan.fit import FitReport, ScanFit, fit_scans
from handful.pipelines.scan.join import joined, of_one_frame
from handful.recon.capture import Capture
from handful.recon.points import PointCloud
from handful.recon.sweeps import Sweep

from .scenes import Scene, motion


def state(scene: Scene, capture: Capture) -> InitState:
    return InitState(capture, scene.points, CameraReport("given", 3, 3, 0.5, 300.0, "given", 0.2, len(scene.points)))


def test_without_scans_nothing_is_said(tabletop: Scene) -> None:
    init = state(tabletop, replace(tabletop.capture, sweeps=()))
    assert joined(init, True) == (init, ())


def test_a_scan_that_fits_is_taken_in_silence(tabletop: Scene) -> None:
    init, said = joined(state(tabletop, tabletop.capture), given_cameras=True)
    assert said == () and init.capture is tabletop.capture


def test_a_misplaced_scan_is_moved_and_the_user_told(tabletop: Scene) -> None:
    away, told = tabletop.displaced(motion(tabletop, 2.0, 0.05)), []
    init, said = joined(state(tabletop, away), given_cameras=True, progress=lambda what, done: told.append(done))
    assert tabletop.off(init.capture) < 0.004 < tabletop.off(away) and init.capture.cameras is away.cameras
    assert said[0].startswith("The scan fits (") and "The scan was moved; as it came, it nearly fits (" in said[1]
    assert told == sorted(told) and told[-1] == 1


def test_a_scan_of_elsewhere_is_left_out(tabletop: Scene) -> None:
    init, said = joined(state(tabletop, tabletop.displaced(motion(tabletop, 0.0, 100.0))), given_cameras=True)
    assert init.capture.sweeps == () and init.points is tabletop.points
    assert said[0].startswith("The scan does not fit (") and said[-1].startswith("The scan is left out;")


def test_found_cameras_move_or_the_scan_is_left_out(tabletop: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the search does is tested with it; here what is made of its answer, also where the verdict leaves the matter open."""
    away = tabletop.displaced(motion(tabletop, 2.0, 0.05))
    moved = fit_scans(away, tabletop.points, move="cameras")
    assert moved.report.moved == "cameras"
    seen: list[Capture] = []

    def answer(fit: ScanFit):
        def place(capture: Capture, points: PointCloud, *, move: str, progress: object) -> ScanFit:
            assert move == "cameras"
            seen.append(capture)
            return fit

        return place

    monkeypatch.setattr(join, "place_scans", answer(moved))
    init, said = joined(state(tabletop, away), given_cameras=False)
    assert init.capture.cameras is moved.capture.cameras and init.points is moved.points
    assert len(init.capture.sweeps[0]) == len(away.sweeps[0]) > len(seen[-1].sweeps[0])  # all of the scan is kept; what judges had no say
    assert "The cameras were moved" in said[1]
    score = moved.report.after
    open_ = FitReport(None, replace(score, near=None, wide=None, beside=None, apart=None, colors=None, covered=0.5), None, moved.report.similarity, 0, 120)
    assert open_.verdict == "cannot tell"
    monkeypatch.setattr(join, "place_scans", answer(ScanFit(open_, away, tabletop.points)))
    init, said = joined(state(tabletop, away), given_cameras=False)
    assert init.capture.sweeps == () and "none led to a place where it fits" in said[1] and said[-1].startswith("The scan is left out;")
    heap = tuple(Sweep(s.xyz, torch.eye(4), f"{k}.bin") for k, s in enumerate(away.sweeps * 3))
    _, said = joined(state(tabletop, replace(away, sweeps=heap)), given_cameras=False)
    assert [s.name for s in seen[-1].sweeps] == ["0.bin"] and "only 0.bin is used; `handful align --odometry`" in said[0]


def test_scans_with_poses_are_of_one_frame() -> None:
    here, there = torch.eye(4), torch.eye(4)
    there[0, 3] = 1.0
    both = (Sweep(torch.rand(3, 3), here, "a"), Sweep(torch.rand(3, 3), there, "b"))
    assert of_one_frame(both) == (both, ()) and of_one_frame(both[:1]) == (both[:1], ())
    assert of_one_frame((both[0], both[0]))[0] == both[:1]


@pytest.mark.parametrize(("given", "kept"), [(True, 1), (False, 0)])
def test_scans_that_are_not_wanted(given: bool, kept: int, tabletop: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed; beside found cameras they stand nowhere, and are dropped."""
    monkeypatch.setattr(join, "fit_scans", None)
    monkeypatch.setattr(join, "place_scans", None)
    init, said = joined(state(tabletop, tabletop.capture), given, wanted=False)
    assert said == () and len(init.capture.sweeps) == kept


@pytest.mark.parametrize(("scan", "given"), [(True, True), (False, True), (False, False)])
def test_the_job_hands_on_whether_scans_count_and_how_far_the_fit_is(scan: bool, given: bool, tabletop: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = job.Reconstruction(job.ReconstructJob(tmp_path, tmp_path / "out", config=SplatConfig(scan=scan)))
    loaded = tabletop.capture if given else replace(tabletop.capture, cameras=None)
    asked: list[tuple[bool, bool]] = []

    class Known:
        def run(self, capture: Capture, seed: int, progress: object) -> InitState:
            return state(tabletop, tabletop.capture)

    def fit(init: InitState, given_cameras: bool, progress: Callable[[str, float], None], wanted: bool) -> tuple[InitState, tuple[str, ...]]:
        asked.append((given_cameras, wanted))
        progress("looking for the scan", 0.5)
        return init, ("It was moved.",)

    monkeypatch.setattr(job, "require_priors", lambda *a: None)
    monkeypatch.setattr(job, "get_initializer", lambda *a, **k: Known())
    monkeypatch.setattr(job, "joined", fit)
    monkeypatch.setattr(job, "measure", lambda init, *a: Start(init, ()))
    events: list[Event] = []
    stage = work._start(loaded, None)
    while True:
        try:
            events.append(next(stage))
        except StopIteration as end:
            start: Start = end.value
            break
    assert asked == [(given, scan)] and start.notes == ("It was moved.",)
    assert StageProgress("looking for the scan", 0.5) in events
