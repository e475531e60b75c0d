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
_ROWS = ("rowIndex", "columnIndex")
# as what fields are read: pye57's own reader takes a byte for colours, which scanners with 16 bits do not fit
_FIELDS = {"f8": (*_CARTESIAN, *_SPHERICAL), "f4": (*_COLOURS, "intensity"), "i1": ("cartesianInvalidState", "sphericalInvalidState")}
_TYPES = {name: kind for kind, names in _FIELDS.items() for name in names}
_MOST_POINTS = 400_000_000


def read_e57(file: Path) -> ScanFile:
    """Rows marked invalid are dropped; where such a row still has a direction, nothing came back from there, and the sweep says so in `empty`.

    A station counts as known where its scan has a pose that says something (programs write the identity for merged clouds, too), rows and
    columns, ranges and angles, or directions without a return. A scan that is broken is left out by name while others remain.

    Raises CaptureError for a broken file, BackendUnavailable without pye57.
    """
    pye57 = _pye57()
    sweeps: list[Sweep] = []
    dropped, notes, faults = 0, [], []
    try:
        with pye57.E57(os.fspath(file)) as e57:
            placed = any(_is_moved(_pose(e57.get_header(i))) for i in range(e57.scan_count))
            for i in range(e57.scan_count):
                try:
                    sweep, none = _scan(e57, i, file, placed, notes)
                except CaptureError as e:
                    faults.append(f"{e} It is left out.")
                    continue
                sweeps.append(sweep)
                dropped += none
    except Exception as e:  # the library raises its own kinds, and more from underneath
        raise CaptureError(f"{file} is no E57 file that can be read ({_line(e)}); export it again.") from e
    if not sweeps:
        raise CaptureError(faults[0].removesuffix(" It is left out.") if faults else f"{file} holds no scan; export it again.")
    return ScanFile(tuple(sweeps), dropped, (*notes, *faults))


def _line(e: Exception) -> str:
    return (str(e).splitlines() or [type(e).__name__])[0][:120]


def _pye57() -> Any:
    try:
        import pye57
    except ImportError as e:
        raise BackendUnavailable("E57 files need pye57: pip install 'handful[e57]'") from e
    return pye57


def _scan(e57: Any, i: int, file: Path, placed: bool, notes: list[str]) -> tuple[Sweep, int]:
    """placed: some scan of the file has a pose that moves it, so poses were written on purpose."""
    header = e57.get_header(i)
    name = _text(header, "name") or f"scan {i}"
    where = f"{file} ({name})"
    count, size = int(header.point_count), os.path.getsize(file)
    if count > min(_MOST_POINTS, 64 * size):  # a point of constant fields takes next to no room, but not less than a bit for eight
        raise CaptureError(f"{where} promises {count} points in {size} bytes; export it again, thinned out.")
    raw = _columns(e57, header, where, notes)
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
        rgb = np.stack([raw[k][ok] for k in _COLOURS], axis=1)
        columns["rgb"] = rgb / _top_colour(header, float(rgb.max(initial=0)))
    T = _pose(header)
    fields = set(header.point_fields)
    known = _is_moved(T) or (T is not None and placed) or set(_ROWS) <= fields or not set(_CARTESIAN) <= fields or (empty is not None and len(empty) > 0)
    sweep, dropped = sweep_of(xyz[ok], f"{file.name}/{name}", Path(where), world_from_sensor=T, origin_known=known, empty=empty, columns=columns)
    return sweep, dropped + int((~ok).sum())


def _columns(e57: Any, header: Any, where: str, notes: list[str]) -> dict[str, np.ndarray]:
    """Fields by name. Colours that the library cannot read are left out with a note. Raises CaptureError when the rest cannot be read either."""
    names = [n for n in header.point_fields if n in _TYPES]
    trouble = ""
    for wanted in (names, [n for n in names if n not in _COLOURS]):
        try:
            raw = _read(e57, header, wanted)
        except Exception as e:  # the library's own kinds
            trouble = trouble or _line(e)
            continue
        if trouble:
            notes.append(f"{where} has colours that cannot be read ({trouble}); they are left out.")
        return raw
    raise CaptureError(f"{where} cannot be read ({trouble}); export it again.")


def _read(e57: Any, header: Any, names: list[str]) -> dict[str, np.ndarray]:
    libe57, count = _pye57().libe57, int(header.point_count)
    arrays = {n: np.empty(count, _TYPES[n]) for n in names}
    buffers = libe57.VectorSourceDestBuffer()
    for name, array in arrays.items():
        buffers.append(libe57.SourceDestBuffer(e57.image_file, name, array, count, True, True))
    header.points.reader(buffers).read()
    return arrays


def _pose(header: Any) -> np.ndarray | None:
    """world_from_scanner, 4x4; None where the scan has none."""
    if not header.has_pose():
        return None
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rotation_of_quat_wxyz(np.asarray(header.rotation)), header.translation
    return T


def _is_moved(T: np.ndarray | None) -> bool:
    return T is not None and not np.array_equal(T, np.eye(4))


def _from_spherical(reach: np.ndarray, azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """ASTM E2807, 8.4.4.5: azimuth from x towards y, elevation from the xy plane."""
    flat = reach * np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), reach * np.sin(elevation)], axis=1)


def _directions(xyz: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(xyz, axis=1)
    ok = np.isfinite(length) & (length > 1e-9)
    return xyz[ok] / length[ok, None]


def _top_colour(header: Any, largest: float) -> float:
    """The value of full colour: colorLimits where the scan has them and keeps to them, else that of 8 or of 16 bits."""
    usual = 255.0 if largest <= 255 else 65535.0
    try:
        limit = max(float(header["colorLimits"]["colorRedMaximum"].value()), 1.0)
    except Exception:  # an optional element that is missing raises the library's own kind of error
        return usual
    return limit if largest <= limit else usual


def _text(header: Any, key: str) -> str:
    try:
        return str(header[key].value()).strip()
    except Exception:  # as above
        return ""
