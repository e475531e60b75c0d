"""Which photo and which scan are of one moment: those of one name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from ..sweeps import Sweep

__all__ = ["moment_of", "own_sweep"]


def moment_of(name: str) -> str:
    """A file's name without folders and endings: photos/000012.png and velodyne/000012.pcd.bin are of one moment."""
    name = PurePosixPath(name).name
    return name.removesuffix(".pcd.bin") if name.endswith(".pcd.bin") else PurePosixPath(name).stem


def own_sweep(name: str, sweeps: Sequence[Sweep]) -> int | None:
    """The scan of the moment of the photo `name`; None where there is none, or more than one, or where it is a merged cloud that no moment has."""
    found = [k for k, s in enumerate(sweeps) if s.origin_known and (s.moment or moment_of(s.name)) == moment_of(name)]
    return found[0] if len(found) == 1 else None
