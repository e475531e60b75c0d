"""LZFSE, Apple's compression (depth frames of Record3D), decoded.

The format as Apple's reference implementation documents it (github.com/lzfse/lzfse, `lzfse_internal.h`, `lzvn_decode_base.c`): blocks of
raw bytes, of LZVN (byte codes) or of literals and triplets (literal length L, match length M, distance D) in finite state entropy coding
(Duda, Asymmetric numeral systems, arXiv:1311.2540). Written from that description; checked against the reference encoder's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

__all__ = ["decompress"]

_Entry = tuple[int, int, int, int]  # bits to read, base of the next state, value, how many of those bits belong to the value
_EXTRA = {
    "l": (0,) * 16 + (2, 3, 5, 8),
    "m": (0,) * 16 + (3, 5, 8, 11),
    "d": tuple(n for n in range(16) for _ in range(4)),
}  # bits beyond each symbol's base value; the bases follow each other without a gap
_STATES = {"l": 64, "m": 64, "d": 256, "literal": 1024}
_SYMBOLS = {"l": 20, "m": 20, "d": 64, "literal": 256}  # in the order of their tables in a header
_HEADER = 32  # bytes of a compressed block before its tables


def decompress(data: bytes, size: int) -> bytes:
    """Exactly `size` bytes; never more are made, whatever the blocks promise. Raises ValueError when the stream is broken or makes another size."""
    out = bytearray()
    at = 0
    try:
        while True:
            magic = data[at : at + 4]
            if magic == b"bvx$":
                break
            raw = _u(data, at + 4, 4)
            if magic == b"bvx-":
                block, at = data[at + 8 : at + 8 + raw], at + 8 + raw
                out += block
                if len(block) < raw:
                    raise ValueError("it breaks off")
            elif magic == b"bvxn":
                packed = _u(data, at + 8, 4)
                _lzvn(data[at + 12 : at + 12 + packed], out, size)
                at += 12 + packed
            elif magic == b"bvx2":
                at = _entropy_block(data, at, out, size)
            else:
                raise ValueError("it is no LZFSE stream" if at == 0 else "it breaks off")
            if len(out) > size:
                raise ValueError(f"it makes more than {size} bytes")
    except IndexError as e:  # a code that leads beyond its table or its bytes
        raise ValueError("a code in it makes no sense") from e
    if len(out) != size:
        raise ValueError(f"it makes {len(out)} bytes instead of {size}")
    return bytes(out)


def _u(data: bytes, at: int, count: int) -> int:
    if at + count > len(data):
        raise ValueError("it breaks off")
    return int.from_bytes(data[at : at + count], "little")


def _repeat(out: bytearray, back: int, length: int) -> None:
    """Appends `length` bytes from `back` bytes ago, perhaps reaching into themselves."""
    start = len(out) - back
    if back < 1 or start < 0:
        raise ValueError("it refers to what is before its beginning")
    piece = out[start : start + length]
    out += piece if len(piece) == length else (piece * (length // back + 1))[:length]


def _lzvn(data: bytes, out: bytearray, size: int) -> None:
    """Codes of one to three bytes, some literals after each: see the table of opcodes in the reference."""
    at = back = 0
    while len(out) <= size:
        code = data[at]
        high, low = code >> 4, code & 15
        if code == 6:
            return
        if code in (14, 22):
            at += 1
            continue
        literals = match = 0
        if high == 15:  # 1111MMMM, or 11110000 MMMMMMMM: the distance before
            match, at = (low, at + 1) if low else (data[at + 1] + 16, at + 2)
        elif high == 14:  # 1110LLLL, or 11100000 LLLLLLLL
            literals, at = (low, at + 1) if low else (data[at + 1] + 16, at + 2)
        elif code >> 5 == 5:  # 101LLMMM DDDDDDMM DDDDDDDD
            more = _u(data, at + 1, 2)
            literals, match, back, at = code >> 3 & 3, ((code & 7) << 2 | more & 3) + 3, more >> 2, at + 3
        elif high in (7, 13) or code & 7 == 6 and code < 64:
            raise ValueError("a code in it makes no sense")
        else:  # LLMMM... with the distance in 11 bits, as before (110), or in 16 (111)
            literals, match, kind = code >> 6, (code >> 3 & 7) + 3, code & 7
            if kind == 6:
                at += 1
            elif kind == 7:
                back, at = _u(data, at + 1, 2), at + 3
            else:
                back, at = kind << 8 | data[at + 1], at + 2
        if at + literals > len(data):
            raise ValueError("it breaks off")
        out += data[at : at + literals]
        at += literals
        if match:
            _repeat(out, back, match)
    raise ValueError(f"it makes more than {size} bytes")


class _Bits:
    """Bits of a stream that is read from its end; `spare` bits (0 to 7) of the last byte are not used."""

    def __init__(self, data: bytes, spare: int) -> None:
        self.data = data + b"\0\0\0\0"
        self.at = 8 * len(data) - spare

    def pull(self, count: int) -> int:
        self.at -= count
        if self.at < 0:
            raise ValueError("it breaks off")
        start = self.at >> 3
        return int.from_bytes(self.data[start : start + 5], "little") >> (self.at & 7) & ((1 << count) - 1)


@dataclass(frozen=True)
class _Block:
    """The header of a compressed block, and where its bytes lie."""

    n_literals: int
    n_matches: int
    literals: bytes
    triplets: bytes
    spare: tuple[int, int]  # unused bits at the end of literals, of triplets
    states: tuple[int, ...]  # four of the literals, then L, M, D
    tables: dict[str, list[_Entry]]
    end: int


def _block(data: bytes, at: int) -> _Block:
    a, b, c = (_u(data, at + 8 + 8 * i, 8) for i in range(3))
    n20, n10 = (1 << 20) - 1, (1 << 10) - 1
    header = c & 0xFFFFFFFF
    first, second = a >> 20 & n20, b >> 40 & n20  # bytes of literals, of triplets
    start = at + header
    if header < _HEADER or start + first + second > len(data):
        raise ValueError("it breaks off")
    states = tuple(b >> s & n10 for s in (0, 10, 20, 30)) + tuple(c >> s & n10 for s in (32, 42, 52))
    tables = _tables(data[at + _HEADER : start])
    middle = start + first
    spare = (7 - (a >> 60 & 7), 7 - (b >> 60 & 7))
    return _Block(a & n20, a >> 40 & n20, data[start:middle], data[middle : middle + second], spare, states, tables, middle + second)


def _tables(packed: bytes) -> dict[str, list[_Entry]]:
    """How often each symbol occurs, in a fixed prefix code (reference: `lzfse_decode_v1_freq_value`), turned into tables of states."""
    bits, left = int.from_bytes(packed, "little"), 8 * len(packed)
    frequencies = []
    for _ in range(sum(_SYMBOLS.values()) if packed else 0):
        low = bits & 15
        if low & 3 in (0, 2):
            value, used = low >> 1 & 1, 2
        elif low & 3 == 1:
            value, used = 2 + (low >> 2 & 1), 3
        elif low in (3, 11):
            value, used = 4 + (low >> 3) + 2 * (bits >> 4 & 1), 5
        elif low == 7:
            value, used = 8 + (bits >> 4 & 15), 8
        else:
            value, used = 24 + (bits >> 4 & 1023), 14
        frequencies.append(value)
        bits >>= used
        left -= used
        if left < 0:
            raise ValueError("its tables break off")
    out: dict[str, list[_Entry]] = {}
    for name, count in _SYMBOLS.items():
        own, frequencies = frequencies[:count], frequencies[count:]
        if sum(own) > _STATES[name]:
            raise ValueError("its tables hold too much")
        extra = _EXTRA.get(name, (0,) * count)
        bases = list(range(count)) if name == "literal" else [0, *accumulate(1 << e for e in extra)][:count]
        out[name] = [entry for f, v, e in zip(own, bases, extra, strict=False) for entry in _entries(f, _STATES[name], v, e)]
    return out


def _entries(f: int, states: int, value: int, extra: int) -> list[_Entry]:
    """The states of a symbol that has f of them: the first ones read a bit more, so that f << bits covers all states."""
    if f == 0:
        return []
    k = states.bit_length() - f.bit_length()
    longer = ((2 * states) >> k) - f
    return [
        (k + extra, ((f + j) << k) - states, value, extra) if j < longer else (k - 1 + extra, (j - longer) << (k - 1), value, extra)
        for j in range(f)
    ]


def _entropy_block(data: bytes, at: int, out: bytearray, size: int) -> int:
    """Appends a block's bytes; returns where the next one begins."""
    block = _block(data, at)
    literals = _literals(block)
    bits = _Bits(block.triplets, block.spare[1])
    states = list(block.states[4:])
    tables = [block.tables[n] for n in "lmd"]
    taken, back = 0, 0
    for _ in range(block.n_matches):
        length = [0, 0, 0]
        for i, table in enumerate(tables):
            count, base, value, extra = table[states[i]]
            read = bits.pull(count)
            states[i] = base + (read >> extra)
            length[i] = value + (read & ((1 << extra) - 1))
        L, M, D = length
        back = D or back  # 0: the distance before
        if taken + L > len(literals) or len(out) + L + M > size:
            raise ValueError(f"it makes more than {size} bytes")
        out += literals[taken : taken + L]
        taken += L
        if M:
            _repeat(out, back, M)
    return block.end


def _literals(block: _Block) -> bytes:
    """Four coders take turns on one stream. The loop that costs the time: a depth frame has some hundred thousand."""
    table, data = block.tables["literal"], block.literals + b"\0\0\0\0"
    at = 8 * len(block.literals) - block.spare[0]
    states = list(block.states[:4])
    out = bytearray()
    for _ in range(block.n_literals // 4):
        for i in range(4):
            count, base, value, _ = table[states[i]]
            at -= count
            start = at >> 3
            states[i] = base + (int.from_bytes(data[start : start + 3], "little") >> (at & 7) & ((1 << count) - 1))
            out.append(value)
        if at < 0:
            raise ValueError("it breaks off")
    return bytes(out)
