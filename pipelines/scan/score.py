"""How well photos and scans fit: by points that the photos triangulate, and by the colours that two photos see at one return. No truth is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.capture import Capture
from ...recon.errors import CaptureError
from ...recon.points import PointCloud
from ...recon.scan.between import depth_between, returns_in_view
from ...recon.scan.sight import Returns, sampled
from .outlines import outline_contrast, returns_of_photos

__all__ = ["FitScore", "Verdict", "ScanScorer"]

Verdict = Literal["fits", "nearly fits", "does not fit", "cannot tell"]

NEAR, WIDE = 0.02, 0.15  # relative difference of depth: the same surface; within what a refinement finds
PIXEL = 1.0  # of parallax: what the photos cannot tell apart is no difference
ENOUGH = 0.55  # share of the compared points that must be as near as that: triangulated points have errors of their own
MOST_WIDE = 0.8  # and share within 15 %, for a scan that a refinement should bring in place
PEAK = 1.5  # or so many times as many points are near as with the scan moved
LEAST_NEAR = 0.1  # share that must be near for that to mean anything
LEAST_POINTS = 20  # compared, or seen by two photos: with fewer nothing is said
LEAST_COVER = 0.1  # share of the photos' points beside which there are returns
OUTLINED = 1.12  # times as strong are the photos' edges under the scan's outlines as beside them, in place
SCATTERED = 0.4  # least share within 15 %, for outlines to be believed where the photos' points are poor
PROBES = (-0.08, -0.04, 0.04, 0.08)  # the scan is moved along the photos' sight by these shares of its depth
CLEAR = 0.9  # the colours differ by so much less in place than beside it
OPPOSED = 1.05  # or by so much more: then the scan lies elsewhere, whatever the points say
TELLING = 0.05  # colours that differ about as much wherever the scan is tell nothing
FLAT = 0.02  # nor do colours of a smaller standard deviation
MOST, MOST_POINTS = 200_000, 4000  # returns and points that are looked at, evenly taken
PARTNERS = 2  # photos each photo's colours are compared with


@dataclass(frozen=True)
class FitScore:
    """What was compared, and how it came out. Shares are in [0, 1]; None where there was too little to compare.

    Attributes:
        points: that the photos triangulate; of many an even part is compared, and shares are of that. covered: share beside which the scan has returns.
        near: share of the covered ones within 2 % of the scan's depth (or a pixel of parallax, where that is more); wide: within 15 %.
        beside: the largest share that would be near with the scan moved by 4 or 8 % of its depth.
        apart: median relative difference of depth; offset: the same with its sign, positive where the scan is nearer than the photos say.
        pairs: returns seen by two photos, all pairs of photos together.
        colors: mean difference of the colours that two photos show at one return (in standard deviations); moved: the median of the same with the scan moved
            as above. None where the photos show too little, or it makes no difference.
        drift: by which share of depth the scan must be moved for the least difference of colours, of those tried (0: not at all).
        outlines: see outline_contrast; None where it was not asked, or cannot tell.
    """

    points: int
    covered: float
    near: float | None
    wide: float | None
    beside: float | None
    apart: float | None
    offset: float | None
    pairs: int
    colors: float | None
    moved: float | None
    drift: float | None
    outlines: float | None = None

    @property
    def scattered(self) -> bool:
        """Whether the photos' points are poor (cameras are not exact, things moved between photos) and the outlines alone say that the scan is about in place."""
        return self.wide is not None and self.wide >= SCATTERED and self.outlines is not None and self.outlines >= OUTLINED

    @property
    def contrast(self) -> float | None:
        """colors / moved: below 1 where the scan lies better as it is than moved."""
        return None if self.colors is None or self.moved is None else self.colors / max(self.moved, 1e-9)

    @property
    def agree(self) -> float:
        """One number to compare two placements by: the share of all points that lie on the scan, less what the colours object."""
        objection = 0.0 if self.contrast is None else 0.2 * (self.contrast - 1)
        return (self.near or 0.0) * self.covered - objection

    @property
    def verdict(self) -> Verdict:
        """Frank: points alone cannot make a scan fit where the colours object, colours alone only where there are no points."""
        contrast = self.contrast
        if self.near is None or self.wide is None or self.beside is None:
            if self.points >= LEAST_POINTS and self.covered < LEAST_COVER:
                return "does not fit"
            return "fits" if contrast is not None and contrast < CLEAR and self.drift == 0 else "cannot tell"
        if self.near >= ENOUGH and (contrast is None or contrast < OPPOSED):
            return "fits"
        peaked = self.near >= max(LEAST_NEAR, PEAK * self.beside)  # the photos' points are poor, but nowhere near would fit better
        return "nearly fits" if self.wide >= MOST_WIDE or peaked or self.scattered else "does not fit"


@dataclass(frozen=True)
class ScanScorer:
    """Photos and their points, to be held against scans again and again: photos are decoded once."""

    capture: Capture
    points: PointCloud | None

    def __post_init__(self) -> None:
        if self.capture.cameras is None:
            raise CaptureError("Scans can be held against photos only where the photos have cameras; have them found first.")

    @property
    def cameras(self) -> Cameras:
        assert self.capture.cameras is not None, "checked above"
        return self.capture.cameras.to("cpu", torch.float64)

    @cached_property
    def images(self) -> Float[Tensor, "V h w 3"]:
        """Halved: a pixel's noise, and what is off by half a pixel, say nothing about where the scan is."""
        return torch.nn.functional.avg_pool2d(self.capture.images().permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)

    def score(self, returns: Float[Tensor, "N 3"], cameras: Cameras | None = None, points: Float[Tensor, "P 3"] | None = None) -> FitScore:
        """`returns` are world points; `cameras` and `points` may be others than the capture's (moved ones)."""
        cameras = self.cameras if cameras is None else cameras.to("cpu", torch.float64)
        if points is None:
            points = torch.zeros(0, 3) if self.points is None else self.points.xyz
        returns = returns[:: -(-len(returns) // MOST)] if len(returns) > MOST else returns
        some = points[:: max(1, -(-len(points) // MOST_POINTS))].detach().cpu().double()
        views = _views(cameras, returns)
        relative, slack = depth_differences(cameras, views, some)
        covered = len(relative) / len(some) if len(some) else 0.0
        told = len(relative) >= LEAST_POINTS and covered >= LEAST_COVER

        def near(pushed: float) -> float:
            return float((((1 + relative) / (1 + pushed) - 1).abs() <= slack.clamp_min(NEAR)).double().mean())

        colors, pairs = self._colors(cameras, views)
        moved: list[float] = []
        if colors is not None:
            moved = [c for p in PROBES if (c := self._colors(cameras, _views(cameras, _pushed(cameras, returns, p)))[0]) is not None]
        telling = colors is not None and len(moved) == len(PROBES) and max(moved + [colors]) > (1 + TELLING) * min(moved + [colors])
        return FitScore(
            points=len(points), covered=covered,
            near=near(0.0) if told else None,
            wide=float((relative.abs() <= WIDE).double().mean()) if told else None,
            beside=max(map(near, PROBES)) if told else None,
            apart=float(relative.abs().median()) if told else None,
            offset=float(relative.median()) if told else None,
            pairs=pairs,
            colors=colors if telling else None,
            moved=float(torch.tensor(moved).median()) if telling else None,
            drift=min(zip([colors, *moved], [0.0, *PROBES], strict=True))[1] if telling else None,
        )  # fmt: skip

    def outlined(self, score: FitScore) -> FitScore:
        """The score with what the outlines of the capture's own scans say, where they stand."""
        cameras = self.cameras
        return replace(score, outlines=outline_contrast((view.image.load() for view in self.capture.views), cameras, returns_of_photos(cameras, self.capture.sweeps)))

    def _colors(self, cameras: Cameras, views: Sequence[tuple[Returns, int]]) -> tuple[float | None, int]:
        """Mean difference of the colours two photos see at one return, each photo's brightness and contrast taken out; and how many were compared."""
        seen = [found for found, _ in views]
        sees = torch.zeros(len(seen), 1 + max((int(s.index.max()) for s in seen if len(s)), default=0), dtype=torch.bool)
        for row, found in zip(sees, seen, strict=True):
            row[found.index] = True
        near = cameras.distances.argsort(1)[:, 1 : PARTNERS + 1].tolist()
        total, weight = 0.0, 0
        for i, j in sorted({(min(i, j), max(i, j)) for i, row in enumerate(near) for j in row}):
            both, other = sees[j][seen[i].index], sees[i][seen[j].index]  # indices ascend: the same returns in the same order
            if int(both.sum()) < LEAST_POINTS:
                continue
            a, b = sampled(self.images[i], seen[i].uv[both] / 2), sampled(self.images[j], seen[j].uv[other] / 2)
            if float(a.std()) < FLAT or float(b.std()) < FLAT:
                continue
            a, b = ((c - c.mean(0)) / c.std() for c in (a, b))
            total += float((a - b).abs().clamp(max=2).sum(-1).sum()) / 3
            weight += len(a)
        return (total / weight, weight) if weight >= LEAST_POINTS else (None, weight)


def depth_differences(
    cameras: Cameras, views: Sequence[tuple[Returns, int]], points: Float[Tensor, "P 3"]
) -> tuple[Float[Tensor, "C"], Float[Tensor, "C"]]:
    """Relative difference of depth, point against scan (the median over the cameras that see it), of every point beside which a camera sees returns and whose
    depth the photos tell; and the relative depth that is one pixel of parallax there. `views`: as _views gives them."""
    values = torch.full((len(cameras), len(points)), torch.nan, dtype=torch.float64)
    shift = torch.zeros(len(points), dtype=torch.float64)  # pixels that a point moves in another picture when its depth grows by NEAR
    uv, z = cameras.project(points)
    inside = (z > 0) & (uv >= 0).all(-1) & (uv[..., 0] < cameras.width) & (uv[..., 1] < cameras.height)
    for i, eye in enumerate(cameras.centers):
        further, _ = cameras.project(eye + (points - eye) * (1 + NEAR))
        parallax = torch.where(inside & inside[i], (further - uv).norm(dim=-1), 0.0)
        shift = torch.maximum(shift, parallax.max(0).values)
        mine = inside[i].nonzero()[:, 0]
        depth, known = depth_between(*views[i], uv[i, mine].float())
        values[i, mine[known]] = z[i, mine[known]] / depth[known] - 1
    slack = PIXEL * NEAR / shift.clamp_min(1e-12)
    kept = ~values.isnan().all(0) & (slack < WIDE)
    return values.nanmedian(0).values[kept], slack[kept]


def _views(cameras: Cameras, returns: Float[Tensor, "N 3"]) -> list[tuple[Returns, int]]:
    """What each camera sees of the returns, as `returns_in_view` says it."""
    return [returns_in_view(cameras[i], returns) for i in range(len(cameras))]


def _pushed(cameras: Cameras, returns: Float[Tensor, "N 3"], share: float) -> Float[Tensor, "N 3"]:
    """Returns further away from their nearest camera by this share of the distance."""
    centers = cameras.centers.double()
    eye = centers[torch.cdist(returns.double(), centers).argmin(1)]
    return returns + share * (returns - eye)
