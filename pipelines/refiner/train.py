"""Teaches the refiner (`priors/refiner_net.py`) through the renderer, on what `lessons.py` made.

    python -m handful.pipelines.refiner.lessons -o lessons/ --count 300
    python -m handful.pipelines.refiner.train lessons/ -o splat_refiner.safetensors --json splat_refiner.json
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from ...data.atomic import ensure_place, write_bytes, write_json
from ...priors.net_files import packed
from ...priors.refiner_net import RefinerConfig, RefinerNet, ask_photos, changed
from ...recon.errors import ConfigError, HandfulError
from ...recon.losses.fused import fused_l1_dssim
from ...recon.metrics import psnr
from ...recon.raster.protocol import RasterOptions
from ...recon.raster.registry import get_rasterizer
from .lessons import GROUPS, Lesson, load_lesson

__all__ = ["RefinerTraining", "gains", "train"]

SSIM = 0.2
LOUD = 0.1  # weight of the logarithm of the square error: what PSNR counts
EACH = (2, 2, 1, 1)  # views a step: high, aside, near, and photos
HELD = 8  # every so many lessons are not learned from, but tell how well it goes


@dataclass(frozen=True)
class RefinerTraining:
    """Trains the refiner on a folder of lessons."""

    lessons: tyro.conf.Positional[Path]
    """Folder that `handful.pipelines.refiner.lessons` wrote."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File for the weights."""
    backbone: str = "patches"
    """One of recon/voxel/registry.py."""
    parameters: int = 1_000_000
    """About so many."""
    steps: int = 2800
    """One lesson each."""
    lr: float = 2e-3
    """Highest learning rate."""
    seed: int = 0
    """Of first weights and order."""
    json: Path | None = None
    """File for the figures."""


def train(config: RefinerTraining, say: Callable[[str], None] = print) -> tuple[RefinerNet, dict[str, Any]]:
    """The trained network and its figures. Raises ConfigError where there is nothing to learn from."""
    files = sorted(config.lessons.glob("*.safetensors"))
    held, taught = files[::HELD], [f for i, f in enumerate(files) if i % HELD]
    if not taught:
        raise ConfigError(f"{config.lessons} holds fewer than two lessons; make some with `python -m handful.pipelines.refiner.lessons -o {config.lessons}`.")
    torch.manual_seed(config.seed)
    net = RefinerNet(RefinerConfig(config.backbone, config.parameters))
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=1e-4)
    rng, order, recent, began = np.random.default_rng(config.seed), list[int](), list[float](), time.monotonic()
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1, step / 100 + 0.02) * (0.5 + 0.5 * math.cos(math.pi * step / config.steps)) + 1e-5
        order = order or rng.permutation(len(taught)).tolist()
        loss = _loss(net, load_lesson(taught[order.pop()]), rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            left = (time.monotonic() - began) / (step + 1) * (config.steps - step - 1)
            say(f"step {step + 1} of {config.steps}: loss {np.mean(recent[-100:]):.4f}, {left:.0f} s left")
    figures = {
        "parameters": sum(p.numel() for p in net.parameters()), "lessons": len(taught), "training_seconds": round(time.monotonic() - began, 1),
        "held": len(held), **gains(net.eval(), held),
    }  # fmt: skip
    return net, figures


def _loss(net: RefinerNet, lesson: Lesson, rng: np.random.Generator) -> Tensor:
    """What the changed splats look like from some views, beside what they should."""
    rasterizer = get_rasterizer("auto", torch.device("cpu"))
    photos = lesson.images.float() / 255
    heard, around = ask_photos(lesson.gaussians, lesson.photos, photos, rasterizer, lesson.background)
    refined = changed(lesson.gaussians, net(lesson.gaussians, around, heard), around, heard)
    options = RasterOptions(background=lesson.background, camera_grads=False)
    total = torch.zeros(())
    looks = [(lesson.views[i], lesson.truth[i : i + 1].float() / 255) for i in _drawn(lesson.group, rng)]
    looks += [(lesson.photos[int(i)], photos[int(i) : int(i) + 1]) for i in rng.permutation(len(photos))[: EACH[3]]]
    for camera, truth in looks:
        color = rasterizer.render(refined, camera, options).color
        square = (color - truth).square().mean()
        total = total + fused_l1_dssim(color, truth, ssim_weight=SSIM) + LOUD * (square + 1e-5).log()
    return total / len(looks)


def _drawn(group: tuple[int, ...], rng: np.random.Generator) -> list[int]:
    picks: list[int] = []
    for number, count in enumerate(EACH[:3]):
        these = [i for i, g in enumerate(group) if g == number]
        picks += [these[i] for i in rng.permutation(len(these))[:count]]
    return picks


@torch.no_grad()
def gains(net: RefinerNet, files: Sequence[Path], strength: float = 1.0) -> dict[str, float]:
    """Mean PSNR before and after over each group's views, and the photos; mean of scenes."""
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in (*GROUPS, "photos")}
    rasterizer = get_rasterizer("auto", torch.device("cpu"))
    for file in files:
        x = load_lesson(file)
        photos = x.images.float() / 255
        heard, around = ask_photos(x.gaussians, x.photos, photos, rasterizer, x.background)
        refined = changed(x.gaussians, strength * net(x.gaussians, around, heard), around, heard)
        options = RasterOptions(background=x.background, camera_grads=False)
        for number, name in enumerate(rows):
            these = [i for i, g in enumerate(x.group) if g == number]
            cameras, truth = (x.views[these], x.truth[these].float() / 255) if name != "photos" else (x.photos, photos)
            if not len(cameras):
                continue
            scores = [float(psnr(rasterizer.render(g, cameras, options).color.clamp(0, 1), truth).mean()) for g in (x.gaussians, refined)]
            rows[name].append((scores[0], scores[1]))
    return {f"{name}_{when}": round(float(np.mean([r[k] for r in both])), 3) for name, both in rows.items() if both for k, when in enumerate(("before", "after"))}


def main() -> int:
    config = tyro.cli(RefinerTraining)
    try:
        ensure_place(config.out)  # before the hour of work
        net, figures = train(config)
        write_bytes(config.out, packed(net, net.config))
        print(json.dumps(figures))
        if config.json is not None:
            write_json(config.json, {**{k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}, **figures})
    except HandfulError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
