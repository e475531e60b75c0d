"""What the photos themselves say before the optimisation: depth, by the priors a method names."""

from __future__ import annotations

from typing import Any

import torch

from ..priors.registry import get_prior
from ..recon.depth import DepthMap
from .init.protocol import InitState
from .methods.config import SplatConfig
from .protocol import Start

__all__ = ["measure"]

FROM_FLOW = frozenset({"epipolar"})  # depth priors that are built on a flow prior


def measure(init: InitState, config: SplatConfig, estimated_cameras: bool, seed: int, device: torch.device) -> Start:
    depth = _depth(init, config.depth_prior, config.flow_prior)
    guide = () if config.guide_prior is None else _depth(init, config.guide_prior, config.flow_prior)
    return Start(init, depth, estimated_cameras, seed, device, guide)


def _depth(init: InitState, name: str, flow: str) -> tuple[DepthMap, ...]:
    options: dict[str, Any] = {"flow": flow} if name in FROM_FLOW else {}
    return tuple(get_prior("depth", name, **options).predict(init.capture.views, init.capture.cameras, init.points))
