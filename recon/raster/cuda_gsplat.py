"""gsplat's CUDA kernels behind the one interface (Ye et al. 2025, "gsplat: an open-source library for Gaussian splatting").

gsplat compiles its kernels when they are first used (minutes, once). Its gradients stop at the intrinsics; here they go on: a change of fx, fy, cx, cy is
written as a linear map of the camera's frame, which gsplat does differentiate (`_intrinsics_as_motion`).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..camera import Cameras
from ..gaussians import Gaussians
from ..se3 import matrix_from_quat
from ..sh import sh_coefficients
from .checks import check_inputs
from .constants import COVARIANCE_BLUR, TILE_SIZE
from .cuda_kernels import Kernels, load_kernels
from .cuda_surfel import SURFEL_DEVIATIONS, render_surfels
from .protocol import RasterCaps, RasterOptions, RenderAux, RenderOutput

__all__ = ["GsplatRasterizer", "make"]

LARGEST_LOG_SCALE = 20.0
LARGEST_MEAN = 1e15
FAR_PLANE = 1e30


def _intrinsics_as_motion(K: Float[Tensor, "V 3 3"]) -> Float[Tensor, "V 3 3"]:
    """A = K0^-1 K with K0 = K held fixed: the identity, with the gradient of K.

    K p = K0 (A p), and J0 A is the projection's Jacobian for K, also where its linearisation point is clamped (fx times the limit depends on
    cx alone, by the same slope); the camera's centre and z do not change.
    """
    fx, fy, cx, cy = K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]
    o, one = torch.zeros_like(fx), torch.ones_like(fx)
    fx0, fy0 = fx.detach(), fy.detach()
    rows = [fx / fx0, o, (cx - cx.detach()) / fx0, o, fy / fy0, (cy - cy.detach()) / fy0, o, o, one]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


@torch.no_grad()
def _usable(g: Gaussians) -> Bool[Tensor, "N"]:
    """Few launches: at these sizes they, not the numbers, are what a step on a GPU waits for."""
    rows = torch.cat([g.quats_wxyz, g.log_scales, g.logit_opacities[:, None], g.sh.flatten(1)], 1)
    return (
        ((rows * 0).sum(-1) == 0)  # finite: nan and inf times 0 are nan
        & (torch.linalg.vector_norm(g.quats_wxyz, dim=-1) > 1e-12)
        & (g.log_scales.amax(-1) < LARGEST_LOG_SCALE)
        & (g.means.abs().amax(-1) < LARGEST_MEAN)
    )


def _harmless(g: Gaussians, ok: Bool[Tensor, "N"]) -> Gaussians:
    """The same Gaussians with the unusable ones replaced by numbers that hurt no kernel and pass no gradient on."""
    unit = torch.tensor([1.0, 0, 0, 0], device=g.device)
    return Gaussians(
        torch.where(ok[:, None], g.means, 0.0),
        torch.where(ok[:, None], g.quats_wxyz, unit),
        torch.where(ok[:, None], g.log_scales, 0.0),
        torch.where(ok, g.logit_opacities, 0.0),
        torch.where(ok[:, None, None], g.sh, 0.0),
    )


def _normals(g: Gaussians, R: Float[Tensor, "V 3 3"], cam: Float[Tensor, "V N 3"]) -> Float[Tensor, "V N 3"]:
    shortest = g.log_scales.argmin(-1)
    axis = matrix_from_quat(g.quats_wxyz).gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    n = axis @ R.transpose(1, 2)
    return torch.where((n * cam).sum(-1, keepdim=True) > 0, -n, n)


class GsplatRasterizer:
    """See the module's docstring; float32 on CUDA."""

    name = "gsplat"

    def __init__(self, kernels: Kernels, devices: frozenset[str] = frozenset({"cuda"})) -> None:
        self._k = kernels
        self.caps = RasterCaps(
            devices=devices,
            grads=frozenset({"means", "quats_wxyz", "log_scales", "logit_opacities", "sh", "cam_from_world", "K"}),
            dtypes=frozenset({"float32"}),
            deviations={
                "nondeterministic gradients": "sums of atomics differ in the last bits from run to run",
                "TRANSMITTANCE_MIN": "stops at T <= 1e-4, not T < 1e-4",
                "NEAR_PLANE": "draws z == near too",
                "box": "ends at 3.33 standard deviations: nothing is missing up to an effective opacity of 1, which only an opacity_scale above 1 exceeds",
                "gradients behind nearly opaque pixels": "start from 1 - alpha, whose rounding leaves them off by up to 3e-4",
                "extreme values": f"a Gaussian with a log scale above {LARGEST_LOG_SCALE:g} or a coordinate beyond {LARGEST_MEAN:g} is skipped",
                "determinants": "of 2D covariances are differences: very thin ellipses lose digits in float32",
                **SURFEL_DEVIATIONS,
                "antialiased": "its gradient is off by 1e-6 / factor where the factor on the opacity is small",
            },
        )

    def render(self, gaussians: Gaussians, cameras: Cameras, options: RasterOptions = RasterOptions()) -> RenderOutput:
        check_inputs(self.name, self.caps, gaussians, cameras, options)
        v, n, size = len(cameras), len(gaussians), (cameras.width, cameras.height)
        w2c, K = cameras.cam_from_world.float(), cameras.K.float()
        if not options.camera_grads:
            w2c, K = w2c.detach(), K.detach()
        if v == 0 or n == 0:
            return self._empty(gaussians, w2c, K, size, options)
        ok = _usable(gaussians)
        all_ok = bool(ok.all())
        g = gaussians if all_ok else _harmless(gaussians, ok)
        if options.surfels:
            views = Cameras(w2c, K, *size)
            return render_surfels(self._k, g, ok, views, options)
        R, t = w2c[:, :3, :3], w2c[:, :3, 3]
        opacity = g.opacities if options.opacity_scale is None else g.opacities * options.opacity_scale.float()
        opacity = opacity if all_ok else torch.where(ok, opacity, 0.0)
        view = torch.cat([_intrinsics_as_motion(K) @ w2c[:, :3], w2c[:, 3:]], 1) if K.requires_grad else w2c
        radii, means2d, z, conics, compensation = self._k.fully_fused_projection(
            g.means, None, g.quats_wxyz, g.scales, view.contiguous(), K.detach().contiguous(), *size,
            eps2d=COVARIANCE_BLUR, near_plane=options.near, far_plane=FAR_PLANE, calc_compensations=options.antialiased, opacities=opacity.detach().contiguous(),
        )  # fmt: skip
        # gsplat leaves the rows it culls uninitialised. With radius 0 they are in no tile's list, so nothing below reads them; what a caller sees, and what
        # would be multiplied with a gradient, is set to 0
        seen = (radii > 0).all(-1) & ok
        radii = torch.where(seen[..., None], radii, 0)
        means2d = torch.where(seen[..., None], means2d, 0.0)
        if means2d.requires_grad:
            means2d.retain_grad()
        opacity = opacity.expand(v, n) if compensation is None else opacity * torch.where(seen, compensation, 0.0)

        center = -(R.transpose(1, 2) @ t[..., None])[..., 0]
        degree = gaussians.sh_degree if options.sh_degree is None else min(options.sh_degree, gaussians.sh_degree)
        sh = g.sh[:, : sh_coefficients(degree)].expand(v, n, -1, 3)
        rgb = (0.5 + self._k.spherical_harmonics(degree, g.means - center[:, None], sh, masks=seen)).clamp_min(0)
        columns = [rgb, z[..., None]]
        if options.normal:
            columns.append(_normals(g, R, g.means @ R.transpose(1, 2) + t[:, None]))

        tiles = [-(-s // TILE_SIZE) for s in size]
        _, ids, flat = self._k.isect_tiles(means2d.detach(), radii, z.detach(), TILE_SIZE, *tiles)
        offsets = self._k.isect_offset_encode(ids, v, *tiles).reshape(v, tiles[1], tiles[0])
        image, alpha = self._k.rasterize_to_pixels(means2d, conics, torch.cat(columns, -1), opacity, *size, TILE_SIZE, offsets, flat)
        return self._output(image, alpha[..., 0], RenderAux(means2d, radii.amax(-1).to(means2d.dtype), seen), options)

    @staticmethod
    def _output(image: Tensor, alpha: Tensor, aux: RenderAux, options: RasterOptions) -> RenderOutput:
        background = torch.tensor(options.background, dtype=image.dtype, device=image.device)
        some = alpha > 0
        depth = torch.where(some, image[..., 3] / torch.where(some, alpha, 1.0), 0.0)
        color = image[..., :3] + (1 - alpha)[..., None] * background
        flat = alpha if options.surfels else None
        return RenderOutput(color, alpha, depth, image[..., 4:7] if options.normal or options.surfels else None, aux, flat)

    def _empty(self, g: Gaussians, w2c: Tensor, K: Tensor, size: tuple[int, int], options: RasterOptions) -> RenderOutput:
        v, n = len(w2c), len(g)
        zero = w2c.new_zeros(v, size[1], size[0], 7) + 0 * (w2c[:, 0, 0] + K[:, 0, 0])[:, None, None, None]
        zero = zero + 0 * sum(t[:0].sum() for t in (g.means, g.quats_wxyz, g.log_scales, g.logit_opacities, g.sh))
        aux = RenderAux(w2c.new_zeros(v, n, 2), w2c.new_zeros(v, n), torch.zeros(v, n, dtype=torch.bool, device=w2c.device))
        return self._output(zero, zero[..., 3], aux, options)


def make() -> GsplatRasterizer:
    return GsplatRasterizer(load_kernels())
