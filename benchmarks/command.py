"""What the benchmarks' command lines share: measure or show, write, print, and end with 0 or 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..data.atomic import write_json
from ..recon.errors import HandfulError

__all__ = ["run_command"]


class Shown(Protocol):
    """json: where the result goes, too. table: a stored result to show instead of measuring. quiet: print nothing but errors."""

    @property
    def json(self) -> Path | None: ...
    @property
    def table(self) -> Path | None: ...
    @property
    def quiet(self) -> bool: ...


A = TypeVar("A", bound=Shown)


def run_command(args: A, run: Callable[[A], dict[str, Any]], table: Callable[[dict[str, Any]], str]) -> int:
    """Exit code: 0 done, 2 for what a user can mend (one sentence, no traceback)."""
    try:
        if args.table is not None:
            print(table(json.loads(args.table.read_text(encoding="utf-8"))))
            return 0
        result = run(args)
        if args.json is not None:
            write_json(args.json, result)
    except (HandfulError, OSError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    if not args.quiet:
        print(json.dumps(result, indent=1))
    return 0
