"""What a capture adapter is: it recognises a path and loads it as a Capture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..recon.capture import Capture

__all__ = ["CaptureAdapter", "LoadOptions"]


@dataclass(frozen=True)
class LoadOptions:
    """Options all adapters share.

    Attributes:
        max_side: photos are reduced so that their longer side is at most this many pixels; None keeps their size.
        downscale: LLFF-like captures only: take images_{downscale} where it exists, else reduce by this factor.
        max_photos: at most this many photos, evenly spaced over the sorted names (index int(i * n / k)); None = all.
        split: for captures that come in parts: of Blender's "train", "test" or None = all, names are then prefixed by the part; of nuScenes a scene's name.
    """

    max_side: int | None = None
    downscale: int | None = None
    max_photos: int | None = None
    split: str | None = None


class CaptureAdapter(Protocol):
    @property
    def name(self) -> str: ...

    def recognises(self, path: Path) -> bool:
        """Cheap: looks at names, decodes nothing. Two adapters that say yes are an error that lists both."""
        ...

    def load(self, path: Path, options: LoadOptions) -> Capture:
        """Raises CaptureError with one sentence: what is wrong, in which file, what to do."""
        ...
