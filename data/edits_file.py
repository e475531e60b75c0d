"""The edits of a scene, beside it: edits.json. The scene's own files never change by them.

{"format": "handful-edits", "version": 1, "steps": [{"step": "drop_faint", "below": 0.05}, ...]}, steps as in recon/edits.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..recon.edits import STEPS, EditStep
from ..recon.errors import CaptureError, ConfigError
from .atomic import write_json

__all__ = ["EDITS", "read_edits", "steps_from_jsonable", "steps_to_jsonable", "write_edits"]

EDITS = "edits.json"
_FORMAT, _VERSION = "handful-edits", 1
_MAX_BYTES = 1_000_000


def write_edits(path: Path, steps: Sequence[EditStep]) -> None:
    """Beside and then renamed; no steps, no file."""
    if not steps:
        path.unlink(missing_ok=True)
        return
    write_json(path, {"format": _FORMAT, "version": _VERSION, "steps": steps_to_jsonable(steps)})


def steps_to_jsonable(steps: Sequence[EditStep]) -> list[dict[str, Any]]:
    names = {kind: name for name, kind in STEPS.items()}
    return [{"step": names[type(s)], **asdict(s)} for s in steps]  # pyright: ignore


def steps_from_jsonable(data: Any) -> tuple[EditStep, ...]:
    """Raises ValueError, naming the step, for anything that is no list of edits."""
    if not isinstance(data, list):
        raise ValueError("it is no list of edits")
    steps: list[EditStep] = []
    for i, step in enumerate(data):
        try:
            steps.append(_step(step))
        except (ConfigError, TypeError, ValueError, ArithmeticError) as e:
            raise ValueError(f"step {i + 1}: {str(e).rstrip('.')}") from e
    return tuple(steps)


def read_edits(path: Path) -> tuple[EditStep, ...]:
    """Empty where there is no file. Raises CaptureError, naming the step, for anything that no list of edits holds."""
    hint = "mend it, or delete it to have the scene without edits"
    try:
        if not path.exists():
            return ()
        if path.stat().st_size > _MAX_BYTES:
            raise CaptureError(f"{path} is larger than any list of edits; {hint}.")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror if isinstance(e, OSError) else f'it is no JSON: {e}'}); {hint}.") from e
    if not isinstance(data, dict) or data.get("format") != _FORMAT or not isinstance(data.get("steps"), list):
        raise CaptureError(f"{path} is no list of edits; {hint}.")
    if data.get("version") != _VERSION:
        raise CaptureError(f"{path} is of version {data.get('version')!r}, only {_VERSION} is known; {hint}.")
    try:
        return steps_from_jsonable(data["steps"])
    except ValueError as e:
        raise CaptureError(f"{path}, {e}; {hint}.") from e


def _step(data: Any) -> EditStep:
    if not isinstance(data, dict) or data.get("step") not in STEPS:
        raise ValueError(f"there is no step {data.get('step') if isinstance(data, dict) else data!r}; there are {', '.join(STEPS)}")
    kind = STEPS[data["step"]]
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "step"}
    known = {f.name: f.type for f in fields(kind)}
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{data['step']} has no {name!r}; it has {', '.join(known)}")
        _check(name, value, str(known[name]))
    make: Any = kind
    return make(**given)


def _check(name: str, value: Any, kind: str) -> None:
    """Types that JSON may get wrong; ranges are the step's own business."""
    length = {"Vector": 3, "tuple[float, float, float, float]": 4}.get(kind)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if length is not None:
        ok = isinstance(value, tuple) and len(value) == length and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    elif kind in ("float", "int"):
        ok = number and (kind == "float" or isinstance(value, int))
    else:
        ok = isinstance(value, bool if kind == "bool" else str)
    if not ok:
        raise ValueError(f"{name} must be {f'{length} numbers' if length else 'a number' if kind in ('float', 'int') else 'true or false' if kind == 'bool' else 'a text'}, got {value!r}")
