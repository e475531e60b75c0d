"""PlayCanvas' compressed PLY: 16 bytes a splat and a byte for each higher harmonic; about a quarter of a PLY.

Our own codec, from the layout its programs document (splat-transform, PlayCanvas engine). Splats in chunks of 256; the element `chunk`
holds the smallest and largest position, log scale and colour of each as floats. `vertex` has four 32-bit words: position and log scale as
11 + 10 + 11 bits between these, rotation as 2 bits for which component of wxyz is left out and 10 bits for each of the others, colour and
opacity as 4 bytes. `sh` holds f_rest_0.. (channel-major as in a PLY), 256 steps over -4 to 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..recon.errors import CaptureError
from ..recon.gaussians import Gaussians
from ..recon.sh import rgb_from_sh_dc, sh_dc_from_rgb
from .atomic import atomic_file
from .ply import check_rest
from .ply_file import open_ply
from .splat_rows import (
    FiniteRows,
    Meter,
    Progress,
    empty_gaussians,
    from_smallest_three,
    logits_of_bytes,
    morton_order,
    put,
    smallest_three,
)

__all__ = ["read_compressed_ply", "write_compressed_ply"]

CHUNK = 256
_BOUNDS = [f"{end}_{axis}" for axes in (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b")) for end in ("min", "max") for axis in axes]
_WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_MOST_SCALE = 20.0  # of a log scale; what lies beyond is a broken splat and would blur its whole chunk
_SQRT2 = 2.0**0.5


def write_compressed_ply(path: str | Path, gaussians: Gaussians, progress: Progress | None = None) -> None:
    """Atomic, in Morton order (so that a chunk is a small box). Lossy: 10 to 11 bits for a position or scale within its chunk, 10 for a
    rotation, 8 for colour and opacity, and for higher harmonics between -4 and 4."""
    rows = FiniteRows.of(gaussians)
    rows = rows.in_order(morton_order(rows.column(lambda g: g.means)))
    n, rest = len(rows), 3 * ((rows.sh_degree + 1) ** 2 - 1)
    header = ["ply", "format binary_little_endian 1.0", "comment made by Handful", f"element chunk {-(-n // CHUNK)}"]
    header += [f"property float {name}" for name in _BOUNDS] + [f"element vertex {n}"] + [f"property uint {name}" for name in _WORDS]
    if rest:
        header += [f"element sh {n}"] + [f"property uchar f_rest_{i}" for i in range(rest)]
    meter = Meter(progress, n * (3 if rest else 2))
    with atomic_file(path) as f:
        f.write(("\n".join(header) + "\nend_header\n").encode())
        for g in rows.pieces(meter):
            f.write(_bounds(_values(g)).tobytes())
        for g in rows.pieces(meter):
            f.write(_pack(g).tobytes())
        for g in rows.pieces(meter) if rest else ():
            tail = g.sh[:, 1:].transpose(1, 2).reshape(len(g), rest)
            f.write(((tail / 8 + 0.5) * 256).clamp(0, 255).to(torch.uint8).numpy().tobytes())


def _values(g: Gaussians) -> np.ndarray:
    """N,9: what a chunk has bounds for."""
    return torch.cat([g.means, g.log_scales.clamp(-_MOST_SCALE, _MOST_SCALE), rgb_from_sh_dc(g.sh[:, 0])], dim=1).numpy()


def _bounds(values: np.ndarray) -> np.ndarray:
    """chunks,18: smallest and largest, in the order of _BOUNDS."""
    starts = np.arange(0, len(values), CHUNK)
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    parts = [a[:, 3 * i : 3 * i + 3] for i in range(3) for a in (low, high)]
    return np.concatenate(parts, axis=1).astype("<f4")


def _pack(g: Gaussians) -> np.ndarray:
    """N,4 words."""
    values = _values(g)
    bounds = np.repeat(_bounds(values).astype(np.float64), CHUNK, axis=0)[: len(g)].reshape(len(g), 3, 2, 3)
    low, span = bounds[:, :, 0].reshape(-1, 9), (bounds[:, :, 1] - bounds[:, :, 0]).reshape(-1, 9)
    t = np.where(span > 0, (values - low) / np.where(span > 0, span, 1), 0.0)

    def fields(parts: np.ndarray, bits: tuple[int, ...], word: np.ndarray | int = 0) -> np.ndarray:
        out = np.zeros(len(parts), np.uint32) + np.uint32(word)
        for i, b in enumerate(bits):
            out = (out << np.uint32(b)) | np.rint(parts[:, i].clip(0, 1) * (2**b - 1)).astype(np.uint32)
        return out

    largest, three = smallest_three(g.quats_wxyz.numpy())
    rotation = fields(three / _SQRT2 + 0.5, (10, 10, 10), largest.astype(np.uint32))
    color = fields(np.concatenate([t[:, 6:], g.opacities.numpy()[:, None]], axis=1), (8, 8, 8, 8))
    return np.stack([fields(t[:, :3], (11, 10, 11)), rotation, fields(t[:, 3:6], (11, 10, 11)), color], axis=1).astype("<u4")


def read_compressed_ply(path: str | Path, progress: Progress | None = None) -> Gaussians:
    """Raises CaptureError when the file is none, or its header lies about its content."""
    file = open_ply(Path(path))
    if missing := [w for w in _WORDS if w not in file.names("vertex")]:
        raise CaptureError(f"{path} is no compressed PLY: the property {missing[0]!r} is missing.")
    names = file.names("chunk")
    if missing := [b for b in _BOUNDS[:12] if b not in names]:
        raise CaptureError(f"{path} is no compressed PLY that can be read: its chunks lack {missing[0]!r}.")
    n, rest = file.count("vertex"), check_rest(file, "sh")
    if file.count("chunk") * CHUNK < n or (rest and file.count("sh") != n):
        raise CaptureError(f"{path}: its header promises {n} splats, but not as many chunks of {CHUNK} or harmonics (broken?); get it again.")
    bounds = np.concatenate([np.zeros((0, 18), np.float32), *map(_bounds_of, file.blocks("chunk"))]).reshape(-1, 3, 2, 3)
    pairs = _together(file.blocks("vertex"), file.blocks("sh") if rest else None)
    first = next(pairs, None)  # the file is checked here, before anything is allocated
    out, at, meter = empty_gaussians(n, {0: 0, 9: 1, 24: 2, 45: 3}[rest]), 0, Meter(progress, n)
    while first is not None:
        words, sh = first
        chunk = np.arange(at, at + len(words)) // CHUNK
        at = put(out, at, _unpack(words, sh, bounds[chunk], rest))
        meter.add(len(words))
        first = next(pairs, None)
    return out


def _bounds_of(block: np.ndarray) -> np.ndarray:
    """chunks,18 in the order of _BOUNDS; the first files had no bounds of colour, theirs is 0 to 1."""

    def column(name: str) -> np.ndarray:
        if name in (block.dtype.names or ()):
            return np.nan_to_num(block[name].astype(np.float32))
        return np.full(len(block), float(name.startswith("max")), np.float32)

    return np.stack([column(name) for name in _BOUNDS], axis=1)


def _together(words: Iterator[np.ndarray], sh: Iterator[np.ndarray] | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    for block in words:
        yield block, None if sh is None else next(sh)


def _unpack(words: np.ndarray, sh: np.ndarray | None, bounds: np.ndarray, rest: int) -> Gaussians:
    def fields(word: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
        shifts = np.cumsum((0, *bits[:0:-1]))[::-1]
        return np.stack([((word >> np.uint32(s)) & np.uint32(2**b - 1)) / np.float32(2**b - 1) for s, b in zip(shifts, bits, strict=True)], axis=1)

    def within(t: np.ndarray, which: int) -> torch.Tensor:
        return torch.from_numpy((bounds[:, which, 0] * (1 - t) + bounds[:, which, 1] * t).astype(np.float32))

    rotation, color = words["packed_rotation"].astype(np.uint32), words["packed_color"].astype(np.uint32)
    three = (fields(rotation, (10, 10, 10)) - 0.5) * _SQRT2
    quats = from_smallest_three(rotation >> np.uint32(30), three)
    harmonics = sh_dc_from_rgb(within(fields(color, (8, 8, 8, 8))[:, :3], 2))[:, None]
    if sh is not None:
        # a byte stands for the middle of its step, the first and the last for the ends
        table = torch.tensor([-4.0, *((b + 0.5) / 32 - 4 for b in range(1, 255)), 4.0])
        tail = torch.from_numpy(np.stack([sh[f"f_rest_{i}"].astype(np.int64) for i in range(rest)], axis=1))
        harmonics = torch.cat([harmonics, table[tail.clamp(0, 255)].reshape(len(words), 3, rest // 3).transpose(1, 2)], dim=1)
    positions = within(fields(words["packed_position"].astype(np.uint32), (11, 10, 11)), 0)
    scales = within(fields(words["packed_scale"].astype(np.uint32), (11, 10, 11)), 1)
    return Gaussians(positions, torch.from_numpy(quats), scales, logits_of_bytes((color & np.uint32(255)).astype(np.uint8)), harmonics)
