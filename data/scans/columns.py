"""The names programs give to what a point carries (PLY, PCD), turned into the fields of a Sweep."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...recon.errors import CaptureError

__all__ = ["positions", "sweep_columns"]

_COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_ORIGINS = (("vp_x", "vp_y", "vp_z"), ("vpx", "vpy", "vpz"), ("viewpoint_x", "viewpoint_y", "viewpoint_z"))
_ONE = {
    "intensity": ("intensity", "reflectance", "reflectivity", "remission"),
    "confidence": ("confidence", "conf"),
    "ring": ("ring", "laser_id", "laserid", "line"),
    "seconds": ("time", "timestamp", "t", "gps_time", "gpstime", "offset_time", "time_offset"),
}


def positions(table: dict[str, np.ndarray], file: Path) -> np.ndarray:
    """N,3 float64. Raises CaptureError where x, y or z is missing, and for a file of splats."""
    if not {"x", "y", "z"} <= table.keys():
        raise CaptureError(f"{file} has points without x, y, z; it has {', '.join(table) or 'nothing'}.")
    if {"f_dc_0", "opacity"} <= table.keys():
        raise CaptureError(f"{file} holds Gaussian splats, not a scan; open it with `handful view`, or give the scan it was made from.")
    return np.stack([table[k].astype(np.float64) for k in "xyz"], axis=1)


def sweep_columns(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `sweep_of` takes as columns, from columns of one number each, whatever case or prefix (CloudCompare's scalar_) their names have."""
    plain = {k.lower().removeprefix("scalar_"): v for k, v in reversed(list(table.items()))}
    out: dict[str, np.ndarray] = {}
    colour = next((c for c in _COLOURS if set(c) <= plain.keys()), None)
    packed = next((plain[k] for k in ("rgb", "rgba") if k in plain), None)
    if colour is not None:
        out["rgb"] = unit_colours(np.stack([plain[k] for k in colour], axis=1))
    elif packed is not None and packed.dtype.itemsize == 4:
        bits = np.ascontiguousarray(packed, packed.dtype.newbyteorder("=")).view("u4")  # PCL: 0xAARRGGBB, often in the bits of a float
        out["rgb"] = np.stack([bits >> s & 255 for s in (16, 8, 0)], axis=1) / 255.0
    origin = next((c for c in _ORIGINS if set(c) <= plain.keys()), None)
    if origin is not None:
        out["origins"] = np.stack([plain[k].astype(np.float64) for k in origin], axis=1)
    for field, names in _ONE.items():
        found = next((plain[k] for k in names if k in plain and (k != "t" or plain[k].dtype.kind in "ui")), None)  # a float t is a texture's
        if found is not None:
            out[field] = _CONVERT.get(field, lambda a: a.astype(np.float64))(found)
    return out


def unit_colours(rgb: np.ndarray) -> np.ndarray:
    """N,3 colours in [0, 1]: integers by their type's range (16-bit ones that never pass 255 are 8-bit values), floats as they are or by 255."""
    top = _largest(rgb)
    if rgb.dtype.kind not in "ui":
        return rgb / (255.0 if top > 1.5 else 1.0)
    return rgb / np.float32(255.0 if top <= 255 else np.iinfo(rgb.dtype).max)  # not doubles: there may be fifty million


def _unit_confidence(a: np.ndarray) -> np.ndarray:
    """Integers are ARKit's levels 0, 1, 2, or bytes; floats are in [0, 1], or of a scale of their own whose largest counts as 1."""
    top = _largest(a)
    if a.dtype.kind in "ui":
        return a / (2.0 if top <= 2 else 255.0)
    return a / (top if top > 1.5 else 1.0)


def _largest(a: np.ndarray) -> float:
    """Of the numbers that are finite: rows without a return carry others, and have no say in what the scale is."""
    return float(a.max(initial=0, where=np.isfinite(a)))


def _in_seconds(a: np.ndarray) -> np.ndarray:
    """Whole numbers are nanoseconds (Ouster's t, Livox' offset_time); others seconds."""
    return a.astype(np.float64) * (1e-9 if a.dtype.kind in "ui" else 1.0)


_CONVERT = {"confidence": _unit_confidence, "seconds": _in_seconds}
