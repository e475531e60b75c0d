"""What a prior is: something that looks at photos and says depth, flow, matches or points. Results are at each view's own resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..recon.camera import Cameras
from ..recon.capture import View
from ..recon.depth import DepthMap
from ..recon.matches import FlowField, Matches
from ..recon.pointmaps import PointMaps
from ..recon.points import PointCloud

__all__ = ["DepthPrior", "FlowPrior", "MatchPrior", "PointMapPrior"]


class _Prior(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def license(self) -> str: ...


class DepthPrior(_Prior, Protocol):
    def predict(self, views: Sequence[View], cameras: Cameras | None, points: PointCloud | None) -> list[DepthMap]:
        """One depth map per view. Multi-view priors need `cameras` (and use `points` for the range of depths); others ignore them."""
        ...


class FlowPrior(_Prior, Protocol):
    def predict(self, pairs: Sequence[tuple[View, View]]) -> list[FlowField]: ...


class MatchPrior(_Prior, Protocol):
    def predict(self, views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[Matches]:
        """Matches for each pair of indices into `views`; features are computed once per view."""
        ...


class PointMapPrior(_Prior, Protocol):
    def predict(self, views: Sequence[View]) -> PointMaps:
        """A point for every pixel of every view in one frame, with the cameras that the network gives them. Views share one size."""
        ...
