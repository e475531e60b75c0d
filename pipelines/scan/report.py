"""What a finished scene makes of the beams that were kept back from it."""

from __future__ import annotations

from typing import Any

from ...recon.capture import Capture
from ...recon.scan.sight import seen_returns
from ...recon.scene import Scene
from .beams import BeamScore, score_beams
from .depth import CELL, own_sweep, withheld

__all__ = ["beam_report"]


def beam_report(scene: Scene, capture: Capture) -> dict[str, Any] | None:
    """{acc, median_m, beams}: means over the photos of the share of withheld beams within 5 % + 0.1 m, and of the median error; None without scans.

    A photo is judged by the scan of its own moment, without returns that something nearer hides from it; where no scan is of a photo's moment, by all.
    """
    scores: list[BeamScore] = []
    judges = [withheld(s)[1] for s in capture.sweeps]
    for i, name in enumerate(capture.names):
        own = own_sweep(name, judges)
        camera = scene.cameras[i].to("cpu")
        for judge in [judges[own]] if own is not None else judges:
            found = seen_returns(camera, judge.world_xyz, cell=CELL)
            if len(found):
                out = scene.render(camera)
                scores.append(score_beams(out, found))
    if not scores:
        return None
    mean = BeamScore.mean(scores)
    return {"acc": round(mean.acc, 4), "median_m": round(mean.median, 4), "beams": mean.beams}
