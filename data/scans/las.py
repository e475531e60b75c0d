"""Surveys as LAS or LAZ (ASPRS LAS 1.4 specification). Who flew or walked where is not in the file, so no place of the scanner is known."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ...recon.errors import BackendUnavailable, CaptureError
from ..las_file import laspy_module
from .columns import unit_colours
from .parts import ScanFile, sweep_of

__all__ = ["read_las"]

MOST_POINTS = 50_000_000  # a survey of more is taken evenly: 50 million fill 1.6 GB here with all they carry, and 6 GB while they are read
_PIECE = 1_000_000
_NOISE = (7, 18)  # low points, high noise: LAS 1.4, table 17


def read_las(file: Path, most: int = MOST_POINTS) -> ScanFile:
    """Withheld points and those classified as noise count as dropped; colours of 8 bits in fields of 16 are told by their range.

    Raises CaptureError for a broken file; BackendUnavailable where laspy, or for .laz lazrs, is missing.
    """
    laspy = laspy_module()
    _refuse_lies(file)
    try:
        with laspy.open(file) as reader:
            count = int(reader.header.point_count)
            _refuse_short(file, reader.header)
            step = max(1, -(-count // most))
            pieces, noise = [], 0
            for i, piece in enumerate(reader.chunk_iterator(_PIECE)):
                columns, kept = _columns(piece, slice((-i * _PIECE) % step, None, step))
                noise += int((~kept).sum())
                pieces.append({k: v[kept] for k, v in columns.items()})
    except (CaptureError, BackendUnavailable):
        raise
    except laspy.errors.LaspyException as e:
        if "backend" in str(e).lower():
            raise BackendUnavailable(f"{file} is compressed, which needs lazrs: pip install 'handful[las]'") from e
        raise CaptureError(f"{file} is no LAS file that can be read ({str(e).splitlines()[0][:120]}); export it again.") from e
    except Exception as e:  # laspy and lazrs raise many kinds of errors on broken files
        raise CaptureError(f"{file} is no LAS file that can be read ({(str(e).splitlines() or [type(e).__name__])[0][:120]}); export it again.") from e
    if not pieces:
        raise CaptureError(f"{file} holds no points; export it again.")
    table = {k: np.concatenate([p.pop(k) for p in pieces]) for k in list(pieces[0])}  # each piece is let go once it is copied
    if "rgb" in table:
        rgb = table.pop("rgb")
        table |= {"rgb": unit_colours(rgb)} if rgb.any() else {}  # all black: the format has colours, this file has none
        del rgb
    sweep, dropped = sweep_of(table.pop("xyz"), file.name, file, origin_known=False, columns=table)
    notes = (f"{file} holds {count} points; one in {step} is taken.",) if step > 1 else ()
    return ScanFile((sweep,), dropped + noise, notes)


def _columns(piece: Any, which: slice) -> tuple[dict[str, np.ndarray], np.ndarray]:
    piece = piece[which]
    names = set(piece.point_format.dimension_names)
    out = {"xyz": np.stack([np.asarray(piece.x), np.asarray(piece.y), np.asarray(piece.z)], axis=1), "intensity": np.asarray(piece.intensity, np.float32)}
    if {"red", "green", "blue"} <= names:
        out["rgb"] = np.stack([np.asarray(piece[c]) for c in ("red", "green", "blue")], axis=1)
    if "gps_time" in names:
        out["seconds"] = np.asarray(piece.gps_time, np.float64)
    kept = ~np.isin(np.asarray(piece.classification), _NOISE)
    if "withheld" in names:
        kept &= np.asarray(piece.withheld) == 0
    return out, kept


def _refuse_lies(file: Path) -> None:
    """What the header counts must fit into the file: laspy reads as many records as it is told, if there were billions."""
    try:
        with file.open("rb") as f:
            head = f.read(375)
            size = os.fstat(f.fileno()).st_size
    except OSError as e:
        raise CaptureError(f"{file} cannot be read ({e.strerror or e}).") from e
    if head[:4] != b"LASF" or len(head) < 227:
        raise CaptureError(f"{file} is no LAS file; get it again.")

    def number(at: int, count: int) -> int:
        return int.from_bytes(head[at : at + count], "little")

    # LAS 1.4, table 3: size of the header, start of the points, number of variable length records (54 bytes and more each)
    needed = max(number(94, 2) + 54 * number(100, 4), number(96, 4))
    if head[25] >= 4 and len(head) >= 247:
        needed = max(needed, number(235, 8) + 60 * number(243, 4) if number(243, 4) else 0)  # the extended ones at the end
    if needed > size:
        raise CaptureError(f"{file} is shorter than its header says (truncated?); get it again.")


def _refuse_short(file: Path, header: Any) -> None:
    """Before anything is allocated: a file of fixed rows must be as long as its header says."""
    row, room = int(header.point_format.size), os.path.getsize(file) - int(header.offset_to_point_data)
    if not header.are_points_compressed and int(header.point_count) * row > room:
        raise CaptureError(f"{file}: its header promises {header.point_count} points, but the file holds {max(room, 0) // row} (truncated?); get it again.")
