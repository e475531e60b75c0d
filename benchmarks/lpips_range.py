"""LPIPS as it is defined beside LPIPS as papers after 3DGS print it.

    python -m handful.benchmarks.lpips_range --data CAPTURES [--json FILE] [--scenes llff-3/llff_fern ...] [--methods 3dgs handful] [--seeds 0]
    python -m handful.benchmarks.lpips_range --table FILE         the table of docs/benchmark.md from a stored result

The network of LPIPS wants pixels from -1 to 1 (Zhang et al. 2018), and Handful gives it those. The evaluation code of 3DGS, which most papers on splats go on from, gives it pixels from 0 to 1 as if
they were that (its issue 1239): pictures of half the contrast, and smaller distances. Both are taken here of the same renders, so that a gain in print can be compared with.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from ..pipelines.catalog import any_method_config
from ..pipelines.evaluate import available_lpips, held_out, render_views
from ..pipelines.protocols import EvalProtocol, load_benchmark
from ..pipelines.results import commit, machine, versions
from ..pipelines.trial import train_trial
from ..recon.capture import Capture
from ..recon.errors import ConfigError
from ..recon.lpips import Lpips
from ..recon.metrics import quantize_8bit
from .command import run_command

__all__ = ["Args", "as_printed", "main", "run", "table"]

LLFF = ("llff-3/llff_fern", "llff-3/llff_flower", "llff-3/llff_fortress", "llff-3/llff_horns")


@dataclass(frozen=True)
class Args:
    """Scores methods by LPIPS-VGG on both ranges."""

    data: Path | None = None
    """Folder of the captures."""
    scenes: tuple[str, ...] = LLFF
    """Protocol and capture each."""
    methods: tuple[str, ...] = ("3dgs", "handful")
    """Gains are over the first."""
    seeds: tuple[int, ...] = (0,)
    """Each is a run of every method."""
    json: Path | None = None
    """Also write the result here."""
    table: Path | None = None
    """Measure nothing; print this result's table."""
    quiet: bool = False
    """Print nothing but errors."""


def as_printed(net: Lpips, renders: torch.Tensor, truths: torch.Tensor) -> torch.Tensor:
    """What comes out where pixels from 0 to 1 are taken for pixels from -1 to 1."""
    return net((renders + 1) / 2, (truths + 1) / 2)


def run(args: Args) -> dict[str, Any]:
    if args.data is None or not args.seeds or not args.methods or not args.scenes:
        raise ConfigError("--data must name the folder of the captures, and --scenes, --methods and --seeds one or more each.")
    rows = []
    for name in args.scenes:
        dataset, _, folder = name.partition("/")
        kind, _, views = dataset.rpartition("-")
        if not kind or not views.isdecimal():
            raise ConfigError(f"A scene is a protocol and a capture, as in llff-3/llff_fern; got {name!r}.")
        capture, protocol = load_benchmark(kind, args.data / folder, int(views))
        nets, notes = available_lpips(protocol, size=capture.views[0].image.size)
        if "lpips_vgg" not in nets:
            raise ConfigError(notes[0])
        for method in args.methods:
            for seed in args.seeds:
                row = {"scene": name, "method": method, "seed": seed, **_scored(capture, protocol, method, seed, nets["lpips_vgg"])}
                if not args.quiet:
                    print(row, flush=True)
                rows.append(row)
    return {"version": 1, "threads": torch.get_num_threads(), "rows": rows, "commit": commit(), "machine": machine(), "versions": versions()}


def _scored(capture: Capture, protocol: EvalProtocol, method: str, seed: int, net: Lpips) -> dict[str, float]:
    trial = train_trial(capture, protocol, any_method_config(method), seed, torch.device("cpu"))
    test = held_out(capture, protocol)
    assert test.cameras is not None, "held_out checks this"
    renders = quantize_8bit(render_views(lambda camera: trial.scene.render(camera).color, test.cameras)).clamp(0, 1)
    truths = quantize_8bit(test.images())
    return {"defined": round(float(net(renders, truths).mean()), 5), "printed": round(float(as_printed(net, renders, truths).mean()), 5)}


def table(result: dict[str, Any]) -> str:
    """Markdown: per method the means over scenes and seeds, and the gain over the first."""
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))

    def mean(method: str, key: str) -> float:
        return statistics.fmean(row[key] for row in result["rows"] if row["method"] == method)

    lines = ["| method | pixels from -1 to 1, as defined | gain | from 0 to 1, as printed | gain |", "|---|---|---|---|---|"]
    for method in methods:
        cells = []
        for key in ("defined", "printed"):
            gain = "" if method == methods[0] else f"{mean(method, key) - mean(methods[0], key):+.3f}"
            cells += [f"{mean(method, key):.3f}", gain]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(tyro.cli(Args, args=argv, description=__doc__), run, table)


if __name__ == "__main__":
    raise SystemExit(main())
