"""What a thin scan is worth: starts from a share of its rings, scored on the beams kept back and on a later photo, before and after optimisation.

Protocol (docs/lidar.md): photos are reduced to a longer side of 640 pixels. Each scan that a later photo can judge is thinned to every (1 / keep)-th ring; its
splats are coloured by the photo of its moment. acc and median: beams of the other rings in that photo's picture. psnr: the photo two later, over the
pixels near which the whole scan of that later moment has a return. After: on each run of five moments, 120 steps on the first, third and fifth photo from
the thinned scan of the third, with its kept beams as depth; acc_after on the withheld beams of the third, psnr_after on the second and fourth photo.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from ...recon.capture import Capture
from ...recon.depth import DepthMap
from ...recon.errors import CaptureError
from ...recon.gaussians import Gaussians
from ...recon.metrics import psnr
from ...recon.raster.protocol import Rasterizer, RasterOptions
from ...recon.raster.registry import get_rasterizer
from ...recon.scan.moments import own_sweep
from ...recon.scan.rings import keep_rings, with_rings
from ...recon.scan.sight import seen_returns
from ...recon.sweeps import Sweep
from ..init.protocol import CameraReport, InitState
from ..methods.config import OptimConfig, RefineConfig, SplatConfig, TermsConfig
from ..methods.splat import SplatMethod
from ..protocol import Start
from .beams import BeamScore, score_beams
from .paint import painted
from .starts import scan_start

__all__ = ["MAX_SIDE", "OPTIMISATION", "STARTS", "Moment", "StartScore", "evaluate_lidar", "moments"]

STARTS = ("knn", "pca", "ring", "learned")  # those that are compared unless others are named
MAX_SIDE = 640
LATER = 2  # moments between a scan and the photo that judges its splats
WINDOW = 5
NEAR = 6  # pixels around a return that count as scanned
OPTIMISATION = SplatConfig(
    optim=replace(OptimConfig(), steps=120, dropout=0.0, opacity_decay=1.0),
    terms=replace(TermsConfig(), ssim=0.2, smooth=0.0, depth=0.0, opaque=0.0, scan=0.3),
    refine=RefineConfig(prune_opacity=0.0),
)


@dataclass(frozen=True)
class Moment:
    """A photo and the scan of the same moment; index: of the photo in the capture."""

    index: int
    sweep: Sweep


@dataclass(frozen=True)
class StartScore:
    """Means over scans (before) and runs (after); spread: standard deviation over the scans. None: there were too few moments to measure it."""

    acc: float
    median_m: float | None
    psnr: float | None
    acc_after: float | None
    psnr_after: float | None
    seconds: float
    splats: int
    acc_spread: float
    scans: int


def moments(capture: Capture) -> list[Moment]:
    """Photos paired with scans by the stem of their names, in the order of the photos. Raises CaptureError where there is none, or no camera."""
    if capture.cameras is None:
        raise CaptureError("Scoring beams needs photos with cameras in the world of the scans; this capture has none.")
    own = [own_sweep(v.name, capture.sweeps) for v in capture.views]
    found = [Moment(i, capture.sweeps[k]) for i, k in enumerate(own) if k is not None]
    if not found:
        raise CaptureError("The capture holds no scan with the name of a photo, so no beam can be kept back for scoring.")
    return found


def evaluate_lidar(
    capture: Capture, keep: float, names: Iterable[str], optimise: bool = True, tell: Callable[[str], None] | None = None, shuffled: bool = False
) -> dict[str, StartScore]:
    """Scores of each start by name; one that cannot work on these scans (rings, where there are none) is left out.

    Args:
        keep: share of the rings that the starts see; without rings, of the returns.
        shuffled: forget the rings once they have parted the beams: the start sees a cloud without order.
    """
    judge = _Judge(capture, keep, shuffled)
    scores: dict[str, StartScore] = {}
    for name in names:
        score = judge.score(name, optimise)
        if score is not None:
            scores[name] = score
            if tell:
                after = "" if score.acc_after is None else f"; after: {score.acc_after:.3f}, {score.psnr_after:.2f} dB"
                novel = "" if score.psnr is None else f", {score.psnr:.2f} dB"
                median = "-" if score.median_m is None else f"{score.median_m:.3f} m"
                tell(f"{name}: {score.acc:.3f} of the beams, median {median}{novel}{after}; {score.seconds:.2f} s")
    return scores


class _Judge:
    def __init__(self, capture: Capture, keep: float, shuffled: bool) -> None:
        self.capture, self.moments = capture, moments(capture)
        assert capture.cameras is not None
        self.cameras, self.images, self.masks = capture.cameras, capture.images(), capture.masks()
        self.rasterizer: Rasterizer = get_rasterizer("auto", torch.device("cpu"))
        parted = [keep_rings(with_rings(m.sweep), keep) for m in self.moments]
        self.kept = [_without_order(k, m.sweep) if shuffled else k for m, (k, _) in zip(self.moments, parted, strict=True)]
        self.withheld = [w for _, w in parted]

    def score(self, name: str, optimise: bool) -> StartScore | None:
        before, psnrs, seconds, splats = [], [], [], []
        for m, kept, withheld in zip(range(len(self.moments)), self.kept, self.withheld, strict=True):
            began = time.perf_counter()
            gaussians = scan_start(name, kept)
            if gaussians is None:
                return None
            seconds.append(time.perf_counter() - began)
            splats.append(len(gaussians))
            i = self.moments[m].index
            gaussians = painted(gaussians, self.cameras[i], self.images[i : i + 1], self.rasterizer)
            before.append(self._beams(gaussians, i, withheld))
            if m + LATER < len(self.moments):
                psnrs.append(self._novel(gaussians, m + LATER, _sky(self.images[i])))
        after = [self._after(name, first) for first in range(0, len(self.moments) - WINDOW + 1, WINDOW)] if optimise else []
        mean, accs = BeamScore.mean(before), [b.acc for b in before if b.beams]
        return StartScore(
            mean.acc, mean.median, _mean(psnrs), _mean([a for a, _ in after]), _mean([p for _, p in after]),
            statistics.median(seconds), round(statistics.fmean(splats)), statistics.pstdev(accs) if accs else 0.0, len(accs),
        )  # fmt: skip

    def _beams(self, gaussians: Gaussians, i: int, withheld: Sweep) -> BeamScore:
        out = self.rasterizer.render(gaussians, self.cameras[i], RasterOptions(camera_grads=False))
        found = seen_returns(self.cameras[i], withheld.world_xyz)
        if self.masks is not None:
            found = found.kept(self.masks[i].reshape(-1)[found.pixels(self.cameras.width)] > 0.5)
        return score_beams(out, found)

    def _novel(self, gaussians: Gaussians, m: int, background: tuple[float, float, float]) -> float:
        i = self.moments[m].index
        color = self.rasterizer.render(gaussians, self.cameras[i], RasterOptions(background, camera_grads=False)).color
        return float(psnr(color.clamp(0, 1), self.images[i : i + 1], self._scanned(m)[None]))

    def _scanned(self, m: int) -> Float[Tensor, "H W"]:
        """1 near the returns of the whole scan of that moment."""
        camera = self.cameras[self.moments[m].index]
        sparse = seen_returns(camera, self.moments[m].sweep.world_xyz).depth_map(camera.width, camera.height)
        near = max_pool2d((sparse > 0).float()[None, None], 2 * NEAR + 1, 1, NEAR)[0, 0]
        return near if self.masks is None else near * (self.masks[self.moments[m].index] > 0.5)

    def _after(self, name: str, first: int) -> tuple[float, float]:
        window = range(first, first + WINDOW)
        middle, trained = window[WINDOW // 2], [self.moments[m].index for m in window[::2]]
        capture = self.capture.select([self.capture.views[i].name for i in trained])
        assert capture.cameras is not None
        gaussians = scan_start(name, self.kept[middle])
        assert gaussians is not None, "the same start has worked before"
        at = self.moments[middle].index
        gaussians = painted(gaussians, self.cameras[at], self.images[at : at + 1], self.rasterizer)
        w, h = capture.cameras.width, capture.cameras.height
        maps = torch.stack([seen_returns(capture.cameras[k], self.kept[middle].world_xyz, cell=8).depth_map(w, h) for k in range(len(capture))])
        depth = tuple(DepthMap(d, (d > 0).float(), _valid(d)) for d in maps)
        report = CameraReport("given", len(capture), len(capture), None, float(capture.cameras.K[0, 0, 0]), "given", None, 0)
        run = SplatMethod(OPTIMISATION).start(Start(InitState(capture, self.kept[middle].cloud(), report), depth, scan=maps), gaussians)
        for _ in run.events():
            pass
        scene = run.snapshot()
        novel = [self._novel(scene.gaussians, m, scene.background) for m in window[1::2]]
        return self._beams(scene.gaussians, at, self.withheld[middle]).acc, statistics.fmean(novel)


def _mean(values: list[float]) -> float | None:
    told = [v for v in values if math.isfinite(v)]
    return statistics.fmean(told) if told else None


def _valid(depth: Float[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    return depth > 0


def _sky(image: Float[Tensor, "H W 3"]) -> tuple[float, float, float]:
    """What stands behind everything: the mean colour of the photo's upper quarter, which no beam reaches."""
    r, g, b = image[: max(1, len(image) // 4)].reshape(-1, 3).mean(0).tolist()
    return r, g, b


def _without_order(sweep: Sweep, raw: Sweep) -> Sweep:
    """Without what the rings told: their numbers, and where each beam starts unless the file said so."""
    order = torch.randperm(len(sweep), generator=torch.Generator().manual_seed(0))
    return replace(sweep.kept(order), ring=None, seconds=None, **({"origins": None} if raw.origins is None else {}))
