"""Photos and scans in one frame: judged, and brought together where they nearly fit or were never in one frame."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.capture import Capture
from ...recon.errors import CaptureError
from ...recon.icp import Alignment, align_clouds, carried, normals_of, thinned
from ...recon.neighbours import nearest
from ...recon.points import PointCloud
from ...recon.scan.between import returns_in_view
from ...recon.se3 import Similarity
from .score import FitScore, ScanScorer, Verdict, world_returns

__all__ = ["FitReport", "ScanFit", "fit_scans", "place_scans"]

Move = Literal["scan", "cameras"]

REACH = 0.15  # of the photos' depth: how far off a scan may be for the first step of the refinement; the same as `wide` of the score
FINAL = 0.02
MARGIN = 0.3  # of the picture: the scan is taken from so far around it
LEAST_RETURNS = 200
TARGET = 60_000  # returns that a refinement aims at
BETTER = 0.05  # share of the points that must be won for a scan to be moved
SIMPLER = 0.02  # and for a scale to be believed beside a rigid motion
SCALES = (0.5, 0.7, 1.0, 1.4, 2.0)  # tried about the ratio of the extents
STARTS = 24 * len(SCALES)
ROUGH, FEW, KEPT = 3000, 300, 10  # returns, points of a first try; tries that are looked at closely
SAME = 0.05  # of its size: two first tries that end nearer to each other are one
ROUGHLY = 1e-3  # of its size: how exactly a first try is placed


@dataclass(frozen=True)
class FitReport:
    """What was found, and what was done about it.

    Attributes:
        before, after: the score as it came (None where photos and scan were in no common frame) and as it is now.
        moved: what was moved; None = nothing.
        similarity: new world from old, of what was moved; the identity where nothing was.
        open: number of motions that the clouds leave open (1 along a corridor, 3 on a single wall); none of them was made.
        tried: starts of a search without a common frame; 0 = none was made.
    """

    before: FitScore | None
    after: FitScore
    moved: Move | None
    similarity: Similarity
    open: int
    tried: int = 0

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
        if self.open:
            motions = "one motion" if self.open == 1 else f"{self.open} motions"
            said.append(f"The surfaces leave {motions} open (along a wall or a corridor, round a ball); in that the scan stays where it was.")
        return tuple(said)


@dataclass(frozen=True)
class ScanFit:
    """`capture` has its scans (or its cameras) where they fit best; `points` are those that were given, in the capture's world."""

    report: FitReport
    capture: Capture
    points: PointCloud | None


def fit_scans(
    capture: Capture, points: PointCloud | None, *, move: Move = "scan", with_scale: bool | None = None, refine: bool = True
) -> ScanFit:
    """Judges how the capture's scans fit its photos, and brings them together where they nearly do.

    Args:
        capture: with cameras and scans of one world.
        points: that the photos triangulate (`InitState.points`), or unprojected stereo depth; None = colours alone judge, and nothing is moved.
        move: what is moved: the scan (the cameras' frame is kept) or the cameras (the scan's frame and metres are).
        with_scale: whether a scale may be found; None = where it fits clearly better with one than without.
        refine: False = nothing is moved.

    Raises CaptureError where there are no cameras or no scans.
    """
    scorer = _scorer(capture, points)
    returns = world_returns(capture.sweeps)
    before = scorer.outlined(scorer.score(returns))
    best, found = before, None
    if refine and points is not None and before.verdict != "cannot tell":
        found, best = _refined(scorer, returns, _identity(), before, with_scale)
    if found is None:
        return ScanFit(FitReport(before, before, None, _as_similarity(_identity()), 0), capture, points)
    return _moved(scorer, found, FitReport(before, best, move, _as_similarity(found.transform), len(found.open)))


def place_scans(
    capture: Capture, points: PointCloud, *, move: Move = "cameras", progress: Callable[[str, float], None] | None = None
) -> ScanFit:
    """Brings together photos and scans that were never in one frame: cameras found from photos stand in a frame and scale of their own.

    Scales about the ratio of the extents, axes by principal directions in all 24 ways; each start is refined roughly, the best are refined and judged by
    `scan_score`. It finds scans of about what the photos show; of a scan of much more (a whole street, a building) it mostly cannot, and says so: then
    nothing is moved.
    """
    scorer, tell = _scorer(capture, points), progress or (lambda what, done: None)
    returns = world_returns(capture.sweeps)
    tries = _global_starts(points, returns, tell)
    best, score = None, scorer.score(returns)
    for k, start in enumerate(tries):
        tell("looking for the scan", 0.7 + 0.3 * k / len(tries))
        found, now = _refined(scorer, returns, start.transform, _score_at(scorer, returns, start.transform), True, at_least=0.0)
        if found is not None and (best is None or now.agree > score.agree):
            best, score = found, now
    tell("looking for the scan", 1.0)
    if best is None:
        return ScanFit(FitReport(None, score, None, _as_similarity(_identity()), 0, STARTS), capture, points)
    return _moved(scorer, best, FitReport(None, score, move, _as_similarity(best.transform), len(best.open), STARTS))


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
    scorer: ScanScorer, returns: Float[Tensor, "N 3"], start: Float[Tensor, "4 4"], now: FitScore, with_scale: bool | None, at_least: float = BETTER
) -> tuple[Alignment | None, FitScore]:
    """scan_from_photos refined from `start`, where that fits and is better by `at_least`; else None and the score as it is: what fits neither here nor
    there stays where its owner put it."""
    assert scorer.points is not None, "only what has points is moved"
    points = scorer.points.xyz.double()
    at_scan = carried(start, points)
    cameras = _as_similarity(start).apply_to_cameras(scorer.cameras)
    depth = _depth(cameras, at_scan)
    target = _around(cameras, returns)
    if len(target) < LEAST_RETURNS or len(points) < 12:
        return None, now
    normals, _ = normals_of(target)
    best: tuple[Alignment | None, FitScore] = (None, now)
    for scaled in ((False, True) if with_scale is None else (with_scale,)):
        found = align_clouds(points, target, normals, with_scale=scaled, start=start, reach=REACH * depth, final_reach=FINAL * depth)
        score = _score_at(scorer, returns, found.transform)
        if score.verdict == "fits" and score.agree > best[1].agree + (SIMPLER if best[0] is not None else at_least):
            best = (found, score)
    return best


def _around(cameras: Cameras, returns: Float[Tensor, "N 3"]) -> Float[Tensor, "M 3"]:
    """The returns that the photos see or nearly see, evenly in space."""
    seen = torch.cat([returns_in_view(cameras[i], returns, MARGIN)[0].index for i in range(len(cameras))]).unique()
    kept = returns[seen]
    if len(kept) <= TARGET:
        return kept
    depth = _depth(cameras, kept)
    return kept[thinned(kept, 0.002 * depth)]


def _depth(cameras: Cameras, points: Float[Tensor, "P 3"]) -> float:
    """Median distance of points before the cameras."""
    _, z = cameras.project(points)
    ahead = z[z > 0]
    return float(ahead.median()) if len(ahead) else 1.0


def _global_starts(points: PointCloud, returns: Float[Tensor, "N 3"], tell: Callable[[str, float], None]) -> list[Alignment]:
    """Rough placements of the photos' points on the scan, the best first."""
    source = _core(points.xyz.double())
    source = source[torch.linspace(0, len(source) - 1, min(FEW, len(source))).long()]
    whole = returns[torch.linspace(0, len(returns) - 1, min(20 * ROUGH, len(returns))).long()]
    target = _core(whole)
    target = target[thinned(target, _spread(target) * 2 / ROUGH**0.5)]
    normals, _ = normals_of(target)
    ratio = _spread(target) / _spread(source)
    a, b = _axes(source), _axes(target)
    found: list[Alignment] = []
    turns, size = _turns(), _spread(target)
    for k, (turn, scale) in enumerate(itertools.product(turns, SCALES)):
        if k % 10 == 0:
            tell("looking for the scan", 0.7 * k / (len(turns) * len(SCALES)))
        start = torch.eye(4, dtype=torch.float64)
        start[:3, :3] = ratio * scale * (b @ turn @ a.T)
        start[:3, 3] = target.mean(0) - start[:3, :3] @ source.mean(0)
        found.append(align_clouds(source, target, normals, with_scale=True, start=start, reach=0.4 * size, final_reach=0.06 * size, most=FEW, precision=ROUGHLY))
    apart: list[Alignment] = []
    for one in sorted(found, key=lambda f: -_promise(f, source, target)):  # many starts end in one place
        if all(float((carried(one.transform, source) - carried(other.transform, source)).norm(dim=-1).mean()) > SAME * size for other in apart):
            apart.append(one)
        if len(apart) == KEPT:
            break
    return apart


def _promise(found: Alignment, source: Float[Tensor, "n 3"], target: Float[Tensor, "m 3"]) -> float:
    """Share of the source that lies on the target, times the share of the target that the source covers: a dot lies on anything, and covers nothing."""
    if found.overlap == 0:
        return 0.0
    _, distance = nearest(carried(found.transform, source), target, 1)
    covered = float((distance[:, 0] <= 2 * found.reach).double().mean())
    return found.overlap * covered / (1 + found.rms / found.reach)


def _core(points: Float[Tensor, "N 3"]) -> Float[Tensor, "M 3"]:
    """Without the far tails, which would decide extents and axes."""
    distance = (points - points.median(0).values).norm(dim=-1)
    return points[distance <= 3 * distance.median()]


def _spread(points: Float[Tensor, "N 3"]) -> float:
    return max(float((points - points.mean(0)).square().sum(-1).mean().sqrt()), 1e-12)


def _axes(points: Float[Tensor, "N 3"]) -> Float[Tensor, "3 3"]:
    """Principal directions as columns, a rotation."""
    centered = points - points.mean(0)
    _, vectors = torch.linalg.eigh(centered.T @ centered)
    return vectors * torch.tensor([1.0, 1.0, float(torch.linalg.det(vectors).sign())], dtype=points.dtype)


def _turns() -> list[Float[Tensor, "3 3"]]:
    """The 24 rotations that map axes to axes."""
    out = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            turn = torch.zeros(3, 3, dtype=torch.float64)
            turn[range(3), list(order)] = torch.tensor(signs, dtype=torch.float64)
            if float(torch.linalg.det(turn)) > 0:
                out.append(turn)
    return out


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
    if score.near is not None and score.offset is not None:
        parts.append(f"{score.near:.0%} of {round(score.points * score.covered)} photo points lie on it, the median is off by {100 * abs(score.offset):.1f} % of the depth")
    elif score.points:
        parts.append(f"returns lie beside {score.covered:.0%} of {score.points} photo points")
    else:
        parts.append("the photos gave no points")
    if score.contrast is not None:
        parts.append(f"colours of two photos differ {score.contrast:.2f} times as much there as with the scan moved")
    if score.outlines is not None:
        parts.append(f"edges of the photos are {score.outlines:.2f} times as strong under its outlines as beside them")
    return " (" + "; ".join(parts) + ")"


