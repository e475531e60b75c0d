"""Cameras from a point map network: for photos that share too little to be matched. Points still come from matches, where they fit those cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ...priors.registry import get_prior
from ...recon.capture import Capture
from ...recon.errors import CaptureError, ConfigError, ShapeError
from ...recon.pointmaps import PointMaps
from ...recon.points import PointCloud
from .config import InitConfig
from .from_capture import FromCapture, FromCaptureConfig
from .gauge import level_cameras
from .protocol import InitState, Progress

__all__ = ["FromPointMap"]

POINTS = 20_000  # of the network's, kept where matches give none


class FromPointMap:
    """Initializer "pointmap": the network places every photo; no other evidence is asked for."""

    def __init__(
        self, config: InitConfig, prior: Any = None, matchers: Sequence[Any] | None = None, device: torch.device | None = None
    ) -> None:
        """`prior` and `matchers` replace those named in the settings (tests); the network works on `device`."""
        self.config, self._prior, self.device = config, prior, device
        self._points = FromCapture(FromCaptureConfig(matchers=config.matchers), matchers, device)

    @classmethod
    def named(cls, config: InitConfig, device: torch.device | None = None) -> FromPointMap:
        return cls(config, device=device)

    def run(self, capture: Capture, seed: int = 0, progress: Progress | None = None) -> InitState:
        """The world frame is that of `gauge.level`, whatever the network's unit was.

        Raises CaptureError for photos that the network cannot take together, ConfigError for a prior that tells no cameras.
        """
        tell = progress or (lambda what, done: None)
        if len(capture) < 2:
            raise CaptureError("One photo alone has no depth; take at least one more of the same things from a step to the side.")
        tell("finding cameras", 0.0)
        prior = self._prior if self._prior is not None else get_prior("pointmap", self.config.pointmap or "", self.device)
        try:
            maps = prior.predict(capture.views)
        except ShapeError as e:
            raise CaptureError(f"{prior.name} looks at all photos together, and these differ in size: {e}") from e
        if maps.cameras is None:
            raise ConfigError(f"The point map prior {prior.name} does not tell where photos were taken; choose another, or set init.pointmap=null.")
        tell("finding cameras", 1.0)
        cameras, points = level_cameras(maps.cameras, _some(maps, capture))
        state = self._points.run(replace(capture, cameras=cameras, points=points), seed, progress)
        return replace(state, report=replace(state.report, method=prior.name, focal_source="estimated"))


def _some(maps: PointMaps, capture: Capture) -> PointCloud:
    """Confident points, evenly taken."""
    cloud = maps.cloud(capture.images())
    if not len(cloud):
        cloud = maps.cloud(capture.images(), least=0.0)
    if not len(cloud):
        raise CaptureError("The point map prior found no point in any of the photos; leave it out (init.pointmap=null).")
    pick = torch.linspace(0, len(cloud) - 1, min(POINTS, len(cloud))).long()
    return replace(cloud, **{name: getattr(cloud, name)[pick] for name in ("xyz", "rgb", "confidence")})
