"""A field drawn by its occupied cells instead of by rays (after Li et al. 2022, RT-NeRF, the efficient rendering pipeline): each cell that holds something is projected to the
pixels it covers and gives its samples to their rays, nearest cells first, until a pixel's light is used up; no ray asks empty cells.

RT-NeRF's order is coarse: by parts of the scene, from the direction of view. In a grid an exact one costs no more. Along any ray from the camera each coordinate of the cell
only moves away from the camera's own cell, so the steps from face to face between the two (the Manhattan distance) only grow: cells in the order of that number are front
to back for all pixels at once, and two of the same number never share a ray. The samples are those of `march`, so the picture is the same.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..camera import Cameras
from ..kernels import native
from ..sh import sh_basis
from .decoder import colors_of, density_of
from .occupancy import march
from .radiance import ReadyField
from .samples import Segments
from .space import BoxSpace
from .volume import LEAST_TRANSMITTANCE, RayColors

__all__ = ["draw_cells", "draw_cells_torch", "steps_away"]


def draw_cells(
    field: ReadyField, space: BoxSpace, camera: Cameras, segments: Segments, cells: Bool[Tensor, "G G G"], steps: float
) -> tuple[RayColors, int]:
    """What all pixels of one camera see, without gradients, and how many samples were decoded for it.

    Args:
        segments: of its pixels, row by row; steps: samples to an edge of the cube.

    Natively where the field is a VM grid on the CPU, in float32; else `draw_cells_torch`.
    """
    tensors, origin = field.native_tensors(), space.to_cube(camera.centers)[0]
    if tensors is None:
        return draw_cells_torch(field, origin, segments, cells, steps)
    basis = sh_basis(segments.directions, field.decoder.degree)
    args = (segments.start, segments.span, segments.length, basis, cells, origin, _pixel_from_cube(space, camera))
    out, decoded = native().vm_cells(*tensors, *(t.contiguous() for t in args), steps, camera.width, torch.get_num_threads())
    return RayColors.of(out), decoded


def _pixel_from_cube(space: BoxSpace, camera: Cameras) -> Float[Tensor, "3 4"]:
    """Places in the cube to homogeneous pixels; the last is z-depth."""
    T, K = camera.cam_from_world[0], camera.K[0]
    corner = space.center - 0.5 * space.size
    return K @ torch.cat([T[:3, :3] * space.size, (T[:3, :3] @ corner + T[:3, 3])[:, None]], 1)


def steps_away(at: Int[Tensor, "N 3"], origin: Float[Tensor, "3"], side: int) -> Int[Tensor, "N"]:
    """From face to face, between cells and the one the camera is in, or would be in if the grid went on to it."""
    return (at - (origin * side).floor().long()).abs().sum(1)


def draw_cells_torch(
    field: ReadyField, origin: Float[Tensor, "3"], segments: Segments, cells: Bool[Tensor, "G G G"], steps: float
) -> tuple[RayColors, int]:
    """The slow twin: all samples of all rays, taken shell by shell of cells that are equally far away. Some 100 bytes for each sample."""
    samples, side = march(segments, cells, steps), cells.shape[0]
    raw = field.raw(samples.xyz)
    rgb = colors_of(raw, sh_basis(segments.directions, field.decoder.degree)[samples.rays])
    tau = density_of(raw) * samples.delta
    shell = steps_away((samples.xyz * side).long().clamp_max(side - 1), origin, side)
    out, T = segments.length.new_zeros(len(segments), 6), segments.length.new_ones(len(segments))
    decoded = 0
    for k in shell.unique().tolist():
        rows = (shell == k).nonzero()[:, 0]  # of one cell for each ray, in order along it
        ray = samples.rays[rows]
        while len(rows):
            first = torch.ones_like(ray, dtype=torch.bool)
            first[1:] = ray[1:] != ray[:-1]
            lit = first & (T[ray] >= LEAST_TRANSMITTANCE)
            n, r = rows[lit], ray[lit]
            w = T[r] * -torch.expm1(-tau[n])
            pairs = 2 * w * (samples.s[n] * out[r, 3] - out[r, 4])
            out[r] += torch.cat([w[:, None] * rgb[n], w[:, None], (w * samples.s[n])[:, None], pairs[:, None]], 1)
            T[r] *= torch.exp(-tau[n])
            decoded += len(n)
            rows, ray = rows[~first], ray[~first]
    return RayColors.of(out), decoded
