"""The native CPU rasterizer: C++17 kernels (recon/native) behind one differentiable torch operator.

Peak memory of the kernels' own buffers, for N Gaussians, P pairs of Gaussian and 16x16 tile, and V cameras of W x H pixels (docs/raster_semantics.md
says what a pair is; P grows with the splats' area, typically 2 to 3 N)::

    kept from forward to backward   V (68 N + 10 P + 8 W' H')     W', H' = W, H rounded up to whole tiles
    while projecting and sorting    16 N + 9 P + 4 threads (W' H' / 256)
    while going backward            65 P
    outputs                         V (20 + 12 if normals or surfels + 4 if surfels) W H + 12 V N
    gradients                       (44 + 12 K + 8 V) N

The second and third never stand at the same time, and only one camera at a time has them. Freed buffers up to 512 MiB are kept for the next step
(`release_memory`). Deterministic: every sum has a fixed order, whatever the number of threads.
A gradient that overflows float32 (a colour of 1e38, say) is dropped: that Gaussian gets zero, cameras and all others keep theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..camera import Cameras
from ..gaussians import Gaussians
from ..kernels import native
from .checks import check_inputs
from .protocol import RasterCaps, RasterOptions, RenderAux, RenderOutput

__all__ = ["CpuRasterizer", "make"]


@torch.library.custom_op("handful::raster_cpu", mutates_args=())
def _forward(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    logits: Tensor,
    sh: Tensor,
    cam_from_world: Tensor,
    K: Tensor,
    means2d_probe: Tensor,
    opacity_scale: Tensor | None,
    width: int,
    height: int,
    background: list[float],
    sh_degree: int,
    antialiased: bool,
    near: float,
    normal: bool,
    surfels: bool,
    camera_grads: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return native().raster_forward(
        means.detach(), quats.detach(), log_scales.detach(), logits.detach(), sh.detach(), opacity_scale, cam_from_world.detach(), K.detach(),
        width, height, tuple(background), sh_degree, antialiased, near, normal, surfels, keep, torch.get_num_threads(),
    )  # fmt: skip


@torch.library.register_fake("handful::raster_cpu")
def _(
    means, quats, log_scales, logits, sh, cam_from_world, K, means2d_probe, opacity_scale,
    width, height, background, sh_degree, antialiased, near, normal, surfels, camera_grads, keep,
):  # fmt: skip
    v, n = cam_from_world.shape[0], means.shape[0]
    image = (v, height, width)
    return (
        means.new_empty(*image, 3),
        means.new_empty(image),
        means.new_empty(image),
        means.new_empty((*image, 3) if normal or surfels else (0,)),
        means.new_empty(image if surfels else (0,)),
        means.new_empty(v, n, 2),
        means.new_empty(v, n),
        means.new_empty(1, dtype=torch.int64),
    )


@torch.library.custom_op("handful::raster_cpu_backward", mutates_args=())
def _backward(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    logits: Tensor,
    sh: Tensor,
    cam_from_world: Tensor,
    K: Tensor,
    opacity_scale: Tensor | None,
    depth: Tensor,
    distortion: Tensor,
    state: Tensor,
    v_color: Tensor | None,
    v_alpha: Tensor | None,
    v_depth: Tensor | None,
    v_normal: Tensor | None,
    v_distortion: Tensor | None,
    width: int,
    height: int,
    background: list[float],
    sh_degree: int,
    antialiased: bool,
    near: float,
    normal: bool,
    surfels: bool,
    camera_grads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grads = [None if v is None else v.detach().contiguous() for v in (v_color, v_alpha, v_depth, v_normal, v_distortion)]
    return native().raster_backward(
        means.detach(), quats.detach(), log_scales.detach(), logits.detach(), sh.detach(), opacity_scale, cam_from_world.detach(), K.detach(),
        width, height, tuple(background), sh_degree, antialiased, near, normal, surfels, int(state), depth.detach(), distortion.detach(), *grads, camera_grads,
        torch.get_num_threads(),
    )  # fmt: skip


@torch.library.register_fake("handful::raster_cpu_backward")
def _(
    means, quats, log_scales, logits, sh, cam_from_world, K, opacity_scale, depth, distortion, state, v_color, v_alpha, v_depth, v_normal, v_distortion,
    width, height, background, sh_degree, antialiased, near, normal, surfels, camera_grads,
):  # fmt: skip
    like = [torch.empty_like(t) for t in (means, quats, log_scales, logits, sh, cam_from_world, K)]
    return (*like, means.new_empty(cam_from_world.shape[0], means.shape[0], 2))


def _setup(ctx, inputs, output) -> None:
    *tensors, width, height, background, sh_degree, antialiased, near, normal, surfels, camera_grads, _ = inputs
    _, _, depth, _, distortion, means2d, radii, state = output
    ctx.mark_non_differentiable(means2d, radii, state)
    ctx.set_materialize_grads(False)
    probe, opacity_scale = tensors[7], tensors[8]
    ctx.has_scale, ctx.probe = opacity_scale is not None, probe.numel() > 0
    ctx.camera_grads = camera_grads and (ctx.needs_input_grad[5] or ctx.needs_input_grad[6])
    ctx.options = (width, height, background, sh_degree, antialiased, near, normal, surfels)
    ctx.save_for_backward(*tensors[:7], depth, distortion, state, *([opacity_scale] if ctx.has_scale else []))


def _gradients(ctx, v_color, v_alpha, v_depth, v_normal, v_distortion, _means2d, _radii, _state):
    *tensors, depth, distortion, state = ctx.saved_tensors[:10]
    scale = ctx.saved_tensors[10] if ctx.has_scale else None
    normal, surfels = ctx.options[-2:]
    grads = torch.ops.handful.raster_cpu_backward(
        *tensors, scale, depth, distortion, state, v_color, v_alpha, v_depth, v_normal if normal or surfels else None, v_distortion if surfels else None,
        *ctx.options, ctx.camera_grads,
    )  # fmt: skip
    gaussians, cameras, means2d = grads[:5], grads[5:7], grads[7]
    return (*gaussians, *(cameras if ctx.camera_grads else (None, None)), means2d if ctx.probe else None, *[None] * 11)


torch.library.register_autograd("handful::raster_cpu", _gradients, setup_context=_setup)


class CpuRasterizer:
    """`Rasterizer` on the CPU. `aux.means2d.grad` is filled by backward when gradients are recorded."""

    name = "cpu"
    caps = RasterCaps(
        devices=frozenset({"cpu"}),
        grads=frozenset({"means", "quats_wxyz", "log_scales", "logit_opacities", "sh", "cam_from_world", "K"}),
        dtypes=frozenset({"float32"}),
        deviations={},
    )

    def render(self, gaussians: Gaussians, cameras: Cameras, options: RasterOptions = RasterOptions()) -> RenderOutput:
        """See `Rasterizer.render`. Raises ShapeError for shapes, dtypes or devices that do not fit."""
        check_inputs(self.name, self.caps, gaussians, cameras, options)
        g, v, n = gaussians, len(cameras), len(gaussians)
        degree = g.sh_degree if options.sh_degree is None else min(options.sh_degree, g.sh_degree)
        scale = options.opacity_scale
        if scale is not None:
            scale = scale.detach().to(torch.float32).contiguous()
        gaussian = [g.means, g.quats_wxyz, g.log_scales, g.logit_opacities, g.sh]
        tensors = [t.contiguous() for t in (*gaussian, cameras.cam_from_world.to(torch.float32), cameras.K.to(torch.float32))]
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        # a leaf without influence on the image: its gradient is that of the projected centres
        probe = torch.empty((v, n, 2) if keep else (0,)).requires_grad_(keep)
        background = [float(c) for c in options.background]
        color, alpha, depth, normal, distortion, means2d, radii, _ = torch.ops.handful.raster_cpu(
            *tensors, probe, scale, cameras.width, cameras.height, background, degree, options.antialiased, options.near, options.normal,
            options.surfels, options.camera_grads, keep,
        )  # fmt: skip
        if keep:
            with torch.no_grad():
                probe.copy_(means2d)
            means2d = probe
        return RenderOutput(
            color, alpha, depth, normal if options.normal or options.surfels else None, RenderAux(means2d, radii, radii > 0),
            distortion if options.surfels else None,
        )  # fmt: skip


def make() -> CpuRasterizer:
    """Raises BackendUnavailable when this installation has no compiled kernels."""
    native()
    return CpuRasterizer()
