"""Finds the cameras: many hypotheses of a first pair and a focal length, the promising ones grown to all photos, the best refined.

The focal length is not known without EXIF, and left free from the start it runs away (to eleven times the image width on five photos of a kitchen). So each
hypothesis begins near one focal length and may move it only under a prior; what the photos say about all of it decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .bundle import BundleOptions
from .evidence import log_odds, pair_log_odds
from .grow import grow
from .model import AGREE, Model, disagreement, evaluate, settle, start_rig
from .scene import Scene
from .tracks import Tracks

FARTHEST = 2.5  # standard deviations: beyond, a focal length is not believed
EVIDENCE = 150.0  # independent observations that all observations together are worth where focal lengths are compared

__all__ = ["FocalPrior", "SearchOptions", "continue_cameras", "find_cameras", "focal_is_loose"]


@dataclass(frozen=True)
class FocalPrior:
    """What is known about the focal lengths before looking: per photo a guess in pixels, and the standard deviation of its logarithm."""

    mean: np.ndarray
    spread: float

    def options(self, observations: int, **more: object) -> BundleOptions:
        """Adjustment with this prior.

        Few photos leave the focal length to second-order effects, where lens distortion and matching bias count more than noise; thousands of
        observations would still outvote any prior. So the prior weighs as if there were only `EVIDENCE` independent ones.
        """
        spread = self.spread / np.sqrt(max(1.0, observations / EVIDENCE))
        return BundleOptions(focal=True, focal_mean=self.mean, focal_prior=float(spread), **more)  # pyright: ignore


@dataclass(frozen=True)
class SearchOptions:
    """How hard to look.

    Attributes:
        ratios: focal lengths to begin from, as factors on the prior's guess.
        pairs, poses: first pairs tried, and relative poses per pair.
        finalists: hypotheses grown to all photos.
        enough: share of agreeing observations at which nothing better is looked for.
        enough_photos: so many placed photos tell hypotheses apart, and determine the focal length without help.
        min_inliers: agreeing observations a photo needs.
        quick_tracks, steady_tracks: tracks used while searching, and to steady the focal length.
    """

    ratios: tuple[float, ...] = (0.85, 1.3, 2.0, 3.0)
    pairs: int = 5
    poses: int = 3
    finalists: int = 4
    enough: float = 0.85
    enough_photos: int = 8
    min_inliers: int = 12
    quick_tracks: int = 600
    steady_tracks: int = 3000


def find_cameras(scene: Scene, prior: FocalPrior, fixed_focal: bool, options: SearchOptions, tell: Callable[[float], None]) -> Model | None:
    """The best supported model over all hypotheses, adjusted over all tracks; None when not even a pair holds.

    Args:
        fixed_focal: the prior is sharp (EXIF): only one focal length is begun from.
    """
    quick = quick_tracks(scene.tracks, max(options.quick_tracks, 100 * len(prior.mean)))
    seeds: list[Model] = []
    finalists: list[Model] = []  # of each focal length begun from the best: few photos tell them apart less well than all will
    ratios = (1.0,) if fixed_focal else options.ratios
    for n, ratio in enumerate(ratios):
        found = _seeds(scene, quick, prior, ratio, options)
        seeds += found
        finalists += [max(found, key=lambda m: m.score)] if found else []
        tell(0.6 * (n + 1) / len(ratios))
        best = max(seeds, key=lambda m: m.score, default=None)
        if best is not None and n >= 1 and best.placed == min(3, len(prior.mean)) and explained(best) >= options.enough:
            break
    finalists = _distinct(sorted(finalists, key=lambda m: -m.score) + sorted(seeds, key=lambda m: -m.score))[: options.finalists]
    if len(prior.mean) > options.enough_photos:  # so many tell hypotheses apart before all photos are placed
        part = [grow(m, scene, quick, prior.options(_observations(m), iterations=8), options.min_inliers, options.enough_photos) for m in finalists]
        finalists = sorted(part, key=lambda m: -m.score)[:1]
    best = None
    for n, seed in enumerate(finalists):
        grown = grow(seed, scene, quick, prior.options(_observations(seed), iterations=8), options.min_inliers)
        full = finish(grown, scene, prior, fixed_focal, options)
        tell(0.6 + 0.4 * (n + 1) / len(finalists))
        if sane(full, prior) and (best is None or full.score > best.score):
            best = full
            if best.placed == len(prior.mean) and explained(best) >= options.enough:
                break
    return best


def continue_cameras(
    model: Model | None, scene: Scene, prior: FocalPrior, fixed_focal: bool, options: SearchOptions, tell: Callable[[float], None]
) -> Model | None:
    """After new links were found: places the photos left over, or searches anew where nothing was placed."""
    if model is None or model.placed < 3:
        again = find_cameras(scene, prior, fixed_focal, options, tell)
        return again if model is None or (again is not None and again.placed > model.placed) else model
    o = prior.options(_observations(model), iterations=8)
    some = quick_tracks(scene.tracks, options.steady_tracks)
    grown = grow(evaluate(model.rig, some), scene, some, o, options.min_inliers)
    tell(0.5)
    return finish(grown, scene, prior, fixed_focal, options) if grown.placed > model.placed else model


def finish(model: Model, scene: Scene, prior: FocalPrior, fixed_focal: bool, options: SearchOptions) -> Model:
    """All tracks, left-over photos once more, the focal length steadied, longer adjustment."""
    wide = (3 * AGREE,) * 2
    o = prior.options(2 * len(scene.tracks.view) // 3, iterations=20)
    model = settle(evaluate(model.rig, scene.tracks), scene.tracks, o, scene.camera_of, wide)
    if model.placed < len(model.rig.t):
        more = grow(model, scene, scene.tracks, replace(o, iterations=8), options.min_inliers)
        model = settle(more, scene.tracks, o, scene.camera_of, wide) if more.placed > model.placed else model
    model = prune(model, scene, scene.tracks, o)
    if fixed_focal:
        return model
    if model.placed >= options.enough_photos:
        free = BundleOptions(iterations=20, focal=True, focal_mean=prior.mean, focal_prior=prior.spread)
        return settle(model, scene.tracks, free, scene.camera_of, wide)
    steady = steady_focal(model, scene, quick_tracks(scene.tracks, options.steady_tracks), prior)
    return settle(evaluate(steady.rig, scene.tracks), scene.tracks, BundleOptions(iterations=20), scene.camera_of, wide)


def prune(model: Model, scene: Scene, tracks: Tracks, options: BundleOptions) -> Model:
    """Takes back photos whose place is doubtful, the most doubtful first, down to a pair."""
    while scene.grey and model.placed > 2:
        odds = {int(v): log_odds(model, int(v), scene) for v in np.flatnonzero(model.rig.placed)}
        worst = min(odds, key=lambda v: (odds[v], v))
        if odds[worst] >= 0:
            return model
        placed = model.rig.placed.copy()
        placed[worst] = False
        model = settle(evaluate(replace(model.rig, placed=placed), tracks), tracks, options, scene.camera_of)
    return model


def steady_focal(model: Model, scene: Scene, tracks: Tracks, prior: FocalPrior, step: float = 0.04, most: int = 12) -> Model:
    """The focal length at which the fewest observations are left unexplained, found by holding it and walking downhill.

    Adjustment sees only the observations that fit already; where the photos hardly determine the focal length (a narrow row of photos) it settles a quarter
    off. The cut-off error of all observations has its valley near the truth: on three photos each of fern, horns, fortress and fox within 1 to 4 %.
    """
    tried: dict[int, tuple[float, Model]] = {}

    def cost(k: int) -> float:
        if k not in tried:
            near = min(tried, key=lambda q: abs(q - k), default=None)
            tried[k] = _held(model if near is None else tried[near][1], model.rig.focal * np.exp(k * step), scene, tracks, prior)
        return tried[k][0]

    coarse, fine = 3, 1  # in units of `step`
    best = 0
    for k in (coarse, fine):
        while len(tried) < most and (best - k not in tried or best + k not in tried):
            best = min((best - k, best, best + k), key=cost)
    if not all(np.isfinite(tried.get(k, (np.inf, model))[0]) for k in (best - fine, best, best + fine)):
        return tried[best][1]
    a, b, c = cost(best - fine), cost(best), cost(best + fine)
    shift = float(np.clip(0.5 * (a - c) / max(a - 2 * b + c, 1e-9), -0.5, 0.5))
    return replace(tried[best][1], rig=replace(tried[best][1].rig, focal=model.rig.focal * np.exp((best + shift) * step)))


def focal_is_loose(model: Model, scene: Scene, prior: FocalPrior, factor: float = 1.4, least: float = 2.0) -> bool:
    """Whether focal lengths shorter and longer by `factor` explain the photos as well: within `least` of the negative log posterior."""
    tracks = quick_tracks(scene.tracks, SearchOptions.steady_tracks)
    here, shorter, longer = (_held(model, model.rig.focal * f, scene, tracks, prior)[0] for f in (1.0, 1 / factor, factor))
    return min(shorter, longer) - here < least


def _held(model: Model, focal: np.ndarray, scene: Scene, tracks: Tracks, prior: FocalPrior) -> tuple[float, Model]:
    """Negative log posterior of focal lengths that are held (the observations count as `EVIDENCE` independent ones), and the model adjusted with them."""
    z = float(np.log(focal[0] / prior.mean[0])) / prior.spread
    if abs(z) > FARTHEST:
        return np.inf, model
    held = settle(evaluate(replace(model.rig, focal=focal), tracks), tracks, BundleOptions(iterations=12), scene.camera_of, (3 * AGREE,) * 2)
    return EVIDENCE * disagreement(held) + 0.5 * z**2, held


def sane(model: Model, prior: FocalPrior) -> bool:
    """Whether the focal lengths are such as cameras have."""
    off = np.log(model.rig.focal / prior.mean)[model.rig.placed]
    return bool(np.abs(off).max() <= FARTHEST * max(prior.spread, 0.1) + 0.05)


def explained(model: Model) -> float:
    """Share of the observations of placed photos that agree with their point."""
    return float(model.good.mean()) if len(model.good) else 0.0


def quick_tracks(tracks: Tracks, most: int) -> Tracks:
    """A selection that keeps long tracks first and otherwise spreads evenly: enough to tell hypotheses apart."""
    if tracks.count <= most:
        return tracks
    length = np.bincount(tracks.track, minlength=tracks.count)
    order = np.argsort(-length, kind="stable")
    keep = np.zeros(tracks.count, dtype=bool)
    longest, rest = order[: most // 2], order[most // 2 :]
    keep[longest] = True
    keep[rest[np.linspace(0, len(rest) - 1, most - most // 2).astype(int)]] = True
    return tracks.select(keep[tracks.track])


def _observations(model: Model) -> int:
    return int(model.good.sum())


def _promise(scene: Scene) -> np.ndarray:
    """Per pair, how good a beginning it makes: what speaks for its links being true, and a little for their number."""
    return np.array([pair_log_odds(scene, i, j) + 0.01 * len(link) for (i, j), link in zip(scene.graph.pairs, scene.graph.links, strict=True)])


def _seeds(scene: Scene, quick: Tracks, prior: FocalPrior, ratio: float, o: SearchOptions) -> list[Model]:
    """Pairs grown to three photos, from one focal length."""
    views = len(prior.mean)
    focals = prior.mean * ratio
    found = []
    for n in np.argsort(-_promise(scene), kind="stable")[: o.pairs]:
        i, j = scene.graph.pairs[n]
        for pose in scene.poses(i, j, (float(focals[i]), float(focals[j])))[: o.poses]:
            near = BundleOptions(iterations=8, focal=True, focal_mean=focals, focal_prior=0.15)
            rig = start_rig(views, scene.size, focals.copy(), i, j, pose.R, pose.t)
            model = settle(evaluate(rig, quick), quick, near, scene.camera_of)
            if model.good.sum() < 2 * o.min_inliers:
                continue
            model = grow(model, scene, quick, near, o.min_inliers, most=min(3, views))
            loose = prior.options(_observations(model), iterations=12)
            found.append(prune(settle(model, quick, loose, scene.camera_of, (3 * AGREE, AGREE)), scene, quick, loose))
    return found


def _distinct(models: list[Model]) -> list[Model]:
    """Models that place the same photos the same way count once (the best first)."""
    kept: list[Model] = []
    for m in models:
        if not any(_same(m, k) for k in kept):
            kept.append(m)
    return kept


def _same(a: Model, b: Model) -> bool:
    if not np.array_equal(a.rig.placed, b.rig.placed) or abs(np.log(a.rig.focal[0] / b.rig.focal[0])) > 0.05:
        return False
    i = np.flatnonzero(a.rig.placed)
    ra, rb = a.rig.R[i] @ a.rig.R[i[0]].T, b.rig.R[i] @ b.rig.R[i[0]].T
    angle = np.arccos(np.clip((np.einsum("vij,vij->v", ra, rb) - 1) / 2, -1, 1))
    ca, cb = ((m.rig.centers[i] - m.rig.centers[i[0]]) @ m.rig.R[i[0]].T for m in (a, b))
    ca, cb = ca / np.linalg.norm(ca).clip(1e-12), cb / np.linalg.norm(cb).clip(1e-12)
    return bool(angle.max() < np.radians(2) and np.abs(ca - cb).max() < 0.05)
