"""What scans earn in a reconstruction: right depth, and what it costs or brings in photos that were held out.

    python -m handful.benchmarks.scans --data DIR/lidar_kitti_seq --json benchmarks/results/scans.json
    python -m handful.benchmarks.scans --table benchmarks/results/scans.json        the table of docs/lidar.md from a stored result

A capture with photos and scans of the same moments; every third photo, and its scan, is held out. Scored are beams that were kept back (every 16th ring of the training
photos' own scans) and the held-out photos: whole, and where nothing moves, told from all scans together and alike for every row.

Prints JSON: {"machine", "rows": [{"name", "settings", "acc", "median_m", "own", "psnr", "still_psnr", "still_ssim", "left_out", "seconds"}]}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from ..data.protocol import LoadOptions
from ..pipelines.config import override
from ..pipelines.evaluate import Pictures, evaluate_scene, held_out, training_capture
from ..pipelines.job import train_psnr
from ..pipelines.methods import method_config
from ..pipelines.protocols import EvalProtocol, load_holdout
from ..pipelines.results import commit, machine, versions
from ..pipelines.scan.depth import scan_depth
from ..pipelines.scan.moving import without_moving
from ..pipelines.scan.report import beam_report
from ..pipelines.trial import train_trial
from ..recon.capture import Capture
from ..recon.errors import ConfigError
from ..recon.losses.photometric import ssim_map
from .command import run_command

__all__ = ["ROWS", "Args", "main", "run", "table"]

EVERY = 3
QUICK = ("optim.steps=400", "seed.budget=150000")
ROWS: dict[str, tuple[str, ...]] = {
    "photos alone (`scan=false`)": ("scan=false",),
    "depth from scans to start with (`terms.scan=0 moving=false`)": ("terms.scan=0", "moving=false"),
    "and held to the end (`moving=false`)": ("moving=false",),
    "and without what moves (the default)": (),
}


@dataclass(frozen=True)
class Args:
    """Scores what scans earn."""

    data: Path | None = None
    """The capture."""
    rows: tuple[int, ...] = tuple(range(len(ROWS)))
    """Which rows of the table."""
    settings: tuple[str, ...] = QUICK
    """Settings of all rows."""
    json: Path | None = None
    """Also write the result here."""
    table: Path | None = None
    """Measure nothing; print this result's table."""
    quiet: bool = False
    """Print nothing but errors."""


def run(args: Args) -> dict[str, Any]:
    if args.data is None:
        raise ConfigError("--data names no capture; give a folder of scans and photos, as in --data DIR/lidar_kitti_seq.")
    capture, protocol = load_holdout(args.data, EVERY, None, LoadOptions(max_side=640))
    told = scan_depth(capture)
    if told is None or told.moving is None:
        raise ConfigError(f"{args.data} has no scans of at least three photos' moments; give a drive, as in --data DIR/lidar_kitti_seq.")
    still = without_moving(capture, told.moving)
    rows: list[dict[str, Any]] = []
    for name, settings in (item for k, item in enumerate(ROWS.items()) if k in args.rows):
        config = override(method_config("handful"), [*args.settings, *settings])
        trial = train_trial(capture, protocol, config, 0, torch.device("cpu"))
        scene = trial.scene

        def render(cameras, scene=scene):  # noqa: ANN001, ANN202
            return scene.render(cameras).color

        whole, quiet = evaluate_scene(render, capture, protocol, nets={}), evaluate_scene(render, still, protocol, nets={})
        trained = training_capture(still, protocol).select(scene.names)
        beams = beam_report(scene, trained) or {"acc": 0.0, "median_m": None}
        rows.append({
            "name": name, "settings": [*args.settings, *settings], "acc": beams["acc"], "median_m": beams["median_m"], "own": round(train_psnr(scene, trained), 3),
            "psnr": round(whole.psnr, 3), "still_psnr": round(quiet.psnr, 3), "still_ssim": round(_ssim(quiet.pictures, still, protocol), 4),
            "left_out": round(float(told.moving.float().mean()), 4), "seconds": round(trial.seconds, 1),
        })  # fmt: skip
        if not args.quiet:
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"version": 1, "commit": commit(), "machine": machine(), "versions": versions(), "capture": args.data.name, "rows": rows}


def _ssim(pictures: Pictures | None, still: Capture, protocol: EvalProtocol) -> float:
    """Over the pixels that count alone: elsewhere render and photo are made alike before they are compared."""
    assert pictures is not None
    counts = held_out(still, protocol).extents()
    weight = torch.ones(pictures.truths.shape[:3]) if counts is None else (counts > 0.5).float()
    maps = ssim_map(pictures.renders, pictures.truths).mean(-1)
    return float(((maps * weight).sum((1, 2)) / weight.sum((1, 2))).mean())


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [_line(["", "beams right", "median, m", "own photos, dB", "held-out photos, dB", "where nothing moves, dB", "SSIM there"]), _line(["---"] * 7)]
    for r in result["rows"]:
        median = "-" if r["median_m"] is None else f"{r['median_m']:.2f}"
        lines.append(_line([r["name"], f"{r['acc']:.2f}", median, f"{r['own']:.1f}", f"{r['psnr']:.2f}", f"{r['still_psnr']:.2f}", f"{r['still_ssim']:.3f}"]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> int:
    return run_command(tyro.cli(Args, args=argv, description=__doc__), run, table)


if __name__ == "__main__":
    raise SystemExit(main())
