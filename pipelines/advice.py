"""What the photos themselves say for another method than the one that was used."""

from __future__ import annotations

import math

import torch

from ..recon.capture import Capture
from ..recon.framing import frame_scene

__all__ = ["for_another_method", "turn"]

ALL_AROUND = 120.0  # degrees between the two photos furthest apart
FEW = 10  # photos; scored were six and eight (docs/field.md, "When to choose which")


def turn(capture: Capture) -> float:
    """Largest angle between two photos as seen from what they look at, degrees."""
    assert capture.cameras is not None, "angles are of photos with cameras"
    cameras = capture.cameras.to("cpu", torch.float64)
    rays = torch.nn.functional.normalize(cameras.centers - frame_scene(cameras).focus.to(cameras.centers), dim=1)
    return math.degrees(float((rays @ rays.T).amin().clamp(-1, 1).acos()))


def for_another_method(method: str, capture: Capture, given: bool) -> str | None:
    """A sentence for the user, or None. `capture`: the photos that were placed; `given`: their cameras came with them. Fields take cameras as they are, so where they
    were found nothing is advised."""
    if method != "handful" or not given or not 2 <= len(capture) <= FEW or not (capture.white_background or capture.is_cut_out()):
        return None
    if turn(capture) < ALL_AROUND:
        return None
    return (
        f"These {len(capture)} photos go all around an object, so few places are in several of them. "
        "From between them a field may look better: try --method zerorf, into another folder (it takes some minutes longer)."
    )
