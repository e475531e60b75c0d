"""Pictures drawn by Handful for browsers that ask: a coarse one at once, finer ones when the camera rests. No viser here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8

from ..recon.camera import Cameras
from ..recon.se3 import matrix_from_quat
from .layers import Drawing, Picture
from .splats import ViewFrame

__all__ = ["Painter", "Wish", "window_camera"]

REST = 0.15  # seconds without a new wish after which finer pictures are drawn
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


@dataclass(frozen=True)
class Wish:
    """What one browser wants to see. `send` gets each picture and whether it is the last; `coarse`: the first one at once, whoever else waits."""

    drawing: Drawing
    camera: Cameras
    layer: str
    background: tuple[float, float, float]
    send: Send
    coarse: bool = True
    made: float = field(default_factory=time.monotonic)

    def sizes(self) -> tuple[tuple[int, int], ...]:
        w, h = self.camera.width, self.camera.height
        shrink = max(1.0, (w * h / MAX_PIXELS) ** 0.5)
        sizes = self.drawing.sizes(max(2, round(w / shrink)), max(2, round(h / shrink)))
        return sizes if self.coarse else sizes[-1:]


@dataclass(eq=False)
class _Turn:
    """Where a browser's wish has come to: pictures to come, the one that is being drawn, and what the browser wants after the last."""

    wish: Wish
    sizes: list[tuple[int, int]]
    urgent: bool  # the next picture is a first one
    drawn: Iterator[Picture | None] | None = None
    after: Wish | None = None

    @classmethod
    def of(cls, wish: Wish) -> _Turn:
        return cls(wish, list(wish.sizes()), wish.coarse)


class Painter:
    """One thread for all browsers. A browser's newest wish replaces its older ones, and what is being drawn for them is given up but for their first picture.

    First pictures come before anybody's finer ones, which are drawn in turn, a piece of each. Of browsers that never rest each gets one first picture
    before the others get their next piece.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._turns: dict[int, _Turn] = {}  # whoever was served goes to the end
        self._served: set[int] = set()  # with a first picture, since the last finer piece
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="handful-painter", daemon=True)
        self._thread.start()

    def wish(self, who: int, wish: Wish) -> None:
        """Draws this from now on."""
        with self._condition:
            self._turns[who] = _Turn.of(wish)
            self._condition.notify_all()

    def then(self, who: int, wish: Wish) -> None:
        """Draws this when all that the browser waits for is drawn: the same view of a scene that goes on changing, however slow its pictures are."""
        with self._condition:
            if who in self._turns:
                self._turns[who].after = wish
            else:
                self._turns[who] = _Turn.of(wish)
                self._condition.notify_all()

    def forget(self, who: int) -> None:
        with self._condition:
            self._turns.pop(who, None)

    @property
    def waiting(self) -> set[int]:
        """Browsers with pictures to come."""
        with self._condition:
            return set(self._turns)

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._turns.clear()
            self._condition.notify_all()
        self._thread.join(timeout=5)

    def _next(self) -> tuple[int, _Turn] | None:
        """Waits for what is to be drawn now; None at the end."""
        with self._condition:
            while not self._closed:
                now = time.monotonic()
                first = [who for who, turn in self._turns.items() if turn.urgent]
                finer = [who for who, turn in self._turns.items() if not turn.urgent and now - turn.wish.made >= REST]
                fair = [who for who in first if not finer or who not in self._served]
                if who := (fair or finer)[:1]:
                    turn = self._turns[who[0]] = self._turns.pop(who[0])
                    self._served = {*self._served, *who} if turn.urgent else set()
                    return who[0], turn
                self._condition.wait(min((REST - (now - turn.wish.made) for turn in self._turns.values()), default=None))
        return None

    def _loop(self) -> None:
        while (task := self._next()) is not None:
            who, turn = task
            try:
                self._draw(who, turn)
            except Exception:  # a browser that has gone, or a scene without memory for it: the others go on
                _log.exception("the viewer could not draw for browser %s", who)
                self._end(who, turn)

    def _draw(self, who: int, turn: _Turn) -> None:
        """A piece of the turn's next picture; all of it where it is a first one."""
        wish, urgent = turn.wish, turn.urgent
        if turn.drawn is None:
            turn.drawn = wish.drawing.draw(wish.camera.resized(*turn.sizes[0]), wish.layer, wish.background)
        picture = next(turn.drawn)
        while picture is None and urgent and not self._closed:
            picture = next(turn.drawn)
        if picture is None:
            return
        turn.drawn, turn.urgent = None, False
        del turn.sizes[0]
        if urgent or self._wanted(who, turn):
            wish.send((picture * 255).round().to(torch.uint8).numpy(), not turn.sizes)
        if not turn.sizes:
            self._end(who, turn)

    def _wanted(self, who: int, turn: _Turn) -> bool:
        with self._condition:
            return self._turns.get(who) is turn

    def _end(self, who: int, turn: _Turn) -> None:
        with self._condition:
            if self._turns.get(who) is turn:
                del self._turns[who]
                if turn.after is not None:
                    self._turns[who] = _Turn.of(turn.after)
