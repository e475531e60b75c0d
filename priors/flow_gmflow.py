"""Learned dense flow: GMFlow with refinement (`gmflow_net`), which finds far displacements that a local search misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..recon.capture import View
from ..recon.matches import FlowField
from .flow_check import network_flow
from .gmflow_net import GMFlowNet
from .weight_files import load_into

__all__ = ["GMFlow"]


@dataclass
class GMFlow:
    """Displacements of every pixel, also where photos are far apart.

    Attributes:
        work: width and height the network sees, multiples of 32. It was trained on pictures twice as wide as high and measures fractions of a pixel along x
            only there, so photos are stretched to that, upright ones turned first. 896 x 320 is a little more exact and takes twice as long.
        tolerance_px: forward-backward disagreement, in pixels of 500 along the longer side, at which the confidence is exp(-1/2).
        device: where the network runs.
    """

    work: tuple[int, int] = (640, 320)
    tolerance_px: float = 1.0
    device: str = "cpu"
    name: str = "gmflow"
    version: str = "1"
    license: str = "Apache-2.0"
    weights: ClassVar[tuple[str, ...]] = ("gmflow",)
    _net: GMFlowNet | None = field(default=None, repr=False, compare=False)

    def predict(self, pairs: Sequence[tuple[View, View]]) -> list[FlowField]:
        """Flow from the first to the second view of each pair, at the first view's resolution. Views of a pair share one size.

        Confidence is 0 where the flow leaves the second view or either mask is 0. Raises BackendUnavailable where the weights are missing.
        """
        if self._net is None:
            net = GMFlowNet()
            load_into(net, "gmflow")
            self._net = net.to(self.device).eval()
        return [self._pair(self._net, a, b) for a, b in pairs]

    def _pair(self, net: GMFlowNet, a: View, b: View) -> FlowField:
        w, h = a.image.size
        if w >= h:
            return network_flow(net, a, b, self.work, self.tolerance_px, self.device)

        def lying(x: Tensor, y: Tensor) -> Tensor:
            return net(x.transpose(2, 3).contiguous(), y.transpose(2, 3).contiguous()).transpose(2, 3).flip(1)

        return network_flow(lying, a, b, (self.work[1], self.work[0]), self.tolerance_px, self.device)
