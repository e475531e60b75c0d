"""LZFSE against the reference encoder's files, and against files that lie."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from handful.data.lzfse import decompress

from ..golden.make_lzfse import FILE, samples


@pytest.fixture(scope="module")
def packed() -> dict[str, bytes]:
    with np.load(FILE) as z:
        return {k: z[k].tobytes() for k in z.files}


@pytest.mark.parametrize("name", samples())
def test_reads_what_the_reference_encoder_wrote(packed, name):
    plain = samples()[name]
    assert decompress(packed[name], len(plain)) == plain
    with pytest.raises(ValueError):
        decompress(packed[name], len(plain) + 1)
    if plain:
        with pytest.raises(ValueError):
            decompress(packed[name], len(plain) - 1)


def test_every_kind_of_block_is_tested(packed):
    assert {p[:4] for p in packed.values()} == {b"bvx$", b"bvx-", b"bvxn", b"bvx2"}


def test_several_blocks_follow_each_other(packed):
    parts = ("words", "short", "levels", "words")
    stream = b"".join(packed[p].removesuffix(b"bvx$") for p in parts) + b"bvx$"
    plain = b"".join(samples()[p] for p in parts)
    assert decompress(stream, len(plain)) == plain


@pytest.mark.parametrize("name", ["short", "words", "levels", "steps"])
def test_broken_streams(packed, name):
    whole, size = packed[name], len(samples()[name])
    for cut in range(0, len(whole), max(1, len(whole) // 60)):
        with pytest.raises(ValueError):
            decompress(whole[:cut], size)
    rng = np.random.default_rng(0)
    for _ in range(150):
        bent = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            bent[at] ^= int(rng.integers(1, 256))
        try:
            assert len(decompress(bytes(bent), size)) == size  # a literal may change unseen: there is no checksum
        except ValueError:
            pass


def test_no_memory_by_a_streams_word(packed):
    """Zeros compress a thousandfold, and a header may promise anything; no more than what is asked for is made."""
    lying = b"bvx-" + (2**32 - 1).to_bytes(4, "little") + b"abc"
    tracemalloc.start()
    for stream in (packed["zeros"], lying, packed["zeros"].removesuffix(b"bvx$") * 200):
        with pytest.raises(ValueError):
            decompress(stream, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
