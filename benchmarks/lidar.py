"""What thin scans are worth: starts from a quarter and an eighth of a scanner's rings, with and without their order, before and after optimisation.

    python -m handful.benchmarks.lidar --data DIR/lidar_kitti_seq --json benchmarks/results/lidar.json
    python -m handful.benchmarks.lidar --table benchmarks/results/lidar.json        the tables of docs/lidar.md from a stored result

The protocol is that of `handful evaluate lidar` (pipelines/scan/evaluate.py). Further networks, files that the training wrote, are given by --nets; their
figures of training, from the JSON files beside the weights, go into the result, too.

Prints JSON: {"machine", "rows": [{"keep", "order", "start", "acc", "acc_spread", "median_m", "psnr", "acc_after", "psnr_after", "seconds", "splats"}],
"nets": [{"backbone", "parameters", "training_seconds", "learned_4", "learned_8", ...}]}.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from ..data.protocol import LoadOptions
from ..data.registry import load_capture
from ..pipelines.results import commit, machine, versions
from ..pipelines.scan.evaluate import MAX_SIDE, STARTS, evaluate_lidar
from ..recon.errors import ConfigError
from .command import run_command

__all__ = ["Args", "main", "run", "table"]


@dataclass(frozen=True)
class Args:
    """Scores starts from thin scans on a capture with scans and photos of the same moments."""

    data: Path | None = None
    """The capture."""
    keep: tuple[float, ...] = (0.25, 0.125)
    """Shares of the rings that starts see."""
    starts: tuple[str, ...] = STARTS
    """Ways from a scan to splats."""
    nets: tuple[Path, ...] = ()
    """Weights of further networks (.safetensors)."""
    json: Path | None = None
    """Also write the result here."""
    table: Path | None = None
    """Measure nothing; print this result's tables."""
    quiet: bool = False
    """Print nothing but errors."""


def run(args: Args) -> dict[str, Any]:
    if args.data is None:
        raise ConfigError("--data names no capture; give a folder of scans and photos, as in --data DIR/lidar_kitti_seq.")
    capture = load_capture(args.data, LoadOptions(max_side=MAX_SIDE))
    more = tuple(f"learned:{net}" for net in args.nets)
    rows: list[dict[str, Any]] = []
    for keep in args.keep:
        for shuffled in (False, True):
            names = (*args.starts, *more) if not shuffled else args.starts
            for name, score in evaluate_lidar(capture, keep, names, optimise=not shuffled, shuffled=shuffled).items():
                shown = Path(name.split(":", 1)[1]).stem.removeprefix("scan_") if ":" in name else name
                rows.append({"keep": keep, "order": "none" if shuffled else "rings", "start": shown, **_rounded(asdict(score))})
    nets = [json.loads(f.read_text(encoding="utf-8")) for net in args.nets if (f := net.with_suffix(".json")).is_file()]
    kept = [{k: v for k, v in n.items() if k not in ("out", "json")} for n in nets]
    return {"version": 1, "commit": commit(), "machine": machine(), "versions": versions("spconv"), "capture": args.data.name, "rows": rows, "nets": kept}


def table(result: dict[str, Any]) -> str:
    """Markdown: the starts, then the networks."""
    lines = [_line(["rings kept", "start", "right", "median, m", "novel view, dB", "right after", "dB after", "seconds", "splats"]), _line(["---"] * 9)]
    for r in result["rows"]:
        kept = f"1/{round(1 / r['keep'])}" + (", no order" if r["order"] == "none" else "")
        after = [_cell(r["acc_after"], 3), _cell(r["psnr_after"], 2)]
        lines.append(_line([kept, f"`{r['start']}`", f"{r['acc']:.3f}", _cell(r['median_m'], 3), _cell(r['psnr'], 2), *after, f"{r['seconds']:.2f}", f"{r['splats']:,}"]))
    parts = ["\n".join(lines)]
    if result["nets"]:
        lines = [_line(["backbone", "parameters", "steps", "training, s", "made-up, 1/4", "made-up, 1/8"]), _line(["---"] * 6)]
        for n in result["nets"]:
            cells = [f"`{n['backbone']}`", f"{n['parameters']:,}", str(n["steps"]), f"{n['training_seconds']:.0f}", f"{n['learned_4']:.3f}", f"{n['learned_8']:.3f}"]
            lines.append(_line(cells))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> int:
    return run_command(tyro.cli(Args, args=argv, description=__doc__), run, table)


if __name__ == "__main__":
    raise SystemExit(main())
