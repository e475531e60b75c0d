"""Learned dense flow: RAFT (Teed and Deng, ECCV 2020) of torchvision. The only file that imports torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from ..recon.capture import View
from ..recon.errors import BackendUnavailable
from ..recon.matches import FlowField
from .flow_check import network_flow
from .weight_files import load_into

__all__ = ["Raft"]


@dataclass
class Raft:
    """Displacements of every pixel, refined step by step; for photos that overlap well.

    Attributes:
        side: the photo's longer side as the network sees it (both sides are rounded to multiples of 8, at least 128).
        steps: of refinement.
        tolerance_px: forward-backward disagreement, in pixels of 500 along the longer side, at which the confidence is exp(-1/2).
        device: where the network runs.
    """

    side: int = 640
    steps: int = 12
    tolerance_px: float = 1.0
    device: str = "cpu"
    name: str = "raft"
    version: str = "1"
    license: str = "BSD-3-Clause"
    weights: ClassVar[tuple[str, ...]] = ("raft-large",)
    packages: ClassVar[dict[str, str]] = {"torchvision": "pip install 'handful[flow]'"}
    _net: Any = field(default=None, repr=False, compare=False)

    def predict(self, pairs: Sequence[tuple[View, View]]) -> list[FlowField]:
        """Flow from the first to the second view of each pair, at the first view's resolution. Views of a pair share one size.

        Confidence is 0 where the flow leaves the second view or either mask is 0. Raises BackendUnavailable where torchvision or the weights are missing.
        """
        if self._net is None:
            net = _network()
            load_into(net, self.weights[0])
            self._net = net.to(self.device).eval()
        return [self._pair(a, b) for a, b in pairs]

    def _pair(self, a: View, b: View) -> FlowField:
        def net(x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2 H W"]:
            return self._net(2 * x - 1, 2 * y - 1, num_flow_updates=self.steps)[-1]

        w, h = a.image.size
        scale = self.side / max(w, h)
        work = max(128, round(w * scale / 8) * 8), max(128, round(h * scale / 8) * 8)
        return network_flow(net, a, b, work, self.tolerance_px, self.device)


def _network() -> Any:
    try:
        from torchvision.models.optical_flow import raft_large
    except (ImportError, RuntimeError) as e:  # a torchvision made for another torch raises RuntimeError
        raise BackendUnavailable(f"RAFT needs torchvision ({e}); run `pip install 'handful[flow]'`, or choose the flow prior `dis`.") from e
    return raft_large(weights=None, progress=False)
