"""Pinhole cameras. The only file that knows where pixel centres are.

Frames: OpenCV axes (x right, y down, z forward). ``cam_from_world`` maps world points into the camera.
Pixels: centres at +0.5, the image spans ``[0, W] x [0, H]``. Depth is z-depth, 0 means none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import ShapeError

__all__ = ["Cameras", "pixel_centers"]


def pixel_centers(width: int, height: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Float[Tensor, "H W 2"]:
    """Continuous (u, v) of every pixel centre, in pixels."""
    u = torch.arange(width, device=device, dtype=dtype) + 0.5
    v = torch.arange(height, device=device, dtype=dtype) + 0.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)


@dataclass(frozen=True)
class Cameras:
    """V pinhole cameras of one resolution, without distortion (it is removed in `data`, never here).

    Attributes:
        cam_from_world: rigid transforms, world units.
        K: intrinsics in pixels; last row (0, 0, 1), no skew.
        width, height: image size in pixels, the same for all.
    """

    cam_from_world: Float[Tensor, "V 4 4"]
    K: Float[Tensor, "V 3 3"]
    width: int
    height: int

    def __len__(self) -> int:
        return self.cam_from_world.shape[0]

    def __getitem__(self, index: int | slice | list[int] | Int[Tensor, "n"]) -> Cameras:
        """A subset, always with a leading camera dimension."""
        if isinstance(index, int):
            index = [index]
        return replace(self, cam_from_world=self.cam_from_world[index], K=self.K[index])

    @property
    def device(self) -> torch.device:
        return self.cam_from_world.device

    @property
    def world_from_cam(self) -> Float[Tensor, "V 4 4"]:
        return torch.linalg.inv(self.cam_from_world)

    @property
    def centers(self) -> Float[Tensor, "V 3"]:
        """Camera centres in the world frame."""
        R, t = self.cam_from_world[:, :3, :3], self.cam_from_world[:, :3, 3]
        return -(R.transpose(1, 2) @ t[..., None])[..., 0]

    @property
    def distances(self) -> Float[Tensor, "V V"]:
        """Between the centres; exactly symmetric, with zeros on the diagonal, however many there are and wherever the origin lies."""
        return torch.cdist(self.centers, self.centers, compute_mode="donot_use_mm_for_euclid_dist")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        return replace(self, cam_from_world=self.cam_from_world.to(device=device, dtype=dtype), K=self.K.to(device=device, dtype=dtype))

    def project(self, xyz: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "V N 2"], Float[Tensor, "V N"]]:
        """World points to continuous pixels and z-depth. Pixels of points with depth <= 0 mean nothing."""
        R, t = self.cam_from_world[:, :3, :3], self.cam_from_world[:, :3, 3]
        cam = xyz @ R.transpose(1, 2) + t[:, None]
        z = cam[..., 2]
        uvw = cam @ self.K.transpose(1, 2)
        return uvw[..., :2] / torch.where(z.abs() < 1e-12, torch.full_like(z, 1e-12), z)[..., None], z

    def unproject(self, uv: Float[Tensor, "V N 2"], depth: Float[Tensor, "V N"]) -> Float[Tensor, "V N 3"]:
        """Continuous pixels and z-depth to world points."""
        ones = torch.ones_like(uv[..., :1])
        cam = (torch.cat([uv, ones], -1) @ torch.linalg.inv(self.K).transpose(1, 2)) * depth[..., None]
        R, t = self.cam_from_world[:, :3, :3], self.cam_from_world[:, :3, 3]
        return (cam - t[:, None]) @ R

    def unproject_depth(self, depth: Float[Tensor, "V H W"]) -> Float[Tensor, "V H W 3"]:
        """A z-depth image per camera to world points at the pixel centres."""
        v, h, w = depth.shape
        uv = pixel_centers(w, h, depth.device, depth.dtype).reshape(1, -1, 2).expand(v, -1, -1)
        return self.unproject(uv, depth.reshape(v, -1)).reshape(v, h, w, 3)

    def rays(self) -> tuple[Float[Tensor, "V H W 3"], Float[Tensor, "V H W 3"]]:
        """Origins and unit directions, world frame, through the pixel centres."""
        ones = torch.ones(len(self), self.height, self.width, dtype=self.K.dtype, device=self.device)
        origins = self.centers[:, None, None].expand(-1, self.height, self.width, -1)
        directions = self.unproject_depth(ones) - origins
        return origins, torch.nn.functional.normalize(directions, dim=-1)

    def resized(self, width: int, height: int) -> Cameras:
        """The same cameras for images resized to ``width x height`` (each axis by its own factor)."""
        scale = torch.tensor([width / self.width, height / self.height, 1.0], dtype=self.K.dtype, device=self.device)
        return replace(self, K=self.K * scale[None, :, None], width=width, height=height)

    def cropped(self, x0: int, y0: int, width: int, height: int) -> Cameras:
        """The cameras of the crop ``[x0, x0+width) x [y0, y0+height)``; it may reach beyond the image."""
        K = self.K.clone()
        K[:, 0, 2] -= x0
        K[:, 1, 2] -= y0
        return replace(self, K=K, width=width, height=height)

    def validate(self) -> Cameras:
        """Raises ShapeError unless shapes fit, all numbers are finite, rotations are rotations and focal lengths positive."""
        v = self.cam_from_world.shape[0]
        if tuple(self.cam_from_world.shape) != (v, 4, 4) or tuple(self.K.shape) != (v, 3, 3):
            raise ShapeError(f"Cameras need cam_from_world (V,4,4) and K (V,3,3); got {tuple(self.cam_from_world.shape)} and {tuple(self.K.shape)}.")
        if self.width < 1 or self.height < 1:
            raise ShapeError(f"Cameras need a positive image size; got {self.width}x{self.height}.")
        for i in range(v):
            if not (torch.isfinite(self.cam_from_world[i]).all() and torch.isfinite(self.K[i]).all()):
                raise ShapeError(f"Camera {i} holds a number that is not finite; remove this view or give its camera again.")
            R = self.cam_from_world[i, :3, :3].double()
            if (R @ R.T - torch.eye(3, dtype=torch.float64, device=R.device)).abs().max() > 1e-3 or torch.linalg.det(R) < 0:
                raise ShapeError(f"Camera {i}: the upper left 3x3 of cam_from_world is not a rotation.")
            if self.K[i, 0, 0] <= 0 or self.K[i, 1, 1] <= 0:
                raise ShapeError(f"Camera {i}: the focal length must be positive, got {self.K[i, 0, 0]:g}, {self.K[i, 1, 1]:g}.")
        return self
