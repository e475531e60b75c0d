"""Quality and time on benchmark captures: one results file per scene and one table.

    python -m handful.benchmarks.quality --data ../shared/data --scenes fern flower fortress horns --seeds 0 1 2 --out OUT

With `--validation` no test photo is read: of the training photos of the largest protocol `--views` train and the others test. Settings are chosen
there:

    python -m handful.benchmarks.quality --data ../shared/data --scenes horns flower --validation --out out/try --set seed.surround=0.5
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..data.atomic import write_text
from ..pipelines.cli.common import Console
from ..pipelines.cli.evaluate import evaluate_once
from ..pipelines.config import override
from ..pipelines.methods import method_config
from ..pipelines.protocols import DATASETS, load_benchmark, pose_free, validation
from ..pipelines.results import EvalResults, SeedResult, write_results

__all__ = ["Quality", "main"]

FOLDERS = {"llff": "llff_{}", "dtu": "dtu_{}", "blender": "synthetic_{}"}


@dataclass(frozen=True)
class Quality:
    """Runs a method on several scenes and seeds, one after the other, and writes what came out."""

    data: Path
    """Folder that holds the captures (llff_fern, dtu_scan24, ...)."""
    out: Path
    """Folder for SCENE.json, table.md."""
    dataset: Literal["llff", "dtu", "blender"] = "llff"
    scenes: tuple[str, ...] = ("fern", "flower", "fortress", "horns")
    views: int = 3
    seeds: tuple[int, ...] = (0, 1, 2)
    poses: Literal["given", "sim3_aligned", "test_time_optimized"] = "given"
    validation: bool = False
    """Choose settings: train on some of the training photos of the largest protocol, test on its others."""
    method: str = "handful"
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    device: str = "auto"
    quiet: bool = False


def main(args: Quality | None = None) -> None:
    args = args or tyro.cli(Quality, description=__doc__)
    console = Console(args.quiet)
    config = override(method_config(args.method), args.set)
    rows = []
    for scene in args.scenes:
        views = DATASETS[args.dataset].views[-1] if args.validation else args.views
        capture, protocol = load_benchmark(args.dataset, args.data / FOLDERS[args.dataset].format(scene), views)
        if args.validation:
            protocol = validation(protocol, args.views)
        if args.poses != "given":
            protocol = pose_free(protocol, args.poses)
        runs = []
        for seed in args.seeds:
            report, seconds = evaluate_once(capture, protocol, config, seed, args.device, console)
            runs.append(SeedResult(seed, report, seconds))
            console.say(f"{protocol.id} {scene}, seed {seed}: PSNR {report.psnr:.2f}, SSIM {report.ssim:.4f}, {seconds:.0f} s")
        results = EvalResults(args.method, config, tuple(runs))
        write_results(args.out / f"{scene}.json", results)
        rows.append(results.summary())
    text = table(rows, args)
    write_text(args.out / "table.md", text)
    console.say(text)


def table(rows: list[dict[str, Any]], args: Quality) -> str:
    """Markdown, with the mean over the scenes as its last row."""
    columns = ("psnr", "psnr_std", "ssim", "lpips_vgg", "lpips_alex", "seconds")
    means = {c: _mean([r[c] for r in rows]) for c in columns}
    lines = [
        f"{args.dataset}, {args.views} views{', validation on training photos' if args.validation else ''}, poses {args.poses}, method {args.method}{' ' + ' '.join(args.set) if args.set else ''}, "
        f"seeds {' '.join(map(str, args.seeds))}. "
        f"Peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB.",
        "",
        "| scene | PSNR | +- over seeds | SSIM | LPIPS-VGG | LPIPS-Alex | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in [*rows, {"scene": "**mean**", **means}]:
        lines.append(
            f"| {row['scene']} | {_text(row['psnr'], 2)} | {_text(row['psnr_std'], 2)} | {_text(row['ssim'], 4)} | {_text(row['lpips_vgg'], 4)} "
            f"| {_text(row['lpips_alex'], 4)} | {_text(row['seconds'], 0)} |"
        )
    return "\n".join(lines) + "\n"


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) and known else None


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
