"""Niantic's .spz, versions 2 and 3: about a tenth of a PLY. Our own codec, from the format's public description (README of nianticlabs/spz).

gzip over: 16-byte header; then by attribute positions (24-bit fixed point), opacities, colours, log scales (a byte each), rotations
(3 bytes in version 2, 4 in version 3), spherical harmonics (coefficient-major, channels inside). Its axes are right, up, back; a PLY's
are right, down, forward, so y and z change their sign.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from ..recon.errors import CaptureError, ConfigError
from ..recon.gaussians import Gaussians
from .atomic import write_bytes
from .ply import finite_gaussians

__all__ = ["read_spz", "write_spz"]

MAGIC = 0x5053474E
_COLOR_SCALE = 0.15  # a byte spans colours of 0.5 +- 0.5 / 0.15 in units of the constant coefficient
_SH_BITS = (5, 4, 4)  # precision per degree; fewer bits compress better
_HALF = math.sqrt(0.5)
_MAX_POINTS = 1 << 27
# y, z -> -y, -z: what each coefficient after the constant one is multiplied by (the parity of its polynomial in y and z together)
_SH_SIGNS = torch.tensor([-1.0, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1])


def _flip(g: Gaussians) -> Gaussians:
    """Between the two axis systems (its own inverse): the scene turned by 180 degrees about x."""
    axes = torch.tensor([1.0, -1.0, -1.0])
    sh = g.sh.clone()
    sh[:, 1:] *= _SH_SIGNS[: sh.shape[1] - 1, None]
    return Gaussians(g.means * axes, g.quats_wxyz * torch.tensor([1.0, 1.0, -1.0, -1.0]), g.log_scales, g.logit_opacities, sh)


def write_spz(path: str | Path, gaussians: Gaussians, version: int = 3, antialiased: bool = False) -> None:
    """Atomic. Lossy: opacity, colour and scale in 8 bits, harmonics in 5 and 4; positions as finely as 24 bits hold the whole scene."""
    if version not in (2, 3):
        raise ConfigError(f"spz is written in version 2 or 3, not {version}.")
    g = _flip(finite_gaussians(gaussians))
    reach = float(g.means.abs().max()) if len(g) else 1.0
    bits = int(np.clip(math.floor(math.log2((2**23 - 1) / max(reach, 1e-6))), 0, 20))
    fixed = (g.means.double() * 2**bits).round().clamp(-(2**23), 2**23 - 1).to(torch.int32).numpy().astype("<i4")
    header = struct.pack("<IIIBBBB", MAGIC, version, len(g), g.sh_degree, bits, int(antialiased), 0)
    parts = [
        header,
        fixed.reshape(-1, 1).view(np.uint8)[:, :3].tobytes(),
        _bytes(g.opacities * 255),
        _bytes(g.sh[:, 0] * (_COLOR_SCALE * 255) + 0.5 * 255),
        _bytes((g.log_scales + 10) * 16),
        _pack_first_three(g.quats_wxyz) if version == 2 else _pack_smallest_three(g.quats_wxyz),
        _pack_sh(g.sh),
    ]
    write_bytes(path, gzip.compress(b"".join(parts), 6, mtime=0))


def _bytes(x: torch.Tensor) -> bytes:
    return x.round().clamp(0, 255).to(torch.uint8).numpy().tobytes()


def _pack_first_three(quats: torch.Tensor) -> bytes:
    q = torch.where(quats[:, :1] < 0, -quats, quats)
    return _bytes(q[:, 1:] * 127.5 + 127.5)


def _pack_smallest_three(quats: torch.Tensor) -> bytes:
    """Of x, y, z, w the largest is left out (its index in the top 2 bits, made positive); the others follow in order, sign and 9 bits."""
    q = quats[:, [1, 2, 3, 0]].double().numpy()
    rows = np.arange(len(q))
    largest = np.abs(q).argmax(axis=1)
    q = q * np.where(q[rows, largest] < 0, -1.0, 1.0)[:, None]
    packed = largest.astype(np.uint32)
    for i in range(4):
        size = np.minimum(np.abs(q[:, i]) / _HALF * 511 + 0.5, 511).astype(np.uint32)
        field = (packed << np.uint32(10)) | ((q[:, i] < 0).astype(np.uint32) << np.uint32(9)) | size
        packed = np.where(largest == i, packed, field)
    return packed.astype("<u4").tobytes()


def _pack_sh(sh: torch.Tensor) -> bytes:
    if sh.shape[1] == 1:
        return b""
    steps = torch.tensor([2.0 ** (8 - bits) for degree, bits in enumerate(_SH_BITS, 1) for _ in range(2 * degree + 1)])[: sh.shape[1] - 1, None]
    q = (sh[:, 1:] * 128).round() + 128
    return _bytes(torch.floor((q + steps / 2) / steps) * steps)


def read_spz(path: str | Path) -> Gaussians:
    """Versions 2 and 3, degree 0 to 3. Raises CaptureError when the file is none, is truncated or its header lies."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror or e}).") from e
    try:
        unzip = zlib.decompressobj(31)
        head = unzip.decompress(raw, 16)
    except zlib.error as e:
        raise CaptureError(f"{path} is no .spz file of version 2 or 3 (they are gzip streams).") from e
    if len(head) < 16:
        raise CaptureError(f"{path} is truncated in its header; get it again.")
    magic, version, n, degree, bits, _, _ = struct.unpack("<IIIBBBB", head)
    if magic != MAGIC or version not in (2, 3) or degree > 3 or bits > 23 or n > _MAX_POINTS:
        raise CaptureError(f"{path} is no .spz file that can be read (version {version}, degree {degree}, {n} splats); versions 2 and 3 up to degree 3 are.")
    rot, k = (3 if version == 2 else 4), (degree + 1) ** 2 - 1
    sizes = [9 * n, n, 3 * n, 3 * n, rot * n, 3 * k * n]
    body = _inflate(unzip, sum(sizes), path)
    at = np.cumsum([0, *sizes])
    position, alpha, color, scale, rotation, sh = (body[at[i] : at[i + 1]] for i in range(6))
    p = np.zeros((3 * n, 4), np.uint8)
    p[:, 1:] = position.reshape(-1, 3)
    xyz = (p.view("<i4")[:, 0] >> 8).astype(np.float64) / 2**bits  # the shift brings the sign down
    logit = torch.logit((torch.from_numpy(alpha.astype(np.float32)) / 255).clamp(0.5 / 255, 1 - 0.5 / 255))
    dc = (color.reshape(n, 1, 3).astype(np.float32) / 255 - 0.5) / _COLOR_SCALE
    rest = (sh.reshape(n, k, 3).astype(np.float32) - 128) / 128
    quats = _unpack_first_three(rotation.reshape(n, 3)) if version == 2 else _unpack_smallest_three(rotation.copy().view("<u4"))
    g = Gaussians(
        torch.from_numpy(xyz.astype(np.float32).reshape(n, 3)),
        torch.from_numpy(quats.astype(np.float32)),
        torch.from_numpy(scale.reshape(n, 3).astype(np.float32) / 16 - 10),
        logit,
        torch.from_numpy(np.concatenate([dc, rest], axis=1)),
    )
    return _flip(g)


def _inflate(unzip, size: int, path: Path) -> np.ndarray:
    """At most `size` bytes are ever held: a small file cannot blow up the memory."""
    try:
        out = unzip.decompress(unzip.unconsumed_tail, size) if size else b""
        while len(out) < size and unzip.unconsumed_tail:
            more = unzip.decompress(unzip.unconsumed_tail, size - len(out))
            if not more:
                break
            out += more
    except zlib.error as e:
        raise CaptureError(f"{path} is broken ({e}); get it again.") from e
    if len(out) < size:
        raise CaptureError(f"{path}: its header promises {size} bytes of splats, but it holds {len(out)} (truncated?); get it again.")
    return np.frombuffer(out, np.uint8)


def _unpack_first_three(b: np.ndarray) -> np.ndarray:
    xyz = b.astype(np.float64) / 127.5 - 1
    w = np.sqrt(np.maximum(0.0, 1 - (xyz**2).sum(axis=1, keepdims=True)))
    return np.concatenate([w, xyz], axis=1)


def _unpack_smallest_three(packed: np.ndarray) -> np.ndarray:
    packed = packed.astype(np.int64)
    largest = packed >> 30
    q = np.zeros((len(packed), 4))
    for i in (3, 2, 1, 0):
        used = largest != i
        value = (packed & 511) / 511 * _HALF * np.where(packed & 512, -1.0, 1.0)
        q[:, i] = np.where(used, value, 0.0)
        packed = np.where(used, packed >> 10, packed)
    q[np.arange(len(q)), largest] = np.sqrt(np.maximum(0.0, 1 - (q**2).sum(axis=1)))
    return q[:, [3, 0, 1, 2]]
