"""Checks result files: `python -m handful.benchmarks.schema FILE...`. `handful benchmark compare` compares two.

The schema itself lives where the files are written (pipelines/results.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..pipelines.results import SCHEMA as SCHEMA
from ..pipelines.results import read_results
from ..recon.errors import HandfulError

__all__ = ["SCHEMA", "main"]


def _line(data: dict[str, Any]) -> str:
    cells = []
    for key, value in data["metrics"].items():
        if value is not None:
            cells.append(f"{key} {value['mean']:.4g}" + (f" +- {value['std']:.2g}" if value["std"] is not None else ""))
    p = data["protocol"]
    return f"{p['id']} {p['scene']}: {data['method']}, {', '.join(cells)}; {len(data['seeds'])} seeds, {data['seconds']:.0f} s, {data['commit'][:12]}"


def main(argv: list[str] | None = None) -> int:
    files = [Path(a) for a in (sys.argv[1:] if argv is None else argv)]
    if not files:
        print("usage: python -m handful.benchmarks.schema FILE...", file=sys.stderr)
        return 2
    try:
        for file in files:
            print(_line(read_results(file)))
    except HandfulError as e:
        print(f"schema: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
