"""Before scans tell the photos their depth: do they fit? What nearly fits is brought in place; what does not fit has no say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...recon.capture import Capture
from ...recon.sweeps import Sweep
from ..init.protocol import InitState
from .depth import withheld
from .fit import FitReport, fit_scans, place_scans

__all__ = ["joined", "of_one_frame"]


def joined(
    init: InitState, given_cameras: bool, progress: Callable[[str, float], None] | None = None, wanted: bool = True
) -> tuple[InitState, tuple[str, ...]]:
    """The same with its scans where they fit best, and sentences for the user. Without scans, as it is. Beams that will judge the scene have no say.

    Cameras that were found from the photos alone have no metres and no frame of their own: they move into the scan's, or the scan is left out. With given
    cameras only a scan that does not fit at all is left out.

    Args:
        wanted: False = scans are to say nothing; they stay only where they stand in the cameras' world already.
    """
    if not init.capture.sweeps:
        return init, ()
    if not wanted:
        return (init if given_cameras else replace(init, capture=replace(init.capture, sweeps=()))), ()
    if given_cameras:
        aside: tuple[str, ...] = ()
        fit = fit_scans(_telling(init.capture), init.points, move="scan", progress=progress)
    else:
        sweeps, aside = of_one_frame(init.capture.sweeps)
        init = replace(init, capture=replace(init.capture, sweeps=sweeps))
        fit = place_scans(_telling(init.capture), init.points, move="cameras", progress=progress)
    report, points = fit.report, fit.points if fit.points is not None else init.points
    if report.verdict == "does not fit" or (not given_cameras and report.moved is None):
        left = "The scan is left out; `handful align` shows where it lies over the photos."
        return replace(init, capture=replace(init.capture, sweeps=())), (*aside, *report.sentences(), left)
    said = report.sentences() if report.moved is not None or report.verdict != "fits" else ()
    if report.moved is None:
        return replace(init, points=points), (*aside, *said)
    whole = tuple(_as_moved(s, told, fit.report) for s, told in zip(init.capture.sweeps, fit.capture.sweeps, strict=True))
    return replace(init, capture=replace(fit.capture, sweeps=whole), points=points), (*aside, *said)


def _telling(capture: Capture) -> Capture:
    return replace(capture, sweeps=tuple(withheld(s)[0] for s in capture.sweeps))


def _as_moved(sweep: Sweep, told: Sweep, report: FitReport) -> Sweep:
    """The whole scan where the part of it that told was moved."""
    return sweep.carried(report.similarity) if report.moved == "scan" else replace(sweep, world_from_sensor=told.world_from_sensor)


def of_one_frame(sweeps: Sequence[Sweep]) -> tuple[tuple[Sweep, ...], tuple[str, ...]]:
    """Those scans that are known to stand in one frame, and a sentence where some are not: several without a pose are each in their own scanner's."""
    if len(sweeps) < 2 or not all(s.unplaced for s in sweeps):
        return tuple(sweeps), ()
    said = (
        f"None of the {len(sweeps)} scans has a pose, so each stands in its own scanner's frame, and only {sweeps[0].name} is used; `handful align --odometry` finds "
        "their poses, and scans that are in one frame already can be merged into one file."
    )
    return (sweeps[0],), (said,)
