"""Scans of a range sensor that travel: what was measured, and where each point was seen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import ShapeError
from .points import PointCloud
from .se3 import Similarity

__all__ = ["Sweep", "evenly", "world_returns"]


@dataclass(frozen=True)
class Sweep:
    """One scan (a turn of a spinning scanner, a survey station, a depth picture, a whole walk): N returns.

    Attributes:
        xyz: returns in the sensor's frame at the scan's own time, world units (metres for every known sensor).
        world_from_sensor: rigid transform of that frame.
        name: stable, as a file's name inside its capture.
        origins: where each return was seen from, sensor frame; None = all from the sensor's origin.
        rgb: sRGB in [0, 1]. intensity: as the sensor gave it. confidence: [0, 1]; None = all alike.
        ring: number of the beam of a spinning scanner, 0 = the lowest; None where the scan has none or nobody wrote it down.
        seconds: when each return was measured, from the scan's time on.
        empty: unit directions, sensor frame, into which nothing came back (sky, glass, out of reach), where the sensor tells.
        origin_known: False for a cloud merged from places that nobody wrote down: then neither the sensor's origin nor `origins` says
            where a return was seen from, and what lies in front of it is not known to be free.
        moment: what the names of the photos taken at its time have as their stem, where that is not the stem of its own name; None = it is.
    """

    xyz: Float[Tensor, "N 3"]
    world_from_sensor: Float[Tensor, "4 4"]
    name: str = "scan"
    origins: Float[Tensor, "N 3"] | None = None
    rgb: Float[Tensor, "N 3"] | None = None
    intensity: Float[Tensor, "N"] | None = None
    confidence: Float[Tensor, "N"] | None = None
    ring: Int[Tensor, "N"] | None = None
    seconds: Float[Tensor, "N"] | None = None
    empty: Float[Tensor, "D 3"] | None = None
    origin_known: bool = True
    moment: str | None = None

    def __len__(self) -> int:
        return self.xyz.shape[0]

    @property
    def world_xyz(self) -> Float[Tensor, "N 3"]:
        return self.to_world(self.xyz)

    @property
    def world_origins(self) -> Float[Tensor, "N 3"]:
        """Where each return was seen from, world frame."""
        return self.to_world(self.origins) if self.origins is not None else self.world_from_sensor[:3, 3].expand_as(self.xyz)

    @property
    def unplaced(self) -> bool:
        """Whether its pose is the identity: it stands in its own sensor's frame, or was written in the world's."""
        return torch.equal(self.world_from_sensor.cpu(), torch.eye(4, dtype=self.world_from_sensor.dtype))

    def to_world(self, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M 3"]:
        return points @ self.world_from_sensor[:3, :3].T + self.world_from_sensor[:3, 3]

    def exact(self) -> Sweep:
        """The same on the CPU with positions in float64: map coordinates (5 million metres) have half a metre in float32."""
        local = {n: None if (t := getattr(self, n)) is None else t.detach().cpu().double() for n in ("xyz", "origins", "world_from_sensor")}
        return replace(self, **local)

    def cloud(self) -> PointCloud:
        """The returns as world points."""
        return PointCloud(self.world_xyz, self.rgb, self.confidence, self.intensity)

    def kept(self, which: Bool[Tensor, "N"] | Int[Tensor, "M"]) -> Sweep:
        """Only the returns that `which` picks."""
        rest = {n: None if (t := getattr(self, n)) is None else t[which] for n in ("origins", "rgb", "intensity", "confidence", "ring", "seconds")}
        return replace(self, xyz=self.xyz[which], **rest)

    def moved(self, world_from_world: Float[Tensor, "4 4"]) -> Sweep:
        """The same scan in another world, rigidly moved."""
        return replace(self, world_from_sensor=world_from_world.to(self.world_from_sensor) @ self.world_from_sensor)

    def carried(self, world_from_world: Similarity) -> Sweep:
        """The same scan in another world of another scale: the sensor's frame grows along, so that its transform stays rigid."""
        s = world_from_world.scale.to(self.xyz)
        pose = self.world_from_sensor.clone()
        pose[:3, :3] = world_from_world.R.to(pose) @ pose[:3, :3]
        pose[:3, 3] = world_from_world.apply(self.world_from_sensor[:3, 3].to(world_from_world.t)).to(pose)
        return replace(self, xyz=self.xyz * s, origins=None if self.origins is None else self.origins * s, world_from_sensor=pose)

    def validate(self) -> Sweep:
        """Raises ShapeError unless shapes fit and positions are finite."""
        n = len(self)
        for name in ("origins", "rgb", "intensity", "confidence", "ring", "seconds"):
            t = getattr(self, name)
            if t is not None and len(t) != n:
                raise ShapeError(f"The scan {self.name} has {n} returns but {len(t)} of {name}.")
        if not bool(torch.isfinite(self.xyz).all()) or not bool(torch.isfinite(self.world_from_sensor).all()):
            raise ShapeError(f"The scan {self.name} holds a position that is not finite; drop such returns when reading.")
        return self


def evenly(sweeps: Sequence[Sweep], most: int) -> tuple[Sweep, ...]:
    """About `most` returns of all scans together: the same share of each, and at least one; scans without returns are left out."""
    step = max(1, -(-sum(len(s) for s in sweeps) // most))
    return tuple(s if step == 1 else s.kept(torch.arange(0, len(s), step)) for s in sweeps if len(s))


def world_returns(sweeps: Sequence[Sweep], most: int | None = None) -> Float[Tensor, "N 3"]:
    """The returns of all scans, world frame, float64; of more than `most` an even part."""
    some = sweeps if most is None else evenly(sweeps, most)
    return torch.cat([s.exact().world_xyz for s in some]) if some else torch.zeros(0, 3, dtype=torch.float64)
