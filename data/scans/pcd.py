"""PCD files of the Point Cloud Library, version 0.7 and before: ascii, binary, binary_compressed.

The Point Cloud Library's documentation, "The PCD (Point Cloud Data) file format". Points are in the scanner's frame; VIEWPOINT (tx ty tz
qw qx qy qz) is world_from_sensor.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...recon.errors import CaptureError
from ..axes import rotation_of_quat_wxyz
from .columns import positions, sweep_columns
from .lzf import decompress, most_expanded
from .parts import ScanFile, read_bytes, sweep_of

__all__ = ["read_pcd"]

_MOST = 8_000_000_000
_MAX_HEADER = 65536
_KINDS = {"F": "f", "I": "i", "U": "u"}


@dataclass(frozen=True)
class _Header:
    """fields: (name, numpy type, how many of it); start: where the values begin."""

    fields: tuple[tuple[str, str, int], ...]
    points: int
    organised: bool
    viewpoint: tuple[float, ...]
    encoding: str
    start: int

    @property
    def row(self) -> np.dtype:
        return np.dtype([(f"{i}", t, (c,)) for i, (_, t, c) in enumerate(self.fields)])


def read_pcd(file: Path) -> ScanFile:
    """The scanner's place counts as known where VIEWPOINT says one, points carry one, or the points are a scanner's (rows and columns, rings)."""
    data = read_bytes(file, _MOST)
    header = _header(data, file)
    read = {"ascii": _ascii, "binary": _binary, "binary_compressed": _compressed}[header.encoding]
    table = read(data, header, file)
    columns = sweep_columns(table)
    T = np.eye(4)
    T[:3, 3] = header.viewpoint[:3]
    T[:3, :3] = rotation_of_quat_wxyz(np.array(header.viewpoint[3:])) if any(header.viewpoint[3:]) else np.full((3, 3), np.nan)
    known = not np.array_equal(T, np.eye(4)) or header.organised or bool({"ring", "origins"} & columns.keys())
    sweep, dropped = sweep_of(positions(table, file), file.name, file, world_from_sensor=T, origin_known=known, columns=columns)
    return ScanFile((sweep,), dropped)


def _header(data: bytes, file: Path) -> _Header:
    lines: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in lines:
        newline = data.find(b"\n", at, _MAX_HEADER)
        if newline < 0:
            raise CaptureError(f"{file} is no PCD file: it has no header that ends with DATA.")
        words = data[at:newline].decode("latin-1").split()
        at = newline + 1
        if words and not words[0].startswith("#"):
            lines[words[0].upper()] = words[1:]
    try:
        names = lines["FIELDS"] if "FIELDS" in lines else lines["COLUMNS"]
        sizes, kinds = lines["SIZE"], lines["TYPE"]
        counts = [int(c) for c in lines.get("COUNT", ["1"] * len(names))]
        fields = tuple((n, np.dtype(f"<{_KINDS[k]}{int(s)}").str, c) for n, s, k, c in zip(names, sizes, kinds, counts, strict=True))
        width, height = int(lines["WIDTH"][0]), int(lines.get("HEIGHT", ["1"])[0])
        points = int(lines["POINTS"][0]) if "POINTS" in lines else width * height
        viewpoint = tuple(float(v) for v in lines.get("VIEWPOINT", "0 0 0 1 0 0 0".split()))
        encoding = lines["DATA"][0].lower()
        if len(viewpoint) != 7 or points < 0 or not all(0 < c < 10_000 for c in counts) or not any(n != "_" for n in names) or encoding not in ("ascii", "binary", "binary_compressed"):
            raise ValueError
    except (KeyError, IndexError, ValueError, TypeError) as e:
        raise CaptureError(f"{file}: its PCD header makes no sense (FIELDS, SIZE, TYPE, COUNT, WIDTH, POINTS, VIEWPOINT, DATA); export it again.") from e
    return _Header(fields, points, height > 1, viewpoint, encoding, at)


def _columns(header: _Header, values: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Fields of one number by their names; histograms and padding are left aside."""
    return {n: v.reshape(-1) for (n, _, c), v in zip(header.fields, values, strict=True) if c == 1 and n != "_"}


def _short(file: Path, promised: int, held: int) -> CaptureError:
    return CaptureError(f"{file}: its header promises {promised} points, but the file holds {held} (truncated?); get it again.")


def _ascii(data: bytes, header: _Header, file: Path) -> dict[str, np.ndarray]:
    width = sum(c for _, _, c in header.fields)
    try:
        with warnings.catch_warnings():  # of an empty file, which is told below
            warnings.simplefilter("ignore")
            table = np.loadtxt(io.BytesIO(data[header.start :]), np.float64, comments=None, ndmin=2, encoding="latin-1")
        if table.size and table.shape[1] != width:
            raise ValueError
    except ValueError as e:
        raise CaptureError(f"{file}: a line does not hold {width} numbers.") from e
    if len(table) < header.points:
        raise _short(file, header.points, len(table))
    table = table[: header.points]
    values, column = [], 0
    for name, kind, count in header.fields:
        part = table[:, column : column + count]
        column += count
        packed = name in ("rgb", "rgba") and count == 1
        with np.errstate(all="ignore"):  # PCL prints packed colours as the float their bits make, or as the integer
            values.append(part.astype("<f4").view("<u4") if packed and kind == "<f4" and float(np.abs(part).max(initial=0)) < 1 else part.astype("<u4" if packed else kind))
    return _columns(header, values)


def _binary(data: bytes, header: _Header, file: Path) -> dict[str, np.ndarray]:
    held = (len(data) - header.start) // header.row.itemsize
    if held < header.points:
        raise _short(file, header.points, held)
    rows = np.frombuffer(data, header.row, header.points, header.start)
    return _columns(header, [rows[n] for n in header.row.names or ()])


def _compressed(data: bytes, header: _Header, file: Path) -> dict[str, np.ndarray]:
    """Two lengths, then LZF of one field after the other; padding is not stored."""
    fields = tuple(f for f in header.fields if f[0] != "_")
    stored = _Header(fields, header.points, header.organised, header.viewpoint, header.encoding, header.start)
    body = data[header.start + 8 :]
    packed, size = (int.from_bytes(data[header.start + i : header.start + i + 4], "little") for i in (0, 4))
    if len(data) < header.start + 8 or packed > len(body):
        raise CaptureError(f"{file} is shorter than its header says (truncated?); get it again.")
    if size != header.points * stored.row.itemsize or size > most_expanded(packed):
        raise _short(file, header.points, min(size, most_expanded(packed)) // stored.row.itemsize)
    try:
        plain = decompress(body[:packed], size)
    except ValueError as e:
        raise CaptureError(f"{file}: its compressed part is broken ({e}); get it again.") from e
    values, at = [], 0
    for _, kind, count in fields:
        values.append(np.frombuffer(plain, kind, header.points * count, at))
        at += header.points * count * np.dtype(kind).itemsize
    return _columns(stored, values)
