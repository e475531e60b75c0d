"""Which returns of a scan a camera sees: projected, and what lies behind nearer returns left out; and the depth between the returns that are left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .camera import Cameras
from .neighbours import Neighbours

__all__ = ["InView", "in_view"]

PER_CELL = 2.0  # returns per cell of the z-buffer: fewer leave holes in what stands before, more hide what stands beside
BEHIND, BESIDE = 1.05, 1.15  # so much further than the nearest of the same cell, or of the cells around, is hidden; ground seen flat must not hide itself
REACH = 2.5  # cells: further from a return nothing is known
AROUND = 6  # returns that a depth between them is made of
EDGE = 1.2  # neighbours whose depths differ by more lie on two surfaces


@dataclass(frozen=True)
class InView:
    """The returns that one camera sees.

    Attributes:
        index: into the cloud. uv: pixels. z: z-depth, world units (> 0).
        cell: side of the z-buffer's cells, pixels: about the distance of neighbouring returns.
    """

    index: Int[Tensor, "n"]
    uv: Float[Tensor, "n 2"]
    z: Float[Tensor, "n"]
    cell: float

    def __len__(self) -> int:
        return len(self.index)

    def depth_at(self, uv: Float[Tensor, "m 2"]) -> tuple[Float[Tensor, "m"], Bool[Tensor, "m"]]:
        """z-depth at pixels, and where it is known: returns lie nearby. Between returns of one surface its plane is followed (inverse depth is linear in the
        picture of a plane); at an edge the nearest return decides."""
        if len(self) == 0 or len(uv) == 0:
            return torch.zeros(len(uv)), torch.zeros(len(uv), dtype=torch.bool)
        near, distance = Neighbours(_flat(self.uv)).nearest(_flat(uv), AROUND)
        known = distance[:, 0] <= REACH * self.cell
        inverse = 1 / self.z[near].double()
        offset = (self.uv[near] - uv[:, None]).double() / self.cell
        weight = 1 / (1 + offset.square().sum(-1, keepdim=True))
        A = torch.cat([torch.ones_like(offset[..., :1]), offset], -1)
        ridge = torch.diag(torch.tensor([1e-9, 1e-2, 1e-2], dtype=torch.float64))  # returns on one line leave the slope across it open
        solved = torch.linalg.solve((A * weight).transpose(1, 2) @ A + ridge, (A * weight).transpose(1, 2) @ inverse[..., None])[:, 0, 0]
        solved = torch.minimum(torch.maximum(solved, inverse.min(1).values / EDGE), inverse.max(1).values * EDGE)
        edge = inverse.max(1).values > EDGE * inverse.min(1).values
        return (1 / torch.where(edge, inverse[:, 0], solved)).to(self.z.dtype), known


def in_view(camera: Cameras, xyz: Float[Tensor, "N 3"], margin: float = 0.0) -> InView:
    """What the one `camera` sees of world points, on the CPU.

    Args:
        margin: look so far beyond the picture's borders, in its width and height.
    """
    camera = camera.to("cpu", torch.float64)
    uv, z = (x[0] for x in camera.project(xyz.detach().cpu().double()))
    w, h = camera.width, camera.height
    low, high = torch.tensor([-margin * w, -margin * h]), torch.tensor([(1 + margin) * w, (1 + margin) * h])
    index = ((z > 0) & (uv >= low).all(-1) & (uv < high).all(-1)).nonzero()[:, 0]
    uv, z = uv[index], z[index]
    span = high - low
    cell = max(1.0, float((span.prod() * PER_CELL / max(len(index), 1)) ** 0.5))
    columns, rows = (int(-(-float(s) // cell)) for s in span)
    at = ((uv - low) / cell).long()
    code = at[:, 1].clamp(0, rows - 1) * columns + at[:, 0].clamp(0, columns - 1)
    nearest = torch.full((rows * columns,), torch.inf, dtype=z.dtype).scatter_reduce(0, code, z, "amin")
    around = -torch.nn.functional.max_pool2d(-nearest.reshape(1, 1, rows, columns), 3, 1, 1).reshape(-1)
    seen = (z <= BEHIND * nearest[code]) & (z <= BESIDE * around[code])
    return InView(index[seen], uv[seen].float(), z[seen].float(), cell)


def _flat(uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    return torch.cat([uv, torch.zeros_like(uv[:, :1])], -1)
