"""What a published number is: a file with protocol, scene, seeds, metrics with their spread, commit, machine and versions."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.atomic import write_json
from ..data.files import read_json
from ..recon.errors import ConfigError
from ..recon.kernels import native_or_none
from .config import to_jsonable
from .evaluate import EvalReport
from .protocols import EvalProtocol
from .version import version_of

__all__ = [
    "METRICS", "ORIGIN_SCHEMA", "PROTOCOL_SCHEMA", "SCHEMA", "VIEW_SCHEMA", "EvalResults", "SeedResult", "check_results", "check_schema", "commit",
    "machine", "read_results", "strict_object", "versions", "write_results",
]  # fmt: skip

METRICS = ("psnr", "ssim", "lpips_vgg", "lpips_alex")
_PACKAGES = ("handful", "torch", "numpy", "gsplat", "kornia", "pycolmap", "opencv-python-headless")


@dataclass(frozen=True)
class SeedResult:
    """One run: its seed, its scores, and the seconds from photos to scene (scoring excluded)."""

    seed: int
    report: EvalReport
    seconds: float


@dataclass(frozen=True)
class EvalResults:
    """One scene, one method, several seeds."""

    method: str
    settings: Any
    runs: tuple[SeedResult, ...]

    def __post_init__(self) -> None:
        if not self.runs or len({r.seed for r in self.runs}) != len(self.runs):
            raise ConfigError(f"Results need at least one run, each with its own seed; got the seeds {[r.seed for r in self.runs]}.")
        if len({(r.report.protocol.id, r.report.protocol.scene) for r in self.runs}) != 1:
            raise ConfigError("Results of different protocols or scenes do not belong into one file; write one file for each.")

    @property
    def protocol(self) -> EvalProtocol:
        return self.runs[0].report.protocol

    def values(self, metric: str) -> list[float]:
        """One mean over the test photos per seed; empty where a run lacks the metric."""
        found = [r.report.mean(metric) for r in self.runs]  # pyright: ignore[reportArgumentType]
        return [v for v in found if v is not None] if None not in found else []

    def summary(self) -> dict[str, Any]:
        """Flat, for `evaluate --json`."""
        means = {m: _mean(self.values(m)) for m in METRICS}
        return {
            "protocol": self.protocol.id,
            "scene": self.protocol.scene,
            "views": len(self.protocol.train),
            "seeds": len(self.runs),
            **means,
            "psnr_std": _std(self.values("psnr")),
            "seconds": round(sum(r.seconds for r in self.runs) / len(self.runs), 2),
        }

    def to_json(self) -> dict[str, Any]:
        """The file's content, as `SCHEMA` has it."""
        p = self.protocol
        runs = [
            {"seed": r.seed, "seconds": round(r.seconds, 3), **{m: r.report.mean(m) for m in METRICS}, "views": [asdict(v) for v in r.report.views]}
            for r in self.runs
        ]
        return {
            "version": 1,
            "kind": "evaluation",
            "protocol": to_jsonable(p),
            "method": self.method,
            "settings": to_jsonable(self.settings),
            "seeds": [r.seed for r in self.runs],
            "metrics": {m: {"mean": _mean(v), "std": _std(v)} if (v := self.values(m)) else None for m in METRICS},
            "seconds": round(sum(r.seconds for r in self.runs) / len(self.runs), 3),
            "runs": runs,
            "notes": sorted({n for r in self.runs for n in r.report.notes}),
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
        }


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 5) if values else None


def _std(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two runs: one run has no spread, not a spread of 0."""
    return round(statistics.stdev(values), 5) if len(values) > 1 else None


# -- where it was computed ---------------------------------------------------------------------------------------------


def commit() -> str:
    """Commit of the source tree this runs from, "+changes" when files differ; "release VERSION" for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        try:
            head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            changed = subprocess.run(["git", "-C", str(root), "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=60, check=True)
            return head + ("+changes" if changed.stdout.strip() else "")
        except (OSError, subprocess.SubprocessError):
            pass
    return f"release {version_of('handful') or 'unknown'}"


def machine() -> dict[str, Any]:
    """What speed depends on; no names of hosts or users."""
    import torch

    kernels = native_or_none()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "instructions": str(kernels.isa()) if kernels is not None and hasattr(kernels, "isa") else "none",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions(*more: str) -> dict[str, str]:
    """Of Python and of the packages that figures depend on, and `more` of them; those that are here."""
    return {"python": platform.python_version(), **{p: v for p in (*_PACKAGES, *more) if (v := version_of(p))}}


# -- files -------------------------------------------------------------------------------------------------------------

_NUMBER = {"type": "number"}
_MAYBE = {"type": ["number", "null"]}
_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}


def strict_object(properties: dict[str, Any], optional: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """No other keys, and all of them but those `optional`."""
    required = [k for k in properties if k not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}


PROTOCOL_SCHEMA = strict_object(
    {
        "id": {"type": "string"},
        "dataset": {"type": "string"},
        "scene": {"type": "string"},
        "train": _NAMES,
        "test": _NAMES,
        "downscale": {"type": "integer", "minimum": 0},
        "size": {"type": ["array", "null"], "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
        "poses": {"enum": ["given", "sim3_aligned", "test_time_optimized"]},
        "mask": {"enum": ["none", "object", "ignore"]},
        "quantize_8bit": {"type": "boolean"},
        "metrics": {"type": "array", "items": {"type": "object", "required": ["name", "region"]}, "minItems": 1},
    }
)
VIEW_SCHEMA = strict_object({"name": {"type": "string"}, "psnr": _NUMBER, "ssim": _NUMBER, "lpips_vgg": _MAYBE, "lpips_alex": _MAYBE})
ORIGIN_SCHEMA: dict[str, Any] = {  # where a number was computed
    "commit": {"type": "string", "minLength": 1},
    "machine": {"type": "object", "required": ["system", "cpu", "cores", "threads", "gpu"]},
    "versions": {"type": "object", "required": ["python", "torch"]},
}

SCHEMA: dict[str, Any] = strict_object(
    {
        "version": {"const": 1},
        "kind": {"const": "evaluation"},
        "protocol": PROTOCOL_SCHEMA,
        "method": {"type": "string"},
        "settings": {},
        "seeds": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": True},
        "metrics": strict_object({m: {"oneOf": [{"type": "null"}, strict_object({"mean": _NUMBER, "std": _MAYBE})]} for m in METRICS}),
        "seconds": {"type": "number", "minimum": 0},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": strict_object(
                {
                    "seed": {"type": "integer"},
                    "seconds": {"type": "number", "minimum": 0},
                    "psnr": _NUMBER,
                    "ssim": _NUMBER,
                    "lpips_vgg": _MAYBE,
                    "lpips_alex": _MAYBE,
                    "views": {"type": "array", "minItems": 1, "items": VIEW_SCHEMA},
                }
            ),
        },
        "notes": {"type": "array", "items": {"type": "string"}},
        **ORIGIN_SCHEMA,
    }
)


def check_schema(data: dict[str, Any], schema: dict[str, Any], where: str, what: str) -> None:
    """Raises ConfigError, one sentence naming the place, when `data` is no `what`."""
    missing = [k for k in schema["required"] if k not in data]
    unknown = [k for k in data if k not in schema["properties"]]
    if missing or unknown:
        raise ConfigError(f"{where} is no {what} of Handful: {'it lacks ' + missing[0] if missing else 'it has the unknown key ' + unknown[0]}.")
    from jsonschema import Draft202012Validator  # here: it loads slowly, and most commands check nothing

    error = next(iter(sorted(Draft202012Validator(schema).iter_errors(data), key=lambda e: list(map(str, e.path)))), None)
    if error is not None:
        raise ConfigError(f"{where} is no {what} of Handful: at {'/'.join(map(str, error.path)) or 'the top'}, {error.message[:200]}.")


def check_results(data: dict[str, Any], where: str = "results") -> None:
    """`check_schema`, and that runs, seeds and means agree."""
    check_schema(data, SCHEMA, where, "results file")
    if [r["seed"] for r in data["runs"]] != data["seeds"]:
        raise ConfigError(f"{where}: its runs have the seeds {[r['seed'] for r in data['runs']]}, its list says {data['seeds']}.")
    for metric in METRICS:
        values = [r[metric] for r in data["runs"]]
        stated = data["metrics"][metric]
        if stated is not None and (None in values or abs(statistics.fmean(values) - stated["mean"]) > 1e-4):
            raise ConfigError(f"{where}: the stated mean {metric} {stated['mean']} is not that of its runs.")


def write_results(path: Path, results: EvalResults) -> dict[str, Any]:
    """Writes the file (beside, then renamed) after checking it, and returns its content."""
    data = results.to_json()
    check_results(data, str(path))
    write_json(path, data)
    return data


def read_results(path: Path) -> dict[str, Any]:
    """Reads and checks a results file."""
    data = read_json(path)
    check_results(data, str(path))
    return data
