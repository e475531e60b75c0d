"""The benchmark's folder: benchmark.json (the plan), jobs/NAME.json (one record each), pictures/, submission/, results.json, report.html."""

from __future__ import annotations

import fcntl
import statistics
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...data.atomic import ensure_folder, write_bytes, write_json
from ...data.files import read_json
from ...recon.errors import CheckpointError, ConfigError
from ..results import METRICS, check_schema, strict_object
from .record import JobOutput, check_record

__all__ = ["Listed", "claim_folder", "is_benchmark", "keep", "read_done", "read_listed", "read_record", "summary", "write_list", "write_summary"]

_TEXT = {"type": "string"}
PLAN_SCHEMA = strict_object(
    {
        "version": {"const": 1},
        "kind": {"const": "benchmark"},
        "title": _TEXT,
        "file": _TEXT,
        "text": _TEXT,
        "command": _TEXT,
        "labels": {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
        "left_out": {"type": "array", "items": _TEXT},  # places whose photos or protocol could not be used
        "jobs": {"type": "array", "items": strict_object({"name": _TEXT, "identity": _TEXT}), "minItems": 1},
        "notes": {"type": "array", "items": _TEXT},
    }
)
PLAN_SCHEMA["required"].remove("notes")  # lists of older versions lack them
_STATS = {"oneOf": [{"type": "null"}, strict_object({"mean": {"type": "number"}, "std": {"type": ["number", "null"]}})]}
SUMMARY_SCHEMA = strict_object(
    {
        "version": {"const": 1},
        "kind": {"const": "benchmark summary"},
        "title": _TEXT,
        "done": {"type": "integer"},
        "failed": {"type": "integer"},
        "rows": {
            "type": "array",
            "items": strict_object(
                {"protocol": _TEXT, "scene": _TEXT, "label": _TEXT, "seeds": {"type": "array", "items": {"type": "integer"}}, **dict.fromkeys(METRICS, _STATS), "seconds": _STATS,
                 "peak_memory_mb": {"type": ["number", "null"]}, "parameters": {"type": "integer", "minimum": 0}},
                optional=("parameters",),  # of fields; summaries of older versions lack them
            ),
        },
    }
)  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """A benchmark's folder, read: the plan, and the records of those of its jobs that have one, in the plan's order.

    Records of earlier settings may lie beside them; they are not of this plan and are not read.
    """

    folder: Path
    plan: dict[str, Any]
    records: tuple[dict[str, Any], ...]

    @property
    def done(self) -> tuple[dict[str, Any], ...]:
        return tuple(r for r in self.records if r["status"] == "done")

    @property
    def failed(self) -> tuple[dict[str, Any], ...]:
        return tuple(r for r in self.records if r["status"] == "failed")


def is_benchmark(folder: Path) -> bool:
    return (folder / "benchmark.json").is_file()


@contextmanager
def claim_folder(out: Path) -> Iterator[None]:
    """Makes the folder and keeps a second run out of it, until the block or the process ends in whatever way."""
    # a run that was killed while it wrote its first file leaves the beginning of that file
    foreign = out.is_dir() and not is_benchmark(out) and any(p.name not in ("lock", "running") and not p.name.startswith(".benchmark.json.") for p in out.iterdir())
    if foreign:
        raise ConfigError(f"{out} holds files that no benchmark wrote; choose another folder with -o.")
    ensure_folder(out)
    with open(out / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"Another run is writing to {out}; wait for it, or choose another folder with -o.") from None
        except OSError:
            pass  # a file system without locks
        yield


def write_list(out: Path, plan: dict[str, Any]) -> None:
    check_schema(plan, PLAN_SCHEMA, str(out / "benchmark.json"), "benchmark")
    write_json(out / "benchmark.json", plan)


def _record_path(out: Path, name: str) -> Path:
    return out / "jobs" / f"{name}.json"


def read_record(path: Path) -> dict[str, Any]:
    data = read_json(path)
    check_record(data, str(path))
    return data


def read_done(out: Path, name: str, identity: str, measurable: Collection[str] = ()) -> dict[str, Any] | None:
    """The record of a job that is done; None when it is not, has failed, lacks one of the metrics that are `measurable` here, or its record is broken: it is
    then done again."""
    from ...recon.errors import HandfulError

    path = _record_path(out, name)
    if not path.is_file():
        return None
    try:
        record = read_record(path)
    except HandfulError:
        return None
    if record["status"] != "done" or record["identity"] != identity:
        return None
    scores = record["scores"]
    return None if scores is not None and any(scores.get(m) is None for m in measurable) else record


def keep(out: Path, output: JobOutput) -> None:
    """Writes pictures first and the record last: where there is a record there is all of it."""
    check_record(output.record, output.record.get("name", "a result"))
    for name, data in output.files.items():
        parts = PurePosixPath(name).parts
        if parts[0] not in ("pictures", "submission") or ".." in parts:  # it may come from another machine
            raise ConfigError(f"A job handed back the file {name!r}, which has no place in a benchmark's folder.")
        target = out / name
        if not (parts[1] == "truth" and target.is_file()):  # named by its content
            write_bytes(target, data)
    write_json(_record_path(out, output.record["name"]), output.record)


def read_listed(out: Path) -> Listed:
    """Raises ConfigError in one sentence for a folder without a benchmark, or a broken file in it."""
    if not is_benchmark(out):
        raise ConfigError(f"{out} is no benchmark's folder: it has no benchmark.json; `handful benchmark run FILE -o {out}` makes one.")
    plan = read_json(out / "benchmark.json")
    check_schema(plan, PLAN_SCHEMA, str(out / "benchmark.json"), "benchmark")
    records = [read_record(p) for j in plan["jobs"] if (p := _record_path(out, j["name"])).is_file()]
    return Listed(out, plan, tuple(records))


# -- summary -----------------------------------------------------------------------------------------------------------


def stats(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation (None for one value); None when a value is missing."""
    known = [v for v in values if v is not None]
    if not known or len(known) != len(values):
        return None
    return {"mean": round(statistics.fmean(known), 5), "std": round(statistics.stdev(known), 5) if len(known) > 1 else None}


def summary(listed: Listed) -> dict[str, Any]:
    """One row per protocol, scene and method: mean and standard deviation over the seeds. Times only where they were measured alone."""
    rows, groups = [], {}
    for r in listed.done:
        groups.setdefault((r["protocol"]["id"], r["protocol"]["scene"], r["label"]), []).append(r)
    for (protocol, scene, label), runs in groups.items():
        alone = all(r["training"]["timed_alone"] for r in runs)
        rows.append(
            {
                "protocol": protocol,
                "scene": scene,
                "label": label,
                "seeds": [r["seed"] for r in runs],
                **{m: stats([(r["scores"] or {}).get(m) for r in runs]) for m in METRICS},
                "seconds": stats([r["training"]["seconds"] for r in runs]) if alone else None,
                "peak_memory_mb": max(r["training"]["peak_memory_mb"] for r in runs),
                **({"parameters": learned} if (learned := max(r["training"].get("parameters", 0) for r in runs)) else {}),
            }
        )
    return {
        "version": 1, "kind": "benchmark summary", "title": listed.plan["title"], "done": len(listed.done), "failed": len(listed.failed), "rows": rows,
    }  # fmt: skip


def write_summary(listed: Listed) -> dict[str, Any]:
    data = summary(listed)
    check_schema(data, SUMMARY_SCHEMA, str(listed.folder / "results.json"), "benchmark summary")
    write_json(listed.folder / "results.json", data)
    return data
