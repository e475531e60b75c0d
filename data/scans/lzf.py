"""LZF, the compression of .pcd files (the format of Marc Lehmann's liblzf; a container holds the lengths), decoded.

A control byte below 32 starts a run of that many literals and one; any other is a reference: three bits of length (7: a byte more
follows), 13 bits of distance, and the reference may reach into what it is itself producing.
"""

from __future__ import annotations

__all__ = ["decompress"]

_LONGEST = 264  # bytes that a reference of three makes
_SHORTEST = 3


def most_expanded(compressed: int) -> int:
    """No LZF stream of so many bytes makes more than this: what a header promises beyond is a lie."""
    return compressed // _SHORTEST * _LONGEST + 32


def decompress(data: bytes, size: int) -> bytes:
    """Exactly `size` bytes. Raises ValueError when the stream is no LZF, or of another size."""
    if size > most_expanded(len(data)):
        raise ValueError(f"{len(data)} bytes cannot hold {size}")
    out = bytearray()
    at, end = 0, len(data)
    while at < end and len(out) <= size:
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if at + (2 if length == 7 else 1) > end:
            raise ValueError("it breaks off")
        if length == 7:
            length += data[at]
            at += 1
        back = ((control & 31) << 8 | data[at]) + 1
        at += 1
        length += 2
        start = len(out) - back
        if start < 0:
            raise ValueError("it refers to what is before its beginning")
        piece = out[start : start + length]
        out += piece if len(piece) == length else (piece * (length // back + 1))[:length]
    if at != end or len(out) != size:
        raise ValueError(f"it makes {len(out)} bytes instead of {size}")
    return bytes(out)
