"""How fast a ready field is drawn: along rays, and cell by cell (recon/field/cells.py), of the same cameras, in turns.

    python -m handful.benchmarks.field_views --data CAPTURES [--json FILE] [--threads N]
    python -m handful.benchmarks.field_views --table FILE           the table of docs/field.md from a stored result

The field is `vm` from six photos of Lego; the cameras are test cameras, their pictures at 400x400 and 800x800. Milliseconds, the median over the cameras of the best of the
repeats; the parts of the way along rays (rays from pixels, march, decoding and compositing) add up to about the whole. Samples: marched, and decoded: along rays in
eights until no light is left, by cells one by one. `apart`: the largest difference of a colour, 0 to 1.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from ..pipelines.catalog import any_method_config
from ..pipelines.config import override
from ..pipelines.evaluate import held_out
from ..pipelines.protocols import load_benchmark
from ..pipelines.results import commit, machine, versions
from ..pipelines.trial import train_trial
from ..recon.camera import Cameras, pixel_centers
from ..recon.errors import ConfigError
from ..recon.field.cells import draw_cells
from ..recon.field.occupancy import march
from ..recon.field.scene import FieldScene, pixel_segments
from ..recon.field.space import BoxSpace
from ..recon.field.volume import sample_weights
from ..recon.metrics import psnr
from .command import run_command

__all__ = ["Args", "main", "run", "table"]

GROUP = 8  # samples of a ray that the kernels decode together (kFieldGroup)


@dataclass(frozen=True)
class Args:
    """Times both ways to draw a field."""

    data: Path | None = None
    """Folder of the captures, with synthetic_lego."""
    sizes: tuple[int, ...] = (400, 800)
    """Of the pictures' sides, pixels."""
    views: int = 5
    """Test cameras."""
    repeats: int = 3
    """Of each picture, both ways."""
    threads: int | None = None
    """For drawing; torch's default where not given."""
    set: tuple[str, ...] = ()
    """Settings of the method besides."""
    json: Path | None = None
    """Also write the result here."""
    table: Path | None = None
    """Measure nothing; print this result's table."""
    quiet: bool = False
    """Print nothing but errors."""


def run(args: Args) -> dict[str, Any]:
    if args.data is None or min(args.views, args.repeats, *args.sizes) < 1:
        raise ConfigError("--data must name the folder of the captures; --views, --repeats and --sizes must be 1 or more.")
    capture, protocol = load_benchmark("blender", args.data / "synthetic_lego", 6)
    scene = train_trial(capture, protocol, override(any_method_config("vm"), list(args.set)), 0, torch.device("cpu")).scene
    cameras = held_out(capture, protocol).cameras
    assert isinstance(scene, FieldScene) and cameras is not None
    picked = cameras[torch.linspace(0, len(cameras) - 1, args.views).round().long()]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(args.threads or threads)
        rows = [_row(scene, picked.resized(size, size), args.repeats) for size in args.sizes]
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)
    cells = {"side": len(scene.cells), "occupied": int(scene.cells.sum())}
    return {"version": 1, "threads": used, "cells": cells, "rows": rows, "commit": commit(), "machine": machine(), "versions": versions()}


@torch.no_grad()
def _row(scene: FieldScene, cameras: Cameras, repeats: int) -> dict[str, Any]:
    each = [_view(scene, cameras[k], repeats) for k in range(len(cameras))]
    row: dict[str, Any] = {"size": cameras.width, "views": len(cameras)}
    for key in each[0]:
        values = [e[key] for e in each]
        row[key] = min(values) if key == "psnr" else max(values) if key == "apart" else round(statistics.median(values), 2)
    return row


def _view(scene: FieldScene, camera: Cameras, repeats: int) -> dict[str, float]:
    assert isinstance(scene.space, BoxSpace)
    ways = {"rays": scene, "points": replace(scene, order="points")}
    times: dict[str, list[float]] = {"rays": [], "points": [], "segments": [], "march": [], "decode": []}
    pictures: dict[str, Tensor] = {}
    uv = pixel_centers(camera.width, camera.height, "cpu").reshape(-1, 2)
    index = torch.zeros(len(uv), dtype=torch.int64)
    segments = pixel_segments(scene.space, camera, index, uv)
    samples = march(segments, scene.cells, scene.steps)
    for _ in range(repeats):
        for name, way in ways.items():
            times[name].append(_ms(lambda name=name, way=way: pictures.update({name: way.render(camera).color})))
        times["segments"].append(_ms(lambda: pixel_segments(scene.space, camera, index, uv)))
        times["march"].append(_ms(lambda: march(segments, scene.cells, scene.steps)))
        times["decode"].append(_ms(lambda: scene.field.rays(samples, segments.directions)))
    used = torch.zeros(len(uv)).index_add(0, samples.rays, (sample_weights(scene.field.density(samples.xyz), samples) > 0).float())
    by_rays = torch.minimum((used / GROUP).ceil() * GROUP, samples.starts.diff().float()).sum()
    decoded = draw_cells(scene.field, scene.space, camera, segments, scene.cells, scene.steps)[1]
    apart = (pictures["rays"] - pictures["points"]).abs()
    counts = {"marched": float(len(samples)), "decoded_rays": float(by_rays), "decoded_points": float(decoded)}
    alike = min(200.0, float(psnr(pictures["points"], pictures["rays"]).mean()))  # infinite where they are the same
    return {**{f"{k}_ms": round(min(v), 2) for k, v in times.items()}, **counts, "apart": float(apart.max()), "psnr": round(alike, 1)}


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def table(result: dict[str, Any]) -> str:
    lines = [
        "| picture | along rays, ms | pictures a second | of it march, ms | decoding, ms | by cells, ms | pictures a second | times faster | samples marched | decoded along rays | by cells | apart |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        lines.append(
            f"| {r['size']}x{r['size']} | {r['rays_ms']:.0f} | {1e3 / r['rays_ms']:.1f} | {r['march_ms']:.0f} | {r['decode_ms']:.0f} | {r['points_ms']:.0f} | {1e3 / r['points_ms']:.1f} | "
            f"{r['rays_ms'] / r['points_ms']:.2f} | {r['marched']:,.0f} | {r['decoded_rays']:,.0f} | {r['decoded_points']:,.0f} | {r['apart']:.0e} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(tyro.cli(Args, args=argv, description=__doc__), run, table)


if __name__ == "__main__":
    sys.exit(main())
