"""What a job leaves: one checked JSON record, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..blame import REGIONS
from ..results import METRICS, ORIGIN_SCHEMA, PROTOCOL_SCHEMA, VIEW_SCHEMA, check_schema, strict_object

__all__ = ["JOB_SCHEMA", "JobOutput", "check_record", "failed_record"]

_NUMBER, _MAYBE, _TEXT, _COUNT = {"type": "number"}, {"type": ["number", "null"]}, {"type": "string"}, {"type": "integer", "minimum": 0}
_OR_NULL = {"type": "null"}

JOB_SCHEMA: dict[str, Any] = strict_object(
    {
        "version": {"const": 1},
        "kind": {"const": "benchmark job"},
        "name": _TEXT,
        "identity": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "status": {"enum": ["done", "failed"]},
        "error": {"type": ["string", "null"]},
        "label": _TEXT,
        "method": _TEXT,
        "settings": {"type": "object"},
        "place": strict_object(
            {
                "dataset": _TEXT, "scene": _TEXT, "views": _COUNT, "poses": _TEXT, "downscale": _MAYBE, "max_side": _MAYBE, "every": _COUNT,
                "split": {"type": ["string", "null"]}, "validation": {"type": "boolean"}, "spread": {"type": "boolean"},
            },
            optional=("validation", "spread"),  # records of older versions lack them
        ),  # fmt: skip
        "seed": _COUNT,
        "device": _TEXT,
        "protocol": PROTOCOL_SCHEMA,
        "photos": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
        # null where the test photos are not given away, and where the job failed
        "scores": {"oneOf": [_OR_NULL, strict_object({m: _MAYBE for m in METRICS})]},
        "views": {"type": "array", "items": VIEW_SCHEMA},
        "training": {
            "oneOf": [
                _OR_NULL,
                strict_object(
                    {
                        "seconds": {"type": "number", "minimum": 0},
                        "timed_alone": {"type": "boolean"},  # nothing else of this benchmark ran meanwhile
                        "other_cores": _MAYBE,  # mean number of cores that other programs kept busy meanwhile; null where it is unknown
                        "threads": _COUNT,
                        "peak_memory_mb": _NUMBER,  # of the process, when training ended; scoring excluded
                        "peak_gpu_mb": _MAYBE,  # of the device, likewise
                        "gaussians": _COUNT,
                        "parameters": _COUNT,  # numbers that a field learned; 0 of splats
                        "curve": {"type": "array", "items": {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3}},
                    },
                    optional=("parameters",),  # records of older versions lack them
                ),
            ]
        },
        "pictures": {"type": "array", "items": strict_object({"view": _TEXT, "render": _TEXT, "truth": _TEXT, "error": _TEXT, "depth": _TEXT})},
        "submission": {"type": "array", "items": _TEXT},
        "notes": {"type": "array", "items": _TEXT},
        # per test photo, where its error lies (pipelines/blame.py); empty where nothing is scored
        "blame": {"type": "array", "items": strict_object({"view": _TEXT, **dict.fromkeys(REGIONS, strict_object({"area": _NUMBER, "error": _NUMBER}))})},
        **ORIGIN_SCHEMA,
    }
)
JOB_SCHEMA["required"].remove("blame")  # records of older versions lack it


@dataclass(frozen=True)
class JobOutput:
    """`files`: pictures by their path inside the benchmark's folder. Plain data, so that it can come from another machine."""

    record: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)


def check_record(data: dict[str, Any], where: str) -> None:
    """Raises ConfigError in one sentence when `data` is no job's record."""
    check_schema(data, JOB_SCHEMA, where, "benchmark result")


def failed_record(base: dict[str, Any], error: str) -> dict[str, Any]:
    """The record of a job that could not be done."""
    empty = {"scores": None, "views": [], "training": None, "pictures": [], "submission": [], "notes": [], "blame": []}
    return {**base, "status": "failed", "error": error, **empty}
