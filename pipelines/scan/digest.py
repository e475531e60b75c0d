"""What a capture's sensors say, as a digest: part of what a result depends on."""

from __future__ import annotations

import hashlib

from torch import Tensor

from ...priors.scan_splats import weights_digest
from ...recon.capture import Capture

__all__ = ["measured_digest"]

PARTS = ("xyz", "world_from_sensor", "origins", "confidence", "ring", "empty")


def measured_digest(capture: Capture) -> str:
    """sha256 over scans, depth maps, and the network that reads scans; "" where the capture has neither."""
    if not capture.sweeps and not any(d is not None for d in capture.depth):
        return ""
    h = hashlib.sha256()

    def take(value: Tensor | None) -> None:
        h.update(b"-" if value is None else b"+" + value.detach().cpu().contiguous().numpy().tobytes())

    if capture.sweeps:
        h.update(weights_digest().encode())
    for sweep in capture.sweeps:
        h.update(f"{sweep.name} {sweep.moment} {len(sweep)} {sweep.origin_known}".encode())
        for name in PARTS:
            take(getattr(sweep, name))
    for depth in capture.depth:
        for value in (None,) if depth is None else (depth.depth, depth.confidence, depth.valid):
            take(value)
    return h.hexdigest()
