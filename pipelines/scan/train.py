"""Trains the scan network through the renderer, on places it makes up.

    python -m handful.pipelines.scan.train -o scan_unet.safetensors --json scan_unet.json

About ten minutes on two cores. The validation places are never trained on; nothing real is.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...data.atomic import write_bytes
from ...priors.net_files import packed
from ...priors.scan_net import ScanNet, ScanNetConfig, Splats
from ...recon.gaussians import Gaussians
from ...recon.raster.protocol import RasterOptions
from ...recon.raster.registry import get_rasterizer
from ...recon.scan.labels import LABELS
from ...recon.scan.rings import keep_rings
from ...recon.scan.starts import STARTS
from ...recon.sweeps import Sweep
from .beams import ABSOLUTE, SEEN, SHARE
from .lessons import Lesson, Sight, lessons

__all__ = ["TrainConfig", "accuracy", "train", "validate"]

OPTIONS = RasterOptions(camera_grads=False)
VALIDATION = 10_000_000  # first seed of the places that are never trained on
REACH = 75.0  # metres beyond which nothing is asked
MOST_RETURNS = 9000  # of a step
ROBUST = 0.05  # natural logarithm of depth: errors beyond it count less and less


@dataclass(frozen=True)
class TrainConfig:
    """Trains the network that turns scans into splats.

    Examples:
      python -m handful.pipelines.scan.train -o scan_unet.safetensors
      python -m handful.pipelines.scan.train --backbone patches --lr 1.5e-3 -o scan_patches.safetensors --json scan_patches.json
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """Weights to write (.safetensors)."""
    backbone: str = "unet"
    """unet, focal, sets or patches."""
    parameters: int = 1_400_000
    """About so many."""
    steps: int = 2500
    """One scan each."""
    places: int = 1000
    """Made-up places to learn from."""
    lr: float = 3e-3
    """Highest learning rate."""
    seed: int = 0
    """Of places and first weights."""
    workers: int = 2
    """Processes that make places."""
    json: Path | None = None
    """File for the validation's figures."""


def train(config: TrainConfig, say: Callable[[str], None] = print, held_places: int = 40) -> tuple[ScanNet, dict[str, Any]]:
    """The trained network and its figures, on so many places that are held back."""
    began = time.monotonic()
    first = config.seed * config.places
    pool = lessons(range(first, first + config.places), config.workers)
    held = lessons(range(VALIDATION, VALIDATION + held_places), config.workers, "spinning64")
    made = time.monotonic() - began
    say(f"{config.places} places in {made:.0f} s")
    torch.manual_seed(config.seed)
    net = ScanNet(ScanNetConfig(config.backbone, config.parameters))
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=1e-4)
    rare = _rarity(pool)
    rng, order, recent = np.random.default_rng(config.seed), [], []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1, step / 50 + 0.02) * (0.5 + 0.5 * math.cos(math.pi * step / config.steps)) + 1e-5
        if not order:
            order = rng.permutation(len(pool)).tolist()
        lesson = pool[order.pop()]
        sweep, label = _thinned(lesson, rng)
        if len(sweep) < 50:
            continue
        loss = _loss(net(sweep.xyz, sweep.world_from_sensor), label, lesson, rare)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % 250 == 0:
            taken = time.monotonic() - began - made
            left = taken / (step + 1) * (config.steps - step - 1)
            say(f"step {step + 1} of {config.steps}: loss {np.mean(recent[-250:]):.3f}, {left:.0f} s left")
    figures = {
        "parameters": sum(p.numel() for p in net.parameters()), "places_seconds": round(made, 1),
        "training_seconds": round(time.monotonic() - began - made, 1), **validate(net.eval(), held),
    }  # fmt: skip
    return net, figures


def validate(net: ScanNet | None, held: list[Lesson]) -> dict[str, float]:
    """Share of the sights' pixels within 5 % + 0.1 m at a quarter and an eighth of the rings; without a network, of the classical starts."""

    def learned(sweep: Sweep) -> Gaussians:
        assert net is not None
        with torch.no_grad():
            return net(sweep.xyz, sweep.world_from_sensor).gaussians

    ways: dict[str, Callable[[Sweep], Gaussians]] = {"learned": learned} if net is not None else STARTS
    figures = {f"{name}_{every}": round(float(np.mean([accuracy(way(keep_rings(x.sweep, 1 / every)[0]), x) for x in held])), 4) for name, way in ways.items() for every in (4, 8)}
    return figures if net is None else figures | _recalls(net, held)


def _recalls(net: ScanNet, held: list[Lesson]) -> dict[str, float]:
    """Share of the returns of each label that are guessed as such, at a quarter of the rings."""
    right, count = torch.zeros(len(LABELS)), torch.zeros(len(LABELS))
    for x in held:
        assert x.sweep.ring is not None
        kept = x.sweep.ring % 4 == 2
        with torch.no_grad():
            guess = net(x.sweep.xyz[kept], x.sweep.world_from_sensor).classes.argmax(1)
        truth = x.label[kept]
        right += torch.bincount(truth[guess == truth], minlength=len(LABELS))
        count += torch.bincount(truth, minlength=len(LABELS))
    return {f"recall_{name}": round(float(r / c.clamp_min(1)), 4) for name, r, c in zip(LABELS, right, count, strict=True)}


def accuracy(gaussians: Gaussians, lesson: Lesson) -> float:
    """Share of the sights' pixels, among those that the scanner could reach, whose rendered depth is right (see beams.py)."""
    rasterizer, shares = get_rasterizer("auto", torch.device("cpu")), []
    for sight in lesson.sights:
        with torch.no_grad():
            out = rasterizer.render(gaussians, sight.camera, OPTIONS)
        asked = _reachable(lesson, sight)
        right = (out.alpha[0] >= SEEN) & ((out.depth[0] - sight.depth).abs() < SHARE * sight.depth + ABSOLUTE)
        shares.append(float((right & asked).sum() / asked.sum().clamp_min(1)))
    return sum(shares) / len(shares)


def _rarity(pool: list[Lesson]) -> Float[Tensor, "4"]:
    """Weight of each label: rare ones count more (square root of the inverse share), or nothing but ground and structure would ever be guessed."""
    count = torch.bincount(torch.cat([x.label for x in pool]), minlength=len(LABELS)).clamp_min(1)
    return (count.sum() / count).sqrt()


def _loss(splats: Splats, label: Int[Tensor, "N"], lesson: Lesson, rare: Float[Tensor, "4"]) -> Tensor:
    seen = torch.stack([_seen(splats.gaussians, lesson, sight) for sight in lesson.sights]).mean()
    return seen + 0.1 * torch.nn.functional.cross_entropy(splats.classes, label, rare)


def _seen(gaussians: Gaussians, lesson: Lesson, sight: Sight) -> Tensor:
    """Depth that is wrong, holes in surfaces, haze before the sky."""
    out = get_rasterizer("auto", torch.device("cpu")).render(gaussians, sight.camera, OPTIONS)
    depth, alpha, truth = out.depth[0], out.alpha[0], sight.depth
    there, asked = truth > 0, _reachable(lesson, sight)
    met = there & (alpha > 0.02)
    error = (depth.clamp_min(0.05) / truth.clamp_min(0.05)).log().abs()
    fit = ((error.clamp_max(1) + error / (error + ROBUST)) * alpha.detach() * met).sum() / met.sum().clamp_min(1)
    holes = ((1 - alpha) * asked).sum() / asked.sum().clamp_min(1)
    haze = (alpha * ~there).sum() / (~there).sum().clamp_min(100)
    return fit + holes + 0.3 * haze


def _reachable(lesson: Lesson, sight: Sight) -> Bool[Tensor, "H W"]:
    """Pixels whose surface lies where the scanner looks, as far as its beams go."""
    local = sight.camera.unproject_depth(sight.depth[None])[0] - lesson.sweep.world_from_sensor[:3, 3]
    elevation = torch.atan2(local[..., 2], local[..., :2].norm(dim=-1))
    low, high = lesson.elevation
    return (sight.depth > 0) & (elevation > low) & (elevation < high) & (local.norm(dim=-1) < REACH)


def _thinned(lesson: Lesson, rng: np.random.Generator) -> tuple[Sweep, Int[Tensor, "M"]]:
    """Every second, fourth or eighth ring; of a scan without rings a random part."""
    sweep, count = lesson.sweep, len(lesson.sweep)
    if sweep.ring is not None and count:
        rings = int(sweep.ring.max()) + 1
        every = min(int(rng.choice([2, 4, 8], p=[0.2, 0.4, 0.4])), max(1, rings // 6))
        kept = (sweep.ring % every == int(rng.integers(every))).nonzero()[:, 0]
    else:
        kept = torch.from_numpy(np.flatnonzero(rng.random(count) < rng.uniform(0.15, 0.6)))
    if len(kept) > MOST_RETURNS:
        kept = kept[torch.from_numpy(np.sort(rng.choice(len(kept), MOST_RETURNS, replace=False)))]
    return sweep.kept(kept), lesson.label[kept]


def main() -> None:
    config = tyro.cli(TrainConfig)
    net, figures = train(config)
    write_bytes(config.out, packed(net, net.config))
    shown = {**{k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}, **figures}
    print(json.dumps(figures))
    if config.json is not None:
        config.json.write_text(json.dumps(shown, indent=2) + "\n")


if __name__ == "__main__":
    main()
