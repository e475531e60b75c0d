"""From the aggregated depth to slanted planes that match best and agree between the views. Needs the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..camera import Cameras
from ..depth_fill import complete_depth
from .check import agreement, confidence, drop_speckles, support
from .config import StereoConfig
from .hypotheses import large_planes, plane_maps, point_maps
from .setup import back_maps, source_maps

__all__ = ["Photos", "Sweep", "refine_views"]

_STEEPEST = 6.0  # slope of the inverse depth relative to itself, per focal length: a surface seen at 80 degrees


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


def refine_views(
    kernels: ModuleType,
    photos: Photos,
    cameras: Cameras,
    sources: list[list[int]],
    sweep: Sweep,
    config: StereoConfig,
    xyz: Float[Tensor, "N 3"] | None = None,
) -> None:
    """Refines every view alone; then with the other views' depth at hand; then once more, after what no other view confirmed has been replaced by
    the smooth continuation of what was confirmed. All views advance together, so their order does not matter."""
    job = _Job(kernels, photos, cameras, sources, sweep, config)
    seeds = [None if xyz is None or not len(xyz) else point_maps(xyz, cameras, i).numpy()[None] for i in range(len(cameras))]
    job.advance(config.refine_rounds, together=False, extra=seeds)
    job.advance(config.refine_rounds, together=True)
    if config.heal_rounds > 0:
        healed = job.heal()
        job.advance(config.heal_rounds, together=True, extra=healed)
    job.advance(0, together=False)
    sweep.inv = torch.from_numpy(np.ascontiguousarray(job.planes[..., 0])) * photos.mask
    sweep.slopes = torch.from_numpy(np.ascontiguousarray(job.planes[..., 1:]))
    sweep.cost = torch.from_numpy(job.cost.clip(0, 1))


def _taps(window: int) -> np.ndarray:
    """Every second pixel of the window: dx, dy, weight."""
    offsets = [(dx, dy) for dy in range(-window, window + 1, 2) for dx in range(-window, window + 1, 2)]
    sigma = max(1.0, 0.75 * window)
    return np.array([[dx, dy, np.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))] for dx, dy in offsets], np.float32)


class _Job:
    """The planes of all views (V,H,W,3: inverse depth, slopes) and what improves them."""

    def __init__(
        self, kernels: ModuleType, photos: Photos, cameras: Cameras, sources: list[list[int]], sweep: Sweep, config: StereoConfig
    ) -> None:
        v, h, w = photos.grey.shape
        self.kernels, self.photos, self.cameras, self.sources, self.sweep, self.config = kernels, photos, cameras, sources, sweep, config
        self.maps = [source_maps(cameras, i, s).numpy() if s else None for i, s in enumerate(sources)]
        self.backs = [back_maps(cameras, i, s).numpy() if s else None for i, s in enumerate(sources)]
        self.cost = np.ones((v, h, w), np.float32)
        self.planes = np.zeros((v, h, w, 3), np.float32)
        self.prior = torch.stack([sweep.inv, 1.0 - torch.exp(-sweep.margin / 0.03)], -1).contiguous().numpy()
        for i in range(v):
            self.fit(sweep.inv[i].numpy(), i, self.planes[i])

    def fit(self, inv: np.ndarray, i: int, out: np.ndarray) -> None:
        self.kernels.stereo_fit_planes(inv, max(3.0 * float(self.sweep.step[i]), 1e-12), out, torch.get_num_threads())

    def advance(self, rounds: int, together: bool, extra: Sequence[np.ndarray | None] = ()) -> None:
        """Some rounds for every view (0: only its matching cost, without prior, smoothness and agreement). `together`: the other views' depth counts
        and their planes are tried. `extra`: more planes to try, C,H,W,3 per view."""
        c, photos = self.config, self.photos
        before = self.planes.copy()
        inv = np.ascontiguousarray(before[..., 0])
        on = 1.0 if rounds > 0 else 0.0
        for i, sources in enumerate(self.sources):
            if not sources:
                continue
            candidates = self._candidates(i, before if together else None, extra[i] if extra else None)
            step = float(self.sweep.step[i])
            settings = [c.noise, c.second_weight, c.unknown_cost, c.colour_scale, on * c.prior_weight, 2.0 * step, c.agree_weight, c.agree_px,
                        1.1 * float(self.sweep.near[i]), _STEEPEST / float(self.cameras.K[i, 0, 0]), step, on * c.smooth_weight, step]  # fmt: skip
            self.kernels.stereo_refine(
                photos.grey.numpy(), photos.rgb[i].numpy(), photos.mask.numpy(), i, sources, self.maps[i], self.backs[i], _taps(c.window),
                self.prior[i], inv, together, candidates, settings, rounds, self.planes[i], self.cost[i], torch.get_num_threads(),
            )  # fmt: skip

    def _candidates(self, i: int, others: np.ndarray | None, extra: np.ndarray | None) -> np.ndarray:
        maps, backs = self.maps[i], self.backs[i]
        assert maps is not None and backs is not None
        out = np.empty((0 if others is None else len(self.sources[i]), *self.planes.shape[1:]), np.float32)
        for s, j in enumerate(self.sources[i] if others is not None else []):
            assert others is not None
            self.kernels.stereo_carry_planes(others[j], maps[s], backs[s], out[s])
        return out if extra is None else np.concatenate([out, extra])

    def heal(self) -> list[np.ndarray | None]:
        """Continues the confirmed depth over the rest and makes that the new prior. Returns more planes to try: the continuation and the scene's
        large planes."""
        c, (v, h, w) = self.config, self.photos.grey.shape
        inv = torch.from_numpy(np.ascontiguousarray(self.planes[..., 0])) * self.photos.mask
        slopes = torch.from_numpy(np.ascontiguousarray(self.planes[..., 1:]))
        depth = torch.where(inv > 0, 1.0 / inv.clamp(min=1e-9), torch.zeros_like(inv))
        sure = torch.zeros(v, h, w)
        out: list[np.ndarray | None] = [None] * v
        for i, sources in enumerate(self.sources):
            if not sources:
                continue
            step = float(self.sweep.step[i])
            agree = agreement(inv, self.cameras, i, sources, c.check_px, c.check_relative, self.kernels)
            agreed = (agree.count > 0) & (inv[i] > 0)
            chance = confidence(agree, support(inv[i], slopes[i], agreed, step), self.sweep.margin[i], torch.from_numpy(self.cost[i]))
            large = drop_speckles(inv[i], agreed & (chance > c.valid_above), round(c.heal_patch * h * w), 1.5 * step)
            sure[i] = chance * large
            full = complete_depth(depth[i], sure[i], self.photos.rgb[i].float() / 255, breaks=1, slopes=False)
            smooth = torch.where(full > 0, 1.0 / full.clamp(min=1e-9), torch.zeros_like(full)).contiguous().numpy()
            plane = np.zeros((1, h, w, 3), np.float32)
            self.fit(smooth, i, plane[0])
            self.prior[i, ..., 0] = smooth
            self.prior[i, ..., 1] = c.heal_trust
            lost = ~agreed.numpy()
            self.planes[i][lost] = plane[0][lost]
            out[i] = plane
        if c.large_planes > 0:
            planes = large_planes(self.cameras.unproject_depth(depth), depth, sure > 0.8, c.large_planes)
            for i, extra in enumerate(out):
                if extra is not None and len(planes):
                    out[i] = np.concatenate([extra, plane_maps(planes, self.cameras, i).numpy()])
        return out
