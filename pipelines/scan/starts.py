"""From a scan to first splats, by name: the classical ways, and the learned one with each backbone that has weights."""

from __future__ import annotations

from ...priors.scan_splats import ScanSplats
from ...recon.errors import ConfigError
from ...recon.gaussians import Gaussians
from ...recon.scan.rings import with_rings
from ...recon.scan.starts import STARTS
from ...recon.sweeps import Sweep

__all__ = ["LEARNED", "scan_start"]

LEARNED = "learned"  # or learned:BACKBONE, or learned:FILE of weights


def scan_start(name: str, sweep: Sweep) -> Gaussians | None:
    """Splats without colour, world frame. None where the way needs rings and the scan has none. Raises ConfigError for a name that is not there."""
    if name.split(":")[0] == LEARNED:
        return ScanSplats(*name.split(":", 1)[1:]).predict(sweep).gaussians
    if name not in STARTS:
        raise ConfigError(f"There is no start {name!r} from a scan; choose one of {', '.join((*STARTS, LEARNED))}.")
    if name == "ring" and with_rings(sweep).ring is None:
        return None
    return STARTS[name](sweep)
