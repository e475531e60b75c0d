"""Objects on white: what is white from the photo's border on is not the object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class KnowsAlpha(Protocol):
    """An ImageSource whose file may say where the object is, though white was put behind it."""

    @property
    def has_alpha(self) -> bool:
        """Known without decoding; what is there may be opaque everywhere."""
        ...

    def load_alpha(self) -> Float[Tensor, "H W"] | None:
        """1 on the object, 0 beside it; None where the file says nothing."""
        ...


@dataclass(frozen=True)
class OutlinedImage:
    """An ImageSource on white, with the object's outline as its mask where it has none: what the file says of it, else what is white from the border on."""

    source: ImageSource

    @property
    def size(self) -> tuple[int, int]:
        return self.source.size

    def load(self) -> Float[Tensor, "H W 3"]:
        return self.source.load()

    def load_mask(self) -> Float[Tensor, "H W"] | None:
        mask = self.source.load_mask()
        if mask is None and isinstance(self.source, KnowsAlpha):
            mask = self.source.load_alpha()
        return outline_on_white(self.source.load()) if mask is None else mask

    def load_extent(self) -> Float[Tensor, "H W"] | None:
        return self.source.load_extent()

    def digest(self) -> str:
        said = isinstance(self.source, KnowsAlpha) and self.source.has_alpha
        return f"{self.source.digest()}-{'cut' if said else 'outlined'}"


def outlined(capture: Capture) -> Capture:
    """The capture with masks where its photos are objects on white, so that nothing is drawn beside the object: white before white, near the cameras, looks right
    in every photo and hides the object from everywhere else."""
    if not capture.white_background:
        return capture
    return replace(capture, views=tuple(replace(v, image=OutlinedImage(v.image)) for v in capture.views))
