"""How well a scene fits beams that it was not made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...recon.raster.protocol import RenderOutput
from ...recon.scan.sight import Returns

__all__ = ["BeamScore", "score_beams"]

SHARE, ABSOLUTE = 0.05, 0.1  # of the depth, and metres: what counts as right
SEEN = 0.5  # opacity below which the scene lets the beam through


@dataclass(frozen=True)
class BeamScore:
    """acc: share of the beams whose rendered depth is within 5 % + 0.1 m of the measured; a beam that the scene lets through is wrong.
    median: error of those that meet something, world units. beams: how many there are."""

    acc: float
    median: float
    beams: int

    @staticmethod
    def mean(scores: list[BeamScore]) -> BeamScore:
        """Each counts alike."""
        n = max(1, len(scores))
        return BeamScore(sum(s.acc for s in scores) / n, sum(s.median for s in scores) / n, sum(s.beams for s in scores))


def score_beams(out: RenderOutput, returns: Returns) -> BeamScore:
    """`out` is of the one camera that the returns are seen by."""
    if not len(returns):
        return BeamScore(0.0, 0.0, 0)
    at = returns.pixels(out.depth.shape[2])
    depth, alpha = out.depth[0].reshape(-1)[at], out.alpha[0].reshape(-1)[at]
    met, error = alpha >= SEEN, (depth - returns.z).abs()
    right = met & (error < SHARE * returns.z + ABSOLUTE)
    return BeamScore(float(right.float().mean()), float(error[met].median()) if bool(met.any()) else float(torch.inf), len(returns))
