"""Before scans tell the photos their depth: do they fit? What nearly fits is brought in place; what does not fit has no say."""

from __future__ import annotations

from dataclasses import replace

from ..init.protocol import InitState
from .fit import fit_scans, place_scans

__all__ = ["joined"]


def joined(init: InitState, given_cameras: bool) -> tuple[InitState, tuple[str, ...]]:
    """The same with its scans where they fit best, and sentences for the user. Without scans, as it is.

    Cameras that were found from the photos alone have no metres and no frame of their own: they move into the scan's.
    """
    if not init.capture.sweeps:
        return init, ()
    if given_cameras:
        fit = fit_scans(init.capture, init.points, move="scan")
    else:
        fit = place_scans(init.capture, init.points, move="cameras")
    report, points = fit.report, fit.points if fit.points is not None else init.points
    if report.verdict == "does not fit":
        left = "The scan is left out; `handful align` shows where it lies over the photos."
        return replace(init, capture=replace(init.capture, sweeps=())), (*report.sentences(), left)
    said = report.sentences() if report.moved is not None or report.verdict != "fits" else ()
    return replace(init, capture=fit.capture, points=points), said
