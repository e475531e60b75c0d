"""Surfaces with an uncertainty per Gaussian (Tan et al. 2025, UNG-GS): what is uncertain counts less in depth and in normals, and its error costs less.

The uncertainty is drawn like a colour, together with the depth that it weights, in a second pass of the rasterizer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from ....recon.camera import Cameras
from ..config import TermsConfig
from .protocol import StepContext

__all__ = ["START", "UNCERTAINTY", "SurfaceMaps", "normal_loss", "normals_from_depth", "surface_maps", "uncertain_surface"]

UNCERTAINTY = "log_uncertainty"  # the column
START = -1.0  # its first value
LEAST = 0.02  # uncertainty below which nothing gets more certain


@dataclass(frozen=True)
class SurfaceMaps:
    """Of one camera.

    Attributes:
        depth: expected z-depth, each Gaussian weighted by its certainty (one over its uncertainty), too; 0 where nothing is.
        uncertainty: expected uncertainty.
    """

    depth: Float[Tensor, "H W"]
    uncertainty: Float[Tensor, "H W"]


def uncertain_surface(context: StepContext, config: TermsConfig) -> Tensor | None:
    """Rendered normals against those of the weighted depth: e / u + log u (the likelihood of the error e when u is expected), over what is covered."""
    if config.surface <= 0 or context.progress < config.surface_from or context.out.normal is None:
        return None
    maps = surface_maps(context)
    expected, there = normals_from_depth(maps.depth, 1 / maps.uncertainty.clamp_min(LEAST), context.camera)
    covered = there & (context.out.alpha[0] > 0.5)
    if context.mask is not None:
        covered = covered & (context.mask > 0.5)
    loss = normal_loss(context.out.normal[0], expected, maps.uncertainty)
    return config.surface * (loss * covered).sum() / covered.sum().clamp_min(1)


def surface_maps(context: StepContext) -> SurfaceMaps:
    unit = context.photos.scene_depth
    uncertainty = context.field.rows[UNCERTAINTY].exp().clamp_min(LEAST)
    z = context.camera.project(context.gaussians.means)[1][0] / unit
    weighted, certain, uncertain = context.render_values(
        context.camera, torch.stack([z / uncertainty, 1 / uncertainty, uncertainty], -1)
    ).unbind(-1)
    depth = torch.where(certain > 1e-6, unit * weighted / certain.clamp_min(1e-6), 0.0)
    alpha = context.out.alpha[0]
    return SurfaceMaps(depth, torch.where(alpha > 1e-6, uncertain / alpha.clamp_min(1e-6), 1.0))


def normals_from_depth(
    depth: Float[Tensor, "H W"], certainty: Float[Tensor, "H W"], camera: Cameras
) -> tuple[Float[Tensor, "H W 3"], Bool[Tensor, "H W"]]:
    """Unit normals in the camera frame, facing the camera, from the steps to the four neighbours, each weighted by the neighbour's certainty; and where there is
    depth on all of them. Exact on planes."""
    eye = torch.eye(4, dtype=depth.dtype, device=depth.device)[None]
    points = Cameras(eye, camera.K.detach().to(depth.dtype), camera.width, camera.height).unproject_depth(depth[None])[0]
    along = [_slope(points, certainty, dim) for dim in (1, 0)]
    normal = normalize(torch.linalg.cross(along[1], along[0]), dim=-1, eps=1e-20)  # y (down) x right looks back at the camera
    known = depth > 0
    there = torch.zeros_like(known)
    there[1:-1, 1:-1] = known[1:-1, 1:-1] & known[:-2, 1:-1] & known[2:, 1:-1] & known[1:-1, :-2] & known[1:-1, 2:]
    return normal, there


def normal_loss(
    rendered: Float[Tensor, "H W 3"], expected: Float[Tensor, "H W 3"], uncertainty: Float[Tensor, "H W"]
) -> Float[Tensor, "H W"]:
    error = 1 - (normalize(rendered, dim=-1, eps=1e-6) * expected).sum(-1)
    u = uncertainty.clamp_min(LEAST)
    return error / u + torch.log(u)


def _slope(points: Float[Tensor, "H W 3"], certainty: Float[Tensor, "H W"], dim: int) -> Float[Tensor, "H W 3"]:
    """Step to the next pixel along `dim`: that from the one before and that to the one behind, weighted by these pixels' certainty; at the borders the border
    pixel itself, which says nothing."""
    n = points.shape[dim]
    before = torch.arange(n, device=points.device).sub(1).clamp_min(0)
    behind = torch.arange(n, device=points.device).add(1).clamp_max(n - 1)
    weight_before, weight_behind = certainty.index_select(dim, before)[..., None], certainty.index_select(dim, behind)[..., None]
    step_before, step_behind = points - points.index_select(dim, before), points.index_select(dim, behind) - points
    return (weight_before * step_before + weight_behind * step_behind) / (weight_before + weight_behind)
