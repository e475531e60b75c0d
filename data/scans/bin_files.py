"""Scans of spinning scanners as bare float32 rows: KITTI's .bin (x, y, z, reflectance) and nuScenes' .pcd.bin (x, y, z, intensity, ring).

KITTI raw data development kit (Geiger et al. 2013), readme, "Velodyne 3D laser scan data"; nuScenes devkit, `LidarPointCloud.from_file`.
Both are in the scanner's own frame.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...recon.errors import CaptureError
from .parts import ScanFile, read_bytes, sweep_of

__all__ = ["read_kitti", "read_nuscenes"]

_MOST = 4_000_000_000
_ODD = 0.05  # share of rows that may be broken


def read_kitti(file: Path) -> ScanFile:
    return _scan(file, _rows(file, 4, "KITTI"))


def read_nuscenes(file: Path) -> ScanFile:
    return _scan(file, _rows(file, 5, "nuScenes"))


def _scan(file: Path, rows: np.ndarray) -> ScanFile:
    columns = {"intensity": rows[:, 3]} | ({"ring": rows[:, 4]} if rows.shape[1] > 4 else {})
    sweep, dropped = sweep_of(rows[:, :3], file.name, file, columns=columns)
    return ScanFile((sweep,), dropped)


def _rows(file: Path, width: int, kind: str) -> np.ndarray:
    data = read_bytes(file, _MOST)
    if not data or len(data) % (4 * width):
        raise CaptureError(f"{file} has {len(data)} bytes, which is no number of {kind} points of {4 * width} bytes (truncated, or another format?); get it again.")
    rows = np.frombuffer(data, "<f4").reshape(-1, width)
    with np.errstate(all="ignore"):
        reach = np.abs(rows[:, :3]).max(axis=1)
        likely = (reach == 0) | ~np.isfinite(reach) | ((reach > 1e-2) & (reach < 1e4))
        # the bytes of a text make numbers that no scanner in the world measures
        if likely.mean() < 0.9:
            raise CaptureError(f"{file} holds no {kind} scan: its numbers are no distances in metres; give a file of float32 rows of {width}.")
        # rows of another width shift every second column by one: what should be an intensity is a coordinate then
        shifted = (rows[:, 3] < 0).mean() > _ODD or (width > 4 and ((rows[:, 4] != np.floor(rows[:, 4])) | (rows[:, 4] < 0)).mean() > _ODD)
    if shifted:
        what = "intensities are negative" if width == 4 else "intensities are negative or rings no whole numbers"
        raise CaptureError(f"{file} holds no {kind} scan: many {what}, as in rows of another width; give a file of float32 rows of {width}.")
    return rows
