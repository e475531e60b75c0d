"""Dense optical flow between neighbouring photos: DIS (Kroeger et al., ECCV 2016) from OpenCV, trusted where forward and backward agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..recon.capture import View
from ..recon.errors import ShapeError
from ..recon.matches import FlowField
from .flow_check import agreement, same_size

__all__ = ["DisFlow"]


@dataclass(frozen=True)
class DisFlow:
    """Displacements of every pixel; for photos that overlap well and are not turned against each other.

    Attributes:
        preset: "ultrafast", "fast" or "medium" (the most exact).
        tolerance_px: forward-backward disagreement, in pixels of 500 along the longer side, at which the confidence is exp(-1/2).
    """

    preset: str = "medium"
    tolerance_px: float = 1.0
    name: str = "dis"
    version: str = "1"
    license: str = "Apache-2.0"

    def predict(self, pairs: Sequence[tuple[View, View]]) -> list[FlowField]:
        """Flow from the first to the second view of each pair, at the first view's resolution. Views of a pair share one size.

        Confidence is 0 where the flow leaves the second view or either mask is 0.
        """
        return [self._pair(a, b) for a, b in pairs]

    def _pair(self, a: View, b: View) -> FlowField:
        import cv2

        same_size(a, b)
        grey = [_grey(v) for v in (a, b)]
        presets = {
            "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
            "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
            "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
        }
        if self.preset not in presets:
            raise ShapeError(f"There is no DIS preset {self.preset!r}; choose one of {', '.join(presets)}.")
        if min(grey[0].shape) < 16:  # OpenCV's pyramid needs a few pixels
            zero = torch.zeros(*grey[0].shape, 2)
            return FlowField(zero, torch.zeros(grey[0].shape))
        dis = cv2.DISOpticalFlow.create(presets[self.preset])
        forward = torch.from_numpy(dis.calc(grey[0], grey[1], None))  # pyright: ignore[reportArgumentType, reportCallIssue]
        backward = torch.from_numpy(dis.calc(grey[1], grey[0], None))  # pyright: ignore[reportArgumentType, reportCallIssue]
        scale = self.tolerance_px * max(a.image.size) / 500
        return FlowField(forward, agreement(forward, backward, a, b, scale))


def _grey(view: View) -> np.ndarray:
    import cv2

    return cv2.cvtColor((view.image.load().numpy() * 255 + 0.5).clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
