"""`handful evaluate`: score a method on a benchmark split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .common import CommonOptions, Console, duration

if TYPE_CHECKING:
    from ...recon.capture import Capture
    from ..bench.plan import Place
    from ..catalog import AnyConfig
    from ..evaluate import EvalReport
    from ..protocols import EvalProtocol

__all__ = ["Evaluate"]

PHOTO_OPTIONS = ("views", "spread", "every", "downscale", "poses", "method", "set", "seeds", "out", "device")  # what lidar does not listen to


@dataclass(frozen=True, kw_only=True)
class Evaluate(CommonOptions):
    """Score a method on held-out photos of a benchmark capture, by a stored protocol of photo names.

    Trains on the protocol's few photos once per seed, renders the test photos and reports PSNR, SSIM and, where the
    weights are at hand (handful doctor), LPIPS. Writes a results file and an HTML report with -o.

    Examples:
      handful evaluate llff data/fern --views 3
      handful evaluate llff data/fern --views 3 --seeds 0 1 2 -o results/fern
      handful evaluate dtu data/scan24 --views 3 --method 3dgs
      handful evaluate holdout out/ --every 4
      handful evaluate lidar data/kitti_drive --keep-rings 0.125 --json lidar.json
    """

    dataset: tyro.conf.Positional[Literal["llff", "dtu", "mipnerf360", "blender", "holdout", "lidar"]]
    """Name of the benchmark; holdout is for photos of your own, with cameras (such as the folder that reconstruct writes); lidar keeps beams of scans back."""
    directory: tyro.conf.Positional[Path]
    """The capture's folder."""
    views: int | None = None
    """Number of training photos: 3, 6 or 9, llff also 12 (mipnerf360: 12 or 24, blender: 4, 6, 8 or 32); default 3, or 12, or 8. holdout: default all that do not test."""
    spread: bool = False
    """blender: as many training photos, but from all around the object (k-means of the cameras' places, as ZeroRF picks them), in place of DietNeRF's."""
    every: int | None = None
    """holdout: of the sorted photos every so many one is for the test, the first among them (default 8)."""
    keep_rings: float | None = None
    """lidar: share of each scan's rings that the starts see (default 0.25); without rings, of its returns. The rest judges them."""
    starts: tuple[str, ...] = ()
    """lidar: ways from a scan to splats; default knn pca ring learned."""
    shuffled: bool = False
    """lidar: hand the starts a cloud without order or rings."""
    downscale: int | None = None
    """Factor the photos are reduced by (default: the benchmark's usual one)."""
    poses: Literal["given", "sim3_aligned", "test_time_optimized"] = "given"
    """Take the given cameras, or find them from the training photos alone; test cameras are then aligned, or aligned and optimised."""
    method: str = "handful"
    """Name of the method; `handful doctor` lists them."""
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
        from ..bench.material import load_material
        from ..catalog import any_method_config
        from ..config import override
        from ..results import EvalResults, SeedResult
        from .reconstruct import check_device

        if self.dataset == "lidar":
            return self._lidar()
        if self.keep_rings is not None or self.starts or self.shuffled:
            raise ConfigError(f"--keep-rings, --starts and --shuffled are for lidar; {self.dataset} has photos to judge by.")
        check_device(self.device)
        if not self.seeds:
            raise ConfigError("--seeds needs at least one number.")
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"--seeds must name each seed once, got {' '.join(map(str, self.seeds))}.")
        if self.out is not None:
            ensure_folder(self.out)  # before the work, not after it
        config = override(any_method_config(self.method), self.set)
        material = load_material(self.place())
        capture, protocol = material.capture, material.protocol
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

    def _lidar(self) -> dict[str, Any]:
        from dataclasses import asdict

        from ...data.protocol import LoadOptions
        from ...data.registry import load_capture
        from ...recon.errors import ConfigError
        from ..scan.evaluate import MAX_SIDE, STARTS, evaluate_lidar

        keep = 0.25 if self.keep_rings is None else self.keep_rings
        if not 0 < keep <= 0.5 or abs(1 / keep - round(1 / keep)) > 0.01:
            raise ConfigError(f"--keep-rings must be one half, a third, a quarter, ... (the other beams judge), got {keep:g}.")
        plain = Evaluate(dataset="lidar", directory=self.directory)
        given = next((n for n in PHOTO_OPTIONS if getattr(self, n) != getattr(plain, n)), None)
        if given is not None:
            raise ConfigError(f"--{given.replace('_', '-')} says nothing to lidar, which has a protocol of its own; leave it out (--json FILE writes the scores).")
        capture = load_capture(self.directory, LoadOptions(max_side=MAX_SIDE))
        scores = evaluate_lidar(capture, keep, self.starts or STARTS, tell=self.console.say, shuffled=self.shuffled)
        return {name: asdict(score) for name, score in scores.items()}

    def place(self) -> Place:
        """Raises ConfigError for options that do not go together."""
        from ...recon.errors import ConfigError
        from ..bench.plan import Place
        from ..protocols import DATASETS, scene_name

        if self.dataset == "lidar":
            raise ConfigError("lidar is no split of photos.")
        if self.dataset != "holdout" and self.every is not None:
            raise ConfigError(f"--every is for holdout; {self.dataset} has test photos of its own.")
        if self.spread and self.dataset != "blender":
            raise ConfigError(f"--spread is for blender, whose photos lie around the object; {self.dataset} has no such split.")
        views = self.views if self.views is not None else DATASETS[self.dataset].views[0] if self.dataset != "holdout" else 0
        if self.views is not None and self.views < 2:
            raise ConfigError(f"--views must be 2 or more, got {self.views}.")
        scene = scene_name(self.dataset, self.directory)
        every = 8 if self.every is None else self.every
        return Place(self.dataset, scene, str(self.directory), views, self.poses, self.downscale, every=every, spread=self.spread)


def evaluate_once(
    capture: Capture, protocol: EvalProtocol, config: AnyConfig, seed: int, device: str, console: Console
) -> tuple[EvalReport, float]:
    """`train_trial`, then the scores; seconds are from photos to scene, scoring excluded."""
    from ..evaluate import evaluate_scene
    from ..trial import torch_device, train_trial
    from .reconstruct import report as say

    trial = train_trial(capture, protocol, config, seed, torch_device(device), lambda event: say(event, console))
    report = evaluate_scene(lambda c: trial.scene.render(c).color, capture, protocol, trial.cameras)
    return replace(report, notes=trial.notes + report.notes), trial.seconds


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
