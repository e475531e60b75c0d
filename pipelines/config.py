"""Settings as frozen dataclasses: saved as versioned JSON, read back strictly, overridden by `name=value`."""

from __future__ import annotations

import difflib
import json
import math
import re
import types
import typing
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..recon.errors import ConfigError

__all__ = ["from_jsonable", "load_config", "override", "to_jsonable"]

T = TypeVar("T")
VERSION = 1


def to_jsonable(value: Any) -> Any:
    """A dataclass tree of plain values as JSON types (tuples become lists, paths become text)."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(v) for v in value]
    if isinstance(value, dict):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, Path):
        return value.as_posix()
    return value


def from_jsonable(cls: type[T], data: Any, where: str = "config") -> T:
    """Rebuilds `cls` from what `to_jsonable` gave. Raises ConfigError for an unknown key (naming the nearest) or a wrong type."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected an object for {cls.__name__}, got {type(data).__name__}.")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in fields(cls)]  # pyright: ignore[reportArgumentType]
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}: {cls.__name__} has no setting {key!r}{_nearest(key, known)}.")
    values = {}
    for f in fields(cls):  # pyright: ignore[reportArgumentType]
        if f.name in data:
            values[f.name] = _coerce(hints[f.name], data[f.name], f"{where}.{f.name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{where}: the setting {f.name!r} of {cls.__name__} is missing.")
    return cls(**values)


def override(config: T, assignments: typing.Sequence[str]) -> T:
    """Applies texts like "steps=800" or "seed.stride=2". Raises ConfigError naming the nearest setting for an unknown one."""
    for text in assignments:
        name, eq, raw = text.partition("=")
        if not eq:
            raise ConfigError(f"--set takes name=value, got {text!r}.")
        config = _set(config, name.strip().split("."), raw.strip(), name.strip())
    return config


def load_config(cls: type[T], path: Path) -> T:
    """Reads a file written as {"version": 1, ...}."""
    try:
        data = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise ConfigError(f"{path} cannot be read as JSON ({e}).") from e
    if not isinstance(data, dict) or data.pop("version", None) != VERSION:
        raise ConfigError(f"{path} is not a version {VERSION} settings file of Handful.")
    return from_jsonable(cls, data, str(path))


def _set(config: Any, names: list[str], raw: str, full: str) -> Any:
    known = [f.name for f in fields(config)]
    if names[0] not in known:
        raise ConfigError(f"There is no setting {full!r}{_nearest(names[0], known)}.")
    if len(names) > 1:
        inner = getattr(config, names[0])
        if not is_dataclass(inner):
            raise ConfigError(f"The setting {full!r} does not exist: {names[0]!r} has no parts.")
        return replace(config, **{names[0]: _set(inner, names[1:], raw, full)})
    if is_dataclass(getattr(config, names[0])):
        raise ConfigError(f"{full!r} is a group; set one of {', '.join(full + '.' + f.name for f in fields(getattr(config, names[0])))}.")
    hint = typing.get_type_hints(type(config))[names[0]]
    try:
        value = json.loads(raw)
    except json.JSONDecodeError:
        value = float(raw) if hint is float and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", raw) else raw  # .5 and 5. are no JSON
    if isinstance(value, str) and value and typing.get_args(hint)[:1] == (str,) and typing.get_origin(hint) is tuple:
        value = [v.strip() for v in value.split(",")]  # a list of names needs no brackets on a command line
    return replace(config, **{names[0]: _coerce(hint, value, full)})


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if is_dataclass(hint):
        return from_jsonable(typing.cast(type, hint), value, where)
    if origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
        raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(str, typing.get_args(hint)))}.")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        if isinstance(value, dict):  # of several kinds of settings, the one that knows most of these names
            inner.sort(key=lambda a: -len(value.keys() & {f.name for f in fields(a)}) if is_dataclass(a) else 0)
        return _coerce(inner[0], value, where)
    if origin is tuple:
        args = typing.get_args(hint)
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(args[0] if args[-1] is Ellipsis else args[i], v, where) for i, v in enumerate(value))
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    elif hint is bool and isinstance(value, bool):
        return value
    elif hint is str and isinstance(value, str):
        return value
    raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}.")


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else f" (there are {', '.join(known)})"
