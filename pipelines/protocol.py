"""What a reconstruction method is. The caller drives: a run is an iterator of events that can be looked at and saved at any moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..recon.capture import Capture
from ..recon.depth import DepthMap
from ..recon.matches import FlowField
from ..recon.scene import Scene, SplatScene
from .events import Event
from .init.protocol import InitState

__all__ = ["Method", "Run", "Start"]


@dataclass(frozen=True)
class Start:
    """Everything a method starts from. `depth` is aligned with `init.capture.views`, and so is `guide`, where the method asks for a second depth (possibly up to
    scale and shift). `scan` holds the z-depth of a range sensor's returns in each photo, 0 = none; `moving` is where
    a photo shows what moved between the scans, which `init.capture` leaves out already. `flow` holds the displacement from photo i to photo j, by (i, j), where the method asks for it.

    `pictures` are no photos but renders of splats of the same place, which a field may start from; their masks say how far each pixel counts.

    `notes` are sentences for the user. `estimated_cameras` says that the cameras were found from the photos, so that a method may refine them.
    """

    init: InitState
    depth: tuple[DepthMap, ...]
    estimated_cameras: bool = False
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    guide: tuple[DepthMap, ...] = ()
    flow: Mapping[tuple[int, int], FlowField] = field(default_factory=dict)
    scan: Float[Tensor, "V H W"] | None = None
    moving: Bool[Tensor, "V H W"] | None = None
    notes: tuple[str, ...] = ()
    pictures: Capture | None = None


class Run(Protocol):
    def events(self) -> Iterator[Event]:
        """Works while iterated; ends with Finished. Dropping the iterator stops the work between two steps."""
        ...

    def snapshot(self) -> Scene:
        """The scene as it is now: a copy, safe to render from another thread."""
        ...

    def shown(self) -> SplatScene:
        """The same as splats, for viewers."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values from which `restore` continues exactly."""
        ...

    def restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None: ...

    def stop(self) -> None:
        """Asks the iterator to finish after the step in progress (from a signal handler or another thread)."""
        ...


class Method(Protocol):
    def start(self, start: Start, *, max_seconds: float | None = None) -> Run: ...
