"""Asks the photos whether the refiner helps here: each is left out in turn, the scene is made from the others, and the refined scene must show it no worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ...priors.splat_refiner import SplatRefiner
from ...recon.capture import Capture
from ...recon.errors import CaptureError
from ...recon.gaussians import Gaussians
from ...recon.metrics import psnr
from ...recon.scene import SplatScene
from ..evaluate import PSNR_CAP
from ..job import train_capture
from ..methods.config import SplatConfig
from ..protocols import spaced

__all__ = ["STRENGTHS", "LeftOut", "Verdict", "judge", "refined"]

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
MOST = 4  # photos left out in turn; of more, so many evenly spaced
STEPS = 400  # of the reconstructions that are only made to judge by


@dataclass(frozen=True)
class LeftOut:
    """One photo that had no say: PSNR of the scene as made, and at each of STRENGTHS, decibels."""

    name: str
    before: float
    after: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """`strength`: the largest mean gain among those at which no photo loses; 0 = the scene stays as it is. `unasked`: photos without which no scene could be made."""

    strength: float
    photos: tuple[LeftOut, ...]
    unasked: tuple[str, ...] = ()

    def gains(self, strength: float) -> list[float]:
        """Decibels for each photo left out; zeros for no change."""
        if strength not in STRENGTHS:
            return [0.0 for _ in self.photos]
        return [p.after[STRENGTHS.index(strength)] - p.before for p in self.photos]

    def sentence(self) -> str:
        stays = "the scene stays as it is"
        if not self.photos and self.unasked:
            return f"Without {self.unasked[0]} no scene can be made of the others, nor without any other photo, so none can judge a change: {stays}."
        if not self.photos:
            return f"Two photos cannot judge a change (with one left out nothing can be measured): {stays}."
        if not self.strength:
            full = self.gains(STRENGTHS[-1])
            return f"Left-out photos do not all gain ({min(full):+.2f} dB the worst, {sum(full) / len(full):+.2f} on the mean, by all of the change): {stays}."
        mine = self.gains(self.strength)
        return f"Left-out photos look better by {sum(mine) / len(mine):.2f} dB ({min(mine):+.2f} the least): refined at {self.strength:.0%}."


def judge(
    capture: Capture,
    config: SplatConfig,
    refiner: SplatRefiner,
    seed: int = 0,
    device: torch.device | None = None,
    say: Callable[[str, float], None] = lambda what, share: None,
) -> Verdict:
    """Verdict on the refiner for this capture.

    Args:
        capture: the training photos, with the cameras they have in the scene.
        config: what the scene was made with; its steps are cut to STEPS.
        say: told what is done, and which share of it.

    Raises CaptureError without cameras.
    """
    if capture.cameras is None:
        raise CaptureError("Refining needs the cameras of the photos; reconstruct first.")
    if len(capture.views) < 3:
        return Verdict(0.0, ())
    # the left-out photo's camera stays where it is, so the others' must, too
    quick = replace(config, optim=replace(config.optim, steps=min(STEPS, config.optim.steps or STEPS), move_given_cameras=False))
    picks = spaced(len(capture.views), min(len(capture.views), MOST))
    rows: list[LeftOut] = []
    unasked: list[str] = []
    for number, i in enumerate(picks):
        name = capture.names[i]
        say(f"without {name}", number / len(picks))
        rest = capture.select([n for n in capture.names if n != name])
        try:
            scene, _ = train_capture(rest, quick, seed, device)
        except CaptureError:  # it joins the others: without it nothing can be measured
            unasked.append(name)
            continue
        rows.append(_row(scene, rest, capture.select([name]), refiner))
    return Verdict(strongest(rows), tuple(rows), tuple(unasked))


def strongest(rows: Sequence[LeftOut]) -> float:
    """Of the strengths at which no photo loses, that with the largest mean gain; 0 where there is none, or nothing to gain."""
    best, gain = 0.0, 0.0
    for k, strength in enumerate(STRENGTHS):
        each = [r.after[k] - r.before for r in rows]
        if each and all(math.isfinite(g) and g >= 0 for g in each) and sum(each) / len(each) > gain:
            best, gain = strength, sum(each) / len(each)
    return best


def refined(scene: SplatScene, capture: Capture, refiner: SplatRefiner, strength: float) -> SplatScene:
    """The scene after so much of the change; itself for none. `capture` holds its photos."""
    if not strength:
        return scene
    return replace(scene, gaussians=_versions(scene, capture, refiner, (strength,))[0].to(scene.gaussians.device))


def _row(scene: SplatScene, rest: Capture, left_out: Capture, refiner: SplatRefiner) -> LeftOut:
    assert left_out.cameras is not None
    camera, image, mask = left_out.cameras, left_out.images(), left_out.masks()
    if mask is not None and left_out.is_cut_out():  # nothing should be drawn beside an object
        image = torch.lerp(image.new_tensor(scene.background).expand_as(image), image, mask[..., None])
        mask = left_out.extents()

    def score(gaussians: Gaussians) -> float:
        out = replace(scene, gaussians=gaussians.to(scene.gaussians.device)).render(camera).color.cpu().nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
        return min(float(psnr(out, image, mask)[0]), PSNR_CAP)

    versions = _versions(scene, rest, refiner, STRENGTHS)
    return LeftOut(left_out.names[0], score(scene.gaussians), tuple(score(g) for g in versions))


def _versions(scene: SplatScene, capture: Capture, refiner: SplatRefiner, strengths: tuple[float, ...]) -> list[Gaussians]:
    mine = capture.select(scene.names)
    counts = None if capture.white_background else mine.masks()  # what is white around an object is seen, and tells
    return refiner.refine(scene, mine.images(), strengths, counts)
