"""What EXIF says about a photo: orientation and focal length."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["exif_focal_px", "exif_orientation"]

ORIENTATION, EXIF_IFD = 0x0112, 0x8769
FOCAL_LENGTH, FOCAL_LENGTH_35MM = 0x920A, 0xA405
PIXEL_X, PIXEL_Y, PLANE_X_RESOLUTION, PLANE_UNIT = 0xA002, 0xA003, 0xA20E, 0xA210
# diagonal of the 36 x 24 mm frame. CIPA DCG-001 defines the 35 mm equivalent by the diagonal, and phones follow it: fern's
# camera (28 mm equivalent, 4032x3024) has 3260 px by bundle adjustment, 3261 px by the diagonal and 3136 px by the longer side.
FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}


def _number(value: Any) -> float | None:
    try:
        x = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return x if math.isfinite(x) and x > 0 else None


def exif_orientation(exif: Any) -> int:
    """1 to 8 as in the EXIF standard; 1 when nothing sensible is written."""
    value = exif.get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def exif_focal_px(exif: Any, width: int, height: int) -> float | None:
    """Focal length in pixels of a `width x height` photo, or None when EXIF tells nothing sensible.

    From the 35 mm equivalent (by the diagonal), else from the focal length and the sensor's pixel pitch.
    """
    try:
        ifd = exif.get_ifd(EXIF_IFD)
    except Exception:  # a broken EXIF block must not stop a good photo
        return None
    focal = None
    equivalent = _number(ifd.get(FOCAL_LENGTH_35MM))
    mm, per_unit = _number(ifd.get(FOCAL_LENGTH)), _number(ifd.get(PLANE_X_RESOLUTION))
    if equivalent is not None:
        focal = equivalent / FRAME_DIAGONAL_MM * math.hypot(width, height)
    elif mm is not None and per_unit is not None:
        unit = UNIT_MM.get(ifd.get(PLANE_UNIT, 2), 25.4)
        taken = max(_number(ifd.get(side)) or 0 for side in (PIXEL_X, PIXEL_Y)) or max(width, height)  # the pitch is that of the photo as taken
        focal = mm / unit * per_unit * max(width, height) / taken
    if focal is None or not 0.2 <= focal / max(width, height) <= 20.0:
        return None
    return focal
