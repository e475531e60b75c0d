"""From the aggregated depth to slanted planes that match best and agree between the views. Needs the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..camera import Cameras
from .config import StereoConfig
from .setup import back_maps, source_maps

__all__ = ["Photos", "Sweep", "refine_views"]


@dataclass(frozen=True)
class Photos:
    """What is compared: grey in [0, 1], 8-bit colour, mask (0 = ignore)."""

    grey: Float[Tensor, "V H W"]
    rgb: UInt8[Tensor, "V H W 3"]
    mask: UInt8[Tensor, "V H W"]


@dataclass
class Sweep:
    """Results so far, changed step by step: inverse depth and slopes per view, costs, the distance of the planes swept and their nearest."""

    inv: Float[Tensor, "V H W"]
    slopes: Float[Tensor, "V H W 2"]
    margin: Float[Tensor, "V H W"]
    cost: Float[Tensor, "V H W"]
    step: Float[Tensor, "V"]
    near: Float[Tensor, "V"]


def _taps(window: int) -> np.ndarray:
    offsets = [(dx, dy) for dy in range(-window, window + 1, 2) for dx in range(-window, window + 1, 2)]
    sigma = max(1.0, 0.75 * window)
    return np.array([[dx, dy, np.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))] for dx, dy in offsets], np.float32)


def refine_views(kernels: ModuleType, photos: Photos, cameras: Cameras, sources: list[list[int]], sweep: Sweep, config: StereoConfig) -> None:
    """Refines every view alone, then once more with the other views' depth at hand; all views advance together, so order does not matter."""
    v, h, w = photos.grey.shape
    trust = 1.0 - torch.exp(-sweep.margin / 0.03)
    prior = torch.stack([sweep.inv, trust], -1).contiguous()
    planes = np.zeros((v, h, w, 3), np.float32)
    for i in range(v):
        kernels.stereo_fit_planes(sweep.inv[i].numpy(), max(3.0 * float(sweep.step[i]), 1e-12), planes[i])
    taps = _taps(config.window)
    none = np.zeros((0, h, w, 3), np.float32)
    cost = np.ones((v, h, w), np.float32)
    for stage in ("alone", "together", "score"):
        inv = np.ascontiguousarray(planes[..., 0])
        before = planes.copy()
        for i in range(v):
            if not sources[i]:
                continue
            maps, backs = source_maps(cameras, i, sources[i]).numpy(), back_maps(cameras, i, sources[i]).numpy()
            candidates = none
            if stage == "together":
                candidates = np.empty((len(sources[i]), h, w, 3), np.float32)
                for s, j in enumerate(sources[i]):
                    kernels.stereo_carry_planes(before[j], maps[s], backs[s], candidates[s])
            step = float(sweep.step[i])
            scoring = stage == "score"
            settings = [
                config.noise,
                config.second_weight,
                config.unknown_cost,
                config.colour_scale,
                0.0 if scoring else config.prior_weight,
                2.0 * step,
                config.agree_weight,
                config.agree_px,
                float(sweep.near[i]) * 1.1,
                6.0 / float(cameras.K[i, 0, 0]),
                step,
                0.0 if scoring else config.smooth_weight,
                step,
            ]
            kernels.stereo_refine(
                photos.grey.numpy(), photos.rgb[i].numpy(), photos.mask.numpy(), i, sources[i], maps, backs, taps, prior[i].numpy(), inv,
                stage == "together", candidates, settings, 0 if scoring else config.refine_rounds, planes[i], cost[i],
            )  # fmt: skip
    sweep.inv = torch.from_numpy(np.ascontiguousarray(planes[..., 0])) * photos.mask
    sweep.slopes = torch.from_numpy(np.ascontiguousarray(planes[..., 1:]))
    sweep.cost = torch.from_numpy(cost.clip(0, 1))
