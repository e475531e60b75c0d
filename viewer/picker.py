"""Points of the scene that a visitor clicks. No viser import here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.framing import look_at
from ..recon.gaussians import Gaussians
from ..recon.raster.protocol import Rasterizer, RasterOptions
from .page import Page
from .splats import SCENE_DEPTH

__all__ = ["Picker", "hit"]

PIXELS, ANGLE = 9, 0.002  # a click looks at so many pixels, each so many radians wide
MARK = (255, 60, 120)


@torch.no_grad()
def hit(
    gaussians: Gaussians, origin: Float[Tensor, "3"], direction: Float[Tensor, "3"], rasterizer: Rasterizer
) -> Float[Tensor, "3"] | None:
    """Where a ray meets the surface that is drawn there, world frame (float64): the median depth around it; None where there is nothing."""
    origin, direction = origin.double(), torch.nn.functional.normalize(direction.double(), dim=0)
    up = torch.eye(3, dtype=torch.float64)[int(direction.abs().argmin())]
    focal = 1 / ANGLE
    K = torch.tensor([[focal, 0, PIXELS / 2], [0, focal, PIXELS / 2], [0, 0, 1]], dtype=torch.float64)
    camera = Cameras(look_at(origin[None], (origin + direction)[None], up), K[None], PIXELS, PIXELS)
    out = rasterizer.render(gaussians, camera.to(gaussians.device, torch.float32), RasterOptions(camera_grads=False))
    depths = out.depth[0][out.alpha[0] > 0.5]
    return None if len(depths) == 0 else origin + direction * float(depths.median())


class Picker:
    """Collects clicks of one browser, marks them, and hands them on when there are enough."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._marks: list[Any] = []
        self._end: Callable[[], None] | None = None
        self._who: Any = None  # the browser that is asked
        self._asked = 0

    @property
    def active(self) -> bool:
        return self._end is not None

    def ask(self, client: Any, count: int, prompt: str, then: Callable[[Float[Tensor, "n 3"]], None]) -> None:
        """`then` gets `count` clicked points (world frame). Asking again forgets what was asked before."""
        if self.active and self._who is not client:
            self._page.tell(self._who, "Another browser asks for points", "Your clicks are not waited for any more.")
        self.cancel()
        points: list[Tensor] = []
        self._who = client
        asked = self._asked
        self._page.tell(client, prompt, f"Click {count} points in the scene.")

        def clicked(event: Any) -> None:
            self._page.in_background(lambda: self._clicked(asked, event, points, count, then), client)

        client.scene.on_click()(clicked)
        self._end = lambda: client.scene.remove_click_callback(clicked)

    def cancel(self) -> None:
        self._asked += 1  # clicks that are still on their way belong to what was asked before
        if self._end is not None:
            self._end()
            self._end = None
        for mark in self._marks:
            mark.remove()
        self._marks.clear()

    def _clicked(self, asked: int, event: Any, points: list[Tensor], count: int, then: Callable[[Tensor], None]) -> None:
        shown, frame = self._page.shown(), self._page.frame
        if shown is None or asked != self._asked:
            return
        origin = frame.undo(torch.tensor(event.ray_origin, dtype=torch.float64)[None])[0]
        point = hit(shown[0], origin, torch.tensor(event.ray_direction, dtype=torch.float64), self._page.rasterizer())
        if point is None:
            self._page.tell(event.client, "Nothing there", "Click on something that is drawn.", bad=True)
            return
        points.append(point)
        place = np.asarray(frame.apply(point[None])[0])
        distance = float(np.linalg.norm(np.asarray(event.ray_origin) - place))
        self._marks.append(
            event.client.scene.add_icosphere(f"/picked/{len(points)}", 0.006 * max(distance, 0.02 * SCENE_DEPTH), MARK, position=place, cast_shadow=False, receive_shadow=False)
        )
        if len(points) == count:
            self.cancel()
            then(torch.stack(points))
