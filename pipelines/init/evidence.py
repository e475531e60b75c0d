"""How sure is a photo's place? Log odds from what vouches for it: confident and sharp links that agree, and known points that are seen where they must be.

A matcher recognises repeated and symmetric things from places where it never stood: two sides of a toy, the front and the back of a temple. Such matches agree
with each other and with a wrong place, so their number proves little. What tells them from true ones was measured on pairs of photos with known cameras
(0 to 12 % of wrong links had a confidence above a half and 11 to 20 % could be aligned pixel for pixel; of true ones mostly 10 to 50 % and 17 to 80 %), and
on known points looked up in rightly and wrongly placed photos (mostly 15 to 80 % against 0 to 5 % within 30 degrees). A thing with two sides really alike,
before an empty background, passes all of it: a toy on white gave 38 % confident links and 10 % of the points from the wrong side. `benchmarks/handfuls.py`
counts how often a wrong place is believed in random handfuls.
"""

from __future__ import annotations

import numpy as np

from .model import Model
from .scene import Scene, agreeing
from .witness import witness

__all__ = ["believed", "doubtful", "log_odds", "pair_log_odds"]

DOUBT = 6.0  # log odds against a place before anything vouches for it
CHANCE_SURE, CHANCE_FINE = 0.1, 0.2  # shares of wrong links that look right all the same
SURE_WEIGHT, FINE_WEIGHT = 0.25, 0.15  # log odds per link beyond chance
CORROBORATED_WEIGHT, CORROBORATED_MOST = 0.12, 4.0  # per agreeing link with a second, third, ... placed photo; never enough alone
ALIKE_RIGHT = (((0.0, 30.0), 0.2), ((30.0, 45.0), 0.14))  # share of points alike in a right place, by the angle from which others see them
ALIKE_WRONG = 0.04
ENOUGH = 3 * DOUBT  # a photo so well linked need not be looked at


def pair_log_odds(scene: Scene, i: int, j: int, agree: np.ndarray | None = None) -> float:
    """What the links of two photos say for their being the same things; with `agree`, those links alone (the slower looks bring others that are known to be wrong)."""
    n = scene.pair_index.get((min(i, j), max(i, j)))
    if n is None:
        return 0.0
    agree = np.ones(len(scene.sure[n]), dtype=bool) if agree is None else agree
    sure, fine, total = scene.sure[n] & agree, scene.fine[n] & agree, int(agree.sum())
    return SURE_WEIGHT * max(0.0, sure.sum() - CHANCE_SURE * total) + FINE_WEIGHT * max(0.0, fine.sum() - CHANCE_FINE * total)


def log_odds(model: Model, view: int, scene: Scene) -> float:
    """That a placed photo stands where the model says: links with the other placed photos, and what it shows of their points.

    Links that agree count a little even where they are neither sure nor fine, when two or more placed photos have them: a place that is merely imagined looks at
    things from about where they were seen (that is why they seemed familiar), and then the points can be looked up; a place far from all others cannot be
    checked that way, and gets there by agreement alone.
    """
    odds, agreed = -DOUBT, [0]
    for a in np.flatnonzero(model.rig.placed):
        if a != view:
            agree = agreeing(model.rig, scene, int(a), view)
            odds += pair_log_odds(scene, int(a), view, agree)
            agreed.append(int(agree.sum()))
        if odds > ENOUGH:
            return odds
    odds += min(CORROBORATED_MOST, CORROBORATED_WEIGHT * (sum(agreed) - max(agreed)))
    return odds + _witnessed(model, view, scene)


def _witnessed(model: Model, view: int, scene: Scene) -> float:
    """Log odds of as many points alike among those asked, were the place right or wrong; from afar fewer look alike in a right place."""
    odds = 0.0
    for angles, right in ALIKE_RIGHT if scene.grey else ():
        w = witness(model, view, scene.grey, angles, counts=scene.counts[view] if scene.counts else None)
        odds += w.alike * float(np.log(right / ALIKE_WRONG)) + (w.asked - w.alike) * float(np.log((1 - right) / (1 - ALIKE_WRONG)))
    return odds


def doubtful(model: Model, view: int, scene: Scene) -> bool:
    """Whether more speaks against a photo's place than for it. Without the photos' pixels nothing is doubted."""
    return bool(scene.grey) and log_odds(model, view, scene) < 0


def believed(model: Model, scene: Scene) -> bool:
    """Whether every photo's place is."""
    return not any(doubtful(model, int(v), scene) for v in np.flatnonzero(model.rig.placed))
