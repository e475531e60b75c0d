"""The depth between returns, in a picture for which the scan is thin."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..camera import Cameras
from ..neighbours import Neighbours
from .sight import Returns, in_front, seen_returns

__all__ = ["depth_between", "returns_in_view"]

PER_CELL = 2.0  # returns per cell of the z-buffer: fewer leave holes in what stands before, more hide what stands beside
REACH = 2.5  # cells: further from a return nothing is known
AROUND = 6  # returns that a depth between them is made of
EDGE = 1.2  # neighbours whose depths differ by more lie on two surfaces


def returns_in_view(camera: Cameras, xyz: Float[Tensor, "N 3"], margin: float = 0.0) -> tuple[Returns, int]:
    """What the one `camera` sees of world points of any density and unit, on the CPU; and the side of the z-buffer's cells, about the distance of
    neighbouring returns, pixels.

    Args:
        margin: look so far beyond the picture's borders, in its width and height; `uv` counts from the picture's corner all the same.
    """
    left, top = round(margin * camera.width), round(margin * camera.height)
    wide = camera.to("cpu", torch.float64).cropped(-left, -top, camera.width + 2 * left, camera.height + 2 * top)
    xyz = (xyz.detach().cpu().double() - wide.centers[0]).float()  # seen from the camera the numbers are small
    around = wide.cam_from_world.clone()
    around[:, :3, 3] = 0
    wide = replace(wide, cam_from_world=around).to(dtype=torch.float32)
    inside = seen_returns(wide, xyz, near=0.0)
    cell = max(1, round((wide.width * wide.height * PER_CELL / max(len(inside), 1)) ** 0.5))
    seen = inside.kept(in_front(inside, wide.width, wide.height, cell))
    return Returns(seen.index, seen.uv - torch.tensor([left, top]), seen.z), cell


def depth_between(returns: Returns, cell: int, uv: Float[Tensor, "m 2"]) -> tuple[Float[Tensor, "m"], Bool[Tensor, "m"]]:
    """z-depth at pixels, and where it is known: a return lies within a few cells. Between returns of one surface its plane is followed (inverse depth is linear
    in the picture of a plane); at an edge the nearest return decides."""
    if len(returns) == 0 or len(uv) == 0:
        return torch.zeros(len(uv), dtype=returns.z.dtype), torch.zeros(len(uv), dtype=torch.bool)
    near, distance = Neighbours(_flat(returns.uv)).nearest(_flat(uv), AROUND)
    inverse = 1 / returns.z[near].double()
    offset = (returns.uv[near] - uv[:, None]).double() / cell
    weight = 1 / (1 + offset.square().sum(-1, keepdim=True))
    A = torch.cat([torch.ones_like(offset[..., :1]), offset], -1)
    ridge = torch.diag(torch.tensor([1e-9, 1e-2, 1e-2], dtype=torch.float64))  # returns on one line leave the slope across it open
    solved = torch.linalg.solve((A * weight).transpose(1, 2) @ A + ridge, (A * weight).transpose(1, 2) @ inverse[..., None])[:, 0, 0]
    low, high = inverse.min(1).values, inverse.max(1).values
    solved = torch.minimum(torch.maximum(solved, low / EDGE), high * EDGE)
    return (1 / torch.where(high > EDGE * low, inverse[:, 0], solved)).to(returns.z.dtype), distance[:, 0] <= REACH * cell


def _flat(uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    return torch.cat([uv, torch.zeros_like(uv[:, :1])], -1)
