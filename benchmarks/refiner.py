"""What `handful refine` earns: on made-up scenes of kinds it has not learned from, and on real captures.

    python -m handful.benchmarks.refiner --data DIR --json benchmarks/results/refiner.json
    python -m handful.benchmarks.refiner --table benchmarks/results/refiner.json        the tables of docs/refine.md from a stored result

Made-up: three photos of each of --count tabletops, rooms and objects, reconstructed by the default method; views above 70 degrees, aside of the photos, and between them. Real: --real names of protocols
(llff-3/llff_fern: the test photos of that protocol; holdout-8-9/fox: every 8th photo tests, 9 of the others train). Each scene before, after all of the change,
and after as much of it as the photos agreed to when left out (pipelines/refiner/judge.py): none of the test views has a say.

Prints JSON: {"machine", "made_up": [{"kind", "seed", "strength", "high": [before, all, kept], "aside": .., "near": .., "photos": ..}],
"real": [{"capture", "protocol", "views", "strength", "left_out", "psnr": [before, all, kept], "ssim": .., "judge_seconds", "refine_seconds", "splats"}]}.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import tyro

from ..data.protocol import LoadOptions
from ..pipelines.evaluate import evaluate_scene, training_capture
from ..pipelines.methods import method_config
from ..pipelines.protocols import load_benchmark, load_holdout
from ..pipelines.refiner.judge import judge, refined
from ..pipelines.refiner.lessons import GROUPS, Lesson, load_lesson, make_lessons, shoot
from ..pipelines.results import commit, machine, versions
from ..pipelines.trial import train_trial
from ..priors.splat_refiner import WEIGHTS, SplatRefiner
from ..recon.capture import Capture
from ..recon.errors import ConfigError
from ..recon.metrics import psnr
from ..recon.raster.registry import get_rasterizer
from ..recon.scene import SplatScene
from .command import run_command

__all__ = ["Args", "main", "run", "table"]

KINDS = ("tabletop", "room", "object")
FIRST = 90_000  # seed of the made-up scenes
REAL = ("llff-3/llff_fern", "llff-3/llff_fortress", "holdout-8-9/fox")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Args:
    """Scores the refiner."""

    data: Path | None = None
    """Folder of real captures; without it only made-up scenes are scored."""
    real: tuple[str, ...] = REAL
    """Protocol and capture each."""
    count: int = 6
    """Made-up scenes of each kind."""
    weights: Path = WEIGHTS
    """Of the network."""
    lessons: Path | None = None
    """Folder that keeps the made-up scenes' reconstructions for the next time."""
    json: Path | None = None
    """Also write the result here."""
    table: Path | None = None
    """Measure nothing; print this result's tables."""
    quiet: bool = False
    """Print nothing but errors."""


def run(args: Args) -> dict[str, Any]:
    if args.count < 1:
        raise ConfigError(f"--count must be 1 or more, got {args.count}.")
    refiner = SplatRefiner(args.weights)

    def say(row: dict[str, Any]) -> None:
        if not args.quiet:
            print(json.dumps(row), file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        made_up = list(_made_up(args.count, args.lessons or Path(temporary), refiner, say))
    real: list[dict[str, Any]] = []
    for name in args.real if args.data is not None else ():
        real.append(_real(args.data, name, refiner))
        say(real[-1])
    return {"version": 1, "commit": commit(), "machine": machine(), "versions": versions(), "made_up": made_up, "real": real}


def _made_up(count: int, folder: Path, refiner: SplatRefiner, say: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    rows = []
    for kind in KINDS:
        for k, file in enumerate(sorted(make_lessons(folder, range(FIRST, FIRST + count), 2, kind, 3, whole=True))):
            seed = FIRST + k
            lesson, (made, _) = load_lesson(file), shoot(seed, kind, 3)
            scene = SplatScene(lesson.gaussians, lesson.photos, made.capture.names, get_rasterizer("auto", CPU), lesson.background)
            strength = judge(made.capture, method_config("handful"), refiner, seed, CPU).strength
            versions = [scene, refined(scene, made.capture, refiner, 1.0), refined(scene, made.capture, refiner, strength)]
            rows.append({"kind": kind, "seed": seed, "strength": strength, **_scores(lesson, versions)})
            say(rows[-1])
    return rows


def _scores(lesson: Lesson, versions: Sequence[SplatScene]) -> dict[str, list[float]]:
    """Mean PSNR of each version over each group's views and the photos."""
    out: dict[str, list[float]] = {}
    for number, name in enumerate((*GROUPS, "photos")):
        these = [i for i, g in enumerate(lesson.group) if g == number]
        cameras, truth = (lesson.views[these], lesson.truth[these]) if name != "photos" else (lesson.photos, lesson.images)
        if len(cameras):
            out[name] = [round(float(psnr(v.render(cameras).color.clamp(0, 1), truth.float() / 255).mean()), 3) for v in versions]
    return out


def _real(data: Path | None, name: str, refiner: SplatRefiner) -> dict[str, Any]:
    assert data is not None
    protocol_name, _, folder = name.partition("/")
    kind, *numbers = protocol_name.split("-")
    if kind == "holdout":
        capture, protocol = load_holdout(data / folder, int(numbers[0]), int(numbers[1]), LoadOptions(max_side=640))
    else:
        capture, protocol = load_benchmark(kind, data / folder, int(numbers[0]))
    config = method_config("handful")
    scene = train_trial(capture, protocol, config, 0, CPU).scene
    assert isinstance(scene, SplatScene), "what splats are made of"
    train: Capture = training_capture(capture, protocol).select(scene.names)
    train = replace(train, cameras=scene.cameras)
    began = time.monotonic()
    verdict = judge(train, config, refiner, 0, CPU)
    judged = time.monotonic()
    full = refined(scene, train, refiner, 1.0)
    spent = time.monotonic() - judged
    versions = [scene, full, refined(scene, train, refiner, verdict.strength)]
    reports = [evaluate_scene(lambda cameras, v=v: v.render(cameras).color, capture, protocol) for v in versions]
    return {
        "capture": folder, "protocol": protocol.id, "views": len(train), "strength": verdict.strength,
        "left_out": [[round(x - p.before, 3) for x in p.after] for p in verdict.photos],
        "psnr": [round(r.psnr, 3) for r in reports], "ssim": [round(r.ssim, 4) for r in reports],
        "judge_seconds": round(judged - began, 1), "refine_seconds": round(spent, 2), "splats": len(scene.gaussians),
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Markdown: made-up scenes by kind and group of views, then real captures."""
    lines = [_line(["views", "scenes", "before, dB", "all of it", "gain", "better", "as the photos agree", "gain", "better"]), _line(["---"] * 9)]
    for kind in KINDS:
        rows = [r for r in result["made_up"] if r["kind"] == kind]
        for group in (*GROUPS, "photos"):
            values = [r[group] for r in rows if group in r]
            if values:
                lines.append(_line([f"{kind}, {group}", str(len(values)), *_cells(values)]))
    both = [r[g] for r in result["made_up"] for g in ("high", "aside") if g in r]
    lines.append(_line(["**all, high and aside**", str(len(both)), *_cells(both)]))
    parts = ["\n".join(lines)]
    if result["real"]:
        lines = [_line(["capture", "protocol", "PSNR before", "all of it", "kept", "SSIM before", "all of it", "kept", "strength kept", "asking, s"]), _line(["---"] * 10)]
        for r in result["real"]:
            scores = [f"{x:.2f}" for x in r["psnr"]] + [f"{x:.3f}" for x in r["ssim"]]
            lines.append(_line([r["capture"], r["protocol"], *scores, f"{r['strength']:g}", f"{r['judge_seconds']:.0f}"]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cells(values: Sequence[Sequence[float]]) -> list[str]:
    """Mean before; then mean, mean and deviation of the gain, and in how many scenes it is one."""
    out = [f"{mean(v[0] for v in values):.2f}"]
    for k in (1, 2):
        gains = [v[k] - v[0] for v in values]
        spread = f" ± {stdev(gains):.2f}" if len(gains) > 1 else ""
        out += [f"{mean(v[k] for v in values):.2f}", f"{mean(gains):+.2f}{spread}", f"{sum(g > 0 for g in gains)}/{len(gains)}"]
    return out


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> int:
    return run_command(tyro.cli(Args, args=argv, description=__doc__), run, table)


if __name__ == "__main__":
    raise SystemExit(main())
