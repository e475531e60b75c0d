"""How much of its neighbourhood stands behind a depth: chance matches stand alone, surfaces do not."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from .depth import DepthMap

__all__ = ["fade_unsupported", "support"]

RADIUS = 0.04  # of the longer side: how far neighbours are asked
RING = 16  # neighbours per ring, three rings
SAME = 0.04  # relative difference of inverse depth that counts as the same surface
NONE, FULL = 0.08, 0.2  # share of agreeing neighbours below which a depth is chance, above which it is a surface


def support(depth: DepthMap) -> Float[Tensor, "H W"]:
    """Share of sampled neighbours (up to 4 % of the image away) that are valid and at nearly the same inverse depth, [0, 1]."""
    h, w = depth.depth.shape
    inverse = torch.where(depth.valid & (depth.depth > 0), 1.0 / depth.depth.clamp_min(1e-9), 0.0)
    count = torch.zeros_like(inverse)
    offsets = _offsets(RADIUS * max(h, w))
    reach = max(max(abs(x), abs(y)) for x, y in offsets)
    padded = torch.nn.functional.pad(inverse, (reach,) * 4)
    for x, y in offsets:
        neighbour = padded[reach + y : reach + y + h, reach + x : reach + x + w]
        count += ((neighbour - inverse).abs() < SAME * inverse) & (neighbour > 0)
    return count / len(offsets)


def fade_unsupported(depth: DepthMap) -> DepthMap:
    """The map with the confidence of unsupported pixels faded to 0, and no longer valid there.

    Two views that look from far apart agree by chance in small patches anywhere in the picture; on a surface, patches of like depth are
    many. Thin structures stay: they are supported along their length.
    """
    trust = ((support(depth) - NONE) / (FULL - NONE)).clamp(0, 1)
    return replace(depth, confidence=depth.confidence * trust, valid=depth.valid & (trust > 0))


def _offsets(radius: float) -> list[tuple[int, int]]:
    angles = torch.arange(RING) * (2 * torch.pi / RING)
    rings = [(radius * share, phase) for share, phase in ((0.33, 0.0), (0.66, 0.2), (1.0, 0.1))]
    return [(round(r * float(torch.cos(a + p))), round(r * float(torch.sin(a + p)))) for r, p in rings for a in angles]
