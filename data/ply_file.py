"""Any PLY file (ascii, little or big endian) as structured arrays, whole or piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..recon.errors import CaptureError
from .splat_rows import spans

__all__ = ["PlyFile", "open_ply", "read_vertices"]

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
_MAX_HEADER = 65536


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    fields: tuple[tuple[str, str], ...]  # (property, numpy type); a list property has the type "list"


@dataclass(frozen=True)
class PlyFile:
    """A header that has been read, of the file `path` with `size` bytes; the values begin at the byte `start`."""

    path: Path
    order: str
    elements: tuple[_Element, ...]
    start: int
    size: int

    def names(self, element: str) -> tuple[str, ...]:
        """Its properties; none where there is no such element."""
        return tuple(n for e in self.elements if e.name == element for n, _ in e.fields)

    def count(self, element: str) -> int:
        """How many rows the header promises."""
        return sum(e.count for e in self.elements if e.name == element)

    def blocks(self, name: str, rows: int | None = None) -> Iterator[np.ndarray]:
        """The rows of the first element `name`, at most `rows` at a time (None: as many as a piece of splats; ascii: all at once).

        Raises CaptureError in one sentence when the header does not fit the content, before anything is allocated.
        """
        at = self.start
        for element in self.elements:
            if any(t == "list" for _, t in element.fields):
                raise CaptureError(f"{self.path}: the element {element.name!r} with lists comes before the vertices, or its vertices hold lists; such PLY files are not read.")
            dtype = np.dtype([(n, (self.order + t) if self.order != "=" else t) for n, t in element.fields])
            if self.order == "=":
                values, at = _ascii(self.path.read_bytes(), at, element, dtype, self.path)
                if element.name == name:
                    yield values
                    return
                continue
            room = self.size - at
            if dtype.itemsize == 0 or element.count * dtype.itemsize > room:
                held = 0 if dtype.itemsize == 0 else room // dtype.itemsize
                raise CaptureError(f"{self.path}: its header promises {element.count} of {element.name!r}, but the file holds {held} (truncated?); get it again.")
            if element.name == name:
                yield from self._read(at, element.count, dtype, rows)
                return
            at += element.count * dtype.itemsize
        raise CaptureError(f"{self.path} is a PLY file without {'vertices' if name == 'vertex' else f'the element {name!r}'}.")

    def whole(self, name: str) -> np.ndarray:
        """All rows of the first element `name` as one structured array. Raises as `blocks` does."""
        return next(self.blocks(name, max(1, self.count(name))), np.zeros(0, np.dtype([(n, "f4") for n in self.names(name)])))

    def _read(self, at: int, count: int, dtype: np.dtype, rows: int | None) -> Iterator[np.ndarray]:
        with self.path.open("rb") as f:  # not mapped: pages of a map would count as memory of ours
            f.seek(at)
            for span in spans(count, rows):
                block = np.fromfile(f, dtype, span.stop - span.start)
                if len(block) < span.stop - span.start:
                    raise CaptureError(f"{self.path} became shorter while it was read; get it again.")
                yield block


def open_ply(path: Path) -> PlyFile:
    """Reads the header. Raises CaptureError when the file is no PLY."""
    try:
        with path.open("rb") as f:
            head = f.read(_MAX_HEADER + 128)
            size = os.fstat(f.fileno()).st_size
    except OSError as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror or e}).") from e
    if not head.startswith((b"ply\n", b"ply\r")):
        raise CaptureError(f"{path} is no PLY file.")
    end = head.find(b"end_header", 0, _MAX_HEADER)
    newline = head.find(b"\n", end) if end >= 0 else -1
    if newline < 0:
        raise CaptureError(f"{path}: the PLY header has no end.")
    order, elements = _parse(head[:end].decode("latin-1"), path)
    return PlyFile(path, order, tuple(elements), newline + 1, size)


def _parse(header: str, path: Path) -> tuple[str, list[_Element]]:
    order = ""
    elements: list[_Element] = []
    for line in header.splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        try:
            if words[0] == "format":
                order = _ORDER[words[1]]
            elif words[0] == "element":
                count = int(words[2])
                if not 0 <= count < 2**40 or words[1] in (e.name for e in elements):
                    raise ValueError
                elements.append(_Element(words[1], count, ()))
            elif words[0] == "property":
                last = elements[-1]
                field = (words[-1], "list" if words[1] == "list" else _TYPES[words[1]])
                if field[0] in (n for n, _ in last.fields):
                    raise ValueError
                elements[-1] = _Element(last.name, last.count, (*last.fields, field))
            else:
                raise ValueError
        except (IndexError, KeyError, ValueError) as e:
            raise CaptureError(f"{path}: the PLY header line {line[:80]!r} makes no sense.") from e
    if not order:
        raise CaptureError(f"{path}: the PLY header names no format.")
    return order, elements


def read_vertices(path: Path) -> np.ndarray:
    """The element `vertex` of any PLY as one structured array.

    Raises CaptureError in one sentence when the file is no PLY or its header does not fit its content. Never allocates more than
    the file's own size asks for, whatever the header claims.
    """
    return open_ply(path).whole("vertex")


def _ascii(data: bytes, start: int, element: _Element, dtype: np.dtype, path: Path) -> tuple[np.ndarray, int]:
    """Reads `count` lines; numbers that do not parse or do not suffice are an error."""
    end = start
    lines: list[bytes] = []
    while len(lines) < element.count:
        newline = data.find(b"\n", end)
        line = data[end : newline if newline >= 0 else len(data)]
        if line.strip():
            lines.append(line)
        end = newline + 1 if newline >= 0 else len(data)
        if newline < 0:
            break
    if len(lines) < element.count:
        raise CaptureError(f"{path}: its header promises {element.count} of {element.name!r}, but the file holds {len(lines)} (truncated?); get it again.")
    out = np.zeros(element.count, dtype)
    try:
        table = np.array([line.split()[: len(element.fields)] for line in lines], dtype=np.float64).reshape(element.count, len(element.fields))
    except ValueError as e:
        raise CaptureError(f"{path}: a line of {element.name!r} does not hold {len(element.fields)} numbers.") from e
    with np.errstate(all="ignore"):
        for i, (name, _) in enumerate(element.fields):
            out[name] = table[:, i]
    return out, end
