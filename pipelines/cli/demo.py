"""`handful demo`: the whole chain on an embedded capture, nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .common import CommonOptions, Console, duration

if TYPE_CHECKING:
    from ...data.synthetic import Demo as DemoCapture
    from ...recon.scene import SplatScene
    from ..evaluate import EvalReport

__all__ = ["Demo"]

MARK = ".handful-demo"  # in the folder of photos: they are ours


@dataclass(frozen=True, kw_only=True)
class Demo(CommonOptions):
    """The main job on three photos that Handful makes itself (a ray-cast tabletop), without their cameras.

    Finds the cameras, reconstructs, scores on views that were held out, and writes a picture of photo and render side by side.

    Examples:
      handful demo
      handful demo -o demo/ --photos 5
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = Path("handful-demo")
    """Folder for photos, scene and pictures."""
    photos: int = 3
    """Number of photos, 2 to 8."""
    seed: int = 0
    """Seed of scene and reconstruction."""
    max_seconds: float | None = 75.0
    """Time limit for the optimisation."""

    def run(self) -> dict[str, Any]:
        from ...data.atomic import ensure_folder
        from ...data.synthetic import demo_capture
        from ...recon.errors import ConfigError
        from ..job import Reconstruction, ReconstructJob
        from .reconstruct import report as say
        from .reconstruct import stop_on_interrupt

        if not 2 <= self.photos <= 8:
            raise ConfigError(f"--photos takes 2 to 8, got {self.photos}.")
        job = ReconstructJob(self.out / "photos", self.out / "scene", seed=self.seed, max_seconds=self.max_seconds)
        ensure_folder(self.out)
        console = self.console
        console.say(f"Making {self.photos} photos of a synthetic scene, and 3 more to score on ...")
        truth = demo_capture(n=self.photos, held_out=3, seed=self.seed)
        folder = write_photos(job.photos, truth)
        console.say(f"The main job: handful reconstruct {folder} -o {self.out / 'scene'}")
        work = Reconstruction(job, overwrite=True)
        with stop_on_interrupt(work, console):
            for event in work.events():
                say(event, console)
            metrics = work.finish().metrics
        assert work.run is not None
        return self._score(work.run.shown(), truth, metrics, console)

    def _score(self, scene: SplatScene, truth: DemoCapture, metrics: dict[str, Any], console: Console) -> dict[str, Any]:
        from ..report import report_rows, side_by_side

        report = score(scene, truth)
        picture = self.out / "side_by_side.png"
        side_by_side(picture, report_rows(report))
        for note in report.notes:
            console.warn(note)
        lpips = "" if report.lpips_vgg is None else f", LPIPS {report.lpips_vgg:.3f}"
        console.say(
            f"{metrics['registered']} of {metrics['photos']} photos placed, {metrics['gaussians']:,} splats in {duration(metrics['seconds'])}. "
            f"Held-out views: PSNR {report.psnr:.2f} dB, SSIM {report.ssim:.3f}{lpips}."
        )
        console.say(f"Photo and render side by side: {picture}")
        console.say(f"Look at it: handful view {self.out / 'scene'}")
        keys = ("photos", "registered", "gaussians", "seconds", "reprojection_px", "train_psnr")
        return {k: metrics[k] for k in keys} | {"psnr": report.psnr, "ssim": report.ssim, "lpips_vgg": report.lpips_vgg}


def write_photos(folder: Path, truth: DemoCapture) -> Path:
    """The training photos as a user would have them: PNG files, no cameras. Those of an earlier demo go, which a hidden file tells from others; a folder with
    others is refused."""
    import re

    from ...data.atomic import write_bytes
    from ...data.files import list_photos
    from ...data.image_io import encode_png
    from ...recon.errors import CaptureError

    before, mark = list_photos(folder), folder / MARK
    foreign = next((p for p in before if not mark.exists() or not re.fullmatch(r"photo_\d\d\.png", p.name)), None)
    if foreign is not None:
        raise CaptureError(f"{folder} holds {foreign.name}, which is no photo of the demo; choose another folder with -o.")
    for photo in before:
        photo.unlink()
    write_bytes(mark, b"")
    for view in truth.photos.views:
        write_bytes((folder / view.name).with_suffix(".png"), encode_png(view.image.load()))
    return folder


def score(scene: SplatScene, truth: DemoCapture) -> EvalReport:
    """Held-out views: cameras mapped by a similarity, then optimised against the frozen scene (as pose-free protocols do)."""
    from pathlib import PurePosixPath

    from ..evaluate import evaluate_scene
    from ..poses import map_cameras, optimise_test_cameras
    from ..protocols import EvalProtocol

    index = {PurePosixPath(n).stem: i for i, n in enumerate(truth.photos.names)}
    placed = [index[PurePosixPath(n).stem] for n in scene.names]
    held = truth.held_out
    assert held.cameras is not None, "the demo knows its true cameras"
    protocol = EvalProtocol("demo", "synthetic", "tabletop", truth.photos.names, held.names, poses="test_time_optimized")
    cameras = map_cameras(held.cameras.to(dtype=scene.cameras.K.dtype), truth.photo_cameras[placed], scene.cameras)
    cameras = optimise_test_cameras(scene.gaussians, scene.rasterizer, held.images(), cameras, background=scene.background)
    return evaluate_scene(lambda c: scene.render(c).color, held, protocol, cameras)
