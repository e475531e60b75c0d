"""Niantic's .spz: about a tenth of a PLY. Versions 2, 3 and 4 are read; 3, which most programs read, is written.

Our own codec, from the format's public description (README of nianticlabs/spz). By attribute: positions (24-bit fixed point),
opacities, colours, log scales (a byte each), rotations (3 bytes in version 2, else 4), spherical harmonics (coefficient-major, channels
inside). Versions 2 and 3 are one gzip stream behind a 16-byte header inside it; version 4 has a 32-byte header, a table of (packed size,
size) and one zstd stream for each attribute. Its axes are right, up, back; a PLY's are right, down, forward, so y and z change their sign.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..recon.errors import BackendUnavailable, CaptureError, ConfigError
from ..recon.gaussians import Gaussians
from .atomic import atomic_file
from .splat_rows import (
    FiniteRows,
    Meter,
    Progress,
    empty_gaussians,
    from_smallest_three,
    half_turn,
    half_turn_in_place,
    logits_of_bytes,
    smallest_three,
    spans,
)

__all__ = ["read_spz", "write_spz"]

MAGIC = 0x5053474E
_COLOR_SCALE = 0.15  # a byte spans colours of 0.5 +- 0.5 / 0.15 in units of the constant coefficient
_SH_BITS = (5, 4, 4)  # precision per degree; fewer bits compress better
_HALF = math.sqrt(0.5)
_MAX_POINTS = 1 << 27
_X = 0  # the axis between the two systems


def write_spz(path: str | Path, gaussians: Gaussians, progress: Progress | None = None, version: int = 3, antialiased: bool = False) -> None:
    """Atomic. Lossy: opacity, colour and scale in 8 bits, harmonics in 5 and 4; positions as finely as 24 bits hold the whole scene."""
    if version not in (2, 3):
        raise ConfigError(f"spz is written in version 2 or 3, not {version}.")
    rows = FiniteRows.of(gaussians)
    reach = max((float(g.means.abs().max()) for g in rows.pieces()), default=1.0)
    bits = int(np.clip(math.floor(math.log2((2**23 - 1) / max(reach, 1e-6))), 0, 20))
    attributes: list[Callable[[Gaussians], bytes]] = [
        lambda g: _pack_positions(g.means, bits),
        lambda g: _bytes(g.opacities * 255),
        lambda g: _bytes(g.sh[:, 0] * (_COLOR_SCALE * 255) + 0.5 * 255),
        lambda g: _bytes((g.log_scales + 10) * 16),
        lambda g: _pack_first_three(g.quats_wxyz) if version == 2 else _pack_smallest_three(g.quats_wxyz),
    ]
    if rows.sh_degree:
        attributes.append(lambda g: _pack_sh(g.sh))
    meter, gzip = Meter(progress, len(rows) * len(attributes)), zlib.compressobj(6, zlib.DEFLATED, 31)
    with atomic_file(path) as f:
        f.write(gzip.compress(struct.pack("<IIIBBBB", MAGIC, version, len(rows), rows.sh_degree, bits, int(antialiased), 0)))
        for attribute in attributes:
            for g in rows.pieces(meter):
                f.write(gzip.compress(attribute(half_turn(g, _X))))
        f.write(gzip.flush())


def _bytes(x: torch.Tensor) -> bytes:
    return x.round().clamp(0, 255).to(torch.uint8).numpy().tobytes()


def _pack_positions(means: torch.Tensor, bits: int) -> bytes:
    fixed = (means.double() * 2**bits).round().clamp(-(2**23), 2**23 - 1).to(torch.int32).numpy().astype("<i4")
    return fixed.reshape(-1, 1).view(np.uint8)[:, :3].tobytes()


def _pack_first_three(quats: torch.Tensor) -> bytes:
    q = torch.where(quats[:, :1] < 0, -quats, quats)
    return _bytes(q[:, 1:] * 127.5 + 127.5)


def _pack_smallest_three(quats: torch.Tensor) -> bytes:
    """Of x, y, z, w the largest is left out (its index in the top 2 bits, made positive); the others follow in order, sign and 9 bits."""
    largest, three = smallest_three(quats[:, [1, 2, 3, 0]].numpy())
    packed = largest.astype(np.uint32)
    for i in range(3):
        size = np.minimum(np.abs(three[:, i]) / _HALF * 511 + 0.5, 511).astype(np.uint32)
        packed = (packed << np.uint32(10)) | ((three[:, i] < 0).astype(np.uint32) << np.uint32(9)) | size
    return packed.astype("<u4").tobytes()


def _pack_sh(sh: torch.Tensor) -> bytes:
    steps = torch.tensor([2.0 ** (8 - bits) for degree, bits in enumerate(_SH_BITS, 1) for _ in range(2 * degree + 1)])[: sh.shape[1] - 1, None]
    q = (sh[:, 1:] * 128).round() + 128
    return _bytes(torch.floor((q + steps / 2) / steps) * steps)


Take = Callable[[int], np.ndarray]
"""take(size): the next `size` bytes of an attribute. Raises CaptureError where there are no more."""


def read_spz(path: str | Path, progress: Progress | None = None) -> Gaussians:
    """Versions 2, 3 and 4, degree 0 to 3. Raises CaptureError when the file is none, is truncated or its header lies."""
    path = Path(path)
    try:
        with path.open("rb") as f:
            start = f.read(4)
            f.seek(0)
            head, takes = _zstd_streams(f, path) if start == struct.pack("<I", MAGIC) else _gzip_stream(f, path)
            n, degree, bits, version = head
            out, meter = empty_gaussians(n, degree), Meter(progress, n * (6 if degree else 5))
            _fill(out, takes, bits, version, meter)
    except OSError as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror or e}).") from e
    half_turn_in_place(out, _X)
    return out


def _checked(head: bytes, path: Path, versions: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(splats, degree, bits of the fraction, version)"""
    magic, version, n, degree, bits, _, _ = struct.unpack("<IIIBBBB", head[:16])
    if magic != MAGIC or version not in versions or degree > 3 or bits > 23 or n > _MAX_POINTS:
        raise CaptureError(f"{path} is no .spz file that can be read (version {version}, degree {degree}, {n} splats); versions 2 to 4 up to degree 3 are.")
    return n, degree, bits, version


def _sizes(n: int, degree: int, version: int) -> list[int]:
    sizes = [9 * n, n, 3 * n, 3 * n, (3 if version == 2 else 4) * n]
    return [*sizes, 3 * ((degree + 1) ** 2 - 1) * n] if degree else sizes


def _gzip_stream(f: Any, path: Path) -> tuple[tuple[int, int, int, int], list[Take]]:
    unzip = zlib.decompressobj(31)
    try:
        head = unzip.decompress(f.read(4096), 16)
    except zlib.error as e:
        raise CaptureError(f"{path} is no .spz file of version 2 or 3 (they are gzip streams).") from e
    if len(head) < 16:
        raise CaptureError(f"{path} is truncated in its header; get it again.")
    checked = _checked(head, path, (2, 3))

    def more(most: int) -> bytes:
        """At most `most` bytes, none at the end: a small file cannot blow up the memory."""
        while not unzip.eof:
            packed = unzip.unconsumed_tail or f.read(1 << 20)
            out = unzip.decompress(packed, most)
            if out or not packed:
                return out
        return b""

    # a count that the file cannot hold must not be allocated: deflate makes at most 1032 bytes of one
    _enough(sum(_sizes(*checked[:2], checked[3])), f, 1032, path)
    return checked, [_taker(more, path, zlib.error)] * 6


def _enough(size: int, f: Any, most: int, path: Path) -> None:
    here = f.tell()
    held = min(f.seek(0, 2) * most, f.tell() * 100 + (64 << 20))  # and no honest scene repeats itself more than that
    f.seek(here)
    if size > held:
        raise CaptureError(f"{path}: its header promises {size} bytes of splats, but it cannot hold more than {held} (truncated?); get it again.")


def _taker(more: Callable[[int], bytes], path: Path, broken: type[Exception]) -> Take:
    def take(size: int) -> np.ndarray:
        parts: list[bytes] = []
        left = size
        try:
            while left and (part := more(left)):
                parts.append(part)
                left -= len(part)
        except broken as e:
            raise CaptureError(f"{path} is broken ({e}); get it again.") from e
        if left:
            raise CaptureError(f"{path}: its header promises {left} bytes of splats more than it holds (truncated?); get it again.")
        return np.frombuffer(b"".join(parts), np.uint8)

    return take


def _zstd_streams(f: Any, path: Path) -> tuple[tuple[int, int, int, int], list[Take]]:
    """Version 4. What stands between its header and its table (extensions: safe orbits, other axes) is passed over."""
    try:
        import zstandard
    except ImportError as e:
        raise BackendUnavailable(f"{path} is a .spz of version 4, which needs zstandard: pip install zstandard") from e
    head = f.read(32)
    if len(head) < 32:
        raise CaptureError(f"{path} is truncated in its header; get it again.")
    checked = _checked(head, path, (4,))
    sizes = _sizes(*checked[:2], checked[3])
    streams, table = head[15], struct.unpack("<I", head[16:20])[0]
    f.seek(table)
    toc = f.read(16 * streams)
    if streams != len(sizes) or table < 32 or len(toc) < 16 * streams:
        raise CaptureError(f"{path} is broken: it has {streams} streams at {table}; get it again.")
    entries = list(struct.iter_unpack("<QQ", toc))
    if [size for _, size in entries] != sizes or table + len(toc) + sum(packed for packed, _ in entries) > f.seek(0, 2):
        raise CaptureError(f"{path}: its header promises {sum(sizes)} bytes of splats, but its streams do not hold them (truncated?); get it again.")
    if sum(sizes) > 100 * f.tell() + (64 << 20):
        raise CaptureError(f"{path} claims to unpack to {sum(sizes)} bytes, which is no honest file of splats.")
    takes: list[Take] = []
    at = table + len(toc)
    for packed, _ in entries:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(cast(Any, _Part(f, at, packed)))
        takes.append(_taker(reader.read, path, zstandard.ZstdError))
        at += packed
    return checked, takes


class _Part:
    """These bytes of the file, as something to read from."""

    def __init__(self, f: Any, at: int, size: int) -> None:
        self._f, self._at, self._end = f, at, at + size

    def read(self, most: int) -> bytes:
        self._f.seek(self._at)
        data = self._f.read(min(most, self._end - self._at))
        self._at += len(data)
        return data


def _fill(out: Gaussians, takes: list[Take], bits: int, version: int, meter: Meter) -> None:
    """Attribute after attribute, as they lie in the file."""
    n, k = len(out), out.sh.shape[1] - 1

    def pieces(which: int, width: int) -> Iterator[tuple[slice, np.ndarray]]:
        for rows in spans(n):
            size = rows.stop - rows.start
            yield rows, takes[which](width * size).reshape(-1, width)
            meter.add(size)

    for rows, b in pieces(0, 9):
        p = np.zeros((3 * len(b), 4), np.uint8)
        p[:, 1:] = b.reshape(-1, 3)
        xyz = (p.view("<i4")[:, 0] >> 8).astype(np.float64) / 2**bits  # the shift brings the sign down
        out.means[rows] = torch.from_numpy(xyz.astype(np.float32).reshape(-1, 3))
    for rows, b in pieces(1, 1):
        out.logit_opacities[rows] = logits_of_bytes(b[:, 0])
    for rows, b in pieces(2, 3):
        out.sh[rows, 0] = torch.from_numpy((b.astype(np.float32) / 255 - 0.5) / _COLOR_SCALE)
    for rows, b in pieces(3, 3):
        out.log_scales[rows] = torch.from_numpy(b.astype(np.float32) / 16 - 10)
    for rows, b in pieces(4, 3 if version == 2 else 4):
        quats = _unpack_first_three(b) if version == 2 else _unpack_smallest_three(b.copy().view("<u4")[:, 0])
        out.quats_wxyz[rows] = torch.from_numpy(quats.astype(np.float32))
    for rows, b in pieces(5, 3 * k) if k else ():
        out.sh[rows, 1:] = torch.from_numpy((b.astype(np.float32) - 128) / 128).reshape(-1, k, 3)


def _unpack_first_three(b: np.ndarray) -> np.ndarray:
    xyz = b.astype(np.float64) / 127.5 - 1
    w = np.sqrt(np.maximum(0.0, 1 - (xyz**2).sum(axis=1, keepdims=True)))
    return np.concatenate([w, xyz], axis=1)


def _unpack_smallest_three(packed: np.ndarray) -> np.ndarray:
    fields = np.stack([packed >> np.uint32(s) for s in (20, 10, 0)], axis=1)
    three = (fields & np.uint32(511)) / 511 * _HALF * np.where(fields & np.uint32(512), -1.0, 1.0)
    return from_smallest_three(packed >> np.uint32(30), three)[:, [3, 0, 1, 2]]
