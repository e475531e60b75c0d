"""Looking around in a capture's folder: photos in natural order, masks beside them, paths that must stay inside."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..recon.errors import CaptureError
from .decode import PHOTO_SUFFIXES, is_photo

__all__ = ["common_parent", "find_by_stem", "find_mask", "inside", "list_photos", "load_npy", "load_npz", "natural_key", "read_json", "read_text", "readable"]

MASK_FOLDERS = ("masks", "mask")
MOST_ARRAYS = 2_000_000_000  # bytes of all arrays in a file: sensor depth of some hundred photos


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts img2 before img10."""

    def number(digits: str) -> tuple[int, int, str]:
        bare = digits.lstrip("0")
        return 0, len(bare), bare  # longer is larger; `int` would refuse thousands of digits

    parts = re.split(r"([0-9]+)", name)
    return [number(p) if i % 2 else (1, 0, p.lower()) for i, p in enumerate(parts) if p] + [(2, 0, name)]


def list_photos(folder: Path) -> list[Path]:
    """Files named like photos directly in `folder`, in natural order; empty when there is no such folder."""
    try:
        found = [p for p in folder.iterdir() if is_photo(p) and p.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as e:
        raise CaptureError(f"The folder {folder} cannot be read ({e.strerror or e}).") from e
    return sorted(found, key=lambda p: natural_key(p.name))


def readable(name: str) -> str:
    """A file's name as text that every format can hold: bytes that are no UTF-8 (old archives) are read as Latin-1."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("latin-1")
    return name


def find_mask(folders: Sequence[Path], name: str) -> Path | None:
    """The mask of the photo `name` (a relative path): the same name, the name with .png added, or the same stem with another ending."""
    relative = PurePosixPath(name)
    for folder in folders:
        for candidate in (folder / relative, folder / f"{relative}.png"):
            if candidate.is_file():
                return candidate
        found = find_by_stem((folder / relative).with_suffix(""))
        if found is not None:
            return found
    return None


def find_by_stem(stem: Path) -> Path | None:
    """The photo whose path without ending is `stem`."""
    for suffix in sorted(PHOTO_SUFFIXES):
        for s in (suffix, suffix.upper()):
            candidate = stem.with_name(stem.name + s)
            if candidate.is_file():
                return candidate
    return None


def inside(root: Path, relative: str, named_by: Path) -> Path:
    """`root / relative`, refused when it is absolute or climbs out of `root`: a downloaded capture must not reach other files."""
    parts = PurePosixPath(relative.replace("\\", "/"))
    depth = 0
    for part in parts.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            break
    if depth < 0 or parts.is_absolute() or re.match(r"^[A-Za-z]:", relative) or "\0" in relative:
        raise CaptureError(f"{named_by} names {relative!r}, which lies outside its folder; only files inside the capture's folder are read.")
    return root / parts


def common_parent(names: Sequence[str]) -> str:
    """The longest folder all relative posix paths share, with a trailing slash; '' when there is none."""
    if not names:
        return ""
    folders = [PurePosixPath(n).parts[:-1] for n in names]
    shared: list[str] = []
    for level in zip(*folders, strict=False):
        if len(set(level)) != 1:
            break
        shared.append(level[0])
    return "/".join(shared) + "/" if shared else ""


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except UnicodeDecodeError as e:
        raise CaptureError(f"{file} is not a text file.") from e
    except OSError as e:
        raise CaptureError(f"{file} cannot be read ({e.strerror or e}).") from e


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises CaptureError for anything else (json's own NaN literals pass and are caught where they matter)."""
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError) as e:
        raise CaptureError(f"{file} is not valid JSON ({str(e)[:100]}).") from e
    if not isinstance(value, dict):
        raise CaptureError(f"{file} holds no JSON object, so it is no camera file.")
    return value


def load_npy(file: Path) -> np.ndarray:
    """An array of numbers, float64; never a pickle."""
    try:
        with file.open("rb") as f:
            if f.read(6) != b"\x93NUMPY":  # numpy would take it for a pickle and say so
                raise CaptureError(f"{file} is no .npy file; get it again.")
        a = np.load(file, allow_pickle=False)
    except CaptureError:
        raise
    except OSError as e:
        raise CaptureError(f"{file} cannot be read ({e.strerror or e}).") from e
    except Exception as e:  # numpy raises many kinds of errors on broken files
        raise CaptureError(f"{file} is not a readable .npy file ({str(e).splitlines()[0][:100] if str(e) else type(e).__name__}).") from e
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiu":
        raise CaptureError(f"{file} holds no array of numbers.")
    return a.astype(np.float64)


def load_npz(file: Path) -> dict[str, np.ndarray]:
    """All arrays of numbers in the file, float64 where they are floats; never a pickle."""
    try:
        with zipfile.ZipFile(file) as z:
            size = sum(entry.file_size for entry in z.infolist())
        if size > MOST_ARRAYS:
            raise CaptureError(f"{file} would unpack to {size / 1e9:.1f} GB, more than the {MOST_ARRAYS / 1e9:g} GB that are read; put fewer photos or points into one file.")
        with np.load(file, allow_pickle=False) as z:
            arrays = {k: z[k] for k in z.files}
        return {k: np.asarray(a, np.float64) for k, a in arrays.items() if a.dtype.kind in "fiu"}
    except CaptureError:
        raise
    except Exception as e:  # numpy and zipfile raise many kinds of errors on broken files
        raise CaptureError(f"{file} is not a readable .npz file ({str(e).splitlines()[0][:100] if str(e) else type(e).__name__}).") from e
