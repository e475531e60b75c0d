"""The container of a binary glTF 2.0: a header, the JSON, one block of numbers (at most 4 GiB in all). What the JSON says is the matter of `glb.py` (splats)
and `mesh_glb.py`."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import IO, Any

from ..recon.errors import CaptureError, HandfulError

__all__ = ["glb_start", "padding", "read_glb_start"]

_MOST, _MOST_JSON = 1 << 32, 1 << 26
_HEAD, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")  # magic, version, bytes of the file; bytes of a chunk, its kind


def padding(size: int) -> int:
    """How many bytes are missing to the next multiple of four, at which chunks and attributes begin."""
    return -size % 4


def glb_start(document: dict[str, Any], size: int, what: str, instead: str) -> bytes:
    """All of the file that comes before its block of `size` bytes of numbers, a multiple of four.

    Raises HandfulError, "`what` would fill ...; `instead`.", for more than a .glb holds.
    """
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * padding(len(text))
    total = _HEAD.size + _CHUNK.size + len(text) + _CHUNK.size + size
    if total >= _MOST:
        raise HandfulError(f"{what} would fill {total / 2**30:.1f} GiB, and a .glb has at most 4; {instead}.")
    return _HEAD.pack(b"glTF", 2, total) + _CHUNK.pack(len(text), b"JSON") + text + _CHUNK.pack(size, b"BIN\0")


def read_glb_start(f: IO[bytes], size: int, path: Path) -> tuple[dict[str, Any], int]:
    """(the JSON, the byte at which the numbers begin) of a file of `size` bytes. Raises CaptureError."""
    start = _HEAD.size + _CHUNK.size
    head = f.read(start)
    if len(head) < start or head[:8] != b"glTF" + (2).to_bytes(4, "little") or head[16:] != b"JSON":
        raise CaptureError(f"{path} is no binary glTF 2.0.")
    length, _ = _CHUNK.unpack(head[_HEAD.size :])
    if length > min(size - start, _MOST_JSON):
        raise CaptureError(f"{path}: its header promises {length} bytes of JSON, which it does not hold (truncated?); get it again.")
    try:
        document = json.loads(f.read(length))
    except (ValueError, RecursionError) as e:
        raise CaptureError(f"{path}: its JSON is broken ({str(e)[:100]}).") from e
    block = f.read(_CHUNK.size)
    if not isinstance(document, dict) or block[4:] != b"BIN\0":
        raise CaptureError(f"{path} is a glTF without numbers inside; only files that are one piece (.glb) are read.")
    return document, start + length + _CHUNK.size
