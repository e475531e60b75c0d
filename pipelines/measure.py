"""What the photos themselves say before the optimisation: depth, by the priors a method names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch

from ..priors.cache import predict_depth
from ..priors.depth_relative import RelativeDepth
from ..priors.protocol import DepthPrior
from ..priors.registry import get_prior
from ..priors.scan_splats import load_scan_net
from ..recon.capture import Capture, View
from ..recon.depth import DepthMap
from ..recon.matches import FlowField
from .init.config import InitConfig
from .init.protocol import InitState
from .protocol import Start
from .scan.depth import scan_depth, with_scan_depth
from .scan.moving import said_of_moving, without_moving

__all__ = ["measure", "require_priors"]

NEIGHBOURS = 4  # flow is measured to so many nearest photos
FROM_FLOW = frozenset({"epipolar"})  # depth priors that are built on a flow prior


class Measured(Protocol):
    """What a method's settings say of priors (see SplatConfig)."""

    @property
    def depth_prior(self) -> str: ...
    @property
    def guide_prior(self) -> str | None: ...
    @property
    def flow_prior(self) -> str: ...
    @property
    def wants_flow(self) -> bool: ...
    def wants_depth(self, alone: bool) -> bool:
        """`alone`: photos of an object with nothing around it."""
        ...

    @property
    def scan(self) -> bool: ...
    @property
    def moving(self) -> bool: ...
    @property
    def init(self) -> InitConfig: ...


def require_priors(config: Measured, capture: Capture | None = None) -> None:
    """Raises BackendUnavailable for a prior of the method that cannot work here, before minutes are spent on what comes first."""
    cpu = torch.device("cpu")
    _depth_prior(config.depth_prior, config, cpu)
    if config.guide_prior is not None:
        _depth_prior(config.guide_prior, config, cpu)
    if config.scan and capture is not None and capture.sweeps:
        load_scan_net()
    if config.wants_flow:
        get_prior("flow", config.flow_prior)
    for name in config.init.matchers:
        get_prior("match", name)
    if config.init.pointmap is not None:
        get_prior("pointmap", config.init.pointmap)


def measure(
    init: InitState, config: Measured, estimated_cameras: bool, seed: int, device: torch.device, anew: bool = False
) -> Start:
    """Asks the priors. With `anew` none answers from the cache: the time is then what a first run takes."""
    views, cameras = init.capture.views, init.capture.cameras
    if config.wants_depth(init.capture.white_background or init.capture.is_cut_out()):
        depth = predict_depth(_depth_prior(config.depth_prior, config, device), views, cameras, init.points, anew)
    else:
        depth = [_unknown(view) for view in views]
    # beside found cameras a depth sensor's metres mean nothing; scans have moved the cameras into theirs
    capture = replace(init.capture, depth=()) if estimated_cameras else init.capture
    scan = scan_depth(capture, find_moving=config.moving) if config.scan else None
    moving = None if scan is None else scan.moving
    if scan is not None:
        depth = list(with_scan_depth(depth, scan))
    if moving is not None:
        depth = [replace(d, valid=d.valid & ~m, confidence=torch.where(m, 0.0, d.confidence)) for d, m in zip(depth, moving, strict=True)]
        init = replace(init, capture=without_moving(init.capture, moving))
        views = init.capture.views
    guide: list[DepthMap] = []
    if config.guide_prior is not None:
        prior = _depth_prior(config.guide_prior, config, device)
        # what a network says of each photo alone: beside cameras it would hand on what stereo measured, which the method has already
        alone = isinstance(prior, RelativeDepth)
        guide = predict_depth(prior, views, None if alone else cameras, None if alone else init.points, anew)
    flow = _flow(init, config.flow_prior, device) if config.wants_flow else {}
    depth = [replace(d, normal=None) for d in depth]  # as large as the photos, and nothing learns from them
    return Start(init, tuple(depth), estimated_cameras, seed, device, tuple(guide), flow, None if scan is None else scan.returns, moving, said_of_moving(moving))


def _unknown(view: View) -> DepthMap:
    width, height = view.image.size
    none = torch.zeros(height, width)
    return DepthMap(none, none, none.bool())


def _depth_prior(name: str, config: Measured, device: torch.device) -> DepthPrior:
    options: dict[str, Any] = {"flow": config.flow_prior} if name in FROM_FLOW else {}
    return get_prior("depth", name, device, **options)


def _flow(init: InitState, name: str, device: torch.device) -> dict[tuple[int, int], FlowField]:
    """From each photo to its nearest others."""
    cameras, views = init.capture.cameras, init.capture.views
    assert cameras is not None, "measuring follows the initialiser, which gives every view a camera"
    near = cameras.distances.argsort(1).tolist()
    pairs = [(i, j) for i, row in enumerate(near) for j in [j for j in row if j != i][:NEIGHBOURS]]
    fields = get_prior("flow", name, device).predict([(views[i], views[j]) for i, j in pairs])
    return dict(zip(pairs, fields, strict=True))
