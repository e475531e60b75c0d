"""What the photos themselves say before the optimisation: depth, by the priors a method names."""

from __future__ import annotations

from typing import Any

import torch

from ..priors.cache import predict_depth
from ..priors.protocol import DepthPrior
from ..priors.registry import get_prior
from ..recon.depth import DepthMap
from ..recon.matches import FlowField
from .init.protocol import InitState
from .methods.config import SplatConfig
from .protocol import Start

__all__ = ["measure", "require_priors"]

NEIGHBOURS = 4  # flow is measured to so many nearest photos
FROM_FLOW = frozenset({"epipolar"})  # depth priors that are built on a flow prior


def require_priors(config: SplatConfig) -> None:
    """Raises BackendUnavailable for a prior of the method that cannot work here, before minutes are spent on what comes first."""
    _depth_prior(config.depth_prior, config)
    if config.guide_prior is not None:
        _depth_prior(config.guide_prior, config)
    if config.terms.flow > 0:
        get_prior("flow", config.flow_prior)


def measure(init: InitState, config: SplatConfig, estimated_cameras: bool, seed: int, device: torch.device) -> Start:
    depth = _depth(init, config.depth_prior, config)
    guide = () if config.guide_prior is None else _depth(init, config.guide_prior, config)
    flow = _flow(init, config.flow_prior) if config.terms.flow > 0 else {}
    return Start(init, depth, estimated_cameras, seed, device, guide, flow)


def _depth_prior(name: str, config: SplatConfig) -> DepthPrior:
    options: dict[str, Any] = {"flow": config.flow_prior} if name in FROM_FLOW else {}
    return get_prior("depth", name, **options)


def _depth(init: InitState, name: str, config: SplatConfig) -> tuple[DepthMap, ...]:
    return tuple(predict_depth(_depth_prior(name, config), init.capture.views, init.capture.cameras, init.points))


def _flow(init: InitState, name: str) -> dict[tuple[int, int], FlowField]:
    """From each photo to its nearest others."""
    cameras, views = init.capture.cameras, init.capture.views
    assert cameras is not None, "measuring follows the initialiser, which gives every view a camera"
    near = torch.cdist(cameras.centers, cameras.centers).argsort(1).tolist()
    pairs = [(i, j) for i, row in enumerate(near) for j in [j for j in row if j != i][:NEIGHBOURS]]
    fields = get_prior("flow", name).predict([(views[i], views[j]) for i, j in pairs])
    return dict(zip(pairs, fields, strict=True))
