"""`handful refine`: a finished scene, mended by a small network where the photos agree."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .common import CommonOptions, duration

__all__ = ["Refine"]


@dataclass(frozen=True, kw_only=True)
class Refine(CommonOptions):
    """Mend a finished scene for views far from its photos: from above, from aside.

    A small network that comes with Handful changes every splat a little. Whether that helps here, the photos say: each is left out in turn, the scene is made
    from the others, and what the change does to the photo left out decides how much of it is kept, if any. That takes about as long as the scene took. The scene
    itself stays as it is; a new folder is written.

    Examples:
      handful refine out/ -o refined/
      handful refine out/ -o refined/ --strength 1     (all of it, without asking the photos)
    """

    scene: tyro.conf.Positional[Path]
    """Folder that `handful reconstruct` wrote."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder to write, new or empty."""
    strength: float | None = None
    """So much of the change, from 0 to 1, without asking the photos."""
    seed: int = 0
    """Seed of the reconstructions that judge."""
    device: str = "auto"
    """cpu, cuda or auto."""

    def run(self) -> dict[str, Any]:
        from ...data.atomic import ensure_place, refuse_filled
        from ...recon.errors import ConfigError
        from ..job import torch_device
        from ..refiner.folder import refine_folder
        from .reconstruct import check_device

        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ConfigError(f"--strength must be from 0 to 1, got {self.strength:g}.")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"--seed must be from 0 to 2147483647, got {self.seed}.")
        check_device(self.device)
        ensure_place(self.out, folder=True)  # what cannot work is told before the work
        refuse_filled(self.out)
        began, console = time.monotonic(), self.console

        def say(what: str, share: float) -> None:
            spent = time.monotonic() - began
            left = f", {duration(spent / share * (1 - share))} left" if share else ""
            console.progress(f"asking the photos: {what}{left}")

        done = refine_folder(self.scene, self.out, self.strength, self.seed, torch_device(self.device), say)
        seconds = time.monotonic() - began
        if self.strength is None:
            console.say(done.verdict.sentence())
        for name in done.verdict.unasked if done.verdict.photos else ():
            console.say(f"{name} was not asked: without it no scene can be made of the others.")
        console.say(f"{self.out}: {done.splats:,} splats, own photos {done.before:.2f} -> {done.after:.2f} dB, {duration(seconds)}")
        gains = done.verdict.gains(done.verdict.strength)
        return {
            "file": str(self.out), "strength": done.verdict.strength, "photos_asked": len(done.verdict.photos), "gain": sum(gains) / len(gains) if gains else None,
            "train_psnr_before": done.before, "train_psnr": done.after, "gaussians": done.splats, "seconds": round(seconds, 2),
        }  # fmt: skip
