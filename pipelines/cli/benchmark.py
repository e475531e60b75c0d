"""`handful benchmark`: methods x scenes x views x seeds from one file, a report, and comparisons."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from .common import CommonOptions, Console

if TYPE_CHECKING:
    from ..bench.compare import Comparison

__all__ = ["Benchmark", "BenchmarkCompare", "BenchmarkReport", "BenchmarkRun"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkRun(CommonOptions):
    """Run the jobs of a benchmark file: methods x scenes x views x seeds.

    Every job runs in a process of its own, one at a time with all cores, so that times and peak memory are its own. Stop it in whatever
    way and run the same command again: what is done is skipped. A job that fails is told and the rest goes on. Ends with a report.

    Examples:
      handful benchmark run benchmarks/llff.toml --data captures/ -o llff/
      handful benchmark run ablation.toml --data captures/ -o ablation/ --jobs 4
      handful benchmark run llff.toml --data /shared/captures -o llff/ --ray auto
    """

    file: tyro.conf.Positional[Path]
    """The benchmark file, TOML or JSON; docs/benchmark.md describes it."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for results, pictures and the report."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that holds the captures (default: the file's own `data`)."""
    jobs: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Run N jobs at a time, each with its share of the cores; times are then not reported."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Hand the jobs to the Ray cluster at ADDRESS ("auto": the one this machine is part of); needs pip install 'handful[ray]'."""

    def run(self) -> dict[str, Any]:
        from ...recon.errors import HandfulError
        from ..bench.plan import read_plan
        from ..bench.runner import run_plan
        from .common import write_summary
        from .reconstruct import check_device

        plan = read_plan(self.file, self.data)
        check_device(plan.file.device)
        console = self.console
        outcome = run_plan(plan, self.out, self._command(), lambda text, stays: console.say(text) if stays else console.progress(text), self.jobs, self.ray)
        page = write_page(self.out, console)
        summary = {"done": outcome.done, "skipped": outcome.skipped, "failed": len(outcome.troubles), "report": str(page)}
        if outcome.troubles:
            if self.json is not None:
                write_summary(self.json, {**summary, "troubles": list(outcome.troubles)})
            first, *others = outcome.troubles
            for trouble in others:
                console.warn(trouble)
            more = f" (and {len(others)} more, see above)" if others else ""
            raise HandfulError(f"Not all jobs could be done{more}; run the command again to try only these: {first}")
        return summary

    def _command(self) -> str:
        """To be typed again by whoever reads the report, wherever their folders are."""
        options = (f" --jobs {self.jobs}" if self.jobs != 1 else "") + (" --ray ADDRESS" if self.ray is not None else "")
        return f"handful benchmark run {self.file.name} --data DIR -o DIR{options}"


@dataclass(frozen=True, kw_only=True)
class BenchmarkReport(CommonOptions):
    """Write the report of a benchmark's folder again: report.html and results.json, also while it runs.

    Examples:
      handful benchmark report llff/
    """

    folder: tyro.conf.Positional[Path]
    """The benchmark's folder."""

    def run(self) -> dict[str, Any]:
        from ..bench.store import read_listed, write_summary

        listed = read_listed(self.folder)
        write_summary(listed)
        return {"done": len(listed.done), "failed": len(listed.failed), "report": str(write_page(self.folder, self.console))}


@dataclass(frozen=True, kw_only=True)
class BenchmarkCompare(CommonOptions):
    """Say whether B is better than A, by pairs of runs with the same protocol, scene and seed.

    A and B are benchmark folders, or results files of `handful evaluate -o`. Mean differences come with their 95 % confidence interval; B is called
    better only where the interval leaves zero out.

    Examples:
      handful benchmark compare before/ after/
      handful benchmark compare llff/ llff/ --method-a 3dgs --method-b handful
      handful benchmark compare a/results.json b/results.json
    """

    a: tyro.conf.Positional[Path]
    """Folder or results file A."""
    b: tyro.conf.Positional[Path]
    """Folder or results file B."""
    method_a: Annotated[str | None, tyro.conf.arg(metavar="LABEL")] = None
    """Method of A, where it holds several."""
    method_b: Annotated[str | None, tyro.conf.arg(metavar="LABEL")] = None
    """Method of B, where it holds several."""

    def run(self) -> dict[str, Any]:
        from ..bench.compare import choose, compare, read_runs, sentence

        runs_a = choose(read_runs(self.a), self.method_a, str(self.a))
        runs_b = choose(read_runs(self.b), self.method_b, str(self.b))
        same = self.a.resolve() == self.b.resolve()
        name_a, name_b = (runs_a[0].label, runs_b[0].label) if same else ("A", "B")
        c = compare(runs_a, runs_b, name_a, name_b)
        for text in lines(c):
            self.console.say(text)
        return {
            "a": c.a, "b": c.b, "pairs": c.overall["psnr"].pairs,
            **{f"{m}.{k}": getattr(d, k) for m, d in c.overall.items() for k in ("mean", "low", "high")},
            **{f"{m}.sentence": sentence(d, m, c.a, c.b) for m, d in c.overall.items()},
        }  # fmt: skip


def lines(c: Comparison) -> list[str]:
    """The comparison for people: a line per scene, then the verdicts."""
    from ..bench.compare import number, sentence

    out = []
    for (protocol, scene), by_metric in c.scenes.items():
        cells = []
        for metric, d in by_metric.items():
            interval = f" ({number(d.low, metric)} to {number(d.high, metric)})" if d.low is not None and d.high is not None else ""
            cells.append(f"{metric} {d.mean:+.{2 if metric == 'psnr' else 4}f}{interval}")
        out.append(f"{protocol} {scene}, {by_metric['psnr'].pairs} seeds, {c.b} minus {c.a}: {', '.join(cells)}")
    out += [sentence(d, m, c.a, c.b) for m, d in c.overall.items()]
    if "psnr" in c.across and c.overall["psnr"].pairs > c.across["psnr"].pairs:
        d = c.across["psnr"]
        out.append(f"Over the means of {d.pairs} scenes, which is what speaks for other scenes: " + sentence(d, "psnr", c.a, c.b).replace(" pairs)", " scenes)"))
    return out


def write_page(out: Path, console: Console) -> Path:
    from ..bench.page import write_report
    from ..bench.store import read_listed

    page = write_report(read_listed(out))
    console.say(f"Report: {page}")
    return page


def _part(name: str, command: type) -> Any:
    return Annotated[command, tyro.conf.subcommand(name, description=inspect.getdoc(command))]


if TYPE_CHECKING:
    Parts = BenchmarkRun | BenchmarkReport | BenchmarkCompare
else:  # types that a call makes, which no type checker follows
    Parts = Union[_part("run", BenchmarkRun), _part("report", BenchmarkReport), _part("compare", BenchmarkCompare)]  # noqa: UP007


@dataclass(frozen=True)
class Benchmark:
    """Measure methods against each other on benchmark captures or your own, and see the difference.

    Examples:
      handful benchmark run benchmarks/llff.toml --data captures/ -o llff/
      handful benchmark report llff/
      handful benchmark compare before/ after/
      handful benchmark run --help
    """

    part: Parts
    """What to do."""

    @property
    def json(self) -> Path | None:
        return self.part.json

    @property
    def quiet(self) -> bool:
        return self.part.quiet

    def run(self) -> dict[str, Any]:
        return self.part.run()
