"""Learned dense flow: SEA-RAFT medium (`sea_raft_net`): as exact as RAFT in a third of the steps, and still sure where photos are a little apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ..recon.capture import View
from ..recon.matches import FlowField
from .flow_check import network_flow
from .sea_raft_net import SeaRaftNet
from .weight_files import load_into

__all__ = ["SeaRaft"]


@dataclass
class SeaRaft:
    """Displacements of every pixel.

    Attributes:
        side: the photo's longer side as the network sees it (both sides are rounded to multiples of 8, at least 128).
        steps: of refinement after the first guess.
        tolerance_px: forward-backward disagreement, in pixels of 500 along the longer side, at which the confidence is exp(-1/2).
        device: where the network runs.
    """

    side: int = 640
    steps: int = 4
    tolerance_px: float = 1.0
    device: str = "cpu"
    name: str = "sea-raft"
    version: str = "1"
    license: str = "Apache-2.0"
    weights: ClassVar[tuple[str, ...]] = ("sea-raft-m",)
    _net: SeaRaftNet | None = field(default=None, repr=False, compare=False)

    def predict(self, pairs: Sequence[tuple[View, View]]) -> list[FlowField]:
        """Flow from the first to the second view of each pair, at the first view's resolution. Views of a pair share one size.

        Confidence is 0 where the flow leaves the second view or either mask is 0. Raises BackendUnavailable where the weights are missing.
        """
        if self._net is None:
            net = SeaRaftNet(self.steps)
            load_into(net, "sea-raft-m", optional=("num_batches_tracked",))
            self._net = net.to(self.device).eval()
        out = []
        for a, b in pairs:
            w, h = a.image.size
            scale = self.side / max(w, h)
            work = max(128, round(w * scale / 8) * 8), max(128, round(h * scale / 8) * 8)
            out.append(network_flow(self._net, a, b, work, self.tolerance_px, self.device))
        return out
