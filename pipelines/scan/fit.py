"""Photos and scans in one frame: judged, and brought together where they nearly fit or were never in one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.capture import Capture
from ...recon.errors import CaptureError
from ...recon.icp import LEAST, Alignment, align_clouds, carried, normals_of, thinned
from ...recon.points import PointCloud
from ...recon.scan.between import returns_in_view
from ...recon.se3 import Similarity
from ...recon.sweeps import Sweep, world_returns
from .score import FitScore, ScanScorer, Verdict
from .search import STARTS, rough_places

__all__ = ["MOST_RETURNS", "FitReport", "ScanFit", "fit_scans", "place_scans"]

Move = Literal["scan", "cameras"]

REACH = 0.15  # of the photos' depth: how far off a scan may be for the first step of the refinement; the same as `wide` of the score
FINAL = 0.02
MARGIN = 0.3  # of the picture: the scan is taken from so far around it
LEAST_RETURNS = 200
TARGET = 60_000  # returns that a refinement aims at
BETTER = 0.05  # share of the points that must be won for a scan to be moved
SIMPLER = 0.02  # and for a scale to be believed beside a rigid motion
MOST_RETURNS = 1_000_000  # returns that are looked at at all, evenly taken
NEAR_ORIGIN = 4096.0  # below this float32 holds a place to half a thousandth of a unit
SAMPLE = 20_000  # of them tell how far away they are
IN_PLACE, EXACTLY = 0.8, 0.005  # a scan with so many points near, the median off by less, needs no refinement; and a search that found it ends


@dataclass(frozen=True)
class FitReport:
    """What was found, and what was done about it.

    Attributes:
        before, after: the score as it came (None where photos and scan were in no common frame) and as it is now.
        moved: what was moved; None = nothing.
        similarity: new world from old, of what was moved; the identity where nothing was.
        open: number of motions that the clouds leave open (1 along a corridor, 3 on a single wall); none of them was made.
        tried: starts of a search without a common frame; 0 = none was made.
        shift: what was added to the scans' coordinates (map coordinates are too large for cameras in float32), whole thousands; `similarity` leads there.
    """

    before: FitScore | None
    after: FitScore
    moved: Move | None
    similarity: Similarity
    open: int
    tried: int = 0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def verdict(self) -> Verdict:
        return self.after.verdict

    def sentences(self) -> tuple[str, ...]:
        """For people: the verdict with its figures first, then what was done, then what to beware of."""
        verdict = "Whether the scan fits cannot be told" if self.verdict == "cannot tell" else f"The scan {self.verdict}"
        said = [f"{verdict}{_figures(self.after)}."]
        if self.after.scattered and self.verdict == "nearly fits":
            said.append(
                "The photos' points scatter (their cameras are not exact, or things moved between the photos), so more cannot be told; but the scan's outlines lie on "
                "the photos' edges. Look at the overlays."
            )
        if self.moved is not None:
            what, scale = "The scan was" if self.moved == "scan" else "The cameras were", float(self.similarity.scale)
            scaled = f" and scaled by {scale:.4g}" if abs(scale - 1) > 1e-6 else ""
            said.append(f"{what} moved{scaled}" + (f"; as it came, it {self.before.verdict}{_figures(self.before)}" if self.before else "") + ".")
        elif self.tried:
            said.append(
                f"Of {self.tried} starts none led to a place where it fits, and nothing was moved; photograph all of what was scanned, cut the scan to what the photos "
                "show, or give cameras in the scan's frame."
            )
        elif self.before is None:
            said.append("There are too few points of the photos, or returns of the scan, to look for its place, and nothing was moved.")
        if self.open:
            motions = "one motion" if self.open == 1 else f"{self.open} motions"
            there = "its place is a guess" if self.tried else "nothing was moved"
            said.append(f"The surfaces leave {motions} open (along a wall or a corridor, round a ball); in that {there}.")
        if any(self.shift):
            said.append(f"The scan's coordinates are too large for cameras: ({', '.join(f'{x:.0f}' for x in self.shift)}) was added to them.")
        return tuple(said)


@dataclass(frozen=True)
class ScanFit:
    """`capture` has its scans (or its cameras) where they fit best; `points` are those that were given, in the capture's world."""

    report: FitReport
    capture: Capture
    points: PointCloud | None


def fit_scans(
    capture: Capture,
    points: PointCloud | None,
    *,
    move: Move = "scan",
    with_scale: bool | None = None,
    refine: bool = True,
    progress: Callable[[str, float], None] | None = None,
) -> ScanFit:
    """Judges how the capture's scans fit its photos, and brings them together where they nearly do.

    Args:
        capture: with cameras and scans of one world.
        points: that the photos triangulate (`InitState.points`), or unprojected stereo depth; None = colours alone judge, and nothing is moved.
        move: what is moved: the scan (the cameras' frame is kept) or the cameras (the scan's frame and metres are).
        with_scale: whether a scale may be found; None = where it fits clearly better with one than without.
        refine: False = nothing is moved.
        progress: called with what is done, and the share done.

    Raises CaptureError where there are no cameras or no scans.
    """
    scorer, tell = _scorer(capture, points), progress or _silent
    returns = world_returns(capture.sweeps, MOST_RETURNS)
    tell("fitting scans", 0.0)
    before = scorer.outlined(scorer.score(returns))
    tell("fitting scans", 0.4)
    found = None
    if refine and points is not None and before.verdict != "cannot tell" and not _in_place(before):
        found = _refined(scorer, returns, _identity(), with_scale, before.agree + BETTER)
    tell("fitting scans", 1.0)
    if found is None:
        return ScanFit(FitReport(before, before, None, _as_similarity(_identity()), 0), capture, points)
    alignment, after = found
    return _moved(scorer, alignment, FitReport(before, after, move, _as_similarity(alignment.transform), len(alignment.open)))


def place_scans(
    capture: Capture, points: PointCloud, *, move: Move = "cameras", progress: Callable[[str, float], None] | None = None
) -> ScanFit:
    """Brings together photos and scans that were never in one frame: cameras found from photos stand in a frame and scale of their own.

    Scales about the ratio of the extents, axes by principal directions in all 24 ways; each start is refined roughly, the best are refined and judged by
    ScanScorer. It finds scans of about what the photos show; of a scan of much more (a whole street, a building) it mostly cannot, and says so: then
    nothing is moved.

    Scans in map coordinates are brought near the origin first (`FitReport.shift`): cameras that move there could not hold such numbers.
    """
    given, tell = capture, progress or _silent
    shift = _shift_of(capture.sweeps)
    if bool(shift.any()):
        capture = replace(capture, sweeps=tuple(s.moved(_translation(shift)) for s in capture.sweeps))
    scorer = _scorer(capture, points)
    returns = world_returns(capture.sweeps, MOST_RETURNS)
    tries = rough_places(points, returns, lambda done: tell("looking for the scan", 0.7 * done))
    best: tuple[Alignment, FitScore] | None = None
    for k, start in enumerate(tries):
        tell("looking for the scan", 0.7 + 0.3 * k / len(tries))
        best = _refined(scorer, returns, start.transform, True, float("-inf") if best is None else best[1].agree) or best
        if best is not None and (best[1].near or 0.0) > IN_PLACE:
            break
    tell("looking for the scan", 1.0)
    tried = STARTS if tries else 0
    if best is None:
        return ScanFit(FitReport(None, scorer.score(returns), None, _as_similarity(_identity()), 0, tried), given, points)
    alignment, score = best
    x, y, z = shift.tolist()
    fit = _moved(scorer, alignment, FitReport(None, score, move, _as_similarity(alignment.transform), len(alignment.open), tried, (x, y, z)))
    if move == "cameras":
        return fit
    whole = Similarity(fit.report.similarity.scale, fit.report.similarity.R, fit.report.similarity.apply(shift))  # from where the scan was given
    return replace(fit, report=replace(fit.report, similarity=whole, shift=(0.0, 0.0, 0.0)))


# -- parts -------------------------------------------------------------------------------------------------------------------------


def _scorer(capture: Capture, points: PointCloud | None) -> ScanScorer:
    if not capture.sweeps or not any(len(s) for s in capture.sweeps):
        raise CaptureError("The capture has no scan to hold against its photos; name one with --scan.")
    return ScanScorer(capture, points)


def _score_at(scorer: ScanScorer, returns: Float[Tensor, "N 3"], scan_from_photos: Float[Tensor, "4 4"]) -> FitScore:
    """The score with the photos carried into the scan's world."""
    assert scorer.points is not None, "only what has points is moved"
    cameras = _as_similarity(scan_from_photos).apply_to_cameras(scorer.cameras)
    return scorer.score(returns, cameras, carried(scan_from_photos, scorer.points.xyz.double()))


def _refined(
    scorer: ScanScorer, returns: Float[Tensor, "N 3"], start: Float[Tensor, "4 4"], with_scale: bool | None, least: float
) -> tuple[Alignment, FitScore] | None:
    """scan_from_photos refined from `start`, where that fits and agrees by more than `least`; else None: what fits neither here nor there stays where its
    owner put it."""
    assert scorer.points is not None, "only what has points is moved"
    points = scorer.points.xyz.detach().cpu().double()
    cameras = _as_similarity(start).apply_to_cameras(scorer.cameras)
    target = _around(cameras, returns)
    if len(target) < LEAST_RETURNS or len(points) < LEAST:
        return None
    depth = _depth(cameras, carried(start, points))
    normals, flat = normals_of(target)
    best: tuple[Alignment, FitScore] | None = None
    for scaled in ((False, True) if with_scale is None else (with_scale,)):
        found = align_clouds(points, target, normals, flat, with_scale=scaled, start=start, reach=REACH * depth, final_reach=FINAL * depth)
        score = _score_at(scorer, returns, found.transform)
        if score.verdict == "fits" and score.agree > (least if best is None else best[1].agree + SIMPLER):
            best = (found, score)
            if _in_place(score):  # a scale could win nothing
                break
    return best


def _in_place(score: FitScore) -> bool:
    """Whether nothing is left to refine."""
    near, offset = score.near, score.offset
    return score.verdict == "fits" and near is not None and near >= IN_PLACE and offset is not None and abs(offset) < EXACTLY


def _around(cameras: Cameras, returns: Float[Tensor, "N 3"]) -> Float[Tensor, "M 3"]:
    """The returns that the photos see or nearly see, evenly in space; TARGET at most."""
    seen = torch.zeros(len(returns), dtype=torch.bool)
    for i in range(len(cameras)):
        seen[returns_in_view(cameras[i], returns, MARGIN)[0].index] = True
    kept = returns[seen]
    if len(kept) > TARGET:
        kept = kept[thinned(kept, 0.002 * _depth(cameras, kept))]
    return kept[:: max(1, -(-len(kept) // TARGET))]


def _depth(cameras: Cameras, points: Float[Tensor, "P 3"]) -> float:
    """Median distance of points before the cameras, of an even part of them."""
    _, z = cameras.project(points[:: max(1, len(points) // SAMPLE)])
    ahead = z[z > 0]
    return float(ahead.median()) if len(ahead) else 1.0


def _shift_of(sweeps: Sequence[Sweep]) -> Float[Tensor, "3"]:
    """What brings scans near the origin, in whole thousands, float64; zero where they are near enough for float32."""
    places = [s.world_from_sensor[:3, 3] if not s.unplaced else s.xyz.median(0).values for s in sweeps if len(s)]
    if not places:
        return torch.zeros(3, dtype=torch.float64)
    middle = torch.stack([p.detach().cpu().double() for p in places]).median(0).values
    return torch.where(middle.abs() > NEAR_ORIGIN, -(middle / 1000).round() * 1000, 0.0)


def _translation(shift: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    T = _identity()
    T[:3, 3] = shift
    return T


def _silent(what: str, done: float) -> None:
    pass


def _moved(scorer: ScanScorer, found: Alignment, report: FitReport) -> ScanFit:
    """Moves what the report says."""
    capture, points = scorer.capture, scorer.points
    scan_from_photos = _as_similarity(found.transform)
    if report.moved == "cameras":
        assert points is not None, "only what has points is moved"
        cameras = scan_from_photos.apply_to_cameras(scorer.cameras).to(dtype=torch.float32)
        depth = tuple(None if d is None else replace(d, depth=d.depth * float(scan_from_photos.scale)) for d in capture.depth)
        given = None if capture.points is None else _carried_points(capture.points, scan_from_photos)
        return ScanFit(report, replace(capture, cameras=cameras, depth=depth, points=given), _carried_points(points, scan_from_photos))
    photos_from_scan = scan_from_photos.inverse()
    moved = replace(capture, sweeps=tuple(s.carried(photos_from_scan) for s in capture.sweeps))
    return ScanFit(replace(report, similarity=photos_from_scan), moved, points)


def _carried_points(points: PointCloud, similarity: Similarity) -> PointCloud:
    return replace(points, xyz=similarity.apply(points.xyz.double()).float())


def _as_similarity(T: Float[Tensor, "4 4"]) -> Similarity:
    scale = torch.linalg.det(T[:3, :3]) ** (1 / 3)
    return Similarity(scale, T[:3, :3] / scale, T[:3, 3])


def _identity() -> Float[Tensor, "4 4"]:
    return torch.eye(4, dtype=torch.float64)


def _figures(score: FitScore) -> str:
    """The figures in brackets."""
    parts: list[str] = []
    if score.near is not None and score.apart is not None:
        parts.append(f"{score.near:.0%} of {round(score.points * score.covered)} photo points lie on it, the median is off by {100 * score.apart:.1f} % of the depth")
    elif score.points:
        parts.append(f"returns lie beside {score.covered:.0%} of {score.points} photo points")
    else:
        parts.append("the photos gave no points")
    if score.contrast is not None:
        parts.append(f"colours of two photos differ {score.contrast:.2f} times as much there as with the scan moved")
    if score.outlines is not None:
        parts.append(f"edges of the photos are {score.outlines:.2f} times as strong under its outlines as beside them")
    return " (" + "; ".join(parts) + ")"


