"""Every setting of the NeRF methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...recon.errors import ConfigError
from ..init.config import InitConfig

__all__ = ["FieldConfig", "FieldOptimConfig", "FieldTermsConfig", "GridConfig", "SamplingConfig", "check_field_settings"]


@dataclass(frozen=True)
class GridConfig:
    """What the field is made of (recon/field/).

    Attributes:
        kind: "vm" learns planes and lines as they are; "vm-prior" lets a convolutional network make them from fixed noise (ZeroRF).
        side: grid points along an edge of the cube; channels: of each plane and line; both of the kinds above, channels in multiples of 16.
        hidden: units of the network that reads the grid, a multiple of 16; degree: of its colour's spherical harmonics.
        widths: channels of the generating network at 1/8, 1/4, 1/2 and full resolution, multiples of 8.
        density: everywhere at the start, per edge of the cube.
    """

    kind: Literal["vm", "vm-prior"] = "vm"
    side: int = 160
    channels: int = 16
    hidden: int = 64
    degree: int = 1
    widths: tuple[int, ...] = (64, 64, 32, 16)
    density: float = 1.0


@dataclass(frozen=True)
class SamplingConfig:
    """Where rays are looked at.

    Attributes:
        space: "box" around what all photos look at, "frustum" of photos that look one way, or what the cameras suggest ("auto").
        first_look: steps of a quick field without a prior, after which a box is drawn tight around what was found (0 = left as it is).
        steps: samples to an edge of the cube.
        cells: of the occupancy grid, along an edge; threshold: density below which a cell is passed over; warm_up: steps before any is.
    """

    space: Literal["auto", "box", "frustum"] = "auto"
    first_look: int = 200
    steps: int = 256
    cells: int = 96
    threshold: float = 1.0
    warm_up: int = 100


@dataclass(frozen=True)
class FieldOptimConfig:
    """Optimiser and schedule.

    Attributes:
        steps: optimisation steps; rays: pixels in each, from all photos.
        lr_grid: learning rate of planes and lines; lr_prior: of the network that makes them; lr_decoder: of the one that reads them.
        lr_final: all fall exponentially to this share.
        fine_from: share of the run over which the grid grows from an eighth of its resolution to the whole (0 = whole from the start).
    """

    steps: int = 3000
    rays: int = 4096
    lr_grid: float = 2e-2
    lr_prior: float = 2e-3
    lr_decoder: float = 2e-3
    lr_final: float = 0.1
    fine_from: float = 0.0


@dataclass(frozen=True)
class FieldTermsConfig:
    """Weights of the loss terms (0 = left out). See pipelines/nerf/terms/.

    Attributes:
        distortion: what a ray sees should lie in one place.
        rank: of two nearby pixels, the one nearer in the guide should be nearer; continuity: neighbours on one surface there stay so.
        smooth_patches: depth of small patches seen from between the photos.
        occlusion: nothing in the first occlusion_reach of each ray's way through the field.
    """

    distortion: float = 0.0
    rank: float = 0.0
    continuity: float = 0.0
    smooth_patches: float = 0.0
    occlusion: float = 0.0
    occlusion_reach: float = 0.15


@dataclass(frozen=True)
class FieldConfig:
    """A NeRF method: cameras, field, sampling, optimiser, loss terms.

    Attributes:
        background: behind everything, for captures that are not objects on white: the mean colour of what is far ("far"), or black.
        depth_prior, guide_prior, scan, moving, init: as in SplatConfig.
    """

    grid: GridConfig = field(default_factory=GridConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optim: FieldOptimConfig = field(default_factory=FieldOptimConfig)
    terms: FieldTermsConfig = field(default_factory=FieldTermsConfig)
    background: Literal["far", "black"] = "far"
    depth_prior: str = "stereo"
    guide_prior: str | None = None
    scan: bool = True
    moving: bool = True
    init: InitConfig = field(default_factory=InitConfig)

    @property
    def wants_flow(self) -> bool:
        return False

    @property
    def flow_prior(self) -> str:
        return "dis"


def check_field_settings(config: FieldConfig) -> None:
    """Raises ConfigError, one sentence, for settings that no run can have."""
    grid, sampling, optim = config.grid, config.sampling, config.optim
    ranges = {
        "grid.side": (grid.side, 16, 1024), "grid.channels": (grid.channels, 16, 128), "grid.hidden": (grid.hidden, 16, 512), "grid.degree": (grid.degree, 0, 3),
        "grid.density": (grid.density, 1e-6, 1e6), "sampling.steps": (sampling.steps, 8, 8192), "sampling.first_look": (sampling.first_look, 0, 10**6), "sampling.cells": (sampling.cells, 4, 512),
        "sampling.threshold": (sampling.threshold, 0, 1e6), "sampling.warm_up": (sampling.warm_up, 0, 10**9), "optim.steps": (optim.steps, 1, 10**9),
        "optim.rays": (optim.rays, 1, 10**7), "optim.lr_final": (optim.lr_final, 1e-6, 1), "optim.fine_from": (optim.fine_from, 0, 1),
        "terms.occlusion_reach": (config.terms.occlusion_reach, 1e-3, 1),
    }  # fmt: skip
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise ConfigError(f"{name} must be from {least:g} to {most:g}, got {value:g}.")
    for name, value, unit in (("grid.channels", grid.channels, 16), ("grid.hidden", grid.hidden, 16)):
        if value % unit:
            raise ConfigError(f"{name} must be a multiple of {unit}, got {value}.")
    if grid.kind == "vm-prior" and (grid.side % 8 or any(w < 8 or w % 8 for w in grid.widths)):
        raise ConfigError(f"With grid.kind=vm-prior, grid.side must be a multiple of 8 and grid.widths four multiples of 8, got {grid.side} and {grid.widths}.")
    if not config.init.matchers:
        raise ConfigError("init.matchers names no match prior; without matches nothing is known of where things are.")
