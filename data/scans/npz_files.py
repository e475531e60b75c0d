"""Scans as numpy files: our own .npz (written atomically, read back exactly), KITTI in millimetres, and bare arrays of rows.

Our own: arrays named as Sweep's fields (`xyz`, `world_from_sensor`, `origins`, `rgb`, `intensity`, `confidence`, `ring`, `seconds`,
`empty`), float32 except `ring` (int64), those that are None left out; `name` and `moment` as bytes of UTF-8; `origin_known` as one number; and
`sweep_version` (1). Anybody may write such files: `xyz` alone suffices, and without `sweep_version` rows that hold no return are dropped.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from ...recon.errors import CaptureError
from ...recon.sweeps import Sweep
from ..atomic import write_bytes
from ..axes import rigid_of_scanner
from ..files import MOST_ARRAYS, load_npy, load_npz
from .parts import ScanFile, sweep_of

__all__ = ["read_npy", "read_npz", "write_sweep"]

VERSION = 1
_PER_RETURN = {"origins": 3, "rgb": 3, "intensity": 0, "confidence": 0, "ring": 0, "seconds": 0}  # name -> columns; 0 = one number
_LONGEST_NAME = 4096  # bytes
_ENTRY = 128  # bytes of the header of an array in a file
_MILLIMETRES = ("x_mm", "y_mm", "z_mm")


def write_sweep(path: str | Path, sweep: Sweep) -> None:
    """Writes our own layout, whole or not at all; `read_npz` gives the same numbers back. Raises HandfulError when it cannot be written, or is larger than what is read."""
    sweep.validate()
    arrays = {"sweep_version": np.array(VERSION), "origin_known": np.array(int(sweep.origin_known))}
    arrays |= {k: np.frombuffer(text.encode(errors="replace"), np.uint8) for k, text in (("name", sweep.name), ("moment", sweep.moment)) if text is not None}
    for key in ("xyz", "world_from_sensor", *_PER_RETURN, "empty"):
        t = getattr(sweep, key)
        if t is not None:
            arrays[key] = t.detach().cpu().numpy().astype(np.int64 if key == "ring" else np.float32)
    size = sum(a.nbytes + _ENTRY for a in arrays.values())
    if size > MOST_ARRAYS:
        raise CaptureError(f"The scan {sweep.name} of {len(sweep)} returns fills {size / 1e9:.1f} GB, more than the {MOST_ARRAYS / 1e9:g} GB that are read from one file; keep fewer of them.")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def read_npz(file: Path) -> ScanFile:
    """Raises CaptureError when the file is broken or its arrays do not fit each other."""
    a = load_npz(file)
    if set(_MILLIMETRES) <= set(a):
        return _millimetres(file, a)
    n = len(a["xyz"]) if "xyz" in a and a["xyz"].ndim == 2 else 0
    shapes = {"xyz": (n, 3), "world_from_sensor": (4, 4), "empty": (len(a["empty"]) if "empty" in a and a["empty"].ndim else 0, 3)}
    shapes |= {k: (n, c) if c else (n,) for k, c in _PER_RETURN.items()}
    if "xyz" not in a:
        raise CaptureError(f"{file} holds no scan: it needs an array xyz of shape (N, 3), or x_mm, y_mm and z_mm; it has {', '.join(sorted(a)) or 'none'}.")
    for key, shape in shapes.items():
        if key in a and a[key].shape != shape:
            raise CaptureError(f"{file}: {key} has shape {a[key].shape}, but {shape} is expected.")
    text = _text(a, "name")
    name, named = (file.name, False) if text is None else (text, True)
    known = bool(a["origin_known"].any()) if "origin_known" in a else "origins" in a or "world_from_sensor" in a
    if "sweep_version" in a:
        return ScanFile((_own(file, a, name, known),), named=named)
    columns = {k: a[k] for k in _PER_RETURN if k in a}
    sweep, dropped = sweep_of(a["xyz"], name, file, world_from_sensor=a.get("world_from_sensor"), origin_known=known, empty=a.get("empty"), columns=columns)
    return ScanFile((sweep,), dropped, named=named)


def _text(a: dict[str, np.ndarray], key: str) -> str | None:
    """Bytes of UTF-8, where they make one line: names end up in messages, and as those of files."""
    if key not in a or a[key].size > _LONGEST_NAME:
        return None
    text = bytes(a[key].astype(np.uint8).ravel()).decode("utf-8", "replace")
    return text if text.strip() and text.isprintable() else None


def _own(file: Path, a: dict[str, np.ndarray], name: str, known: bool) -> Sweep:
    """Exactly what was written."""
    if a["sweep_version"].size != 1 or a["sweep_version"].ravel()[0] != VERSION:
        raise CaptureError(f"{file} was written by another version of Handful (layout {a['sweep_version'].ravel()[:1]}, this one reads {VERSION}); update Handful.")
    t = {k: torch.from_numpy(a[k].astype(np.int64 if k == "ring" else np.float32)) for k in ("xyz", *_PER_RETURN, "empty") if k in a}
    T = torch.from_numpy(a["world_from_sensor"].astype(np.float32)) if "world_from_sensor" in a else torch.eye(4)
    if not all(bool(torch.isfinite(v).all()) for v in (T, *t.values())) or not len(t["xyz"]):
        raise CaptureError(f"{file} holds no point, or a number that is not finite; make the scene again.")
    rigid_of_scanner(T[:3, :3].numpy(), T[:3, 3].numpy(), f"the scan {file}")  # only to see whether it is one: the numbers stay as they are
    return Sweep(world_from_sensor=T, name=name, origin_known=known, moment=_text(a, "moment"), **t)


def _millimetres(file: Path, a: dict[str, np.ndarray]) -> ScanFile:
    """A KITTI scan in whole millimetres and percents: float32(x_mm / 1000) is what the .bin held."""
    mm = [a[k].ravel() for k in _MILLIMETRES]
    columns = {"intensity": a["reflectance_pct"].ravel() / 100} if "reflectance_pct" in a else {}
    if len({len(c) for c in (*mm, *columns.values())}) > 1:
        raise CaptureError(f"{file}: x_mm, y_mm, z_mm and reflectance_pct differ in length; get it again.")
    sweep, dropped = sweep_of(np.stack(mm, axis=1) / 1000, file.name, file, columns=columns)
    return ScanFile((sweep,), dropped)


def read_npy(file: Path) -> ScanFile:
    """Rows of x, y, z, perhaps intensity, perhaps ring. Where they were seen from is not known."""
    rows = load_npy(file)
    if rows.ndim != 2 or rows.shape[1] < 3:
        raise CaptureError(f"{file} has shape {rows.shape}; a scan is an array of shape (N, 3) or wider: x, y, z, intensity, ring.")
    columns = {k: rows[:, 3 + i] for i, k in enumerate(("intensity", "ring")) if rows.shape[1] > 3 + i}
    sweep, dropped = sweep_of(rows[:, :3], file.name, file, origin_known=False, columns=columns)
    return ScanFile((sweep,), dropped)
