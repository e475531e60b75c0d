"""Where frames of a video go: an mp4, a GIF, or PNG files. Whole or not there: written beside their place, then renamed. What Ctrl-C or a crash cuts short
goes on where it stopped, when the same job comes again: frames wait as PNG files, or as segments of an mp4."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..data.atomic import beside, clear_leftovers, ensure_folder, write_bytes, write_text, writing
from ..data.ffmpeg import ffmpeg_exe
from ..data.image_io import encode_png
from ..recon.errors import BackendUnavailable, ConfigError, HandfulError

__all__ = ["FrameSink", "GifSink", "Mp4Sink", "PngSink", "open_sink"]

SEGMENT = 150  # frames of an mp4 that a crash may cost


class FrameSink(Protocol):
    """Takes frames; leaving the `with` block well makes the output appear, leaving it by an error leaves nothing, or what the same job goes on from.

    `done`: frames that are there already when the block begins; the caller adds those after them.
    """

    width: int
    height: int
    done: int

    def add(self, frame: Float[Tensor, "H W 3"]) -> None: ...

    def __enter__(self) -> FrameSink: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def open_sink(out: Path, width: int, height: int, frames: int, fps: float = 30.0, job: str | None = None) -> FrameSink:
    """The sink for the ending of `out`. `job` names what is drawn, in full: with it, what was cut short goes on."""
    suffix = out.suffix.lower()
    if suffix in (".mp4", ".m4v", ".mov"):
        return Mp4Sink(out, width, height, fps, job=job)
    if suffix == ".gif":
        return GifSink(out, width, height, fps, job)
    if suffix == ".png" and frames != 1:
        raise ConfigError(f"{out} is one picture, but {frames} frames were asked for; add --frames 1, or name an .mp4 or a folder.")
    if suffix in ("", ".png"):
        return PngSink(out, width, height, job)
    raise ConfigError(f"{out}: videos are written as .mp4 or .gif and frames as a folder of PNGs; {suffix} is not one of them.")


def _to_uint8(frame: Float[Tensor, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return (frame.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _waiting(out: Path, job: str | None) -> Path | None:
    """The hidden folder beside `out` where the frames of a job wait to be whole. Those of other jobs for the same output are cleared away."""
    if job is None:
        return None
    mine = out.with_name(f".{out.name}.{job[:16]}.frames")
    for old in out.parent.glob(f".{out.name}.*.frames"):
        if old != mine and re.fullmatch(re.escape(f".{out.name}.") + r"[0-9a-f]{16}\.frames", old.name):
            shutil.rmtree(old, ignore_errors=True)
    return mine


FRAME, MARK = "frame_%05d.png", ".handful-frames"


def _frames(folder: Path) -> dict[int, Path]:
    """Those in a folder, by number; from the 100,000th on they have more digits."""
    named = ((re.fullmatch(r"frame_(\d{5}|[1-9]\d{5,})\.png", file.name), file) for file in folder.iterdir())
    return dict(sorted((int(match[1]), file) for match, file in named if match is not None))


def _frames_in(folder: Path) -> int:
    """How many frames wait there, from the first on without a gap."""
    count = 0
    while (folder / (FRAME % count)).exists():
        count += 1
    return count


class PngSink:
    """frame_00000.png, ... in a folder, or one .png. Frames gather in a hidden folder and are moved at the end; older ones beyond the last go, where a hidden
    file says that they are ours. Raises HandfulError for a folder that holds somebody else's pictures of such names."""

    def __init__(self, out: Path, width: int, height: int, job: str | None = None) -> None:
        self.out, self.width, self.height, self.done = out, width, height, 0
        self._single = out.suffix.lower() == ".png"
        self._job = None if self._single else job
        self._gather = beside(out / "frames")
        self._new = False
        self._count = 0

    def add(self, frame: Float[Tensor, "H W 3"]) -> None:
        if self._single:
            write_bytes(self.out, encode_png(frame))
        else:
            write_bytes(self._gather / (FRAME % self._count), encode_png(frame))
        self._count += 1

    def __enter__(self) -> PngSink:
        if not self._single:
            self._new = not self.out.exists()
            ensure_folder(self.out)
            foreign = None if (self.out / MARK).exists() else next(iter(_frames(self.out).values()), None)
            if foreign is not None:
                raise HandfulError(f"{self.out} holds {foreign.name}, which Handful did not write and would replace; choose another folder with -o.")
            clear_leftovers(self.out, folders_too=True)
            self._gather = _waiting(self.out / "frames", self._job) or self._gather
            with writing(self.out):
                self._gather.mkdir(exist_ok=True)
            self._count = self.done = _frames_in(self._gather)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._single or (kind is KeyboardInterrupt and self._job is not None and self._count):
            return
        try:
            if kind is None:
                with writing(self.out):
                    (self.out / MARK).touch()
                    for file in _frames(self._gather).values():
                        file.replace(self.out / file.name)
                for number, old in _frames(self.out).items():
                    if number >= self._count:
                        old.unlink(missing_ok=True)
        finally:
            shutil.rmtree(self._gather, ignore_errors=True)
            if self._new and kind is not None:
                with suppress(OSError):
                    self.out.rmdir()


class _Ffmpeg:
    """One ffmpeg that reads raw frames from a pipe. `out` is the name that people know."""

    def __init__(self, out: Path, file: Path, width: int, height: int, fps: float, options: list[str]) -> None:
        self._out = out
        self._shape = (height, width, 3)
        self._messages: IO[bytes] = tempfile.TemporaryFile()
        command = [
            ffmpeg_exe(), "-y", "-loglevel", "error", "-nostdin",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-", *options, str(file.absolute()),
        ]  # fmt: skip
        with _starting(command[0]):
            # a session of its own: Ctrl-C in the terminal is ours to handle, ffmpeg ends its segment in peace
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._messages, start_new_session=True)

    def write(self, frame: Float[Tensor, "H W 3"]) -> None:
        assert self._process.stdin is not None
        pixels = np.ascontiguousarray(_to_uint8(frame)[: self._shape[0], : self._shape[1]])
        assert pixels.shape == self._shape, "frames have the size the sink was opened with"
        try:
            self._process.stdin.write(pixels.data)
        except OSError as e:
            raise self._failure() from e

    def finish(self) -> None:
        if self._end() != 0:
            raise self._failure()
        self._messages.close()

    def kill(self) -> None:
        self._end(kill=True)
        self._messages.close()

    def _end(self, kill: bool = False) -> int:
        """Closes the pipe, waits, and returns ffmpeg's exit code."""
        assert self._process.stdin is not None
        if kill:
            self._process.kill()
        with suppress(OSError):  # what is still in the pipe's buffer has nowhere to go when ffmpeg has ended; its exit code tells why
            self._process.stdin.close()
        return self._process.wait()

    def _failure(self) -> HandfulError:
        self._end(kill=True)
        self._messages.seek(0)
        return _failure(self._out, self._messages.read())


@contextmanager
def _starting(program: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise BackendUnavailable(f"Videos need ffmpeg, but {program} cannot be run ({e.strerror or e}).") from e


def _failure(out: Path, messages: bytes) -> HandfulError:
    lines = [t for t in messages.decode("utf-8", "replace").splitlines() if t.strip()]
    if any("No space left" in t for t in lines):
        return HandfulError(f"Cannot write {out}: the disk is full; free some space or choose another output folder.")
    return HandfulError(f"Cannot write {out}: ffmpeg stopped ({lines[-1].strip() if lines else 'without a reason'}).")


def _run_ffmpeg(out: Path, folder: Path, arguments: list[str]) -> None:
    """ffmpeg from files to a file, at work in `folder`, so that no name of it is taken for a pattern. `out` is the name that people know."""
    command = [ffmpeg_exe(), "-y", "-loglevel", "error", "-nostdin", *arguments]
    with _starting(command[0]):
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    if done.returncode != 0:
        raise _failure(out, done.stderr)


class _FfmpegSink:
    """What mp4 and GIF share: the size, the partial file, and the folder where what is done waits."""

    def __init__(self, out: Path, width: int, height: int, fps: float, job: str | None) -> None:
        if width < 2 or height < 2:
            raise ConfigError(f"A video of {width}x{height} pixels is too small.")
        if not 0.01 <= fps <= 1000:
            raise ConfigError(f"{fps:g} frames a second are not possible.")
        self.out, self.fps, self.done = out, fps, 0
        self.width, self.height = width, height
        self._partial = beside(out)
        self._job = job

    def _prepare(self, folder: Path | None = None) -> Path | None:
        """Returns the job's folder, made, else `folder`. What cannot work is told before the first frame is rendered."""
        ffmpeg_exe()
        with writing(self.out):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            if self.out.is_dir():
                raise IsADirectoryError(21, "is a folder", str(self.out))
            clear_leftovers(self.out.parent, folders_of=self.out.name)
            self._partial.touch()
        folder = _waiting(self.out, self._job) or folder
        try:
            return folder if folder is None else ensure_folder(folder)
        except BaseException:
            self._partial.unlink(missing_ok=True)
            raise

    def _waits(self, error: HandfulError, folder: Path) -> HandfulError:
        return HandfulError(f"{error} The frames so far wait in {folder}; the same command goes on from them.")


class GifSink(_FfmpegSink):
    """A GIF that repeats, each frame with the 256 colours that suit it. Frames wait as PNG files until all are there: a GIF cannot be written in parts."""

    options = ("-filter_complex", "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1", "-loop", "0", "-f", "gif")

    def __init__(self, out: Path, width: int, height: int, fps: float, job: str | None = None) -> None:
        super().__init__(out, width, height, fps, job)
        self._folder = beside(out)
        self._count = 0

    def __enter__(self) -> GifSink:
        self._folder = self._prepare(self._folder) or self._folder
        self._count = self.done = _frames_in(self._folder)
        return self

    def add(self, frame: Float[Tensor, "H W 3"]) -> None:
        write_bytes(self._folder / (FRAME % self._count), encode_png(frame))
        self._count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        keep = kind is KeyboardInterrupt and self._job is not None and self._count > 0
        try:
            if kind is None:
                _run_ffmpeg(self.out, self._folder, ["-framerate", f"{self.fps:g}", "-i", FRAME, *self.options, str(self._partial.absolute())])
                with writing(self.out):
                    self._partial.replace(self.out)
        except BaseException as e:  # all frames are there
            keep = self._job is not None
            if keep and isinstance(e, HandfulError):
                raise self._waits(e, self._folder) from e
            raise
        finally:
            self._partial.unlink(missing_ok=True)
            if not keep:
                shutil.rmtree(self._folder, ignore_errors=True)


class Mp4Sink(_FfmpegSink):
    """H.264, yuv420p, BT.709, index in front: what every browser and phone plays. With a `job`, it is written in segments that a later run goes on from."""

    def __init__(self, out: Path, width: int, height: int, fps: float = 30.0, quality: int = 18, job: str | None = None) -> None:
        super().__init__(out, width, height, fps, job)
        self.width, self.height = width // 2 * 2, height // 2 * 2  # 4:2:0 shares colour between 2x2 pixels
        self.options = (
            "-an", "-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p", "-c:v", "libx264", "-preset", "faster", "-crf", str(quality),
            "-bf", "0",  # frames that look ahead would leave gaps between segments
            "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-movflags", "+faststart", "-f", "mp4",
        )  # fmt: skip
        self._ffmpeg: _Ffmpeg | None = None
        self._folder: Path | None = None
        self._segments: list[Path] = []
        self._count = 0  # frames of the segment under way
        self._unsure = False  # whether ffmpeg may hold a frame more or less than that

    def __enter__(self) -> Mp4Sink:
        self._folder = self._prepare()
        if self._folder is not None:
            by_start = {int(m[1]): (p, int(m[2])) for p in self._folder.iterdir() if (m := re.fullmatch(r"(\d{6})-(\d{6})\.mp4", p.name))}
            while self.done in by_start and by_start[self.done][1] > self.done:
                segment, self.done = by_start[self.done]
                self._segments.append(segment)
        return self

    def add(self, frame: Float[Tensor, "H W 3"]) -> None:
        if self._ffmpeg is None:
            self._ffmpeg = _Ffmpeg(self.out, self._partial, self.width, self.height, self.fps, list(self.options))
        self._unsure = True
        self._ffmpeg.write(frame)
        self._count += 1
        self._unsure = False
        if self._folder is not None and self._count == SEGMENT:
            self._close_segment(self._folder)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        keep = kind is KeyboardInterrupt and self._folder is not None
        try:
            if keep and self._folder is not None:
                self._close_segment(self._folder)
                keep = bool(self._segments)
            elif kind is not None:
                if self._ffmpeg is not None:
                    self._ffmpeg.kill()
            else:
                try:
                    self._finish()
                except BaseException as e:
                    keep = bool(self._segments)
                    if keep and self._folder is not None and isinstance(e, HandfulError):
                        raise self._waits(e, self._folder) from e
                    raise
        finally:
            self._partial.unlink(missing_ok=True)
            if self._folder is not None and not keep:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _close_segment(self, folder: Path) -> None:
        """What was added since the last one becomes a segment of its own, named by its first frame and the one after its last."""
        if self._ffmpeg is None:
            return
        if self._unsure or self._count == 0:  # Ctrl-C came while a frame was on its way
            self._ffmpeg.kill()
            return
        self._ffmpeg.finish()
        self._ffmpeg = None
        segment = folder / f"{self.done:06d}-{self.done + self._count:06d}.mp4"
        with writing(self.out):
            self._partial.replace(segment)
        self._segments.append(segment)
        self.done, self._count = self.done + self._count, 0

    def _finish(self) -> None:
        if self._ffmpeg is not None and not self._segments:  # all in one piece
            self._ffmpeg.finish()
        elif self._folder is not None:
            self._close_segment(self._folder)
            if len(self._segments) > 1:
                self._join(self._folder)
        whole = self._segments[0] if len(self._segments) == 1 else self._partial
        with writing(self.out):
            whole.replace(self.out)

    def _join(self, folder: Path) -> None:
        """The segments one after the other, as they are."""
        write_text(folder / "list.txt", "".join(f"file '{segment.name}'\n" for segment in self._segments))
        _run_ffmpeg(self.out, folder, [
            "-f", "concat", "-safe", "0", "-i", "list.txt", "-c", "copy", "-movflags", "+faststart", "-f", "mp4", str(self._partial.absolute()),
        ])  # fmt: skip
