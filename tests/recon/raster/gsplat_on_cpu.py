"""gsplat's own pure-torch functions in the place of its CUDA kernels: an outside judge, and a way to run our adapter without a GPU.

nerfacc 0.5.3, which gsplat's `accumulate` composites with, has a CPU path for dense rays only: `dense_weights` packs its flattened ones.
"""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from handful.recon.raster.constants import ALPHA_MIN, TRANSMITTANCE_MIN
from handful.recon.raster.cuda_gsplat import GsplatRasterizer
from handful.recon.raster.cuda_kernels import Kernels
from torch import Tensor


def dense_weights(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """nerfacc.render_weight_from_alpha for flattened samples sorted by ray, by its own path for dense ones."""
    from nerfacc.volrend import render_weight_from_alpha

    count = torch.bincount(ray_indices, minlength=n_rays)
    position = torch.arange(len(ray_indices)) - (count.cumsum(0) - count)[ray_indices]
    dense = alphas.new_zeros(n_rays, max(int(count.max()), 1)).index_put((ray_indices, position), alphas)
    weights, trans = render_weight_from_alpha(dense)
    return weights[ray_indices, position], trans[ray_indices, position]


def composite(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, width: int, height: int, tile: int, offsets: Tensor, flat: Tensor
) -> tuple[Tensor, Tensor]:
    """gsplat.rasterize_to_pixels: the lists of pixels and Gaussians made here, everything differentiable by gsplat's `accumulate`."""
    from gsplat.cuda._torch_impl import accumulate

    v, n = means2d.shape[:2]
    ends = torch.cat([offsets.flatten()[1:], torch.tensor([len(flat)])]).reshape(offsets.shape)
    triples = []
    with torch.no_grad():
        for i, ty, tx in ((i, ty, tx) for i in range(v) for ty in range(offsets.shape[1]) for tx in range(offsets.shape[2])):
            ids = flat[offsets[i, ty, tx] : ends[i, ty, tx]].long() - i * n
            y, x = torch.meshgrid(
                torch.arange(ty * tile, min(ty * tile + tile, height)), torch.arange(tx * tile, min(tx * tile + tile, width)), indexing="ij"
            )
            pixel = (y * width + x).flatten()
            dx, dy = x.reshape(-1, 1) + 0.5 - means2d[i, ids, 0], y.reshape(-1, 1) + 0.5 - means2d[i, ids, 1]
            a, b, c = conics[i, ids].unbind(-1)
            alpha = (opacities[i, ids] * torch.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy)).clamp_max(0.999)
            alpha = torch.where(alpha >= ALPHA_MIN, alpha, 0)
            p, k = ((alpha > 0) & (torch.cumprod(1 - alpha, 1) > TRANSMITTANCE_MIN)).nonzero().unbind(-1)
            triples.append(torch.stack([ids[k], pixel[p], torch.full_like(k, i)]))
    gaussians, pixels, images = torch.cat(triples, 1)
    order = torch.argsort(images * width * height + pixels, stable=True)
    gaussians, pixels, images = gaussians[order], pixels[order], images[order]
    with patch("nerfacc.render_weight_from_alpha", dense_weights):
        return accumulate(means2d, conics, opacities, colors, gaussians, pixels, images, width, height)


def composite_2dgs(
    means2d: Tensor, transforms: Tensor, colors: Tensor, opacities: Tensor, normals: Tensor, densify: Tensor, width: int, height: int, tile: int,
    offsets: Tensor, flat: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """gsplat.rasterize_to_pixels_2dgs: as `composite`, by gsplat's `accumulate_2dgs`, one camera."""
    from gsplat.cuda._torch_impl_2dgs import accumulate_2dgs

    ends = torch.cat([offsets.flatten()[1:], torch.tensor([len(flat)])]).reshape(offsets.shape)
    pairs = []
    with torch.no_grad():
        for ty, tx in ((ty, tx) for ty in range(offsets.shape[1]) for tx in range(offsets.shape[2])):
            ids = flat[offsets[0, ty, tx] : ends[0, ty, tx]].long()
            y, x = torch.meshgrid(
                torch.arange(ty * tile, min(ty * tile + tile, height)), torch.arange(tx * tile, min(tx * tile + tile, width)), indexing="ij"
            )
            px, py, pixel = x.reshape(-1, 1) + 0.5, y.reshape(-1, 1) + 0.5, (y * width + x).flatten()
            M = transforms[0, ids]
            line = torch.linalg.cross(px[..., None] * M[:, 2] - M[:, 0], py[..., None] * M[:, 2] - M[:, 1])
            uv = line[..., :2] / line[..., 2:]
            far = 2 * ((px - means2d[0, ids, 0]) ** 2 + (py - means2d[0, ids, 1]) ** 2)
            alpha = (opacities[0, ids] * torch.exp(-0.5 * torch.minimum((uv * uv).sum(-1), far))).clamp_max(0.999)
            alpha = torch.where(alpha >= ALPHA_MIN, alpha, 0)
            p, k = ((alpha > 0) & (torch.cumprod(1 - alpha, 1) > TRANSMITTANCE_MIN)).nonzero().unbind(-1)
            pairs.append(torch.stack([ids[k], pixel[p]]))
    gaussians, pixels = torch.cat(pairs, 1)
    order = torch.argsort(pixels, stable=True)
    gaussians, pixels = gaussians[order], pixels[order]
    with patch("nerfacc.render_weight_from_alpha", dense_weights):
        return accumulate_2dgs(means2d, transforms, opacities, colors, normals, gaussians, pixels, torch.zeros_like(pixels), width, height)


def adam(
    p: Tensor, grad: Tensor, m: Tensor, v: Tensor, valid: Tensor | None, lr: float, b1: float, b2: float, eps: float
) -> None:
    """gsplat's CUDA kernel (cuda/csrc/AdamCUDA.cu) by its formulas, without a GPU."""
    rows = torch.ones(len(p), dtype=torch.bool) if valid is None else valid
    m[rows] = b1 * m[rows] + (1 - b1) * grad[rows]
    v[rows] = b2 * v[rows] + (1 - b2) * grad[rows] * grad[rows]
    p[rows] += -lr * m[rows] / (v[rows].sqrt() + eps)


def project(means, covars, quats, scales, viewmats, Ks, width, height, eps2d, near_plane, far_plane, calc_compensations, opacities):
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    covars, _ = _quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    out = _fully_fused_projection(means, covars, viewmats, Ks, width, height, eps2d, near_plane, far_plane, calc_compensations)
    faint = (opacities if out[4] is None else opacities * out[4]) < ALPHA_MIN  # its CUDA kernel culls these, its torch twin does not
    return (torch.where(faint[..., None], 0, out[0]), *out[1:])


def harmonics(degree: int, directions: Tensor, coefficients: Tensor, masks: Tensor) -> Tensor:
    from gsplat.cuda._torch_impl import _spherical_harmonics

    return _spherical_harmonics(degree, directions, coefficients)


def make() -> GsplatRasterizer:
    """The adapter over gsplat's torch functions; skips the test without nerfacc."""
    pytest.importorskip("nerfacc", reason="needs nerfacc")
    from gsplat.cuda._torch_impl import _isect_offset_encode, _isect_tiles

    return GsplatRasterizer(Kernels(project, harmonics, _isect_tiles, _isect_offset_encode, composite, composite_2dgs, adam), frozenset({"cpu"}))
