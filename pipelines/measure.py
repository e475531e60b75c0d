"""What the photos themselves say before the optimisation: depth, by the priors a method names."""

from __future__ import annotations

from typing import Any

import torch

from ..priors.registry import get_prior
from .init.protocol import InitState
from .methods.config import SplatConfig
from .protocol import Start

__all__ = ["measure"]

FROM_FLOW = frozenset({"epipolar"})  # depth priors that are built on a flow prior


def measure(init: InitState, config: SplatConfig, estimated_cameras: bool, seed: int, device: torch.device) -> Start:
    options: dict[str, Any] = {"flow": config.flow_prior} if config.depth_prior in FROM_FLOW else {}
    prior = get_prior("depth", config.depth_prior, **options)
    depth = tuple(prior.predict(init.capture.views, init.capture.cameras, init.points))
    return Start(init, depth, estimated_cameras, seed, device)
