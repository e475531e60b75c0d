"""Dense optical flow between neighbouring photos: DIS (Kroeger et al., ECCV 2016) from OpenCV, trusted where forward and backward agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.capture import View
from ..recon.errors import ShapeError
from ..recon.matches import FlowField

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

        if a.image.size != b.image.size:
            raise ShapeError(f"Flow needs two views of one size; {a.name} is {a.image.size} and {b.name} is {b.image.size} (width, height).")
        grey = [_grey(v) for v in (a, b)]
        presets = {"ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST, "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM}
        if self.preset not in presets:
            raise ShapeError(f"There is no DIS preset {self.preset!r}; choose one of {', '.join(presets)}.")
        if min(grey[0].shape) < 16:  # OpenCV's pyramid needs a few pixels
            zero = torch.zeros(*grey[0].shape, 2)
            return FlowField(zero, torch.zeros(grey[0].shape))
        dis = cv2.DISOpticalFlow.create(presets[self.preset])
        forward = torch.from_numpy(dis.calc(grey[0], grey[1], None))  # pyright: ignore[reportArgumentType, reportCallIssue]
        backward = torch.from_numpy(dis.calc(grey[1], grey[0], None))  # pyright: ignore[reportArgumentType, reportCallIssue]
        scale = self.tolerance_px * max(a.image.size) / 500
        return FlowField(forward, _confidence(forward, backward, a, b, scale))


def _grey(view: View) -> np.ndarray:
    import cv2

    return cv2.cvtColor((view.image.load().numpy() * 255 + 0.5).clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)


def _confidence(forward: Float[Tensor, "H W 2"], backward: Float[Tensor, "H W 2"], a: View, b: View, scale: float) -> Float[Tensor, "H W"]:
    h, w = forward.shape[:2]
    y, x = torch.meshgrid(torch.arange(h, dtype=torch.float32), torch.arange(w, dtype=torch.float32), indexing="ij")
    at = torch.stack([x, y], -1) + 0.5 + forward  # continuous pixels of the second view
    grid = (at * 2 / torch.tensor([w, h]) - 1)[None]
    second = [backward[..., 0], backward[..., 1]]
    mask = b.image.load_mask()
    if mask is not None:
        second.append(mask)
    read = torch.nn.functional.grid_sample(torch.stack(second)[None], grid, align_corners=False, padding_mode="border")[0]
    error = (forward + read[:2].permute(1, 2, 0)).norm(dim=-1)
    inside = ((at >= 0) & (at <= torch.tensor([w, h]))).all(-1)
    confidence = torch.exp(-0.5 * (error / scale) ** 2) * inside
    if mask is not None:
        confidence = confidence * (read[2] > 0.5)
    own = a.image.load_mask()
    return confidence if own is None else confidence * (own > 0.5)
