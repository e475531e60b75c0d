"""From columns of numbers, as a file of scans holds them, to a Sweep: what is no return is dropped, places far from the origin stay precise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...recon.errors import CaptureError
from ...recon.sweeps import Sweep
from ..axes import FARTHEST, rigid_of_scanner

__all__ = ["ScanFile", "read_bytes", "sweep_of"]

_NEAR = 4096.0  # below this float32 holds a place to half a thousandth of a unit


@dataclass(frozen=True)
class ScanFile:
    """What one file gave.

    Attributes:
        sweeps: its scans, at least one return each.
        dropped: rows that hold no return (not finite, all zero, marked invalid).
        notes: one sentence each, for the user.
        named: the scans have names that the file holds; else theirs begin with the file's name.
    """

    sweeps: tuple[Sweep, ...]
    dropped: int = 0
    notes: tuple[str, ...] = field(default_factory=tuple)
    named: bool = False

    def told(self, file: Path) -> tuple[str, ...]:
        """Everything the user should hear of the reading of `file`."""
        return (*self.notes, *((f"{file} has {self.dropped} rows without a return; they are dropped.",) if self.dropped else ()))


def sweep_of(
    xyz: np.ndarray,
    name: str,
    file: Path,
    *,
    world_from_sensor: np.ndarray | None = None,
    origin_known: bool = True,
    empty: np.ndarray | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
) -> tuple[Sweep, int]:
    """A scan from N,3 positions in the sensor's frame, and how many rows were no return.

    Rows that are not finite, or zero (how scanners write "nothing came back"), are dropped. Large coordinates keep the precision of
    doubles: whole thousands of units go into `world_from_sensor`, which float32 holds exactly.

    Args:
        world_from_sensor: 4x4 float64; None = the world is the sensor's frame.
        columns: other fields of Sweep by name, N rows each: origins, rgb in [0, 1], intensity, confidence in [0, 1], ring, seconds.

    Raises CaptureError naming `file` when no return is left, or the pose is none.
    """
    with np.errstate(invalid="ignore"):
        xyz = np.asarray(xyz, np.float64).reshape(-1, 3)
        ok = (xyz < FARTHEST).all(axis=1) & (xyz > -FARTHEST).all(axis=1) & (xyz != 0).any(axis=1)
    if not ok.any():
        raise CaptureError(f"{file} holds no point that can be used ({len(ok)} rows, none with a position); scan again or export it anew.")
    T = np.eye(4) if world_from_sensor is None else rigid_of_scanner(world_from_sensor[:3, :3], world_from_sensor[:3, 3], f"the scan {file}")
    which = slice(None) if ok.all() else ok  # a survey is large, and mostly whole: then nothing is copied
    kept = {k: np.asarray(v)[which] for k, v in (columns or {}).items()}
    T, local, shift = _precise(T, xyz[which])
    origins = kept.get("origins")
    if shift.any() and origin_known:
        origins = (np.zeros_like(local) if origins is None else origins) + shift
    sweep = Sweep(
        xyz=_f32(local),
        world_from_sensor=_f32(T),
        name=name,
        origins=None if origins is None else _f32(np.where(np.isfinite(origins), origins, shift)),
        rgb=_f32(np.nan_to_num(kept["rgb"]).clip(0, 1)) if "rgb" in kept else None,
        intensity=_f32(np.nan_to_num(kept["intensity"], posinf=0, neginf=0)) if "intensity" in kept else None,
        confidence=_f32(np.nan_to_num(kept["confidence"]).clip(0, 1)) if "confidence" in kept else None,
        ring=torch.from_numpy(_from_below(kept["ring"], local - shift)) if "ring" in kept else None,
        seconds=_f32(_from_start(kept["seconds"])) if "seconds" in kept else None,
        empty=None if empty is None or not len(empty) else _f32(empty),
        origin_known=origin_known,
    )
    return sweep.validate(), int((~ok).sum())


def _precise(T: np.ndarray, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """world_from_local with a translation that float32 holds exactly, the points in that local frame, and where the sensor is in it."""
    middle = np.median(xyz[:: max(1, len(xyz) // 1_000_000)], axis=0)
    away = np.where(np.abs(middle) > _NEAR, np.round(middle / 1000) * 1000, 0.0)  # a merged cloud in map coordinates
    t = T[:3, :3] @ away + T[:3, 3]
    exact = t.astype(np.float32).astype(np.float64) if np.abs(t).max() > _NEAR else t
    shift = T[:3, :3].T @ (T[:3, 3] - exact)  # the sensor, seen from where its frame now begins
    moved = T.copy()
    moved[:3, 3] = exact
    return (moved, xyz + shift, shift) if away.any() or exact is not t else (T, xyz, np.zeros(3))


def _from_below(ring: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """Numbers of beams with 0 the lowest: some scanners (Ouster) count from the top. Beams that lie in no such order keep their numbers."""
    ring = np.nan_to_num(ring, posinf=0, neginf=0).clip(0, 2**31).astype(np.int64)
    numbers, index = np.unique(ring, return_inverse=True)
    if len(numbers) < 2:
        return ring
    elevation = np.arctan2(xyz[:, 2], np.linalg.norm(xyz[:, :2], axis=1))
    means = np.bincount(index, elevation) / np.bincount(index)
    falling = np.corrcoef(numbers, means)[0, 1] < -0.9 if means.std() > 0 else False
    return numbers.max() - ring if falling else ring


def _from_start(seconds: np.ndarray) -> np.ndarray:
    """Clock times (GPS, Unix) count from the first return on; times that already count from the scan's own stay."""
    seconds = np.asarray(seconds, np.float64)
    finite = np.isfinite(seconds)
    first, last = seconds.min(initial=np.inf, where=finite), seconds.max(initial=-np.inf, where=finite)
    start = first if finite.any() and max(abs(first), abs(last)) > 1000 else 0.0
    return np.nan_to_num(seconds - start, copy=False, posinf=0, neginf=0)


def _f32(a: np.ndarray) -> Tensor:
    top = float(np.finfo(np.float32).max)
    return torch.from_numpy(np.clip(a, -top, top, out=np.empty(np.shape(a), np.float32), casting="unsafe"))


def read_bytes(file: Path, most: int) -> bytes:
    """The whole file. Raises CaptureError when it cannot be read or is larger than `most` bytes."""
    try:
        size = file.stat().st_size
        if size > most:
            raise CaptureError(f"{file} has {size / 1e9:.1f} GB, more than the {most / 1e9:g} GB that are read; thin it out first.")
        return file.read_bytes()
    except OSError as e:
        raise CaptureError(f"{file} cannot be read ({e.strerror or e}).") from e
