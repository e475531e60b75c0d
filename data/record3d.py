"""Record3D's recordings: a .r3d file (a zip), or the folder it unpacks to: metadata (JSON) and rgbd/N.jpg, N.depth, N.conf.

By the app's author (github.com/marek-simonik/record3d): issue 33, poses are qx qy qz qw px py pz; issue 36, camera-to-world; issue 64,
OpenGL's axes; issue 7, depth is LZFSE over float32 metres. K is column-major; perFrameIntrinsicCoeffs are fx fy cx cy. The world is where
the recording began, with the phone's own idea of up (issue 27).
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..recon.capture import Capture
from ..recon.errors import CaptureError
from .assemble import GivenCamera, Shot, assemble
from .files import MASK_FOLDERS, find_mask
from .lzfse import decompress
from .phone_depth import cam_from_world_of_arkit, trust_of_levels
from .protocol import LoadOptions
from .video import DEFAULT_FRAMES, choose_frames, sharpness

__all__ = ["Record3D"]

SUFFIX = ".r3d"
_MOST = 200_000_000  # bytes of one member: a photo, a depth frame, the poses of an hour
_FRAME = re.compile(r"rgbd/([0-9]{1,9})\.jpg")
_SIZES = ((192, 256), (256, 192), (480, 640), (640, 480))  # (width, height) of depth where the metadata do not say: LiDAR, TrueDepth
_LOOK = (640, 640)  # photos are judged at about this size


class _Files(Protocol):
    def names(self) -> list[str]: ...
    def read(self, name: str) -> bytes | None:
        """None when there is no such file. Raises CaptureError."""
        ...


@dataclass(frozen=True)
class _Recording:
    """What metadata says: size of the photos, of depth (None: unsaid), K and poses (N,7), and intrinsics of each frame where it has them."""

    size: tuple[int, int] | None
    depth_size: tuple[int, int] | None
    K: tuple[float, float, float, float]
    own: list[Any]
    poses: np.ndarray

    def camera(self, n: int, what: str) -> GivenCamera:
        K = self.K
        if n < len(self.own):
            try:
                fx, fy, cx, cy = (float(v) for v in self.own[n][:4])
                K = (fx, fy, cx, cy)
            except (TypeError, ValueError, OverflowError) as e:
                raise CaptureError(f"{what} has intrinsics that are no four numbers; export the recording again.") from e
        return GivenCamera(cam_from_world_of_arkit(self.poses[n, :4], self.poses[n, 4:], what), *K, self.size)


class Record3D:
    """The sharpest frame of each of `max_photos` windows of the recording (24 unless said). Depth and its confidence travel as sensor depth."""

    name = "record3d"

    def recognises(self, path: Path) -> bool:
        return (path.is_file() and path.suffix.lower() == SUFFIX) or (path.is_dir() and (path / "metadata").is_file() and (path / "rgbd").is_dir())

    def load(self, path: Path, options: LoadOptions) -> Capture:
        with _opened(path) as files:
            recording = _recording(files.read("metadata"), path)
            numbers = sorted(int(m[1]) for n in files.names() if (m := _FRAME.fullmatch(n)))
            posed = [n for n in numbers if n < len(recording.poses)]
            if not posed:
                raise CaptureError(f"{path} holds no frame with a pose ({len(numbers)} photos, {len(recording.poses)} poses); export the recording again.")
            notes: list[str] = []
            look = [_sharpness(files.read(f"rgbd/{n}.jpg") or b"") for n in posed]
            masks = [path / m for m in MASK_FOLDERS] if path.is_dir() else []  # an archive has none
            shots = []
            for i in choose_frames(look, options.max_photos or DEFAULT_FRAMES):
                n = posed[i]
                name = f"rgbd/{n}.jpg"
                depth, trust = _depth(files, n, recording, path, notes)
                camera, mask = recording.camera(n, f"{name} in {path}"), find_mask(masks, name)
                shots.append(Shot(name, path / name, camera, mask, files.read(name), depth, trust=trust))
        return assemble(shots, replace(options, max_photos=None), self.name, warnings=notes)


def _recording(data: bytes | None, path: Path) -> _Recording:
    if data is None:
        raise CaptureError(f"{path} has no metadata, so it is no Record3D recording; export it as .r3d.")
    try:
        m = json.loads(data)
        K = np.array(m["K"], np.float64)
        poses = np.array(m["poses"], np.float64)
        size = (int(m["w"]), int(m["h"])) if {"w", "h"} <= m.keys() else None
        depth = (int(m["dw"]), int(m["dh"])) if {"dw", "dh"} <= m.keys() else None
        own = m.get("perFrameIntrinsicCoeffs") or []
        if K.shape != (9,) or poses.ndim != 2 or poses.shape[1] != 7 or not isinstance(own, list):
            raise ValueError
        if depth is not None and not (0 < depth[0] < 10_000 and 0 < depth[1] < 10_000):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as e:
        raise CaptureError(f"The metadata in {path} are not Record3D's (K of 9 numbers, poses of 7 each, w, h); export the recording again.") from e
    return _Recording(size, depth, (K[0], K[4], K[6], K[7]), own, poses)


def _depth(files: _Files, n: int, recording: _Recording, path: Path, notes: list[str]) -> tuple[np.ndarray | None, np.ndarray | None]:
    try:
        packed = files.read(f"rgbd/{n}.depth")
        if packed is None:
            return None, None
        raw, (w, h) = _unpacked(packed, 4, [recording.depth_size] if recording.depth_size else _sizes_like(recording.size or _size(files, n)))
        depth = np.frombuffer(raw, "<f4").reshape(h, w)
        conf = files.read(f"rgbd/{n}.conf")
        levels = None if conf is None else np.frombuffer(_unpacked(conf, 1, [(w, h)])[0], np.uint8).reshape(h, w)
        return depth, trust_of_levels(levels, np.nan_to_num(depth, posinf=0, neginf=0))
    except (ValueError, CaptureError) as e:
        notes.append(f"The depth of frame {n} in {path} is left out: {str(e).rstrip('.')}.")
        return None, None


def _size(files: _Files, n: int) -> tuple[int, int]:
    """(width, height) of a photo; (0, 0) where it does not decode, which its own reader says."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(files.read(f"rgbd/{n}.jpg") or b"")) as im:
            return im.size
    except Exception:  # as in _sharpness
        return 0, 0


def _sizes_like(photo: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes of depth, those that lie or stand as the photo does first: the same numbers fill both."""
    return sorted(_SIZES, key=lambda s: (s[0] > s[1]) != (photo[0] > photo[1]))


def _unpacked(data: bytes, each: int, sizes: list[tuple[int, int]]) -> tuple[bytes, tuple[int, int]]:
    """Numbers of `each` bytes for one of the (width, height): stored as they are, or as LZFSE. Raises ValueError."""
    error = ValueError("it has none of the sizes that are known")
    for w, h in sizes:
        if len(data) == each * w * h and data[:3] != b"bvx":
            return data, (w, h)
        try:
            return decompress(data, each * w * h), (w, h)
        except ValueError as e:
            error = e
    raise error


def _sharpness(photo: bytes) -> float:
    """0 for a photo that does not decode: it is taken only where its window has no other, and named by what reads it then."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(photo)) as im:
            im.draft("L", _LOOK)
            return sharpness(np.asarray(im.convert("L")))
    except Exception:  # decoders raise all kinds of errors
        return 0.0


@contextmanager
def _opened(path: Path) -> Iterator[_Files]:
    if path.is_dir():
        yield _Folder(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as e:
        raise CaptureError(f"{path} is no .r3d file that can be opened ({e}); export the recording again.") from e
    with archive:
        yield _Zip(path, archive)


@dataclass(frozen=True)
class _Folder:
    path: Path

    def names(self) -> list[str]:
        return [f"rgbd/{p.name}" for p in (self.path / "rgbd").iterdir()]

    def read(self, name: str) -> bytes | None:
        file = self.path / name
        if not file.is_file():
            return None
        if file.stat().st_size > _MOST:
            raise CaptureError(f"{file} is larger than the {_MOST / 1e6:.0f} MB that are read; export the recording again.")
        return file.read_bytes()


@dataclass(frozen=True)
class _Zip:
    """Members are read by the names a recording has, and never unpacked: one that climbs out of the archive reaches nothing."""

    path: Path
    archive: zipfile.ZipFile

    def names(self) -> list[str]:
        return self.archive.namelist()

    def read(self, name: str) -> bytes | None:
        try:
            with self.archive.open(name) as f:
                data = f.read(_MOST + 1)
        except KeyError:
            return None
        except Exception as e:  # zlib, zipfile and the disk raise many kinds of errors
            raise CaptureError(f"{name} in {self.path} is broken ({e}); export the recording again.") from e
        if len(data) > _MOST:
            raise CaptureError(f"{name} in {self.path} unpacks to more than the {_MOST / 1e6:.0f} MB that are read; export the recording again.")
        return data
