"""Checks result files: `python -m handful.benchmarks.schema FILE...`, and compares two by paired seeds with --compare.

The schema itself lives where the files are written (pipelines/results.py).
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from ..pipelines.results import SCHEMA as SCHEMA
from ..pipelines.results import read_results
from ..recon.errors import ConfigError, HandfulError

__all__ = ["SCHEMA", "compare", "main"]


def compare(a: dict[str, Any], b: dict[str, Any], metric: str = "psnr") -> dict[str, Any]:
    """b minus a over the seeds both have: mean difference, its standard error (None for one seed) and the seeds.

    Raises ConfigError for different protocols or scenes: those numbers do not compare.
    """
    for key in ("id", "scene", "train", "test", "size", "poses", "mask", "quantize_8bit", "metrics"):
        if a["protocol"][key] != b["protocol"][key]:
            raise ConfigError(f"The results do not compare: their protocols differ in {key} ({a['protocol'][key]!r} and {b['protocol'][key]!r}).")
    of_a, of_b = ({r["seed"]: r[metric] for r in x["runs"] if r[metric] is not None} for x in (a, b))
    seeds = sorted(of_a.keys() & of_b.keys())
    if not seeds:
        raise ConfigError(f"The results have no seed in common for {metric}; run both with the same seeds.")
    differences = [of_b[s] - of_a[s] for s in seeds]
    error = statistics.stdev(differences) / len(seeds) ** 0.5 if len(seeds) > 1 else None
    return {"metric": metric, "difference": statistics.fmean(differences), "standard_error": error, "seeds": seeds}


def _line(data: dict[str, Any]) -> str:
    cells = []
    for key, value in data["metrics"].items():
        if value is not None:
            cells.append(f"{key} {value['mean']:.4g}" + (f" +- {value['std']:.2g}" if value["std"] is not None else ""))
    p = data["protocol"]
    return f"{p['id']} {p['scene']}: {data['method']}, {', '.join(cells)}; {len(data['seeds'])} seeds, {data['seconds']:.0f} s, {data['commit'][:12]}"


def main(argv: list[str] | None = None) -> int:
    args = list(sys.argv[1:] if argv is None else argv)
    paired = "--compare" in args
    files = [Path(a) for a in args if a != "--compare"]
    if not files or (paired and len(files) != 2):
        print("usage: python -m handful.benchmarks.schema FILE... | --compare A B", file=sys.stderr)
        return 2
    try:
        loaded = [read_results(f) for f in files]
        for data in loaded:
            print(_line(data))
        if paired:
            for metric in ("psnr", "ssim"):
                c = compare(loaded[0], loaded[1], metric)
                spread = "" if c["standard_error"] is None else f" +- {c['standard_error']:.2g} (standard error)"
                print(f"second minus first, {metric}: {c['difference']:+.4g}{spread} over seeds {c['seeds']}")
    except HandfulError as e:
        print(f"schema: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
