"""Scans that a format names together with their place: read one by one, the broken ones left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ...recon.errors import HandfulError
from ...recon.sweeps import Sweep
from .registry import load_sweeps

__all__ = ["PairedScan", "read_paired"]


@dataclass(frozen=True)
class PairedScan:
    """A file of one scan. name, moment: as Sweep has them; world_from_sensor: 4x4 rigid, float64."""

    file: Path
    name: str
    world_from_sensor: np.ndarray
    moment: str | None = None


def read_paired(scans: Iterable[PairedScan]) -> tuple[tuple[Sweep, ...], tuple[str, ...]]:
    """The scans that can be read, and one sentence for each that is left out: photos never fail for a scan."""
    sweeps: list[Sweep] = []
    faults: list[str] = []
    for scan in scans:
        try:
            found = load_sweeps(scan.file)[0]
        except (HandfulError, OSError) as e:
            faults.append(f"{str(e).rstrip('.')}. It is left out.")
            continue
        T = torch.tensor(scan.world_from_sensor, dtype=torch.float32)
        sweeps.append(replace(found, world_from_sensor=T, name=scan.name, origin_known=True, moment=scan.moment))
    return tuple(sweeps), tuple(faults)
