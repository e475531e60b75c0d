"""Scans as PLY points, ascii or binary of either order, any of the types PLY has.

The element `camera` that PCL writes (view_px.., x_axisx.. z_axisz) is the pose of the scanner, its points lie in the scanner's frame; a cloud without it, and without a place
for each point (vp_x, vp_y, vp_z), was seen from nobody knows where. Normals are left aside.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..ply_file import PlyFile, open_ply
from .columns import positions, sweep_columns
from .parts import ScanFile, sweep_of

__all__ = ["read_ply"]

_CAMERA = tuple(f"view_p{a}" for a in "xyz") + tuple(f"{a}_axis{b}" for a in "xyz" for b in "xyz")


def read_ply(file: Path) -> ScanFile:
    ply = open_ply(file)
    vertices = ply.whole("vertex")
    table = {n: vertices[n] for n in vertices.dtype.names or ()}
    columns = sweep_columns(table)
    T = _pose(ply)
    sweep, dropped = sweep_of(positions(table, file), file.name, file, world_from_sensor=T, origin_known=T is not None or "origins" in columns, columns=columns)
    return ScanFile((sweep,), dropped)


def _pose(ply: PlyFile) -> np.ndarray | None:
    """PCL's camera as world_from_sensor; None where it is missing, or as it came from the constructor (PCL writes it always)."""
    before = ply.elements[: next((i for i, e in enumerate(ply.elements) if e.name == "camera"), 0)]
    if not set(_CAMERA) <= set(ply.names("camera")) or ply.count("camera") != 1 or any(t == "list" for e in before for _, t in e.fields):
        return None
    row = ply.whole("camera")[0]
    values = np.array([float(row[k]) for k in _CAMERA])
    T = np.eye(4)
    T[:3, 3], T[:3, :3] = values[:3], values[3:].reshape(3, 3)  # x_axisx.. are the first row (PCL, ply_io.h: orientationXaxisYCallback)
    return None if np.allclose(T, np.eye(4)) else T
