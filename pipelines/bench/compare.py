"""Is B better than A? By pairs of runs that share protocol, scene and seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.files import read_json
from ...recon.errors import ConfigError
from ..results import METRICS, check_results
from .stats import Difference, paired
from .store import is_benchmark, read_listed

__all__ = ["Comparison", "Run", "compare", "differences", "read_runs", "runs_of_records", "sentence"]

SAME = ("id", "scene", "train", "test", "size", "poses", "mask", "quantize_8bit", "metrics")  # what must agree for numbers to compare
_NAMES = {"psnr": "dB PSNR", "ssim": "SSIM", "lpips_vgg": "LPIPS-VGG", "lpips_alex": "LPIPS-Alex"}
_DIGITS = {"psnr": 2}
SMALLER_IS_BETTER = ("lpips_vgg", "lpips_alex")


@dataclass(frozen=True)
class Run:
    """One training run's scores. `protocol` as the results file has it."""

    label: str
    protocol: dict[str, Any]
    seed: int
    scores: dict[str, float | None]

    @property
    def key(self) -> tuple[str, str, int]:
        return self.protocol["id"], self.protocol["scene"], self.seed


@dataclass(frozen=True)
class Comparison:
    """`scenes`: (protocol, scene) to the difference by metric; `overall` over all pairs; `across` over the scenes' means, for metrics with two scenes or
    more: what it says holds for further scenes of the kind, while seeds of one scene only repeat that scene."""

    a: str
    b: str
    scenes: dict[tuple[str, str], dict[str, Difference]]
    overall: dict[str, Difference]
    across: dict[str, Difference]


def runs_of_records(records: Iterable[dict[str, Any]]) -> tuple[Run, ...]:
    """Those of a benchmark's records that have scores."""
    return tuple(Run(r["label"], r["protocol"], r["seed"], r["scores"]) for r in records if r["scores"] is not None)


def read_runs(path: Path) -> tuple[Run, ...]:
    """From a benchmark's folder, a results file of `handful evaluate -o`, or the folder it is in."""
    if path.is_dir() and is_benchmark(path):
        return runs_of_records(read_listed(path).done)
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{path} is neither a benchmark's folder nor a results file of `handful evaluate -o`.")
    data = read_json(file)
    check_results(data, str(file))
    return tuple(Run(data["method"], data["protocol"], r["seed"], {m: r[m] for m in METRICS}) for r in data["runs"])


def choose(runs: Sequence[Run], label: str | None, what: str) -> tuple[Run, ...]:
    """The runs of one method. Raises ConfigError when it is not there, or when there are several and none is named."""
    labels = list(dict.fromkeys(r.label for r in runs))
    if not labels:
        raise ConfigError(f"{what} has no scored run yet.")
    if label is None and len(labels) > 1:
        raise ConfigError(f"{what} holds several methods ({', '.join(labels)}); name the one to compare with --method-a and --method-b.")
    if label is not None and label not in labels:
        raise ConfigError(f"{what} has no method {label!r}; it has {', '.join(labels)}.")
    return tuple(r for r in runs if label in (None, r.label))


def differences(a: Sequence[Run], b: Sequence[Run], metric: str) -> dict[tuple[str, str], list[float]]:
    """b minus a for every pair, by (protocol, scene). Raises ConfigError when one id stands for two protocols: those numbers do not compare."""
    of_a, out = {r.key: r for r in a}, {}
    for r in b:
        other = of_a.get(r.key)
        if other is None:
            continue
        key = next((k for k in SAME if r.protocol[k] != other.protocol[k]), None)
        if key is not None:
            raise ConfigError(
                f"The results do not compare: their protocols {r.protocol['id']} of {r.protocol['scene']} differ in {key} "
                f"({str(other.protocol[key])[:80]} and {str(r.protocol[key])[:80]})."
            )
        x, y = other.scores[metric], r.scores[metric]
        if x is not None and y is not None:
            out.setdefault(r.key[:2], []).append(y - x)
    return out


def compare(a: Sequence[Run], b: Sequence[Run], name_a: str = "A", name_b: str = "B") -> Comparison:
    """Raises ConfigError when fewer than two runs pair up."""
    by_metric = {m: differences(a, b, m) for m in METRICS}
    pairs = sum(map(len, by_metric["psnr"].values()))
    if pairs < 2:
        raise ConfigError(
            f"Only {pairs} run of {name_a} and {name_b} share{'s' if pairs == 1 else ''} protocol, scene and seed; a difference needs at least 2 such pairs, "
            "so run both with the same scenes and more seeds."
        )
    scenes = {key: {m: paired(d[key]) for m, d in by_metric.items() if key in d} for key in by_metric["psnr"]}
    overall = {m: paired([x for values in d.values() for x in values]) for m, d in by_metric.items() if sum(map(len, d.values())) >= 2}
    across = {m: paired(means) for m, d in by_metric.items() if len(means := _scene_means(d)) >= 2}
    return Comparison(name_a, name_b, scenes, overall, across)


def _scene_means(by_place: Mapping[tuple[str, str], Sequence[float]]) -> list[float]:
    """One mean per scene: a scene under several protocols (views, sizes) is still one scene, and says no more about others."""
    scenes: dict[tuple[str, str], list[float]] = {}
    for (protocol, scene), values in by_place.items():
        scenes.setdefault((protocol.split("-")[0], scene), []).append(sum(values) / len(values))  # two data sets may each have a "room"
    return [sum(means) / len(means) for means in scenes.values()]


def number(value: float, metric: str) -> str:
    return f"{value:.{_DIGITS.get(metric, 4)}f}"


def sentence(d: Difference, metric: str, a: str = "A", b: str = "B") -> str:
    """The verdict: who is better, by how much, and how sure that is."""
    unit = _NAMES[metric]
    if d.low is None or d.high is None:
        return f"One pair tells nothing about chance: {b} minus {a} is {d.mean:+.{_DIGITS.get(metric, 4)}f} {unit}."
    if not d.told:
        interval = f"95 % {number(d.low, metric)} to {number(d.high, metric)}, {d.pairs} pairs"
        return f"No difference can be told: {b} minus {a} is {d.mean:+.{_DIGITS.get(metric, 4)}f} {unit} ({interval})."
    better = (d.mean > 0) != (metric in SMALLER_IS_BETTER)
    low, high = sorted((abs(d.low), abs(d.high)))
    how = "better" if better else "worse"
    return f"{b} is {how} by {number(abs(d.mean), metric)} {unit} (95 % {number(low, metric)} to {number(high, metric)}, {d.pairs} pairs)."
