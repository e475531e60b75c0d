"""How well a scene fits beams that it was not made from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ...recon.raster.protocol import RenderOutput
from ...recon.scan.sight import Returns

__all__ = ["BeamScore", "score_beams"]

SHARE, ABSOLUTE = 0.05, 0.1  # of the depth, and metres: what counts as right
SEEN = 0.5  # opacity below which the scene lets the beam through


@dataclass(frozen=True)
class BeamScore:
    """acc: share of the beams whose rendered depth is within 5 % + 0.1 m of the measured; a beam that the scene lets through is wrong.
    median: error of those that meet something, world units; None where none does. beams: how many there are."""

    acc: float
    median: float | None
    beams: int

    @staticmethod
    def mean(scores: Sequence[BeamScore]) -> BeamScore:
        """Each that has beams counts alike."""
        told = [s for s in scores if s.beams]
        medians = [s.median for s in told if s.median is not None]
        acc = statistics.fmean(s.acc for s in told) if told else 0.0
        return BeamScore(acc, statistics.fmean(medians) if medians else None, sum(s.beams for s in told))


def score_beams(out: RenderOutput, returns: Returns) -> BeamScore:
    """`out` is of the one camera that the returns are seen by."""
    if not len(returns):
        return BeamScore(0.0, None, 0)
    at = returns.pixels(out.depth.shape[2])
    depth, alpha = (x[0].reshape(-1).to(at.device)[at] for x in (out.depth, out.alpha))
    met, error = alpha >= SEEN, (depth - returns.z).abs()
    right = met & (error < SHARE * returns.z + ABSOLUTE)
    return BeamScore(float(right.float().mean()), float(error[met].median()) if bool(met.any()) else None, len(returns))
