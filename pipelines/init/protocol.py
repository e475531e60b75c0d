"""What an initialiser returns: cameras for the photos it could place, first points, and an honest report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from ...recon.capture import Capture, Unplaced
from ...recon.points import PointCloud

__all__ = ["CameraReport", "InitState", "Initializer", "Progress"]

Progress = Callable[[str, float], None]  # (what is being done, share done in [0, 1])


@dataclass(frozen=True)
class CameraReport:
    """How the cameras came about.

    Attributes:
        method: "given" or the matcher and mapper used.
        registered, photos: placed photos of all photos.
        reprojection_px: mean reprojection error of the triangulated points, pixels; None where no match agrees with the cameras.
        focal_px: mean focal length, pixels of the capture's images; focal_source: "given", "exif", "estimated".
        focal_loose: one 1.4 times as long or short would explain the photos as well; the scene may be stretched in depth.
        baseline: largest distance between two camera centres divided by the median depth of the points; None without any.
        points: number of triangulated points.
        unplaced: photos left out, each with a reason.
    """

    method: str
    registered: int
    photos: int
    reprojection_px: float | None
    focal_px: float
    focal_source: str
    baseline: float | None
    points: int
    unplaced: tuple[Unplaced, ...] = ()
    focal_loose: bool = False

    def warnings(self, said: Iterable[str] = ()) -> tuple[str, ...]:
        """A sentence for each photo that is left out, but for reasons told in `said`, and for what the photos did not tell."""
        said = tuple(said)
        left_out = [f"{u.name} is left out: {u.reason}" for u in self.unplaced if not any(u.reason.rstrip(".") in text for text in said)]
        if self.focal_loose:
            left_out.append(
                "The photos hardly tell their focal length, so depth may be stretched or squeezed; photos as they came from the camera (with EXIF), or a few more "
                "from other sides, would help."
            )
        return tuple(left_out)


@dataclass(frozen=True)
class InitState:
    """`capture` holds only placed photos, with cameras. `points` are triangulated from these photos alone."""

    capture: Capture
    points: PointCloud
    report: CameraReport


class Initializer(Protocol):
    def run(self, capture: Capture, seed: int = 0, progress: Progress | None = None) -> InitState:
        """Raises CaptureError when nothing can be placed; the message says what to photograph instead."""
        ...
