"""Recordings of phones as folders: photos with a camera each, pictures of depth and confidence beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..recon.capture import Capture, Unplaced
from .assemble import GivenCamera, Shot, assemble, subset_indices
from .files import MASK_FOLDERS, find_mask
from .phone_depth import depth_and_trust
from .protocol import LoadOptions

__all__ = ["PhoneFrame", "assemble_frames"]


@dataclass(frozen=True)
class PhoneFrame:
    """camera: reads it (only the photos that are taken are asked); depth, levels: pictures of millimetres and of confidence, there or not."""

    photo: Path
    camera: Callable[[], GivenCamera]
    depth: Path
    levels: Path


def assemble_frames(
    frames: Sequence[PhoneFrame], options: LoadOptions, source: str, roots: Sequence[Path], unplaced: Sequence[Unplaced], warnings: Sequence[str] = ()
) -> Capture:
    """The capture of at most `max_photos` frames, evenly. Masks lie in a folder masks/ of one of `roots`. Raises CaptureError as `assemble` does."""
    masks = [root / m for root in dict.fromkeys(roots) for m in MASK_FOLDERS]
    notes = list(warnings)
    shots = []
    for i in subset_indices(len(frames), options.max_photos):
        frame = frames[i]
        depth, trust = depth_and_trust(frame.depth, frame.levels, notes)
        shots.append(Shot(frame.photo.name, frame.photo, frame.camera(), find_mask(masks, frame.photo.name), depth=depth, trust=trust))
    return assemble(shots, replace(options, max_photos=None), source, unplaced=unplaced, warnings=notes)
