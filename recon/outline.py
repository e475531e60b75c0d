"""Objects on white: what is white from the photo's border on is not the object."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .capture import Capture, ImageSource

__all__ = ["OutlinedImage", "outline_on_white", "outlined"]

WHITE = 0.975  # of the darkest channel: compression leaves white a little grey
LEAST_OBJECT = 0.002  # share of a photo; with less there is nothing to outline


def outline_on_white(image: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W"] | None:
    """1 on the object, 0 on the white that reaches the photo's border, from neighbour to neighbour; white seen through the object counts as object.
    None where that leaves next to nothing, or the whole photo."""
    import cv2

    white = (image.amin(-1) >= WHITE).cpu().numpy().astype(np.uint8)
    _, label = cv2.connectedComponents(white, connectivity=8)
    border = np.unique(np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]]))
    beside = np.isin(label, border[border > 0])
    share = 1 - float(beside.mean())
    return torch.from_numpy(~beside).float() if LEAST_OBJECT < share < 1 else None


@dataclass(frozen=True)
class OutlinedImage:
    """An ImageSource on white, with the outline as its mask where it has none."""

    source: ImageSource

    @property
    def size(self) -> tuple[int, int]:
        return self.source.size

    def load(self) -> Float[Tensor, "H W 3"]:
        return self.source.load()

    def load_mask(self) -> Float[Tensor, "H W"] | None:
        mask = self.source.load_mask()
        return outline_on_white(self.source.load()) if mask is None else mask

    def load_extent(self) -> Float[Tensor, "H W"] | None:
        return self.source.load_extent()

    def digest(self) -> str:
        return f"{self.source.digest()}-outlined"


def outlined(capture: Capture) -> Capture:
    """The capture with masks where its photos are objects on white, so that nothing is drawn beside the object: white before white, near the cameras, looks right
    in every photo and hides the object from everywhere else."""
    if not capture.white_background:
        return capture
    return replace(capture, views=tuple(replace(v, image=OutlinedImage(v.image)) for v in capture.views))
