"""A radiance field: an encoding of places and the network that reads it. Where the encoding is a VM grid, whole rays go through one native operator."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..kernels import native, native_or_none
from ..sh import sh_basis
from .decoder import Decoder, colors_of, density_of
from .samples import Samples
from .vm import resized_vm, vm_features
from .volume import RayColors, composite

__all__ = ["Encoding", "RadianceField", "ReadyField"]


class Encoding(Protocol):
    """Places in the unit cube to features; a torch module."""

    features: int

    def __call__(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]: ...


class RadianceField(nn.Module):
    """Density and colour everywhere in the unit cube. Ask `ready()` once a step: a generated grid is made there, once."""

    def __init__(self, encoding: Encoding, decoder: Decoder) -> None:
        super().__init__()
        self.encoding, self.decoder = encoding, decoder

    def ready(self, twin: bool = False, side: int | None = None) -> ReadyField:
        """`twin`: by plain torch alone, to compare with. `side`: of a grid, brought to this resolution."""
        grids = self.encoding.grids() if hasattr(self.encoding, "grids") else None  # pyright: ignore[reportAttributeAccessIssue]
        if grids is not None and side is not None and side != grids[0].shape[1]:
            planes, lines = grids
            grids = resized_vm(planes, lines, side)
        return ReadyField(self, grids, twin)


class ReadyField:
    """A field whose grids are made: for one step, or for looking at. Where there are none, its encoding answers itself."""

    def __init__(self, field: RadianceField, grids: tuple[Tensor, Tensor] | None, twin: bool = False) -> None:
        self.decoder, self.grids = field.decoder, grids
        self.encoding = field.encoding
        self._twin, self._native = twin, False
        if grids is not None and not twin and native_or_none() is not None:
            tensors = (*grids, *field.decoder.weights())
            fits = grids[0].shape[-1] % 16 == 0 and field.decoder.w1.shape[1] % 16 == 0
            self._native = fits and all(t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in tensors)

    def copied(self) -> ReadyField:
        """The same, with everything it stands on copied: what goes on learning does not change it."""
        from copy import deepcopy

        field = RadianceField(self.encoding, self.decoder)
        with torch.no_grad():
            copy = deepcopy(field).requires_grad_(False)
            grids = None if self.grids is None else (self.grids[0].detach().clone(), self.grids[1].detach().clone())
        return ReadyField(copy, grids, self._twin)

    def _tensors(self) -> tuple[Tensor, ...]:
        assert self.grids is not None
        return (*self.grids, *self.decoder.weights())

    def native_tensors(self) -> tuple[Tensor, ...] | None:
        """Planes, lines and the network's weights as the kernels take them, without gradients; None where the kernels do not answer for this field."""
        return tuple(t.detach() for t in self._tensors()) if self._native else None

    def raw(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N O"]:
        """The network's outputs; without gradients where the kernels answer."""
        if self._native and not torch.is_grad_enabled():
            tensors = (t.detach() for t in self._tensors())
            return native().vm_points(*tensors, xyz.detach().contiguous(), self.decoder.bands, torch.get_num_threads())
        features = self.encoding(xyz) if self.grids is None else vm_features(*self.grids, xyz)
        return self.decoder(features)

    def density(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        return density_of(self.raw(xyz))

    def opacity(self, xyz: Float[Tensor, "N 3"], length: float) -> Float[Tensor, "N"]:
        """1 - exp(-density length): of a piece of a ray of that length at each place. Differentiable in the field, natively too."""
        n, device = len(xyz), xyz.device
        alone = Samples(xyz, torch.full((n,), length, device=device), torch.zeros(n, device=device), torch.arange(n + 1, device=device))
        ahead = torch.tensor([0.0, 0.0, 1.0], device=device).expand(n, 3)  # density does not ask where one looks
        return self.rays(alone, ahead).alpha

    def rays(self, samples: Samples, directions: Float[Tensor, "R 3"]) -> RayColors:
        """What each ray sees. Differentiable in the field, not in the samples' places."""
        basis = sh_basis(directions, self.decoder.degree)
        if self._native:
            args = (samples.xyz, samples.delta, samples.s, basis.contiguous(), samples.starts)
            return RayColors.of(torch.ops.handful.vm_rays(*self._tensors(), *args)[0])
        raw = self.raw(samples.xyz)
        return composite(density_of(raw), colors_of(raw, basis[samples.rays]), samples)


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
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx, v_out, _):
    if v_out is None:
        return (None,) * 11
    *inputs, value = ctx.saved_tensors
    tensors = (t.detach() for t in inputs[:6])
    planes, lines, w1, b1, w2, b2 = native().vm_grad(*tensors, *inputs[6:], value, v_out.contiguous(), torch.get_num_threads())
    kept = inputs[5].shape[0]
    return planes, lines, w1, b1, w2[:, :kept].contiguous(), b2[:kept].contiguous(), None, None, None, None, None


torch.library.register_autograd("handful::vm_rays", _backward, setup_context=_setup)
