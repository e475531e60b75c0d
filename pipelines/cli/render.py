"""`handful render`: a camera path through the scene as a video or pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .common import CommonOptions, duration, whole_field

if TYPE_CHECKING:
    from ...recon.camera import Cameras
    from ...recon.edits import EditStep
    from ..scene_folder import SceneFolder

__all__ = ["RenderCommand", "parse_size"]

FRAMES = 120  # four seconds


@dataclass(frozen=True, kw_only=True)
class RenderCommand(CommonOptions):
    """Render a camera path through a scene: an mp4 that plays everywhere, a GIF, or PNG frames.

    The paths stay where photos were taken: `orbit` goes round what the photos look at (all the way only if they stand all
    around), `spiral` sways like a held camera, `between` flies through every photo, `ellipse` follows the ellipse that
    they span. A file is a path of your own (the viewer saves one as path.json in the scene's folder), or nerfstudio's
    camera_path.json. Interrupted by Ctrl-C, the same command goes on where it stopped.

    Examples:
      handful render out/ -o orbit.mp4
      handful render out/ --path between --what color+depth --size 960x540 -o walk.mp4
      handful render out/ --path ellipse --what color+photo -o beside.gif
      handful render out/ --path out/path.json -o frames/
    """

    scene: tyro.conf.Positional[Path]
    """Folder that `handful reconstruct` wrote."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE|DIR")]
    """Video (.mp4 or .gif), one picture (.png, with --frames 1), or a folder for PNG frames."""
    path: Annotated[str, tyro.conf.arg(metavar="orbit|spiral|between|ellipse|FILE")] = "orbit"
    """Where the camera goes."""
    what: Annotated[str, tyro.conf.arg(metavar="color|depth|normal|photo|A+B")] = "color"
    """What to draw (photo: the nearest one); several joined by + stand side by side."""
    frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Number of frames (default: 120, or what a path file asks for)."""
    fps: Annotated[float | None, tyro.conf.arg(metavar="F")] = None
    """Frames a second (default: 30, or what a path file says)."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WxH")] = None
    """Size of a frame (default: that of the photos, or what a path file says)."""
    device: str = "auto"
    """cpu, cuda, or auto (a GPU when there is one)."""
    unedited: bool = False
    """Draw the scene as it was before it was edited in the viewer."""
    field: bool = False
    """Draw the radiance field (zerorf and its kin) itself, not the splats it was turned into."""

    def run(self) -> dict[str, Any]:
        import torch

        from ...data.scene_mark import refuse_own_file
        from ..frame_sinks import open_sink
        from ..scene_folder import load_scene
        from ..video import parse_what, render_path
        from .reconstruct import check_device

        refuse_own_file(self.out)
        layers, size = parse_what(self.what), None if self.size is None else parse_size(self.size)
        check_device(self.device)
        device = self.device if self.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        raw = load_scene(self.scene, device=device)
        folder, steps = (raw, ()) if self.unedited else (raw.edited(), raw.edits())
        field = whole_field(raw, self.unedited, device).quickest() if self.field else None
        cameras, fps = self._cameras(folder, size, steps)
        open_sink(self.out, cameras.width * len(layers), cameras.height, len(cameras), fps)  # an impossible name is told before work begins
        console = self.console

        def on_frame(done: int, total: int, left: float) -> None:
            console.progress(f"rendering {done}/{total}, {duration(left)} left", final=done == total)

        report = render_path(folder.scene, cameras, self.out, self.what, fps, on_frame, tuple(folder.images()) if "photo" in layers else (), field)
        if report.drawn < report.frames:
            console.say(f"{report.frames - report.drawn} frames were there already from a run that was cut short.")
        console.say(f"{report.file}: {report.frames} frames of {report.width}x{report.height}, {report.frames_per_second:.1f} a second")
        return {
            "file": str(report.file), "frames": report.frames, "drawn": report.drawn, "width": report.width, "height": report.height,
            "seconds": round(report.seconds, 3), "frames_per_second": round(report.frames_per_second, 3),
        }  # fmt: skip

    def _cameras(self, folder: SceneFolder, size: tuple[int, int] | None, steps: tuple[EditStep, ...]) -> tuple[Cameras, float]:
        from ...recon.edits import up_after
        from ...recon.errors import ConfigError
        from ..path_file import load_path
        from ..paths import PATHS, make_path

        for kind in PATHS:
            if self.path == kind:
                g = folder.gaussians
                path = make_path(kind, folder.cameras, FRAMES if self.frames is None else self.frames, g.means, g.opacities, size, up_after(steps))
                return path, 30.0 if self.fps is None else self.fps
        file = Path(self.path)
        if not file.suffix and not file.exists():
            raise ConfigError(f"There is no camera path {self.path!r}; choose one of {', '.join(PATHS)}, or name a path file (.json).")
        loaded = load_path(file, steps)
        return loaded.sample(self.frames, size), loaded.fps if self.fps is None else self.fps


def parse_size(text: str) -> tuple[int, int]:
    """ "1280x720" to (1280, 720). Raises ConfigError."""
    from ...recon.errors import ConfigError

    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text.strip())
    if match is None or not (2 <= int(match[1]) <= 16384 and 2 <= int(match[2]) <= 16384):
        raise ConfigError(f"--size takes width x height in pixels, as in 1280x720; got {text!r}.")
    return int(match[1]), int(match[2])
