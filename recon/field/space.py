"""Which part of the world a field covers, and how it is laid into the unit cube: a box around an object, the frustum in front of photos that look one way, or all of it
(contracted.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..camera import Cameras
from ..errors import ShapeError
from .contracted import ContractedSpace
from .samples import Segments

__all__ = ["BoxSpace", "FrustumSpace", "Space", "space_from_tensors", "space_to_tensors"]

_TINY = 1e-12


class Space(Protocol):
    """Straight lines of the world stay straight in the cube, or straight pieces stand for them there."""

    def segments(self, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], forward: Float[Tensor, "R 3"]) -> Segments:
        """The part of each ray in the cube. `directions`: unit vectors; `forward`: the viewing axis of each ray's camera, along which depth is measured."""
        ...

    def to_cube(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """World to cube; what lies outside [0, 1] is not covered."""
        ...

    def to_world(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]: ...

    def to(self, device: torch.device | str) -> Space: ...


@dataclass(frozen=True)
class BoxSpace:
    """A cube of the world: `center`, and the length of its edges, world units. Density is per edge."""

    center: Float[Tensor, "3"]
    size: float

    def to_cube(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        return (xyz - self.center) / self.size + 0.5

    def to_world(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        return (xyz - 0.5) * self.size + self.center

    def segments(self, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], forward: Float[Tensor, "R 3"]) -> Segments:
        o, d = self.to_cube(origins), directions / self.size
        near, far = _slab(o, d)
        near = near.clamp_min(0)  # nothing behind the camera
        hit = far > near
        near, far = near * hit, torch.where(hit, far, near)
        span = d * (far - near)[:, None]
        length, ends = torch.linalg.vector_norm(span, dim=1) * hit, torch.stack([near, far], 1)
        return Segments(o + d * near[:, None], span, length, directions, ends, torch.zeros_like(near), (directions * forward).sum(1))

    def to(self, device: torch.device | str) -> BoxSpace:
        return BoxSpace(self.center.to(device), self.size)


@dataclass(frozen=True)
class FrustumSpace:
    """The frustum of a camera, from `near` to infinity, as a cube: x and y are pixels over the image (from -margin to 1 + margin), z is 1 - near / depth (the
    normalised device coordinates of Mildenhall et al. 2020, appendix C, for any pinhole). Density is per unit of z: half of the cube lies before twice the near
    plane.

    Attributes:
        camera: one, which the photos look about the same way as.
        near: world units; margin: beyond the image's borders, as a share of its sides.
    """

    camera: Cameras
    near: float
    margin: float = 0.25

    def _to_homogeneous(self, xyz: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N"]]:
        """Cube x and y times depth, and depth."""
        T, K = self.camera.cam_from_world[0], self.camera.K[0]
        cam = xyz @ T[:3, :3].T + T[:3, 3]
        z = cam[:, 2]
        size = cam.new_tensor([self.camera.width, self.camera.height])
        uv = torch.stack([K[0, 0] * cam[:, 0], K[1, 1] * cam[:, 1]], 1) + K[:2, 2] * z[:, None]
        return (uv / size + self.margin * z[:, None]) / (1 + 2 * self.margin), z

    def to_cube(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        xy, z = self._to_homogeneous(xyz)
        inside = z > _TINY
        safe = torch.where(inside, z, torch.ones_like(z))
        cube = torch.cat([xy / safe[:, None], 1 - self.near / safe[:, None]], 1)
        return torch.where(inside[:, None], cube, torch.full_like(cube, -1.0))

    def to_world(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        T, K = self.camera.cam_from_world[0], self.camera.K[0]
        z = self.near / (1 - xyz[:, 2]).clamp_min(1e-6)
        size = xyz.new_tensor([self.camera.width, self.camera.height])
        uv = (xyz[:, :2] * (1 + 2 * self.margin) - self.margin) * size
        cam = torch.cat([(uv - K[:2, 2]) / torch.stack([K[0, 0], K[1, 1]]), torch.ones_like(z[:, None])], 1) * z[:, None]
        return (cam - T[:3, 3]) @ T[:3, :3]

    def segments(self, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], forward: Float[Tensor, "R 3"]) -> Segments:
        """Between the near plane and infinity, cut at the frustum's sides. Rays that run away from it miss it."""
        T = self.camera.cam_from_world[0]
        axis, z0 = T[2, :3], origins @ T[2, :3] + T[2, 3]
        speed = directions @ axis  # of depth along the ray
        ahead = speed > 1e-6
        safe = torch.where(ahead, speed, torch.ones_like(speed))
        t = ((self.near - z0) / safe).clamp_min(0)  # from here on it is before the camera and beyond the near plane
        begin = self.to_cube(origins + t[:, None] * directions)
        xy, z = self._to_homogeneous(origins + directions)
        xy0, z_at0 = self._to_homogeneous(origins)
        end = torch.cat([(xy - xy0) / torch.where(ahead, z - z_at0, torch.ones_like(z))[:, None], torch.ones_like(z)[:, None]], 1)  # at infinity
        span = end - begin
        near, far = _slab(begin, span)
        near, far = near.clamp(0, 1), far.clamp(0, 1)
        hit = ahead & (far > near)
        near, far = near * hit, torch.where(hit, far, near)
        start, span = begin + near[:, None] * span, span * (far - near)[:, None]
        stop = start + span
        ends = self.near / (1 - torch.stack([start[:, 2], stop[:, 2]], 1)).clamp_min(1e-6)
        # depth before the frustum's camera grows along the ray by `speed`, that before the ray's own by how much it looks ahead there
        rate = (directions * forward).sum(1) / safe
        return Segments(start, span, (stop[:, 2] - start[:, 2]).clamp_min(0) * hit, directions, ends, z0, rate, in_disparity=True)

    def to(self, device: torch.device | str) -> FrustumSpace:
        return FrustumSpace(self.camera.to(device), self.near, self.margin)


def _slab(o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"]) -> tuple[Float[Tensor, "R"], Float[Tensor, "R"]]:
    """Where lines o + t d enter and leave the unit cube; leaving lies before entering for those that miss it."""
    safe = torch.where(d.abs() < _TINY, torch.full_like(d, _TINY), d)
    a, b = -o / safe, (1 - o) / safe
    return torch.minimum(a, b).amax(1), torch.maximum(a, b).amin(1)


def space_to_tensors(space: Space) -> dict[str, Tensor]:
    """For saving; `space_from_tensors` reads it back."""
    if isinstance(space, BoxSpace):
        return {"box": torch.cat([space.center.double().cpu(), torch.tensor([space.size], dtype=torch.float64)])}
    if isinstance(space, FrustumSpace):
        camera = space.camera.to("cpu", torch.float64)
        extra = torch.tensor([camera.width, camera.height, space.near, space.margin], dtype=torch.float64)
        return {"frustum": torch.cat([camera.cam_from_world[0].flatten(), camera.K[0].flatten(), extra])}
    if isinstance(space, ContractedSpace):
        return {"contracted": torch.cat([space.center.double().cpu(), torch.tensor([space.radius], dtype=torch.float64)])}
    raise TypeError(f"{type(space).__name__} cannot be saved")


def space_from_tensors(tensors: dict[str, Tensor]) -> Space:
    """Raises ShapeError for what is no space."""
    if "box" in tensors and tensors["box"].shape == (4,):
        values = tensors["box"].double()
        return BoxSpace(values[:3].float(), float(values[3]))
    if "frustum" in tensors and tensors["frustum"].shape == (29,):
        values = tensors["frustum"].double()
        camera = Cameras(values[:16].view(1, 4, 4).float(), values[16:25].view(1, 3, 3).float(), int(values[25]), int(values[26]))
        return FrustumSpace(camera.validate(), float(values[27]), float(values[28]))
    if "contracted" in tensors and tensors["contracted"].shape == (4,):
        values = tensors["contracted"].double()
        return ContractedSpace(values[:3].float(), float(values[3]))
    raise ShapeError("The field's file names no space that it lives in.")
