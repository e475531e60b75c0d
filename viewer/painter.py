"""Pictures drawn by Handful's own rasterizer for browsers that ask: a coarse one at once, the full one when the camera rests. No viser here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.colormap import colorize_depth, colorize_normal
from ..recon.gaussians import Gaussians
from ..recon.raster.protocol import Rasterizer, RasterOptions
from ..recon.se3 import matrix_from_quat
from .splats import ViewFrame

__all__ = ["LAYERS", "Painter", "Wish", "draw_layer", "window_camera"]

LAYERS = ("color", "depth", "normal", "opacity")
COARSE = 4  # times smaller along each side
REST = 0.15  # seconds without a new wish after which the full picture is drawn
SOLID = 0.3  # from this opacity on depth and normals are shown in full
MAX_PIXELS = 2_200_000  # of a full picture; a larger window gets it enlarged
_log = logging.getLogger(__name__)

Send = Callable[[UInt8[np.ndarray, "h w 3"], bool], None]


def window_camera(
    wxyz: Float[np.ndarray, "4"], position: Float[np.ndarray, "3"], fov: float, width: int, height: int, frame: ViewFrame
) -> Cameras:
    """The camera (world frame, float64) of a browser's window: viewer units, OpenCV axes, vertical field of view in radians."""
    R = matrix_from_quat(torch.as_tensor(np.asarray(wxyz), dtype=torch.float64))
    center = frame.undo(torch.as_tensor(np.asarray(position), dtype=torch.float64)[None])[0]
    T = torch.eye(4, dtype=torch.float64)
    T[:3, :3], T[:3, 3] = R.T, -(R.T @ center)
    focal = height / 2 / float(np.tan(fov / 2))
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(T[None], K[None], width, height)


@torch.no_grad()
def draw_layer(
    gaussians: Gaussians, camera: Cameras, layer: str, rasterizer: Rasterizer, background: tuple[float, float, float]
) -> Float[Tensor, "H W 3"]:
    """One layer as a picture in [0, 1], on the CPU."""
    options = RasterOptions(background=background, normal=layer == "normal", camera_grads=False)
    out = rasterizer.render(gaussians, camera.to(gaussians.device, torch.float32), options)
    alpha = out.alpha[0].cpu()
    there = (alpha / SOLID).clamp(max=1)  # what is half clear, since the background has its colour, too, has a depth all the same
    if layer == "depth":
        return colorize_depth(out.depth[0].cpu(), None, there)
    if layer == "normal":
        assert out.normal is not None, "asked for above"
        return colorize_normal(out.normal[0].cpu(), there)
    if layer == "opacity":
        return alpha[..., None].expand(-1, -1, 3).clamp(0, 1)
    return out.color[0].cpu().nan_to_num(0.0).clamp(0, 1)


@dataclass(frozen=True)
class Wish:
    """What one browser wants to see. `send` gets the picture and whether it is the full one."""

    gaussians: Gaussians
    camera: Cameras
    layer: str
    background: tuple[float, float, float]
    send: Send
    made: float = field(default_factory=time.monotonic)


class Painter:
    """One thread for all browsers. A browser's newest wish replaces its older ones; everybody's coarse picture comes before anybody's full one."""

    def __init__(self, rasterizer: Callable[[], Rasterizer]) -> None:
        self._rasterizer = rasterizer
        self._condition = threading.Condition()
        self._wishes: dict[int, tuple[Wish, bool]] = {}  # with whether the coarse picture is out
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="handful-painter", daemon=True)
        self._thread.start()

    def wish(self, who: int, wish: Wish) -> None:
        with self._condition:
            self._wishes[who] = (wish, False)
            self._condition.notify_all()

    def forget(self, who: int) -> None:
        with self._condition:
            self._wishes.pop(who, None)

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._wishes.clear()
            self._condition.notify_all()
        self._thread.join(timeout=5)

    def _next(self) -> tuple[int, Wish, bool] | None:
        """Waits for what is to be drawn now; None at the end."""
        with self._condition:
            while not self._closed:
                coarse = next(((who, wish) for who, (wish, begun) in self._wishes.items() if not begun), None)
                if coarse is not None:
                    self._wishes[coarse[0]] = (coarse[1], True)
                    return *coarse, False
                now = time.monotonic()
                rested = next(((who, wish) for who, (wish, _) in self._wishes.items() if now - wish.made >= REST), None)
                if rested is not None:
                    del self._wishes[rested[0]]
                    return *rested, True
                self._condition.wait(min((REST - (now - wish.made) for wish, _ in self._wishes.values()), default=None))
        return None

    def _loop(self) -> None:
        while (task := self._next()) is not None:
            who, wish, full = task
            try:
                wish.send(self._draw(wish, full), full)
            except Exception:  # a browser that has gone, or a scene without memory for it: the others go on
                _log.exception("the viewer could not draw for browser %s", who)

    def _draw(self, wish: Wish, full: bool) -> UInt8[np.ndarray, "h w 3"]:
        w, h = wish.camera.width, wish.camera.height
        shrink = max(1.0, (w * h / MAX_PIXELS) ** 0.5) * (1 if full else COARSE)
        camera = wish.camera.resized(max(2, round(w / shrink)), max(2, round(h / shrink)))
        picture = draw_layer(wish.gaussians, camera, wish.layer, self._rasterizer(), wish.background)
        return (picture * 255).round().to(torch.uint8).numpy()
