"""What a finished scene makes of the beams that were kept back from it."""

from __future__ import annotations

from typing import Any

from ...recon.capture import Capture
from ...recon.scan.moments import own_sweep
from ...recon.scan.rings import with_rings
from ...recon.scan.sight import seen_returns
from ...recon.scene import Scene
from .beams import BeamScore, score_beams
from .depth import CELL, judging

__all__ = ["beam_report"]


def beam_report(scene: Scene, capture: Capture) -> dict[str, Any] | None:
    """{acc, median_m, beams}: means over the photos of the share of withheld beams within 5 % + 0.1 m, and of the median error; None without scans.

    A photo is judged by the scan of its own moment, without returns that something nearer hides from it; where no scan is of a photo's moment, by all.
    """
    if not capture.sweeps:
        return None
    scores: list[BeamScore] = []
    sweeps, masks = [with_rings(s) for s in capture.sweeps], capture.masks()
    judges = [judging(s) for s in sweeps]
    for i, name in enumerate(capture.names):
        own = own_sweep(name, sweeps)
        camera = scene.cameras[i].to("cpu")
        out = scene.render(camera)
        for k in [own] if own is not None else range(len(sweeps)):
            found = seen_returns(camera, sweeps[k].world_xyz, cell=CELL)  # the whole scan hides
            found = found.kept(judges[k][found.index])
            if masks is not None:
                found = found.kept(masks[i].reshape(-1)[found.pixels(camera.width)] > 0.5)
            scores.append(score_beams(out, found))
    mean = BeamScore.mean(scores)
    if not mean.beams:
        return None
    return {"acc": round(mean.acc, 4), "median_m": None if mean.median is None else round(mean.median, 4), "beams": mean.beams}
