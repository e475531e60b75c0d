"""What the panels of the page see of it, and what the page sees of whoever keeps its scene. No viser here: its objects are passed on as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.camera_path import CameraPath
from ..recon.edits import EditStep
from ..recon.gaussians import Gaussians
from ..recon.raster.protocol import Rasterizer
from .photos import Photo
from .splats import ViewFrame

__all__ = ["Keeper", "Page"]


class Keeper(Protocol):
    """Keeps what is done on the page, beside the scene. Every method may raise HandfulError with one sentence, which the page shows."""

    def save_edits(self, steps: Sequence[EditStep]) -> None: ...

    def save_path(self, path: CameraPath, steps: Sequence[EditStep]) -> str:
        """Of the world that the edits `steps` leave. Returns where, for people."""
        ...

    def load_path(self, steps: Sequence[EditStep]) -> CameraPath | None:
        """The one saved before, if any, in the world that the edits `steps` leave."""
        ...

    def formats(self, gaussians: Gaussians) -> dict[str, str]:
        """Names of the formats to export, each with what to say about it (its size)."""
        ...

    def export(self, format: str, gaussians: Gaussians) -> tuple[str, bytes]:
        """Writes the scene beside itself; returns the file's name and content, for the browser to save."""
        ...


    def png(self, picture: Float[Tensor, "H W 3"]) -> bytes: ...


class Page(Protocol):
    """The page, to its panels."""

    @property
    def gui(self) -> Any: ...

    @property
    def scene(self) -> Any:
        """What every browser shows (viser's scene)."""
        ...

    @property
    def frame(self) -> ViewFrame: ...

    @property
    def keeper(self) -> Keeper | None: ...

    @property
    def background(self) -> tuple[float, float, float]:
        """The colour behind everything, sRGB in [0, 1]."""
        ...

    @property
    def photos(self) -> list[Photo]: ...

    @property
    def up(self) -> Float[Tensor, "3"]:
        """Which way is up, world frame; z where nobody has said."""
        ...

    def browsers(self) -> dict[int, Any]:
        """Those that have the page open, by number."""
        ...

    def resend(self) -> None:
        """Sends the splats again, soon."""
        ...

    def preview(self, change: Callable[[Gaussians], Gaussians] | None) -> None:
        """The browsers show what `change` makes of the scene, until None."""
        ...

    def show_splats(self, visible: bool) -> None: ...

    def refresh_splats(self) -> None:
        """Shows or hides them as the panels want it together."""
        ...

    def scene_at_once(self) -> AbstractContextManager[Any]:
        """What is changed within reaches the browsers together."""
        ...

    def shown(self) -> tuple[Gaussians, Cameras] | None:
        """The scene with its edits, in its world, and the photos' cameras; None while there is none."""
        ...

    def rasterizer(self) -> Rasterizer: ...

    def closing(self) -> bool:
        """Whether long work should end: nobody will see it."""
        ...

    def camera_of(self, client: Any) -> Cameras | None:
        """Where a browser stands, world frame; None before it has said so."""
        ...

    def move(self, client: Any, camera: Cameras) -> None:
        """Puts a browser's camera there."""
        ...

    def edit(self, steps: Sequence[EditStep]) -> None:
        """Replaces the list of edits."""
        ...

    def steps(self) -> tuple[EditStep, ...]: ...

    def in_background(self, job: Callable[[], None], client: Any = None) -> None:
        """Runs it in turn on the page's thread; a HandfulError is told to that browser."""
        ...

    def tell(self, client: Any, title: str, text: str, bad: bool = False) -> None:
        """A short notice in one browser, or in all (client None)."""
        ...
