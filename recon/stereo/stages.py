"""The three heavy steps for one reference photo, native where the kernels are there, else the slow torch twins."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..kernels import native_or_none
from . import reference
from .config import StereoConfig

__all__ = ["Winner", "match_view", "penalties"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Winner:
    """The best plane of every pixel (with its fraction), how clearly it won in [0, 1], and its matching cost in [0, 1]."""

    plane: Float[Tensor, "H W"]
    margin: Float[Tensor, "H W"]
    cost: Float[Tensor, "H W"]


def penalties(config: StereoConfig) -> np.ndarray:
    """The penalty of a large step for every 8-bit colour step 0..255."""
    step = np.arange(256, dtype=np.float64)
    fall = config.p2_min + (config.p2 - config.p2_min) * np.exp(-step / config.p2_colour)
    return np.maximum(np.rint(fall), config.p1 + 1).astype(np.int16)


def match_view(
    grey: Float[Tensor, "V H W"],
    rgb: UInt8[Tensor, "H W 3"],
    mask: UInt8[Tensor, "V H W"],
    i: int,
    sources: list[int],
    maps: Float[Tensor, "S 12"],
    planes: Float[Tensor, "D"],
    config: StereoConfig,
    backend: str = "auto",
) -> Winner:
    """Sweep, aggregation and winner for photo `i`. `backend`: auto, native or reference."""
    kernels = native_or_none() if backend in ("auto", "native") else None
    if kernels is None:
        if backend != "reference":
            _log.warning("The compiled kernels are missing: depth from the photos takes minutes instead of seconds.")
        cost = reference.cost_volume(grey, mask, i, sources, maps, planes, config)
        total = reference.aggregate(cost, rgb, config.p1, torch.from_numpy(penalties(config)), config.paths)
        return Winner(*reference.winner(cost, total))
    h, w, d = grey.shape[1], grey.shape[2], len(planes)
    cost, threads = np.empty((h, w, d), np.uint8), torch.get_num_threads()
    kernels.stereo_cost_volume(
        grey.numpy(), mask.numpy(), i, sources, maps.numpy(), planes.numpy(), config.noise, config.second_weight, config.unknown_cost, cost,
        threads,
    )  # fmt: skip
    total = np.empty((h, w, d), np.uint16)
    kernels.stereo_aggregate(cost, rgb.numpy(), config.p1, penalties(config), config.paths, total, threads)
    plane, margin, best = (np.empty((h, w), np.float32) for _ in range(3))
    kernels.stereo_winner(cost, total, plane, margin, best, threads)
    return Winner(torch.from_numpy(plane), torch.from_numpy(margin), torch.from_numpy(best))
