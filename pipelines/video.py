"""Frames along a camera path to an mp4 or a folder of PNGs. Whole or not there: written beside its place, then renamed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..data.atomic import beside, clear_leftovers, ensure_folder, write_bytes, writing
from ..data.ffmpeg import ffmpeg_exe
from ..data.image_io import encode_png
from ..recon.camera import Cameras
from ..recon.colormap import colorize_depth, colorize_normal, inverse_depth_range
from ..recon.errors import ConfigError, HandfulError
from ..recon.scene import SplatScene

__all__ = ["FrameSink", "Mp4Sink", "PngSink", "RenderReport", "open_sink", "parse_what", "picture", "render_path"]

LAYERS = ("color", "depth", "normal")
_PROBES = 5  # frames looked at, small, to fix one depth scale for the whole video


@dataclass(frozen=True)
class RenderReport:
    """What was made. `seconds` is rendering and writing together."""

    file: Path
    frames: int
    width: int
    height: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        return self.frames / max(self.seconds, 1e-9)


def parse_what(what: str) -> tuple[str, ...]:
    """ "color+depth" to ("color", "depth"): the pictures that stand side by side. Raises ConfigError for anything else."""
    layers = tuple(part.strip() for part in what.split("+"))
    for layer in layers:
        if layer not in LAYERS:
            raise ConfigError(f"There is nothing called {layer!r} to render; choose from {', '.join(LAYERS)}, or several joined by +.")
    return layers


def render_path(
    scene: SplatScene,
    cameras: Cameras,
    out: Path,
    what: str = "color",
    fps: float = 30.0,
    on_frame: Callable[[int, int, float], None] | None = None,
) -> RenderReport:
    """Renders every camera to `out`: an .mp4 file, one .png, or (any other name) a folder of PNG frames.

    Args:
        scene: what to draw.
        cameras: one per frame; an mp4 needs even sizes, an odd last row or column is left out.
        what: color, depth, normal, or several joined by "+", side by side.
        on_frame: called with (frames done, frames, seconds left) after each.

    Raises ConfigError for an unknown layer or ending, HandfulError when the output cannot be written.
    """
    layers = parse_what(what)
    began = time.monotonic()
    depth_range = _depth_range(scene, cameras) if "depth" in layers else None
    with open_sink(out, cameras.width * len(layers), cameras.height, len(cameras), fps) as sink:
        for i in range(len(cameras)):
            sink.add(picture(scene, cameras[i], layers, depth_range))
            if on_frame is not None:
                elapsed = time.monotonic() - began
                on_frame(i + 1, len(cameras), elapsed / (i + 1) * (len(cameras) - i - 1))
    return RenderReport(out, len(cameras), sink.width, sink.height, time.monotonic() - began)


def picture(
    scene: SplatScene, camera: Cameras, layers: tuple[str, ...] = ("color",), depth_range: tuple[float, float] | None = None
) -> Float[Tensor, "H W 3"]:
    """One camera's layers side by side, in [0, 1], on the CPU."""
    output = scene.render(camera, normal="normal" in layers)
    alpha = output.alpha[0].cpu()
    parts: list[Tensor] = []
    for layer in layers:
        if layer == "color":
            parts.append(output.color[0].cpu().nan_to_num(0.0).clamp(0, 1))
        elif layer == "depth":
            parts.append(colorize_depth(output.depth[0].cpu(), depth_range, alpha))
        else:
            assert output.normal is not None, "asked for above"
            parts.append(colorize_normal(output.normal[0].cpu(), alpha))
    return torch.cat(parts, 1)


def _depth_range(scene: SplatScene, cameras: Cameras) -> tuple[float, float]:
    """One scale for all frames, or the colours would breathe."""
    n = len(cameras)
    probes = cameras[sorted({round(i * (n - 1) / max(_PROBES - 1, 1)) for i in range(_PROBES)})]
    shrink = max(1, max(cameras.width, cameras.height) // 240)
    output = scene.render(probes.resized(max(1, cameras.width // shrink), max(1, cameras.height // shrink)))
    return inverse_depth_range(torch.where(output.alpha > 0.5, output.depth, 0.0))


class FrameSink(Protocol):
    """Takes frames; leaving the `with` block well makes the output appear, leaving it by an error leaves nothing."""

    width: int
    height: int

    def add(self, frame: Float[Tensor, "H W 3"]) -> None: ...

    def __enter__(self) -> FrameSink: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def open_sink(out: Path, width: int, height: int, frames: int, fps: float = 30.0) -> FrameSink:
    """The sink for the ending of `out`."""
    suffix = out.suffix.lower()
    if suffix in (".mp4", ".m4v", ".mov"):
        return Mp4Sink(out, width, height, fps)
    if suffix == ".png" and frames != 1:
        raise ConfigError(f"{out} is one picture, but {frames} frames were asked for; add --frames 1, or name an .mp4 or a folder.")
    if suffix in ("", ".png"):
        return PngSink(out, width, height)
    raise ConfigError(f"{out}: videos are written as .mp4 and frames as a folder of PNGs; {suffix} is not one of them.")


def _to_uint8(frame: Float[Tensor, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return (frame.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


FRAMES, MARK = "frame_[0-9][0-9][0-9][0-9][0-9].png", ".handful-frames"


class PngSink:
    """frame_00000.png, ... in a folder, or one .png. Frames gather in a hidden folder and are moved at the end; older ones beyond the last go, where a hidden
    file says that they are ours. Raises HandfulError for a folder that holds somebody else's pictures of such names."""

    def __init__(self, out: Path, width: int, height: int) -> None:
        self.out, self.width, self.height = out, width, height
        self._single = out.suffix.lower() == ".png"
        self._gather = beside(out / "frames")
        self._new = False
        self._count = 0

    def add(self, frame: Float[Tensor, "H W 3"]) -> None:
        if self._single:
            write_bytes(self.out, encode_png(frame))
        else:
            with writing(self.out):
                (self._gather / f"frame_{self._count:05d}.png").write_bytes(encode_png(frame))
        self._count += 1

    def __enter__(self) -> PngSink:
        if not self._single:
            self._new = not self.out.exists()
            ensure_folder(self.out)
            foreign = None if (self.out / MARK).exists() else next(self.out.glob(FRAMES), None)
            if foreign is not None:
                raise HandfulError(f"{self.out} holds {foreign.name}, which Handful did not write and would replace; choose another folder with -o.")
            clear_leftovers(self.out, folders_too=True)
            with writing(self.out):
                self._gather.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._single:
            return
        try:
            if kind is None:
                with writing(self.out):
                    (self.out / MARK).touch()
                    for file in sorted(self._gather.iterdir()):
                        file.replace(self.out / file.name)
                for old in self.out.glob(FRAMES):
                    if int(old.stem[6:]) >= self._count:
                        old.unlink(missing_ok=True)
        finally:
            shutil.rmtree(self._gather, ignore_errors=True)
            if self._new and kind is not None:
                with suppress(OSError):
                    self.out.rmdir()


class Mp4Sink:
    """H.264, yuv420p, BT.709, index in front: what every browser and phone plays. Frames go to ffmpeg through a pipe."""

    def __init__(self, out: Path, width: int, height: int, fps: float = 30.0, quality: int = 18) -> None:
        if width < 2 or height < 2:
            raise ConfigError(f"A video of {width}x{height} pixels is too small.")
        if not 0.01 <= fps <= 1000:
            raise ConfigError(f"{fps:g} frames a second are not possible.")
        self.out, self.fps, self.quality = out, fps, quality
        self.width, self.height = width // 2 * 2, height // 2 * 2  # 4:2:0 shares colour between 2x2 pixels
        self._partial = beside(out)
        self._process: subprocess.Popen[bytes] | None = None
        self._messages = None

    def __enter__(self) -> Mp4Sink:
        with writing(self.out):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            if self.out.is_dir():
                raise IsADirectoryError(21, "is a folder", str(self.out))
            clear_leftovers(self.out.parent)
            self._partial.touch()  # a folder that cannot be written is told before the first frame is rendered
        self._messages = tempfile.TemporaryFile()
        command = [
            ffmpeg_exe(), "-y", "-loglevel", "error", "-nostdin",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{self.width}x{self.height}", "-r", f"{self.fps:g}", "-i", "-",
            "-an", "-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p", "-c:v", "libx264", "-preset", "medium",
            "-crf", str(self.quality), "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709",
            "-movflags", "+faststart", "-f", "mp4", str(self._partial.absolute()),
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._messages)
        return self

    def add(self, frame: Float[Tensor, "H W 3"]) -> None:
        assert self._process is not None and self._process.stdin is not None, "frames are added inside the with block"
        pixels = np.ascontiguousarray(_to_uint8(frame)[: self.height, : self.width])
        assert pixels.shape == (self.height, self.width, 3), "frames have the size the sink was opened with"
        try:
            self._process.stdin.write(pixels.data)
        except OSError as e:
            raise self._failure() from e

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        try:
            if kind is not None:
                self._end(kill=True)
            elif self._end() != 0:
                raise self._failure()
            else:
                with writing(self.out):
                    self._partial.replace(self.out)
        finally:
            self._partial.unlink(missing_ok=True)
            if self._messages is not None:
                self._messages.close()

    def _end(self, kill: bool = False) -> int:
        """Closes the pipe, waits, and returns ffmpeg's exit code."""
        assert self._process is not None and self._process.stdin is not None
        if kill:
            self._process.kill()
        with suppress(OSError):  # what is still in the pipe's buffer has nowhere to go when ffmpeg has ended; its exit code tells why
            self._process.stdin.close()
        return self._process.wait()

    def _failure(self) -> HandfulError:
        assert self._messages is not None
        self._end(kill=True)
        self._messages.seek(0)
        lines = [t for t in self._messages.read().decode("utf-8", "replace").splitlines() if t.strip()]
        full = next((t for t in lines if "No space left" in t), None)
        if full is not None:
            return HandfulError(f"Cannot write {self.out}: the disk is full; free some space or choose another output folder.")
        return HandfulError(f"Cannot write {self.out}: ffmpeg stopped ({lines[-1].strip() if lines else 'without a reason'}).")
