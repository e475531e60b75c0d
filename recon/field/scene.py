"""A field as a scene: drawn from any camera, without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..camera import Cameras, pixel_centers
from ..errors import ConfigError
from ..raster.protocol import RenderAux, RenderOutput
from .cells import draw_cells
from .occupancy import march
from .radiance import ReadyField
from .samples import Segments
from .space import BoxSpace, Space
from .volume import RayColors

__all__ = ["FieldScene", "pixel_segments"]

CHUNK = 16384  # rays at once
BAND = 2**20  # pixels that cells give to at once: some 300 bytes each


def pixel_segments(space: Space, cameras: Cameras, index: Int[Tensor, "R"], uv: Float[Tensor, "R 2"]) -> Segments:
    """Rays through continuous pixels `uv` of the cameras `index`."""
    K, T = cameras.K[index], cameras.cam_from_world[index]
    x = (uv[:, 0] - K[:, 0, 2]) / K[:, 0, 0]
    y = (uv[:, 1] - K[:, 1, 2]) / K[:, 1, 1]
    R = T[:, :3, :3]
    directions = torch.nn.functional.normalize(x[:, None] * R[:, 0] + y[:, None] * R[:, 1] + R[:, 2], dim=1)
    return space.segments(cameras.centers[index], directions, R[:, 2])


@dataclass(frozen=True)
class FieldScene:
    """See `Scene` in recon/scene.py. Depth is that of the expected place on the ray: in a frustum, where places run in disparity, the inverse of the mean inverse depth.

    Attributes:
        field: with its grids made; steps: samples to an edge of the cube; cells: where it may hold something.
        order: in which samples are come by: along each ray ("rays"), or cell by cell, nearest first ("points", cells.py; in a box alone). The picture is the same.

    Raises ConfigError for an order that its space does not have.
    """

    field: ReadyField
    space: Space
    cells: Bool[Tensor, "G G G"]
    steps: float
    cameras: Cameras
    names: tuple[str, ...]
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    order: Literal["rays", "points"] = "rays"

    def __post_init__(self) -> None:
        if self.order == "points" and not isinstance(self.space, BoxSpace):
            raise ConfigError("A field is drawn cell by cell only where it lives in a box; draw this one with order='rays'.")

    def quickest(self) -> FieldScene:
        """The same scene in the order in which whole pictures are drawn soonest: cell by cell where kernels do it, else along rays."""
        by_cells = isinstance(self.space, BoxSpace) and self.field.native_tensors() is not None
        return replace(self, order="points" if by_cells else "rays")

    @torch.no_grad()
    def render(self, cameras: Cameras, normal: bool = False) -> RenderOutput:
        """Normals are those of the density at the expected place, turned towards the camera."""
        device = self.cells.device
        v, h, w = len(cameras), cameras.height, cameras.width
        out = torch.cat([part for k in range(v) for part in self.strips(cameras[k], normal)]).view(v, h, w, -1)
        none = torch.zeros(v, 0, device=device)
        aux = RenderAux(torch.zeros(v, 0, 2, device=device), none, none.bool())
        return RenderOutput(out[..., :3], out[..., 3], out[..., 4], out[..., 5:8] if normal else None, aux)

    def strips(self, camera: Cameras, normal: bool = False, rays: int = CHUNK) -> Iterator[Float[Tensor, "R C"]]:
        """One camera's picture piece by piece, row after row: at most `rays` pixels each (by cells: whole bands of rows), drawn when asked for. C: red, green, blue, opacity, depth, then
        the normal where it is wanted."""
        device = self.cells.device
        camera = camera.to(device, torch.float32)
        if self.order == "points":
            yield from self._bands(camera, normal)
            return
        rays = rays if device.type == "cpu" else max(1, rays // 4)  # there plain torch holds all steps of all pieces at once
        for uv in pixel_centers(camera.width, camera.height, device).reshape(-1, 2).split(rays):
            yield self._draw(camera, uv, normal)

    def _bands(self, camera: Cameras, normal: bool) -> Iterator[Float[Tensor, "R C"]]:
        """Cells give to pixels of a whole picture: rows that BAND pixels fill, each band as a camera of its own."""
        rows = max(1, BAND // camera.width)
        for top in range(0, camera.height, rows):
            K = camera.K.clone()
            K[:, 1, 2] -= top
            band = replace(camera, K=K, height=min(rows, camera.height - top))
            yield self._draw(band, pixel_centers(band.width, band.height, camera.device).reshape(-1, 2), normal)

    @torch.no_grad()
    def _draw(self, camera: Cameras, uv: Float[Tensor, "R 2"], normal: bool) -> Float[Tensor, "R C"]:
        segments = pixel_segments(self.space, camera, torch.zeros(len(uv), dtype=torch.long, device=uv.device), uv)
        seen = self._seen(camera, segments)
        color = seen.over(torch.tensor(self.background, device=uv.device))
        there = seen.alpha > 1e-3
        place = seen.place / seen.alpha.clamp_min(1e-3)
        depth = torch.where(there, segments.depth_at(place), torch.zeros_like(place))
        columns = [color, seen.alpha[:, None], depth[:, None]]
        if normal:
            piece, s = segments.piece_at(place)
            xyz = piece.start + s[:, None] * piece.span
            n = self.normals(xyz)
            n = torch.where((n * segments.directions).sum(1, keepdim=True) > 0, -n, n) * seen.alpha[:, None]
            n = n @ camera.cam_from_world[0, :3, :3].T
            columns.append(torch.where(there[:, None], n, torch.zeros_like(n)))
        return torch.cat(columns, 1)

    def _seen(self, camera: Cameras, segments: Segments) -> RayColors:
        if self.order == "points":
            assert isinstance(self.space, BoxSpace), "checked when it was made"
            return draw_cells(self.field, self.space, camera, segments, self.cells, self.steps)[0]
        return self.field.rays(march(segments, self.cells, self.steps), segments.directions)

    def normals(self, xyz: Float[Tensor, "N 3"], reach: float = 2.0) -> Float[Tensor, "N 3"]:
        """Unit vectors, world frame, out of the matter at places in the cube: against the slope of density, over about `reach` samples to each side."""
        at, h = self.space.to_world(xyz), self.spacing(xyz, reach)  # the slope is taken in the world, over as much of it as the steps cover there
        slopes = []
        for a in torch.eye(3, device=xyz.device):
            # of the logarithm: density itself changes by orders of magnitude within a step
            ahead, behind = (self.field.raw(self.space.to_cube(at + sign * h * a).clamp(0, 1))[:, 0] for sign in (1, -1))
            slopes.append(ahead - behind)
        return torch.nn.functional.normalize(-torch.stack(slopes, 1), dim=1)

    def spacing(self, xyz: Float[Tensor, "N 3"], samples: float = 1.0) -> Float[Tensor, "N 1"]:
        """How long, in the world, the way of so many samples is at places in the cube, along that of its axes where it is shortest: the world is laid in unevenly."""
        step, at = samples / self.steps, self.space.to_world(xyz)
        inward = torch.where(xyz > 0.5, -1.0, 1.0)
        axes = torch.eye(3, device=xyz.device)
        sizes = torch.stack([torch.linalg.vector_norm(self.space.to_world(xyz + inward * step * a) - at, dim=1) for a in axes], 1)
        return sizes.clamp_min(1e-9).amin(1, keepdim=True)
