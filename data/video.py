"""A video as a capture: the sharpest frame of each of some windows of equal length."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..recon.capture import Capture
from ..recon.errors import CaptureError
from .assemble import Shot, assemble
from .ffmpeg import ffmpeg_exe
from .protocol import LoadOptions

__all__ = ["DEFAULT_FRAMES", "VIDEO_SUFFIXES", "Video", "choose_frames", "frame_sharpness", "frames_as_png", "pale", "sharpness"]

VIDEO_SUFFIXES = frozenset(".mp4 .mov .mkv .webm .avi .m4v .mpg .mpeg .3gp".split())
DEFAULT_FRAMES = 24
RECORDING, ODOMETRY = "rgb.mp4", "odometry.csv"  # together they tell where the camera was: another format (stray)
# What phones call HDR: HLG and PQ (ITU-R BT.2100). Shown as it is it looks pale; diffuse white, at 203 cd/m2 (ITU-R BT.2408), becomes white, and what is brighter is pressed together.
HDR = ("arib-std-b67", "smpte2084")
TONES = "zscale=tin={curve}:pin=bt2020:min=bt2020nc:t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.9:desat=0,zscale=t=iec61966-2-1:m=gbr:r=full"
_LOOK = (640, 360)  # frames are judged at this size: fine enough to tell blur, quick enough for a long video


class Video:
    """Views are named frame_000123.png by their number in the video; `max_photos` is how many (24 unless said)."""

    name = "video"

    def recognises(self, path: Path) -> bool:
        if path.is_file():
            return path.suffix.lower() in VIDEO_SUFFIXES
        from .images_folder import photo_folder

        return path.is_dir() and photo_folder(path) is None and len(_videos(path)) == 1 and not ((path / ODOMETRY).is_file() and (path / RECORDING).is_file())

    def load(self, path: Path, options: LoadOptions) -> Capture:
        file = path if path.is_file() else next(iter(_videos(path)), None)
        if file is None:
            raise CaptureError(f"{path} holds no video.")
        chosen = choose_frames(frame_sharpness(file), options.max_photos or DEFAULT_FRAMES)
        pictures = frames_as_png(file, chosen)
        shots = [Shot(f"frame_{i:06d}.png", file / f"frame_{i:06d}.png", content=png) for i, png in zip(chosen, pictures, strict=True)]
        capture = assemble(shots, replace(options, max_photos=None), self.name, drop_duplicates=True)
        return replace(capture, warnings=(*capture.warnings, *pale(file)))


def _videos(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith("."))


def choose_frames(sharpness: Sequence[float] | np.ndarray, k: int) -> list[int]:
    """The sharpest index within each of k windows of equal length (all indices when there are fewer than k)."""
    n = len(sharpness)
    k = min(k, n)
    edges = [i * n // k for i in range(k + 1)]
    return [a + int(np.argmax(sharpness[a:b])) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def frame_sharpness(file: Path) -> np.ndarray:
    """Of each frame of a video. Raises CaptureError when it has none."""
    found = np.array([sharpness(frame) for frame in _grey_frames(file)])
    if len(found) == 0:
        raise CaptureError(f"{file} holds no picture that can be decoded.")
    return found


def frames_as_png(file: Path, indices: list[int]) -> list[bytes]:
    """The named frames, in order, as PNG files. Raises CaptureError when one is missing."""
    pictures = list(_png_frames(file, indices))
    if len(pictures) != len(indices):
        raise CaptureError(f"{file} breaks off while its frames are read ({len(pictures)} of {len(indices)}); convert it again.")
    return pictures


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al. 2000): blur takes the high frequencies first."""
    import cv2

    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _run(file: Path, arguments: list[str]) -> Iterator[bytes]:
    """Blocks of ffmpeg's output. Raises CaptureError with ffmpeg's last line when it fails."""
    # one file, as it is: no playlist may pull in others, no frame may be doubled or dropped for a steady rate
    for sync in (["-fps_mode", "passthrough"], ["-vsync", "0"]):
        start = [ffmpeg_exe(), "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-i", f"file:{file.absolute()}", "-an", "-sn"]
        with tempfile.TemporaryFile() as errors:
            with subprocess.Popen([*start, *sync, *arguments, "-"], stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL) as p:
                assert p.stdout is not None
                whole = False
                try:
                    while block := p.stdout.read(1 << 20):
                        yield block
                    whole = True
                finally:
                    if not whole:  # the reader stopped early
                        p.kill()
            errors.seek(0)
            message = errors.read().decode("utf-8", "replace").strip()
        if p.returncode == 0:
            return
        if "fps_mode" not in message:  # an ffmpeg before 5.1 knows only -vsync
            break
    last = message.splitlines()[-1][:150] if message else "no reason given"
    raise CaptureError(f"{file} is no video that ffmpeg can read ({last}); convert it to mp4.")


def _grey_frames(file: Path) -> Iterator[np.ndarray]:
    w, h = _LOOK
    size, buffer = w * h, bytearray()
    for block in _run(file, ["-vf", f"scale={w}:{h},format=gray", "-f", "rawvideo"]):
        buffer += block
        while len(buffer) >= size:
            yield np.frombuffer(bytes(buffer[:size]), np.uint8).reshape(h, w)
            del buffer[:size]


def pale(file: Path) -> list[str]:
    """A sentence where the colours of a video's frames cannot be brought to what they show."""
    if _transfer(file) is None or _can_map_tones():
        return []
    return [f"{file.name} is recorded in HDR, and this ffmpeg ({ffmpeg_exe()}) cannot map its tones (no zscale): colours will look pale; convert it to SDR first."]


def _transfer(file: Path) -> str | None:
    """The curve of HDR by which a video's light was coded; None for an ordinary one."""
    said = subprocess.run([ffmpeg_exe(), "-nostdin", "-hide_banner", "-protocol_whitelist", "file,pipe", "-i", f"file:{file.absolute()}"], capture_output=True).stderr
    line = next((line for line in said.decode("utf-8", "replace").splitlines() if "Video:" in line), "")
    return next((curve for curve in HDR if curve in line), None)


@lru_cache(maxsize=1)
def _can_map_tones() -> bool:
    said = subprocess.run([ffmpeg_exe(), "-nostdin", "-hide_banner", "-filters"], capture_output=True).stdout.decode("utf-8", "replace")
    return all(f" {name} " in said for name in ("zscale", "tonemap"))


def _png_frames(file: Path, indices: list[int]) -> Iterator[bytes]:
    chosen = "select=" + "+".join(f"eq(n\\,{i})" for i in indices)
    curve = _transfer(file)
    if curve is not None and _can_map_tones():
        chosen += "," + TONES.format(curve=curve)
    stream = b"".join(_run(file, ["-vf", chosen, "-f", "image2pipe", "-c:v", "png", "-pix_fmt", "rgb24", "-compression_level", "3"]))
    start = at = 0
    while at + 8 < len(stream):
        at += 8  # the signature, then chunks of length, name, data, checksum
        name = b""
        while name != b"IEND" and at + 12 <= len(stream):
            length, name = int.from_bytes(stream[at : at + 4], "big"), stream[at + 4 : at + 8]
            at += 12 + length
        yield stream[start:at]
        start = at
