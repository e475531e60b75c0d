"""Every setting of the NeRF methods."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ...recon.errors import ConfigError
from ..init.config import InitConfig
from ..methods import method_config
from ..methods.config import SplatConfig

__all__ = ["FieldConfig", "FieldOptimConfig", "FieldTermsConfig", "GridConfig", "SamplingConfig", "check_field_settings", "first_splats"]


@dataclass(frozen=True)
class GridConfig:
    """What the field is made of (recon/field/).

    Attributes:
        kind: "vm" learns planes and lines as they are; "vm-prior" lets a convolutional network make them from fixed noise (ZeroRF); "cp" is lines alone (TensoRF);
            "hash" is grids of many resolutions that share a table (Instant NGP); "frequency" is sines and cosines (NeRF); "trivec" is small tensors of three lines
            on a first surface, at several scales (Strivec).
        side: grid points along an edge of the cube: of "hash" at the last level, of "trivec" as closely as they lie on its lines; none of "frequency".
        channels: of each plane and line, in multiples of 16.
        hidden: units of the network that reads the grid, a multiple of 16; degree: of its colour's spherical harmonics.
        widths: channels of the generating network at 1/8, 1/4, 1/2 and full resolution, multiples of 8.
        density: everywhere at the start, per edge of the cube.
        levels, entries, per_level, coarsest: of "hash": its grids, entries of each one's table at most, features of each, and grid points along an edge of the first.
        frequencies: of "frequency".
        boxes, tensors, nearest: of "trivec": edges of the boxes of each scale, as shares of the cube's; tensors of each scale at most; and those a place asks at most.
        spacing: of their centers, as a share of the box. surface: where they lie: on the measured depth ("depth"), on what a first look finds ("look"), or on both.
    """

    kind: Literal["vm", "vm-prior", "cp", "hash", "frequency", "trivec"] = "vm"
    side: int = 160
    channels: int = 16
    hidden: int = 64
    degree: int = 1
    widths: tuple[int, ...] = (64, 64, 32, 16)
    density: float = 1.0
    levels: int = 16
    entries: int = 2**17
    per_level: int = 2
    coarsest: int = 16
    frequencies: int = 10
    boxes: tuple[float, ...] = (0.4, 0.2)
    tensors: int = 10000
    nearest: int = 4
    spacing: float = 0.5
    surface: Literal["depth", "look", "both"] = "both"


@dataclass(frozen=True)
class SamplingConfig:
    """Where rays are looked at.

    Attributes:
        space: "box" around what all photos look at, "frustum" of photos that look one way, all of the world around what they look at ("contracted"), or what the
            cameras suggest ("auto").
        first_look: steps of a quick field without a prior, after which a box is drawn tight around what was found (0 = left as it is).
        steps: samples to an edge of the cube (64 in the first steps, while all is fog). None = 256 in a box, 128 elsewhere.
        occupancy: what tells which cells hold something: "grid" looks at the field's density in them (Instant NGP); "learned" is a small classifier that learns with
            the field (LeC2O-NeRF; recon/field/learned_occupancy.py).
        cells: that are told apart, along an edge; warm_up: steps before any is passed over.
        threshold: of "grid": density below which a cell is passed over.
        hull: leaves out cells that no object can be in whose outlines the photos show (recon/field/hull.py).
        occupied: of "learned": share of the cube towards which that of the places called occupied is drawn.
    """

    space: Literal["auto", "box", "frustum", "contracted"] = "auto"
    first_look: int = 200
    steps: int | None = None
    occupancy: Literal["grid", "learned"] = "grid"
    cells: int = 96
    threshold: float = 1.0
    warm_up: int = 100
    occupied: float = 0.1
    hull: bool = False


@dataclass(frozen=True)
class FieldOptimConfig:
    """Optimiser and schedule.

    Attributes:
        steps: optimisation steps; rays: pixels in each, from all photos.
        lr_grid: learning rate of planes, lines and tables; lr_prior: of the network that makes them; lr_decoder: of the one that reads them.
        prior: how that network's layers learn: "adam", or "muon", whose steps are as large in all directions (recon/muon.py), at the rate lr_muon in place of lr_prior
            (which then is that of its norms and biases, and of the layers' decay).
        lr_final: all fall exponentially to this share.
        weight_decay: pull of all that is learned towards 0, a step, relative to its learning rate by Adam (Loshchilov and Hutter 2019, AdamW).
        fine_from: share of the run over which a VM grid grows from an eighth of its resolution to the whole, or frequencies open one after the other (0 = whole from the
            start); of no meaning to other kinds.
    """

    steps: int = 2000
    rays: int = 4096
    lr_grid: float = 2e-2
    lr_prior: float = 2e-3
    prior: Literal["adam", "muon"] = "muon"
    lr_muon: float = 6e-3
    lr_decoder: float = 2e-3
    lr_final: float = 0.1
    weight_decay: float = 0.0
    fine_from: float = 0.0


@dataclass(frozen=True)
class FieldTermsConfig:
    """Weights of the loss terms (0 = left out). See pipelines/nerf/terms/.

    Attributes:
        distortion: what a ray sees should lie in one place.
        rank: of two nearby pixels, the one nearer in the guide should be nearer; continuity: neighbours on one surface there stay so.
        smooth_patches: depth of small patches seen from between the photos.
        occlusion: nothing in the first occlusion_reach of each ray's way through a frustum.
        pictures: those of splats, where it starts from some, should look as they do; falls over the run to the share pictures_final of itself.
    """

    distortion: float = 0.0
    rank: float = 0.0
    continuity: float = 0.0
    smooth_patches: float = 0.0
    occlusion: float = 0.0
    occlusion_reach: float = 0.15
    pictures: float = 0.2
    pictures_final: float = 0.1


@dataclass(frozen=True)
class FieldConfig:
    """A NeRF method: cameras, field, sampling, optimiser, loss terms.

    Attributes:
        background: behind everything, for captures that are not objects on white: the mean colour of what is far ("far"), or black.
        depth_prior, guide_prior, scan, moving, init: as in SplatConfig; but depth, that of scans too, tells only where the field lies, ranks pixels, and places local
            tensors: no term holds a field to it.
        splats: method whose splats are made of the same photos first; the field then learns from pictures of them, too, and takes over their cameras and depth
            (pipelines/nerf/from_splats.py). None = from the photos alone.
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
    splats: str | None = None
    init: InitConfig = field(default_factory=InitConfig)

    @property
    def wants_flow(self) -> bool:
        return False

    @property
    def flow_prior(self) -> str:
        return "dis"

    def wants_depth(self, alone: bool) -> bool:
        """A box around an object is laid by the cameras; only what ranks pixels or lays tensors on surfaces asks for depth there."""
        box = self.sampling.space == "box" or (self.sampling.space == "auto" and alone)
        return not box or self.terms.rank > 0 or self.terms.continuity > 0 or (self.grid.kind == "trivec" and self.grid.surface != "look")


def first_splats(config: FieldConfig) -> SplatConfig | None:
    """Settings of the splats that are made first; None where a field learns from the photos alone. What the field makes nothing of, they do not see either."""
    if config.splats is None:
        return None
    first = method_config(config.splats)
    return replace(first, scan=first.scan and config.scan, moving=first.moving and config.moving)


def check_field_settings(config: FieldConfig) -> None:
    """Raises ConfigError, one sentence, for settings that no run can have."""
    grid, sampling, optim = config.grid, config.sampling, config.optim
    ranges = {
        "grid.side": (grid.side, 16, 1024), "grid.channels": (grid.channels, 16, 128), "grid.hidden": (grid.hidden, 16, 512), "grid.degree": (grid.degree, 0, 3),
        "grid.density": (grid.density, 1e-6, 1e6), "grid.levels": (grid.levels, 1, 32), "grid.entries": (grid.entries, 16, 2**24), "grid.per_level": (grid.per_level, 1, 16),
        "grid.coarsest": (grid.coarsest, 2, 1024), "grid.frequencies": (grid.frequencies, 1, 16), "grid.tensors": (grid.tensors, 1, 10**6), "grid.nearest": (grid.nearest, 1, 64), "grid.spacing": (grid.spacing, 0.1, 1),
        "sampling.steps": (sampling.steps, 8, 8192), "sampling.first_look": (sampling.first_look, 0, 10**6), "sampling.cells": (sampling.cells, 4, 512),
        "sampling.threshold": (sampling.threshold, 0, 1e6), "sampling.warm_up": (sampling.warm_up, 0, 10**9), "sampling.occupied": (sampling.occupied, 1e-3, 0.9),
        "optim.steps": (optim.steps, 1, 10**9),
        "optim.rays": (optim.rays, 1, 10**7), "optim.lr_final": (optim.lr_final, 1e-6, 1), "optim.weight_decay": (optim.weight_decay, 0, 10), "optim.fine_from": (optim.fine_from, 0, 1),
        "terms.occlusion_reach": (config.terms.occlusion_reach, 1e-3, 1), "terms.pictures_final": (config.terms.pictures_final, 1e-6, 1),
    }  # fmt: skip
    ranges |= {f"optim.{n}": (getattr(optim, n), 1e-9, 10) for n in ("lr_grid", "lr_prior", "lr_muon", "lr_decoder")}
    ranges |= {f"terms.{n}": (getattr(config.terms, n), 0, 1e6) for n in ("distortion", "rank", "continuity", "smooth_patches", "occlusion", "pictures")}
    for name, (value, least, most) in ranges.items():
        if value is not None and not least <= value <= most:
            raise ConfigError(f"{name} must be from {least:g} to {most:g}, got {value:g}.")
    for name, value, unit in (("grid.channels", grid.channels, 16), ("grid.hidden", grid.hidden, 16)):
        if value % unit:
            raise ConfigError(f"{name} must be a multiple of {unit}, got {value}.")
    if grid.kind == "vm-prior" and (grid.side % 8 or len(grid.widths) != 4 or any(w < 8 or w % 8 for w in grid.widths)):
        raise ConfigError(f"With grid.kind=vm-prior, grid.side must be a multiple of 8 and grid.widths four multiples of 8, got {grid.side} and {grid.widths}.")
    if grid.kind == "hash" and grid.coarsest > grid.side:
        raise ConfigError(f"grid.coarsest must not be more than grid.side, got {grid.coarsest} and {grid.side}.")
    if not grid.boxes or not all(0.01 <= size <= 1 for size in grid.boxes):
        raise ConfigError(f"grid.boxes must be sizes from 0.01 to 1, got {grid.boxes}.")
    if not config.init.matchers:
        raise ConfigError("init.matchers names no match prior; without matches nothing is known of where things are.")
    if config.splats is not None:
        method_config(config.splats)
