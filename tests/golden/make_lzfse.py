"""Makes lzfse.npz: what Apple's reference encoder (pip install pyliblzfse, 0.4.1) makes of some bytes, for tests/data/test_lzfse.py.

    python -m tests.golden.make_lzfse        (from the repository's root)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["FILE", "depth_frame", "samples"]

FILE = Path(__file__).with_name("lzfse.npz")


def depth_frame() -> np.ndarray:
    """256,192 float32 metres by whole numbers alone: two walls, a step, and some millimetres of noise, as a phone's depth frame."""
    v, u = np.mgrid[:256, :192]
    noise = (u * 7919 + v * 104729) * 2654435761 % 2**32 >> 30
    return ((1200 + 3 * u + 2 * np.abs(v - 90) + 700 * (u > 120) + noise) / np.float32(1000)).astype("<f4")


def samples() -> dict[str, bytes]:
    """The kinds of blocks: none, raw, LZVN, entropy coded with long and short matches."""
    n = np.arange(3000)
    return {
        "empty": b"",
        "short": b"ab",
        "words": b"the street, the house, the street again; " * 9,
        "zeros": bytes(70_000),
        "levels": ((n % 97 > 40).astype(np.uint8) + (n % 31 > 9)).astype(np.uint8).tobytes() * 12,
        "steps": (n * n // 7 % 251).astype(np.uint8).tobytes() * 3 + (n % 253).astype("<u2").tobytes(),
        "random": ((n * 2654435761 + n**3 * 40503) % 2**32 >> 13).astype("<u4").tobytes(),
        "depth": depth_frame().tobytes(),
    }


def main() -> None:
    import liblzfse  # pyright: ignore[reportMissingImports]

    packed = {k: liblzfse.compress(v) if v else b"bvx$" for k, v in samples().items()}
    np.savez_compressed(FILE, **{k: np.frombuffer(v, np.uint8) for k, v in packed.items()})


if __name__ == "__main__":
    main()
