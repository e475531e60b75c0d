"""Both kinds of methods by name: Gaussian splatting (pipelines/methods) and radiance fields (pipelines/nerf)."""

from __future__ import annotations

from typing import Any

from ..recon.errors import ConfigError
from ..recon.field.scene import FieldScene
from ..recon.scene import SplatScene
from .config import from_jsonable, to_jsonable
from .methods import METHODS
from .methods.config import SplatConfig, check_settings
from .methods.splat import SplatMethod, SplatRun
from .nerf import FIELD_METHODS
from .nerf.config import FieldConfig, check_field_settings, first_splats
from .nerf.run import FieldMethod, FieldRun
from .protocol import Start

__all__ = ["AnyConfig", "AnyRun", "AnyScene", "all_methods", "all_settings", "any_method_config", "check_any", "config_from_json", "said_of", "start_run"]

AnyConfig = SplatConfig | FieldConfig
AnyRun = SplatRun | FieldRun
AnyScene = SplatScene | FieldScene


def all_methods() -> tuple[str, ...]:
    return (*METHODS, *FIELD_METHODS)


def any_method_config(name: str) -> AnyConfig:
    """Raises ConfigError for a method that is not there."""
    found = METHODS.get(name) or FIELD_METHODS.get(name)
    if found is None:
        raise ConfigError(f"There is no method {name!r}; choose one of {', '.join(all_methods())}.")
    return found


def check_any(config: AnyConfig) -> None:
    """Raises ConfigError, one sentence, for settings that no run can have."""
    check_field_settings(config) if isinstance(config, FieldConfig) else check_settings(config)


def all_settings(config: AnyConfig) -> dict[str, Any]:
    """All that decides what a method does, as JSON: a name among a field's settings stands for splats that have settings of their own."""
    said = to_jsonable(config)
    first = first_splats(config) if isinstance(config, FieldConfig) else None
    return said if first is None else {**said, "first": to_jsonable(first)}


def config_from_json(data: object, where: str) -> AnyConfig:
    """Settings that were saved, of either kind."""
    field = isinstance(data, dict) and "grid" in data
    return from_jsonable(FieldConfig, data, where) if field else from_jsonable(SplatConfig, data, where)


def start_run(config: AnyConfig, start: Start, max_seconds: float | None = None) -> AnyRun:
    """The run of a method, ready to be iterated."""
    if isinstance(config, FieldConfig):
        return FieldMethod(config).start(start, max_seconds)
    return SplatMethod(config).start(start, max_seconds=max_seconds)


def said_of(config: AnyConfig, start: Start) -> tuple[str, ...]:
    """Sentences for the user on what this kind of method makes nothing of."""
    if not isinstance(config, FieldConfig):
        return ()
    said: list[str] = []
    if start.estimated_cameras and config.splats is None:
        said.append("A radiance field takes the cameras as they were found; the default method, which refines them while it learns, is sharper.")
    if start.scan is not None:
        said.append("A radiance field is not held to what the scanner measured; the default method is.")
    return tuple(said)
