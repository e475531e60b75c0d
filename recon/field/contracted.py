"""All of the world in the unit cube: what is near as it is, what is far squeezed into a shell around it (Barron et al. 2022, Mip-NeRF 360, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .samples import Segments

__all__ = ["ContractedSpace"]

SHELLS = 16  # knots on the bent part of a ray
PIECES = SHELLS + 8
FAR = 1e6  # radii: where rays end
EVEN = 1e-3  # a piece over which the norm changes by less than this share runs evenly in distance


@dataclass(frozen=True)
class ContractedSpace:
    """The world around `center`: x -> x up to a norm of 1 (`radius`, world units), (2 - 1 / |x|) x / |x| beyond (equation 10), and the cube of edge 4 that this
    fills laid into the unit cube. The norm is the largest of |x|, |y| and |z|, not the paper's: its balls are cubes and leave no corners empty, and where one axis is
    the largest the inverse of the norm runs evenly along straight lines of the cube.

    Rays bend beyond the radius, and straight pieces stand for them: between knots evenly in the inverse of the norm, where the ray enters and leaves the middle, and
    where another axis becomes the largest. For a camera within the radius no piece is further from its ray than 0.2 % of its distance (of the radius, where that is
    more), and no depth more than 1 % off; for one at several radii 1 % and 2 %.

    Density is per edge of the cube, 4 radii in the middle: matter in the shell is as dense as it is thick in the cube.
    """

    center: Float[Tensor, "3"]
    radius: float

    def to_cube(self, xyz: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
        return _contracted((xyz - self.center) / self.radius) / 4 + 0.5

    def to_world(self, xyz: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
        x = 4 * xyz - 2
        norm = _norm(x)[..., None]
        outside = norm > 1
        beyond = x / torch.where(outside, norm, torch.ones_like(norm)) / (2 - norm).clamp_min(1 / FAR)
        return torch.where(outside, beyond, x) * self.radius + self.center

    def segments(self, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], forward: Float[Tensor, "R 3"]) -> Segments:
        """From the camera to FAR, in PIECES pieces for each ray; some are of no length."""
        o, d = (origins - self.center) / self.radius, directions
        t = _knots(o, d)  # R, PIECES + 1, in radii
        x = o[:, None] + t[..., None] * d[:, None]
        cube = _contracted(x) / 4 + 0.5
        span = cube.diff(dim=1)
        # within a piece one axis is the largest, as in its middle, and the norm there is n0 + t n1
        middle = (x[:, :-1] + x[:, 1:]) / 2
        axis = middle.abs().argmax(2, keepdim=True)
        sign = middle.gather(2, axis)[..., 0].sign()
        n0, n1 = (sign * v[:, None].expand_as(middle).gather(2, axis)[..., 0] for v in (o, d))
        ends = torch.stack([t[:, :-1], t[:, 1:]], 2)
        norms = n0[..., None] + n1[..., None] * ends
        bent = (_norm(middle) > 1) & (norms.amin(2) > 0) & (norms.diff(dim=2)[..., 0].abs() > EVEN * norms.amin(2))
        cosine = self.radius * (directions * forward).sum(1)[:, None]
        rate = torch.where(bent, cosine / torch.where(bent, n1, torch.ones_like(n1)), cosine)
        return Segments(
            cube[:, :-1].flatten(0, 1), span.flatten(0, 1), torch.linalg.vector_norm(span, dim=2).flatten(), directions,
            torch.where(bent[..., None], norms, ends).flatten(0, 1), torch.where(bent, n0, torch.zeros_like(n0)).flatten(), rate.flatten(), bent.flatten(), PIECES,
        )  # fmt: skip

    def to(self, device: torch.device | str) -> ContractedSpace:
        return ContractedSpace(self.center.to(device), self.radius)


def _norm(x: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N"]:
    return x.abs().amax(-1)


def _contracted(x: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
    norm = _norm(x)[..., None].clamp_min(1)
    return (2 - 1 / norm) * x / norm


def _knots(o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"]) -> Float[Tensor, "R K"]:
    """Distances at which a ray's pieces begin and the last ends, in order; some more than once."""
    # along a ray the norm falls to its least and grows from there: at the camera, or where two axes are equally large
    other, turn = o.roll(1, 1), d.roll(1, 1)
    kinks = torch.cat([-_over(o - other, d - turn), -_over(o + other, d + turn)], 1).clamp(0, FAR)
    at_camera = _norm(o)[:, None]
    least = torch.cat([at_camera, _norm(o[:, None] + kinks[..., None] * d[:, None])], 1).amin(1, keepdim=True).clamp_min(1)
    # its inverse rises by `fall` and falls to nothing: SHELLS even steps on that way
    fall = 1 / least - 1 / at_camera.clamp_min(1)
    way = (fall + 1 / least) * torch.arange(1, SHELLS + 1, device=o.device, dtype=o.dtype) / SHELLS
    inward = way < fall
    norms = torch.where(inward, 1 / least - fall + way, 1 / least + fall - way).clamp_min(1 / FAR).reciprocal()
    ahead, side = o * d.sign(), d.abs().clamp_min(1e-12)

    def leaves(norm: Tensor) -> Tensor:
        return ((norm[..., None] - ahead[:, None]) / side[:, None]).amin(2)

    def enters(norm: Tensor) -> Tensor:
        return ((-norm[..., None] - ahead[:, None]) / side[:, None]).amax(2)

    shells = torch.where(inward, enters(norms), leaves(norms))
    t = torch.cat([torch.zeros_like(least), enters(least), leaves(least), kinks, shells], 1)
    return torch.minimum(t.clamp_min(0), shells[:, -1:]).sort(1).values


def _over(a: Tensor, b: Tensor) -> Tensor:
    """a / b; 0 where lines are as good as parallel."""
    clear = b.abs() > 1e-6
    return torch.where(clear, a / torch.where(clear, b, torch.ones_like(b)), torch.zeros_like(a))
