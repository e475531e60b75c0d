"""`handful evaluate`: score a method on a benchmark split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .common import CommonOptions, Console, duration

if TYPE_CHECKING:
    from ...recon.capture import Capture
    from ..evaluate import EvalReport
    from ..methods.config import SplatConfig
    from ..protocols import EvalProtocol

__all__ = ["Evaluate"]


@dataclass(frozen=True, kw_only=True)
class Evaluate(CommonOptions):
    """Score a method on held-out photos of a benchmark capture, by a stored protocol of photo names.

    Trains on the protocol's few photos once per seed, renders the test photos and reports PSNR, SSIM and, where the
    weights are at hand (handful doctor), LPIPS. Writes a results file and an HTML report with -o.

    Examples:
      handful evaluate llff data/fern --views 3
      handful evaluate llff data/fern --views 3 --seeds 0 1 2 -o results/fern
      handful evaluate dtu data/scan24 --views 3 --method 3dgs
    """

    dataset: tyro.conf.Positional[Literal["llff", "dtu", "mipnerf360", "blender"]]
    """Name of the benchmark."""
    directory: tyro.conf.Positional[Path]
    """The capture's folder."""
    views: int = 3
    """Number of training photos: 3, 6 or 9 (mipnerf360: 12 or 24, blender: 8)."""
    downscale: int | None = None
    """Factor the photos are reduced by (default: the benchmark's usual one)."""
    poses: Literal["given", "sim3_aligned", "test_time_optimized"] = "given"
    """Take the given cameras, or find them from the training photos alone; test cameras are then aligned, or aligned and optimised."""
    method: str = "handful"
    """Name of the method."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Change settings of the method, as in --set optim.steps=500."""
    seeds: tuple[int, ...] = (0,)
    """One run per seed; quote mean and spread over three or more."""
    device: str = "auto"
    """cpu, cuda or auto."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Folder for results.json, report.html and pictures."""

    def run(self) -> dict[str, Any]:
        from ...data.atomic import ensure_folder
        from ...recon.errors import ConfigError
        from ..config import override
        from ..methods import method_config
        from ..protocols import load_benchmark, pose_free
        from ..results import EvalResults, SeedResult
        from .reconstruct import check_device

        check_device(self.device)
        if not self.seeds:
            raise ConfigError("--seeds needs at least one number.")
        if self.out is not None:
            ensure_folder(self.out)  # before the work, not after it
        config = override(method_config(self.method), self.set)
        capture, protocol = load_benchmark(self.dataset, self.directory, self.views, self.downscale)
        if self.poses != "given":
            protocol = pose_free(protocol, self.poses)
        console, runs = self.console, []
        for seed in self.seeds:
            report, seconds = evaluate_once(capture, protocol, config, seed, self.device, console)
            runs.append(SeedResult(seed, report, seconds))
            console.say(f"{protocol.id} {protocol.scene}, seed {seed}: {one_line(report)}, {duration(seconds)}")
        for note in runs[0].report.notes:
            console.warn(note)
        results = EvalResults(self.method, config, tuple(runs))
        if self.out is not None:
            write_outputs(self.out, results, console)
        return results.summary()


def evaluate_once(
    capture: Capture, protocol: EvalProtocol, config: SplatConfig, seed: int, device: str, console: Console
) -> tuple[EvalReport, float]:
    """`train_trial`, then the scores; seconds are from photos to scene, scoring excluded."""
    from ..evaluate import evaluate_scene
    from ..trial import torch_device, train_trial
    from .reconstruct import report as say

    trial = train_trial(capture, protocol, config, seed, torch_device(device), lambda event: say(event, console))
    return evaluate_scene(lambda c: trial.scene.render(c).color, capture, protocol, trial.cameras), trial.seconds


def one_line(report: EvalReport) -> str:
    lpips = "" if report.lpips_vgg is None else f", LPIPS {report.lpips_vgg:.3f}"
    return f"PSNR {report.psnr:.2f}, SSIM {report.ssim:.3f}{lpips}"


def write_outputs(out: Path, results: Any, console: Console) -> None:
    from ..report import report_rows, side_by_side, write_html
    from ..results import write_results

    write_results(out / "results.json", results)
    write_html(out / "report.html", results)
    side_by_side(out / "pictures.png", report_rows(results.runs[0].report))
    console.say(f"Results: {out / 'results.json'}, pictures: {out / 'report.html'}")
