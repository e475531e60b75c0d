"""Compositing samples along rays: the emission-absorption integral with constant density in each sample (Max 1995; Mildenhall et al. 2020, equation 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ShapeError
from ..kernels import native, native_or_none
from .samples import Samples

__all__ = ["LEAST_TRANSMITTANCE", "MOST_LOG_DENSITY", "RayColors", "composite", "composite_torch", "sample_weights"]

LEAST_TRANSMITTANCE = 1e-4  # samples behind less light than this are left out
MOST_LOG_DENSITY = 15.0  # density = exp(min(raw, this))


@dataclass(frozen=True)
class RayColors:
    """What rays see.

    Attributes:
        color: without background: add (1 - alpha) times it.
        alpha: 1 - the transmittance left.
        place: sum of w s over the samples; over alpha it is the expected place on the segment.
        distortion: sum over pairs of samples of w w' |s - s'| (Barron et al. 2022, Mip-NeRF 360, equation 15, without the term of each sample with itself).
    """

    color: Float[Tensor, "R 3"]
    alpha: Float[Tensor, "R"]
    place: Float[Tensor, "R"]
    distortion: Float[Tensor, "R"]

    @staticmethod
    def of(out: Float[Tensor, "R 6"]) -> RayColors:
        return RayColors(out[:, :3], out[:, 3], out[:, 4], out[:, 5])

    def select(self, index: slice | Tensor) -> RayColors:
        return RayColors(self.color[index], self.alpha[index], self.place[index], self.distortion[index])

    def over(self, background: Float[Tensor, "3"] | Float[Tensor, "R 3"]) -> Float[Tensor, "R 3"]:
        return self.color + (1 - self.alpha)[:, None] * background


def sample_weights(density: Float[Tensor, "N"], samples: Samples) -> Float[Tensor, "N"]:
    """How much of each ray's colour comes from each sample."""
    tau = (density * samples.delta).double()
    total = torch.cat([tau.new_zeros(1), tau.cumsum(0)])
    before = total[:-1] - total[samples.starts[:-1]][samples.rays]
    T = torch.exp(-before)
    return torch.where(T >= LEAST_TRANSMITTANCE, T * -torch.expm1(-tau), 0.0).to(density.dtype)


def composite_torch(density: Float[Tensor, "N"], rgb: Float[Tensor, "N 3"], samples: Samples) -> RayColors:
    """The slow twin."""
    rays, count = samples.rays, len(samples.starts) - 1
    w = sample_weights(density, samples)
    first = samples.starts[:-1][rays]

    def before(x: Tensor) -> Tensor:
        total = torch.cat([x.new_zeros(1, dtype=torch.float64), x.double().cumsum(0)])
        return (total[:-1] - total[first]).to(x.dtype)

    pairs = 2 * w * (samples.s * before(w) - before(w * samples.s))
    each = torch.cat([w[:, None] * rgb, w[:, None], (w * samples.s)[:, None], pairs[:, None]], 1)
    return RayColors.of(each.new_zeros(count, 6).index_add(0, rays, each))


@torch.library.custom_op("handful::composite_rays", mutates_args=())
def _composite(value: Tensor, delta: Tensor, s: Tensor, starts: Tensor) -> Tensor:
    return native().composite_rays(value.detach(), delta, s, starts, torch.get_num_threads())


@torch.library.register_fake("handful::composite_rays")
def _(value, delta, s, starts):
    return value.new_empty(starts.shape[0] - 1, 6)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, v_out):
    value, delta, s, starts = ctx.saved_tensors
    return native().composite_grad(value.detach(), delta, s, starts, v_out.contiguous(), torch.get_num_threads()), None, None, None


torch.library.register_autograd("handful::composite_rays", _backward, setup_context=_setup)


def composite(density: Float[Tensor, "N"], rgb: Float[Tensor, "N 3"], samples: Samples) -> RayColors:
    """Natively (float32 on the CPU, differentiable in density and colour, once), else `composite_torch`. Raises ShapeError for shapes that do not fit."""
    if density.shape != (len(samples),) or rgb.shape != (len(samples), 3):
        raise ShapeError(f"composite: {len(samples)} samples need as many densities and colours; got {tuple(density.shape)} and {tuple(rgb.shape)}.")
    if density.device.type != "cpu" or density.dtype != torch.float32 or rgb.dtype != torch.float32 or native_or_none() is None:
        return composite_torch(density, rgb, samples)
    value = torch.cat([density[:, None], rgb], 1).contiguous()
    return RayColors.of(torch.ops.handful.composite_rays(value, samples.delta, samples.s, samples.starts))
