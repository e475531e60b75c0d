"""Occupancy learned together with a field against the grid that looks at its density: samples on a ray, time of a step, PSNR of test photos.

    python -m handful.benchmarks.occupancy --data CAPTURES [--json FILE] [--scenes blender-6/synthetic_lego llff-3/llff_fern] [--seeds 0 1 2]
    python -m handful.benchmarks.occupancy --table FILE           the table of docs/field.md from a stored result

Two `vm` fields learn from the same start in turns, a step of one, then a step of the other, so that both are timed beside the same load. A first look, where a box is
drawn tight, is by the grid for both and not timed. Samples on a ray: of the same pixels of the photos, the mean of looks every 50 steps after the warm-up, and at the end.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from ..pipelines.catalog import any_method_config, start_run
from ..pipelines.config import override
from ..pipelines.evaluate import evaluate_scene, training_capture
from ..pipelines.events import StepDone
from ..pipelines.init.registry import get_initializer
from ..pipelines.measure import measure
from ..pipelines.nerf.run import FieldRun
from ..pipelines.protocols import load_benchmark
from ..pipelines.results import commit, machine, versions
from ..recon.errors import ConfigError
from ..recon.field.occupancy import march
from ..recon.field.scene import pixel_segments
from .command import run_command

__all__ = ["Args", "main", "run", "table"]

KINDS = ("grid", "learned")
EVERY, RAYS = 50, 8192  # steps between two looks at the samples; pixels looked at


@dataclass(frozen=True)
class Args:
    """Scores learned occupancy beside the grid."""

    data: Path | None = None
    """Folder of the captures."""
    scenes: tuple[str, ...] = ("blender-6/synthetic_lego", "llff-3/llff_fern")
    """Protocol and capture each."""
    seeds: tuple[int, ...] = (0,)
    """Each is a run of both."""
    set: tuple[str, ...] = ()
    """Settings of the method besides, for both."""
    json: Path | None = None
    """Also write the result here."""
    table: Path | None = None
    """Measure nothing; print this result's table."""
    quiet: bool = False
    """Print nothing but errors."""


def run(args: Args) -> dict[str, Any]:
    if args.data is None or not args.seeds:
        raise ConfigError("--data must name the folder of the captures, and --seeds one seed or more.")
    rows = [row for name in args.scenes for seed in args.seeds for row in _pair(args.data, name, seed, args.set)]
    return {"version": 1, "threads": torch.get_num_threads(), "rows": rows, "commit": commit(), "machine": machine(), "versions": versions()}


def _pair(data: Path, name: str, seed: int, settings: Sequence[str]) -> list[dict[str, Any]]:
    dataset, _, folder = name.partition("/")
    kind, _, views = dataset.rpartition("-")
    if not kind or not views.isdecimal():
        raise ConfigError(f"A scene is a protocol and a capture, as in llff-3/llff_fern; got {name!r}.")
    capture, protocol = load_benchmark(kind, data / folder, int(views))
    train = training_capture(capture, protocol).kept()
    config = any_method_config("vm")
    start = measure(get_initializer("auto", config.init, train).run(train, seed), config, False, seed, torch.device("cpu"))
    runs: dict[str, FieldRun] = {}
    for occupancy in KINDS:
        made = start_run(override(config, [*settings, f"sampling.occupancy={occupancy}"]), start)
        assert isinstance(made, FieldRun)
        runs[occupancy] = made
    told = _in_turns(runs)
    rows = []
    for occupancy, one in runs.items():
        report = evaluate_scene(lambda cameras, scene=one.snapshot(): scene.render(cameras).color, capture, protocol, nets={})
        cells = float(one.occupancy.cells.float().mean())
        row = {"scene": name, "seed": seed, "occupancy": occupancy, "psnr": round(report.psnr, 3), "ssim": round(report.ssim, 4), "cells": round(cells, 4)}
        rows.append({**row, **told[occupancy], "samples_end": round(_samples(one), 1)})
    return rows


def _in_turns(runs: dict[str, FieldRun]) -> dict[str, dict[str, float]]:
    """Runs all to their ends; of each the milliseconds of a step, mean and median, and the samples on a ray."""
    times: dict[str, list[float]] = {k: [] for k in runs}
    counts: dict[str, list[float]] = {k: [] for k in runs}
    events = {k: r.events() for k, r in runs.items()}
    while events:
        for name in list(events):
            began = time.perf_counter()
            event = next(events[name], None)
            taken = time.perf_counter() - began
            if event is None:
                del events[name]
            elif isinstance(event, StepDone):
                times[name].append(taken * 1e3)
                if event.step % EVERY == 0 and event.step > runs[name].config.sampling.warm_up:
                    counts[name].append(_samples(runs[name]))
    return {
        k: {"step_ms": round(statistics.mean(times[k]), 2), "step_median_ms": round(statistics.median(times[k]), 2), "samples": round(statistics.mean(counts[k] or [0.0]), 1)}
        for k in runs
    }  # fmt: skip


def _samples(run: FieldRun) -> float:
    """On a ray, of the same pixels whoever asks."""
    cameras, rng = run.photos.cameras, torch.Generator().manual_seed(0)
    uv = torch.rand(RAYS, 2, generator=rng) * torch.tensor([cameras.width, cameras.height])
    segments = pixel_segments(run.space, cameras, torch.randint(len(cameras), (RAYS,), generator=rng), uv)
    return len(march(segments, run.occupancy.cells, run.samples)) / RAYS


def table(result: dict[str, Any]) -> str:
    """Means over the seeds; the ratio of a step's time is that of the means of both."""
    lines = ["| scene | occupancy | seeds | cells kept | samples on a ray, over the run | at the end | step, ms | PSNR | SSIM |", "|---|---|---|---|---|---|---|---|---|"]
    for scene in dict.fromkeys(r["scene"] for r in result["rows"]):
        for kind in KINDS:
            rows = [r for r in result["rows"] if r["scene"] == scene and r["occupancy"] == kind]
            m = {k: statistics.mean(r[k] for r in rows) for k in ("cells", "samples", "samples_end", "step_ms", "psnr", "ssim")}
            spread = f" ± {statistics.stdev(r['psnr'] for r in rows):.2f}" if len(rows) > 1 else ""
            lines.append(
                f"| {scene} | {kind} | {len(rows)} | {100 * m['cells']:.1f} % | {m['samples']:.1f} | {m['samples_end']:.1f} | {m['step_ms']:.1f} | {m['psnr']:.2f}{spread} | {m['ssim']:.3f} |"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(tyro.cli(Args, args=argv, description=__doc__), run, table)


if __name__ == "__main__":
    sys.exit(main())
