"""The scene as it came and as its edits leave it, and where it stands in the page's own units. No viser here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.edits import EditStep, apply_edits, carry_between, up_after
from ..recon.framing import Framing, frame_scene
from ..recon.gaussians import Gaussians
from ..recon.se3 import Similarity
from .splats import SCENE_DEPTH, ViewFrame

__all__ = ["World", "no_cameras"]


class World:
    """Gaussians and the photos' cameras come in any order, and again. Whoever calls from several threads locks.

    Attributes:
        gaussians, cameras: with the edits `steps`, on the CPU; None before they came.
        frame: to the viewer's units; None before anything is placed. framing: how the photos see the scene; None without photos.
        up: which way is up (world frame), by an edit or by the photos; None where nobody has said.
    """

    def __init__(self) -> None:
        self._came: tuple[Gaussians | None, Cameras | None] = (None, None)
        self._rough = True  # placed without photos or without Gaussians: a guess, made again when they come
        self._stale = False  # the world has moved, and is not yet placed anew
        self.gaussians: Gaussians | None = None
        self.cameras: Cameras | None = None
        self.steps: tuple[EditStep, ...] = ()
        self.frame: ViewFrame | None = None
        self.framing: Framing | None = None
        self.up: Float[Tensor, "3"] | None = None

    @property
    def guessed(self) -> bool:
        """Whether it is to be placed anew when more of it comes."""
        return self.framing is None or self._rough

    def take(self, gaussians: Gaussians) -> None:
        self._came = (gaussians, self._came[1])
        self._apply()

    def take_cameras(self, cameras: Cameras) -> None:
        self._came = (self._came[0], cameras)
        self._apply()

    def edit(self, steps: Sequence[EditStep]) -> Similarity | None:
        """With these edits instead; returns how the world has moved, if it has: then it is to be placed anew."""
        carry = carry_between(self.steps, steps)
        self.steps = tuple(steps)
        self._apply()
        if carry is not None:
            self._stale = True  # until then the old frame is what the page is in
        return carry

    def place(self) -> bool:
        """Decides frame, framing and up. Returns whether whoever looks stands at another place by it."""
        if self.cameras is None or len(self.cameras) == 0:
            self._place_without_photos()
            return False
        g = self.gaussians
        self.framing = frame_scene(self.cameras, None if g is None else g.means, None if g is None else g.opacities, up_after(self.steps))
        moved = self.frame is None or self._rough or self._stale
        if moved:
            self.frame = ViewFrame(SCENE_DEPTH / self.framing.depth, tuple(self.framing.focus.tolist()))
        self._rough, self._stale, self.up = g is None, False, self.framing.up
        return moved

    def _place_without_photos(self) -> None:
        g = self.gaussians
        placed = None if g is None else g.means[torch.isfinite(g.means).all(-1)]
        if g is None or placed is None or not len(placed):
            return
        center = placed.median(0).values
        extent = float((g.means - center).norm(dim=-1).nan_to_num(posinf=0).median()) or 1.0
        self._rough, self._stale, self.up = True, False, up_after(self.steps)
        self.frame = ViewFrame(SCENE_DEPTH / (3 * extent), tuple(center.tolist()))

    def _apply(self) -> None:
        gaussians, cameras = self._came
        left, moved = apply_edits(_no_gaussians() if gaussians is None else gaussians, no_cameras() if cameras is None else cameras, self.steps)
        self.gaussians = None if gaussians is None else left
        self.cameras = None if cameras is None else moved


def _no_gaussians() -> Gaussians:
    return Gaussians(torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 1, 3))


def no_cameras() -> Cameras:
    return Cameras(torch.zeros(0, 4, 4), torch.zeros(0, 3, 3), 1, 1)
