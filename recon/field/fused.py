"""Fields of which whole rays go through one native operator: lookup, network and compositing, forward and backward (recon/native/kernels_field.h). What the numbers
mean: radiance.py and volume.py, whose plain torch is the slow twin."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..kernels import native, native_or_none
from .decoder import Decoder
from .samples import Samples
from .trivec import CloudArrays

__all__ = ["Fused", "FusedVm", "fused_cloud", "fused_vm"]


class Fused(Protocol):
    """A field on the CPU, for one step."""

    def raw(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N O"]:
        """The network's outputs; without gradients."""
        ...

    def rays(self, samples: Samples, basis: Float[Tensor, "R K"]) -> Float[Tensor, "R 6"]:
        """What rays see (`RayColors.of`), differentiable in the field."""
        ...


def fused_vm(grids: tuple[Tensor, Tensor], decoder: Decoder) -> Fused | None:
    """None where the kernels are not there or do not do it."""
    return FusedVm(grids, decoder) if _fit(grids, decoder) and grids[0].shape[-1] % 16 == 0 else None


def fused_cloud(cloud: CloudArrays, decoder: Decoder) -> Fused | None:
    """None where the kernels are not there or do not do it."""
    return _FusedCloud(cloud, decoder) if _fit((cloud.lines, cloud.centers), decoder) and cloud.channels % 16 == 0 and cloud.nearest <= 64 else None


def _fit(tensors: tuple[Tensor, ...], decoder: Decoder) -> bool:
    tensors = (*tensors, *decoder.weights())
    fits = native_or_none() is not None and decoder.w1.shape[1] % 16 == 0
    return fits and all(t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in tensors)


def _rays(samples: Samples, basis: Tensor) -> tuple[Tensor, ...]:
    return samples.xyz, samples.delta, samples.s, basis.contiguous(), samples.starts


# -- planes and lines --------------------------------------------------------------------------------------------------


class FusedVm:
    """Planes and lines, and the network. `tensors`: planes, lines and the network's weights, as the kernels take them."""

    def __init__(self, grids: tuple[Tensor, Tensor], decoder: Decoder) -> None:
        self.tensors, self.bands = (*grids, *decoder.weights()), decoder.bands

    def raw(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N O"]:
        tensors = (t.detach() for t in self.tensors)
        return native().vm_points(*tensors, xyz.detach().contiguous(), self.bands, torch.get_num_threads())

    def rays(self, samples: Samples, basis: Float[Tensor, "R K"]) -> Float[Tensor, "R 6"]:
        return torch.ops.handful.vm_rays(*self.tensors, *_rays(samples, basis))[0]


@torch.library.custom_op("handful::vm_rays", mutates_args=())
def _vm_rays(
    planes: Tensor, lines: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, xyz: Tensor, delta: Tensor, s: Tensor, basis: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor]:
    tensors = (t.detach() for t in (planes, lines, w1, b1, w2, b2))
    return native().vm_rays(*tensors, xyz, delta, s, basis, starts, torch.get_num_threads())


@torch.library.register_fake("handful::vm_rays")
def _(planes, lines, w1, b1, w2, b2, xyz, delta, s, basis, starts):
    return planes.new_empty(starts.shape[0] - 1, 6), planes.new_empty(xyz.shape[0], 4)


def _setup(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(i for i in inputs if isinstance(i, Tensor)), output[1])
    ctx.numbers = tuple(i for i in inputs if not isinstance(i, Tensor))


def _vm_backward(ctx, v_out, _):
    if v_out is None:
        return (None,) * 11
    *inputs, value = ctx.saved_tensors
    tensors = (t.detach() for t in inputs[:6])
    planes, lines, w1, b1, w2, b2 = native().vm_grad(*tensors, *inputs[6:], value, v_out.contiguous(), torch.get_num_threads())
    return planes, lines, w1, b1, *_unpadded(w2, b2, inputs[5]), None, None, None, None, None


def _unpadded(w2: Tensor, b2: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    kept = like.shape[0]
    return w2[:, :kept].contiguous(), b2[:kept].contiguous()


torch.library.register_autograd("handful::vm_rays", _vm_backward, setup_context=_setup)


# -- clouds of tensors -------------------------------------------------------------------------------------------------


class _FusedCloud:
    def __init__(self, cloud: CloudArrays, decoder: Decoder) -> None:
        self.lines, self.bands, self.weights = cloud.lines, decoder.bands, decoder.weights()
        self.where = (cloud.centers, cloud.starts, cloud.listed, cloud.layout, cloud.sizes, cloud.channels, cloud.nearest)

    def raw(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N O"]:
        weights = (t.detach() for t in self.weights)
        return native().trivec_points(self.lines.detach(), *self.where, *weights, xyz.detach().contiguous(), self.bands, torch.get_num_threads())

    def rays(self, samples: Samples, basis: Float[Tensor, "R K"]) -> Float[Tensor, "R 6"]:
        return torch.ops.handful.trivec_rays(self.lines, *self.where, *self.weights, *_rays(samples, basis))[0]


@torch.library.custom_op("handful::trivec_rays", mutates_args=())
def _trivec_rays(
    lines: Tensor, centers: Tensor, starts: Tensor, listed: Tensor, layout: Tensor, sizes: Tensor, channels: int, nearest: int,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, xyz: Tensor, delta: Tensor, s: Tensor, basis: Tensor, rays: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    weights = (t.detach() for t in (w1, b1, w2, b2))
    where = (centers, starts, listed, layout, sizes, channels, nearest)
    return native().trivec_rays(lines.detach(), *where, *weights, xyz, delta, s, basis, rays, torch.get_num_threads())


@torch.library.register_fake("handful::trivec_rays")
def _(lines, centers, starts, listed, layout, sizes, channels, nearest, w1, b1, w2, b2, xyz, delta, s, basis, rays):
    return lines.new_empty(rays.shape[0] - 1, 6), lines.new_empty(xyz.shape[0], 4)


def _trivec_backward(ctx, v_out, _):
    if v_out is None:
        return (None,) * 17
    *inputs, value = ctx.saved_tensors
    where, weights = (*inputs[1:6], *ctx.numbers), (t.detach() for t in inputs[6:10])
    lines, w1, b1, w2, b2 = native().trivec_grad(
        inputs[0].detach(), *where, *weights, *inputs[10:], value, v_out.contiguous(), torch.get_num_threads()
    )
    return lines, *(None,) * 7, w1, b1, *_unpadded(w2, b2, inputs[9]), None, None, None, None, None


torch.library.register_autograd("handful::trivec_rays", _trivec_backward, setup_context=_setup)
