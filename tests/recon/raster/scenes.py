"""Scenes for the rasterizer tests, as torch types and for the numpy program, and ways to compare."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from handful.recon.camera import Cameras
from handful.recon.gaussians import Gaussians
from handful.recon.raster.protocol import Rasterizer, RasterOptions, RenderOutput
from handful.recon.se3 import se3_exp

from ...golden.splat_numpy import Scene, away_from_jumps

FIELDS = ("means", "quats_wxyz", "log_scales", "logit_opacities", "sh")
INPUTS = (*FIELDS, "cam_from_world", "K")


@lru_cache(maxsize=32)
def smooth_scene(
    n: int = 60,
    width: int = 40,
    height: int = 28,
    views: int = 2,
    degree: int = 3,
    seed: int = 0,
    scale: float = -1.7,
    opacity: float = 0.0,
    margin: float = 1e-4,
    antialiased: bool = False,
    sh_degree: int | None = None,
) -> Scene:
    """Random Gaussians before cameras that look at them, all of it kept `margin` away from every jump (float32 numbers)."""
    rng = np.random.default_rng(seed)
    f = np.float32
    xi = np.concatenate([rng.normal(0, 0.3, (views, 3)), rng.normal(0, 0.15, (views, 3))], 1)
    w2c = se3_exp(torch.tensor(xi)).numpy()
    w2c[:, 2, 3] += 4.0
    K = np.tile(np.eye(3), (views, 1, 1))
    K[:, 0, 0], K[:, 1, 1] = 0.9 * width * rng.uniform(0.9, 1.1, views), 0.95 * width * rng.uniform(0.9, 1.1, views)
    K[:, 0, 2], K[:, 1, 2] = width / 2 + rng.normal(0, 2, views), height / 2 + rng.normal(0, 2, views)
    scene = Scene(
        means=(rng.normal(0, 1, (n, 3)) * [1.8, 1.3, 0.9]).astype(f),
        quats=rng.normal(0, 1, (n, 4)).astype(f),
        log_scales=(scale + rng.normal(0, 0.5, (n, 3))).astype(f),
        logits=(opacity + rng.normal(0, 1.5, n)).astype(f),
        sh=(rng.normal(0, 1, (n, (degree + 1) ** 2, 3)) * np.where(np.arange((degree + 1) ** 2) == 0, 0.7, 0.15)[:, None]).astype(f),
        cam_from_world=w2c.astype(f),
        K=K.astype(f),
        width=width,
        height=height,
        antialiased=antialiased,
        sh_degree=sh_degree,
    )
    return away_from_jumps(scene, margin, rng)


def to_torch(s: Scene, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> tuple[Gaussians, Cameras, RasterOptions]:
    def t(a: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(a), device=device).to(dtype)

    g = Gaussians(t(s.means), t(s.quats), t(s.log_scales), t(s.logits), t(s.sh))
    scale = None if s.opacity_scale is None else t(s.opacity_scale)
    options = RasterOptions(s.background, s.sh_degree, s.antialiased, s.near, normal=True, opacity_scale=scale)
    return g, Cameras(t(s.cam_from_world), t(s.K), s.width, s.height), options


def leaves(g: Gaussians, c: Cameras, names: tuple[str, ...] = INPUTS) -> tuple[Gaussians, Cameras, dict[str, torch.Tensor]]:
    """Copies whose tensors are leaves that collect gradients."""
    fresh = {k: getattr(g if k in FIELDS else c, k).detach().clone().requires_grad_(k in names) for k in INPUTS}
    return Gaussians(*(fresh[k] for k in FIELDS)), Cameras(fresh["cam_from_world"], fresh["K"], c.width, c.height), fresh


def loss_weights(out: RenderOutput, seed: int = 7) -> dict[str, torch.Tensor]:
    """Fixed random weights per pixel and output, the same for every backend, dtype and device."""
    gen = torch.Generator().manual_seed(seed)
    images = {"color": out.color, "alpha": out.alpha, "depth": out.depth, "normal": out.normal}
    return {k: torch.randn(v.shape, generator=gen, dtype=torch.float64).to(v) for k, v in images.items() if v is not None}


def loss_of(out: RenderOutput) -> torch.Tensor:
    """A loss that every output enters, linear in each pixel."""
    w = loss_weights(out)
    return sum((getattr(out, k) * v).sum() for k, v in w.items())  # pyright: ignore[reportReturnType]


def gradients(
    r: Rasterizer, g: Gaussians, c: Cameras, options: RasterOptions, names: tuple[str, ...] = INPUTS
) -> tuple[RenderOutput, dict[str, torch.Tensor]]:
    g, c, fresh = leaves(g, c, names)
    out = r.render(g, c, options)
    loss_of(out).backward()
    grads = {k: torch.zeros_like(fresh[k]) if fresh[k].grad is None else fresh[k].grad for k in names}
    if out.aux.means2d.grad is not None:
        grads["means2d"] = out.aux.means2d.grad
    return out, grads  # pyright: ignore[reportReturnType]


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference over the largest magnitude wanted."""
    want = want.detach().double().cpu()
    return ((got.detach().double().cpu() - want).abs().max() / want.abs().max().clamp_min(1e-12)).item() if want.numel() else 0.0
