"""Survey stations as E57 (ASTM E2807): each scan of the file is one Sweep, seen from its own station."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ...recon.errors import BackendUnavailable, CaptureError
from ...recon.sweeps import Sweep
from ..axes import rotation_of_quat_wxyz
from .parts import ScanFile, sweep_of

__all__ = ["read_e57"]

_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_COLOURS = ("colorRed", "colorGreen", "colorBlue")
_MOST_POINTS = 400_000_000


def read_e57(file: Path) -> ScanFile:
    """Rows marked invalid are dropped; where such a row still has a direction, nothing came back from there, and the sweep says so in `empty`.

    Raises CaptureError for a broken file, BackendUnavailable without pye57.
    """
    pye57 = _pye57()
    sweeps: list[Sweep] = []
    dropped, notes = 0, []
    try:
        with pye57.E57(os.fspath(file)) as e57:
            for i in range(e57.scan_count):
                try:
                    sweep, none = _scan(e57, i, file)
                except CaptureError as e:
                    notes.append(f"{e} It is left out.")
                    continue
                sweeps.append(sweep)
                dropped += none
    except Exception as e:  # the library raises its own kinds, and more from underneath
        raise CaptureError(f"{file} is no E57 file that can be read ({(str(e).splitlines() or [type(e).__name__])[0][:120]}); export it again.") from e
    if not sweeps:
        raise CaptureError(notes[0].removesuffix(" It is left out.") if notes else f"{file} holds no scan; export it again.")
    return ScanFile(tuple(sweeps), dropped, tuple(notes))


def _pye57() -> Any:
    try:
        import pye57
    except ImportError as e:
        raise BackendUnavailable("E57 files need pye57: pip install 'handful[e57]'") from e
    return pye57


def _scan(e57: Any, i: int, file: Path) -> tuple[Sweep, int]:
    header = e57.get_header(i)
    name = _text(header, "name") or f"scan {i}"
    where = f"{file} ({name})"
    count, size = int(header.point_count), os.path.getsize(file)
    if count > min(_MOST_POINTS, 64 * size):  # a point of constant fields takes next to no room, but not less than a bit for eight
        raise CaptureError(f"{where} promises {count} points in {size} bytes; export it again, thinned out.")
    raw = e57.read_scan_raw(i, ignore_unsupported_fields=True)
    if set(_CARTESIAN) <= raw.keys():
        xyz, state = np.stack([raw[k] for k in _CARTESIAN], axis=1), raw.get("cartesianInvalidState")
    elif set(_SPHERICAL) <= raw.keys():
        xyz, state = _from_spherical(*(raw[k] for k in _SPHERICAL)), raw.get("sphericalInvalidState")
    else:
        raise CaptureError(f"{where} has points without coordinates.")
    ok = np.ones(len(xyz), bool) if state is None else state == 0
    empty = _directions(xyz[state == 1]) if state is not None else None  # 1: only the direction counts; 2: nothing does
    columns = {}
    if "intensity" in raw:
        columns["intensity"] = raw["intensity"][ok]
    if set(_COLOURS) <= raw.keys():
        columns["rgb"] = np.stack([raw[k][ok] for k in _COLOURS], axis=1) / _top_colour(header)
    T = None
    if header.has_pose():
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = rotation_of_quat_wxyz(np.asarray(header.rotation)), header.translation
    sweep, dropped = sweep_of(xyz[ok], f"{file.name}/{name}", Path(where), world_from_sensor=T, origin_known=T is not None, empty=empty, columns=columns)
    return sweep, dropped + int((~ok).sum())


def _from_spherical(reach: np.ndarray, azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """ASTM E2807, 8.4.4.5: azimuth from x towards y, elevation from the xy plane."""
    flat = reach * np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), reach * np.sin(elevation)], axis=1)


def _directions(xyz: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(xyz, axis=1)
    ok = np.isfinite(length) & (length > 1e-9)
    return xyz[ok] / length[ok, None]


def _top_colour(header: Any) -> float:
    """The value of full colour: colorLimits where the scan has them, else 255."""
    try:
        return max(float(header["colorLimits"]["colorRedMaximum"].value()), 1.0)
    except Exception:  # an optional element that is missing raises the library's own kind of error
        return 255.0


def _text(header: Any, key: str) -> str:
    try:
        return str(header[key].value()).strip()
    except Exception:  # as above
        return ""
