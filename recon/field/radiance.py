"""A radiance field: an encoding of places and the network that reads it. Where the encoding is a VM grid or a cloud of tensors, whole rays go through one native
operator."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..sh import sh_basis
from .decoder import Decoder, colors_of, density_of
from .fused import FusedVm, fused_cloud, fused_vm
from .samples import Samples
from .trivec import TriVectors
from .vm import resized_vm, vm_features
from .volume import RayColors, composite

__all__ = ["NO_MATTER", "Encoding", "RadianceField", "ReadyField"]

NO_MATTER = -1000.0  # logarithm of density where an encoding holds nothing: exp of it is 0


class Encoding(Protocol):
    """Places in the unit cube to features; a torch module. One that does not fill the cube has a method `holds`, which says where it has any: elsewhere there is no
    matter."""

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
        self._twin, self._fused = twin, None
        if grids is not None and not twin:
            self._fused = fused_vm(grids, field.decoder)
        elif isinstance(field.encoding, TriVectors) and not twin:
            self._fused = fused_cloud(field.encoding.arrays(), field.decoder)

    def copied(self) -> ReadyField:
        """The same, with everything it stands on copied: what goes on learning does not change it."""
        from copy import deepcopy

        field = RadianceField(self.encoding, self.decoder)
        with torch.no_grad():
            copy = deepcopy(field).requires_grad_(False)
            grids = None if self.grids is None else (self.grids[0].detach().clone(), self.grids[1].detach().clone())
        return ReadyField(copy, grids, self._twin)

    @property
    def parameters(self) -> int:
        """Numbers that were learned: a generated grid's generator counts, not the grid."""
        parts = (self.encoding, self.decoder)
        return sum(p.numel() for part in parts if isinstance(part, nn.Module) for p in part.parameters())

    def native_tensors(self) -> tuple[Tensor, ...] | None:
        """Planes, lines and the network's weights as the kernels take them, without gradients; None where the field is no VM grid or the kernels do not answer for it."""
        return tuple(t.detach() for t in self._fused.tensors) if isinstance(self._fused, FusedVm) else None

    def raw(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N O"]:
        """The network's outputs, NO_MATTER and zeros where the encoding holds nothing; without gradients where the kernels answer."""
        if self._fused is not None and not torch.is_grad_enabled():
            return self._fused.raw(xyz)
        if self.grids is not None:
            return self.decoder(vm_features(*self.grids, xyz))
        holds = getattr(self.encoding, "holds", None)
        if holds is None:
            return self.decoder(self.encoding(xyz))
        (held,) = holds(xyz).nonzero(as_tuple=True)
        raw = self.decoder(self.encoding(xyz[held]))
        nothing = raw.new_zeros(len(xyz), raw.shape[1]).index_fill(1, torch.zeros(1, dtype=torch.int64, device=raw.device), NO_MATTER)
        return nothing.index_copy(0, held, raw)

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
        if self._fused is not None:
            return RayColors.of(self._fused.rays(samples, basis))
        raw = self.raw(samples.xyz)
        return composite(density_of(raw), colors_of(raw, basis[samples.rays]), samples)
