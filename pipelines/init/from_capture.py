"""Cameras are given: they stay exactly as they are; matches are triangulated with them, for the range of depths and an honest report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ...recon.camera import Cameras
from ...recon.capture import Capture
from ...recon.errors import CaptureError
from .config import InitConfig
from .gauge import point_cloud, relative_baseline, reprojection_px
from .geometry import Rig
from .model import Model, evaluate
from .pairing import PairingOptions, match_pairs, named_matchers, sharpened
from .protocol import CameraReport, InitState, Progress
from .tracks import MatchGraph, build_tracks
from .twoview import epipolar_agreement

__all__ = ["FromCapture", "FromCaptureConfig"]


FEW = 8  # points: fewer are chance


@dataclass(frozen=True)
class FromCaptureConfig:
    """Settings of the initialiser "given".

    Attributes:
        matchers: names of match priors; their matches are joined.
        partners: each photo is matched with this many others that look the same way from nearby.
        least_sigma: given cameras are a fraction of a pixel off themselves (distortion, rounding): no keypoint counts as sharper than this share of
            the longer side.
        needs_points: where too few are found, and none came with the capture, that is an error.
    """

    matchers: tuple[str, ...] = ("xfeat", "sift")
    partners: int = 4
    least_sigma: float = 0.0008
    needs_points: bool = True


class FromCapture:
    """Initializer "given": the capture's cameras, untouched, and points triangulated from its own photos alone."""

    def __init__(
        self, config: FromCaptureConfig | None = None, matchers: Sequence[Any] | None = None, device: torch.device | None = None
    ) -> None:
        """`matchers` replaces those named in the settings (tests); `device`: see named_matchers."""
        self.config, self.device = config or FromCaptureConfig(), device
        self._matchers = matchers

    @classmethod
    def named(cls, config: InitConfig, device: torch.device | None = None) -> FromCapture:
        return cls(FromCaptureConfig(matchers=config.matchers), device=device)

    def run(self, capture: Capture, seed: int = 0, progress: Progress | None = None) -> InitState:
        """Raises CaptureError when the capture has no cameras, one photo, or when nothing in the photos fits the cameras and no points came with them.

        Where the photos give no points but the capture has some, those are returned.
        """
        tell = progress or (lambda what, done: None)
        if capture.cameras is None:
            raise CaptureError("The capture has no cameras; use the initialiser `matches` to find them.")
        if len(capture) < 2:
            raise CaptureError("One photo alone has no depth, even with its camera; add at least one more photo of the same things.")
        if float(capture.cameras.distances.max()) == 0:
            raise CaptureError(
                f"All {len(capture)} given cameras stand at one point, from which nothing has depth; check their positions, or leave the cameras out "
                "to have them found."
            )
        matchers = self._matchers if self._matchers is not None else named_matchers(self.config.matchers, self.device)
        rig = _rig_of(capture.cameras)
        pairs = _neighbours(rig, self.config.partners)
        raw = match_pairs(capture.views, pairs, matchers, lambda d: tell("matching photos", 0.9 * d))
        graph = self._fitting(raw, rig, max(capture.views[0].image.size))
        if graph.pairs:
            graph = sharpened(graph, capture.views)
        size = capture.views[0].image.size
        floor = self.config.least_sigma * max(size)
        graph = replace(graph, sigma=tuple(np.maximum(s, floor) for s in graph.sigma))
        model = evaluate(rig, build_tracks(graph))
        tell("matching photos", 1.0)
        return self._state(capture, model)

    def _fitting(self, raw: MatchGraph, rig: Rig, longer_side: int) -> MatchGraph:
        """Links that agree with the given cameras."""
        limit = PairingOptions().error_share * longer_side
        masks = []
        for (i, j), link in zip(raw.pairs, raw.links, strict=True):
            R = rig.R[j] @ rig.R[i].T
            f = float(np.sqrt(rig.focal[i] * rig.focal[j]))
            # epipolar distance in pixels of one focal length around one principal point
            uv0, uv1 = ((raw.uv[v][link[:, c]] - rig.center[v]) / rig.scale(np.array([v])) * f for c, v in ((0, i), (1, j)))
            masks.append(epipolar_agreement(R, rig.t[j] - R @ rig.t[i], uv0, uv1, (0, 0), (f, f), limit))
        return raw.keep(masks)

    def _state(self, capture: Capture, model: Model) -> InitState:
        assert capture.cameras is not None
        points = point_cloud(model, capture)
        if len(points) < FEW and capture.points is not None and len(capture.points):
            points = capture.points
        elif len(points) < FEW and self.config.needs_points:
            raise CaptureError(
                f"Nothing in the {len(capture)} photos fits the given cameras (only {len(points)} matching points agree with them); check that the cameras belong "
                "to these photos, or leave the cameras out to have them found."
            )
        report = CameraReport(
            method="given",
            registered=len(capture),
            photos=len(capture) + len(capture.unplaced),
            reprojection_px=reprojection_px(model),
            focal_px=float(capture.cameras.K[:, 0, 0].mean()),
            focal_source="given",
            baseline=relative_baseline(model),
            points=len(points),
            unplaced=capture.unplaced,
        )
        return InitState(capture, points, report)


def _rig_of(cameras: Cameras) -> Rig:
    T, K = cameras.cam_from_world.double().numpy(), cameras.K.double().numpy()
    v = len(cameras)
    return Rig(T[:, :3, :3], T[:, :3, 3], np.ones(v, dtype=bool), K[:, 0, 0], np.zeros(v), K[:, :2, 2], K[:, 1, 1] / K[:, 0, 0])


def _neighbours(rig: Rig, partners: int) -> list[tuple[int, int]]:
    """Pairs of photos that look about the same way (within 60 degrees, or the nearest in angle), the nearest ones first."""
    c, z = rig.centers, rig.R[:, 2]
    far = np.linalg.norm(c[:, None] - c[None], axis=-1)
    angle = np.arccos(np.clip(z @ z.T, -1, 1))
    cost = far / max(float(np.median(far)), 1e-12) + 2 * angle + np.where(angle > np.radians(60), 10, 0)
    cost = cost + np.where(far < 1e-9, 100, 0)  # the same place gives no depth
    np.fill_diagonal(cost, np.inf)
    wanted = {(min(i, int(j)), max(i, int(j))) for i in range(len(c)) for j in np.argsort(cost[i], kind="stable")[:partners] if int(j) != i}
    return sorted(wanted)
