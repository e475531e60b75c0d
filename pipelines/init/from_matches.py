"""Cameras from nothing but photos: matching, geometric verification, search over first pairs and focal lengths, adjustment, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ...recon.capture import Capture, Unplaced
from ...recon.errors import CaptureError
from .config import InitConfig
from .evidence import believed
from .gauge import cameras_of, level, point_cloud, relative_baseline, reprojection_px
from .model import Model
from .pairing import Overlap, PairingOptions, find_overlap, look_wider, named_matchers
from .protocol import CameraReport, InitState, Progress
from .scene import Scene
from .search import FocalPrior, SearchOptions, continue_cameras, find_cameras, focal_is_loose, prune
from .tracks import build_tracks, without_twins

__all__ = ["FromMatches", "FromMatchesConfig"]

CLEARLY_MANY = 100  # points two photos share, from which "too few" would be no reason

MIN_KEYPOINTS = 60
MIN_PAIR_POINTS = 30


@dataclass(frozen=True)
class FromMatchesConfig:
    """Settings of the initialiser "matches".

    Attributes:
        matchers: names of match priors; their matches are joined.
        focal_guess: expected focal length without EXIF, times the longer side (phones 0.7-0.85, cameras 0.7-1.4).
        focal_spread: standard deviation of its natural logarithm: a phone's ultra-wide (0.4) and a portrait lens (2.4) are within two.
        exif_spread: the same when EXIF tells the focal length (rounded there, and photos get cropped).
    """

    matchers: tuple[str, ...] = ("xfeat", "sift")
    focal_guess: float = 0.9
    focal_spread: float = 0.5
    exif_spread: float = 0.05
    pairing: PairingOptions = field(default_factory=PairingOptions)
    search: SearchOptions = field(default_factory=SearchOptions)


class FromMatches:
    """Initializer "matches": 2 to about 30 photos without cameras."""

    def __init__(
        self, config: FromMatchesConfig | None = None, matchers: Sequence[Any] | None = None, device: torch.device | None = None
    ) -> None:
        """`matchers` replaces those named in the settings (tests); `device`: see named_matchers."""
        self.config, self.device = config or FromMatchesConfig(), device
        self._matchers = matchers

    @classmethod
    def named(cls, config: InitConfig, device: torch.device | None = None) -> FromMatches:
        return cls(FromMatchesConfig(matchers=config.matchers), device=device)

    def run(self, capture: Capture, seed: int = 0, progress: Progress | None = None) -> InitState:
        """Raises CaptureError when fewer than two photos can be placed; the message says what to photograph instead.

        The world frame is that of `gauge.level`: upright, the median point at the origin and 3 units away. The principal point is the image centre, and lens
        distortion is taken as none. The same photos and seed give the same cameras.
        """
        tell = progress or (lambda what, done: None)
        if len(capture) < 2:
            raise CaptureError("One photo alone has no depth; take at least one more of the same things from a step to the side.")
        matchers = self._matchers if self._matchers is not None else named_matchers(self.config.matchers, self.device)
        prior, camera_of, source = self._focal_prior(capture)
        overlap = find_overlap(capture, matchers, prior.mean, self.config.pairing, seed, lambda d: tell("matching photos", d))
        scene, model = self._scene(capture, overlap, camera_of, seed), None
        if overlap.graph.pairs:
            model = find_cameras(scene, prior, source == "exif", self.config.search, lambda d: tell("finding cameras", d))
        overlap, scene, model = self._look_again(capture, overlap, scene, model, matchers, seed, tell)
        if not overlap.graph.pairs or len(overlap.same) == len(capture) - 1:
            raise CaptureError(_nothing_overlaps(capture, overlap))
        if model is None or model.placed < 2 or model.good.sum() < self._least(model.placed):
            raise CaptureError(_nothing_placed(capture, overlap, source))
        if not believed(model, scene):  # links found since, and the focal length, may speak against a photo that was kept before
            model = prune(model, scene, scene.tracks, prior.options(2 * len(scene.tracks.view) // 3, iterations=20))
            if not believed(model, scene):
                raise CaptureError(_nothing_sure(capture))
        loose = source == "estimated" and focal_is_loose(model, scene, prior)
        return self._state(capture, level(model), overlap, source, loose)

    def _look_again(
        self, capture: Capture, overlap: Overlap, scene: Scene, model: Model | None, matchers: Sequence[Any], seed: int, tell: Progress
    ) -> tuple[Overlap, Scene, Model | None]:
        """Slower looks at the photos that found no place, as long as that places more."""
        prior, camera_of, source = self._focal_prior(capture)
        before = -1
        while before < (0 if model is None else model.placed):
            before = 0 if model is None else model.placed
            for lost in self._lost(overlap, model):
                if model is not None and model.rig.placed[lost]:
                    continue
                there = [] if model is None else [int(v) for v in np.flatnonzero(model.rig.placed)]
                wider = look_wider(overlap, capture, lost, there, matchers, prior.mean, self.config.pairing, seed, lambda d: tell("looking again", d))
                more = wider.graph is not overlap.graph
                overlap = wider
                if more:
                    scene = self._scene(capture, overlap, camera_of, seed)
                    model = continue_cameras(model, scene, prior, source == "exif", self.config.search, lambda d: tell("finding cameras", d))
        return overlap, scene, model

    def _lost(self, overlap: Overlap, model: Model | None) -> list[int]:
        """Photos without a place that may still find one, those with most links first."""
        views = [v for v in range(len(overlap.keypoints)) if v not in overlap.same and overlap.keypoints[v] >= MIN_KEYPOINTS]
        lost = [v for v in views if model is None or not model.rig.placed[v]]
        return sorted(lost, key=lambda v: -int(overlap.shared[v].sum()))

    def _scene(self, capture: Capture, overlap: Overlap, camera_of: np.ndarray, seed: int) -> Scene:
        size = capture.views[0].image.size
        graph = overlap.graph
        if overlap.same:
            graph = graph.keep(
                [np.full(len(link), i not in overlap.same and j not in overlap.same) for (i, j), link in zip(graph.pairs, graph.links, strict=True)]
            )
        grey, counts = [v.image.load().mean(-1) for v in capture.views], [v.image.load_mask() for v in capture.views]
        tracks, error = without_twins(build_tracks(graph), graph, max(size)), 0.5 * self.config.pairing.error_share * max(size)
        return Scene(graph, tracks, size, camera_of, error, seed, grey, counts)

    def _least(self, placed: int) -> int:
        """Observations that prove a model. Two photos fit any matches near some epipolar geometry; only their number tells chance from truth."""
        return 2 * (MIN_PAIR_POINTS if placed == 2 else self.config.search.min_inliers)

    def _focal_prior(self, capture: Capture) -> tuple[FocalPrior, np.ndarray, str]:
        """Guess and spread, the number of each photo's camera (photos of one focal length share one), and where the guess comes from."""
        known = [v.focal_prior_px for v in capture.views]
        told = [f for f in known if f is not None and f > 0]
        guess = self.config.focal_guess * max(capture.views[0].image.size)
        if len(told) < len(known) / 2:
            return FocalPrior(np.full(len(known), guess), self.config.focal_spread), np.zeros(len(known), dtype=int), "estimated"
        middle = float(np.median(told))
        mean = np.array([f if f is not None and f > 0 else middle for f in known])
        camera_of = _cameras_by_focal(mean)
        for c in np.unique(camera_of):
            mean[camera_of == c] = np.exp(np.log(mean[camera_of == c]).mean())
        return FocalPrior(mean, self.config.exif_spread), camera_of, "exif"

    def _state(self, capture: Capture, model: Model, overlap: Overlap, source: str, loose: bool) -> InitState:
        placed = np.flatnonzero(model.rig.placed)
        missing = [v for v in range(len(capture)) if not model.rig.placed[v]]
        unplaced = tuple(Unplaced(capture.names[v], _reason(v, capture, overlap, model)) for v in missing)
        kept = replace(
            capture,
            views=tuple(capture.views[v] for v in placed),
            cameras=cameras_of(model.rig, capture.views[0].image.size),
            unplaced=capture.unplaced + unplaced,
            depth=tuple(capture.depth[v] for v in placed) if capture.depth else (),
            points=None,
        )
        points = point_cloud(model, capture)
        report = CameraReport(
            method="+".join(self.config.matchers) if self._matchers is None else "matches",
            registered=len(placed),
            photos=len(capture) + len(capture.unplaced),
            reprojection_px=reprojection_px(model),
            focal_px=float(model.rig.focal[placed].mean()),
            focal_source=source,
            baseline=relative_baseline(model),
            points=len(points),
            unplaced=capture.unplaced + unplaced,
            focal_loose=loose,
        )
        return InitState(kept, points, report)


def _cameras_by_focal(focal: np.ndarray, within: float = 0.03) -> np.ndarray:
    """Number of each photo's camera: focal lengths that differ by at most this share are one camera."""
    camera_of, number, least = np.zeros(len(focal), dtype=int), -1, -np.inf
    for v in np.argsort(focal, kind="stable"):
        if np.log(focal[v]) - least > within:
            number, least = number + 1, np.log(focal[v])
        camera_of[v] = number
    return camera_of


def _nothing_overlaps(capture: Capture, overlap: Overlap) -> str:
    if len(overlap.same) == len(capture) - 1:
        return (
            f"All {len(capture)} photos show the same view ({capture.names[0]} and {capture.names[1]} differ by nothing), so nothing can be measured; "
            "take each photo from a step to the side of the last."
        )
    bare = [n for n, k in zip(capture.names, overlap.keypoints, strict=True) if k < MIN_KEYPOINTS]
    if len(bare) >= len(capture) - 1:
        return (
            f"The photos have too little texture to recognise anything in two of them ({bare[0]} has {int(overlap.keypoints.min())} distinct points); "
            "photograph things with pattern and edges, in focus and in good light."
        )
    return (
        f"The {len(capture)} photos do not overlap: no two of them show enough of the same things; "
        "take them closer together, so that neighbouring photos share at least half of what they show."
    )


def _nothing_placed(capture: Capture, overlap: Overlap, source: str) -> str:
    n = int(overlap.shared.max())
    if n < 2 * MIN_PAIR_POINTS:
        return _nothing_sure(capture)
    i, j = np.unravel_index(int(overlap.shared.argmax()), overlap.shared.shape)
    return (
        f"The photos overlap ({capture.names[int(i)]} and {capture.names[int(j)]} share {n} points) but their positions cannot be told: they seem to be taken from "
        "one spot; take a step to the side between photos instead of turning on the spot."
        + (" (Or the focal length in their EXIF is not theirs: then save them without it.)" if source == "exif" else "")
    )


def _nothing_sure(capture: Capture) -> str:
    return (
        f"Where the {len(capture)} photos were taken cannot be told with any certainty: what they seem to share may be other things that look alike; "
        "take them closer together, so that neighbouring photos share at least half of what they show."
    )


def _reason(view: int, capture: Capture, overlap: Overlap, model: Model) -> str:
    if view in overlap.same:
        return f"it is the same picture as {capture.names[overlap.same[view]]}"
    if overlap.keypoints[view] < MIN_KEYPOINTS:
        return f"it has too little texture ({int(overlap.keypoints[view])} distinct points)"
    shared = np.where(model.rig.placed, overlap.shared[view], 0)
    best = int(shared.argmax())
    if shared[best] == 0:
        return "it shows nothing that the placed photos show; take a photo between it and them"
    if shared[best] >= CLEARLY_MANY:
        return (
            f"it shares {int(shared[best])} points with {capture.names[best]}, but they and the other photos do not agree on one place for it; "
            "take a photo between the two"
        )
    return f"it shares only {int(shared[best])} points with {capture.names[best]}, too few to be sure of its place; take a photo between the two"
