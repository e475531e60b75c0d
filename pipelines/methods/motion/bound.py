"""What motions share that change the depth of pixels: which Gaussian belongs to which pixel, and how it follows its ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....recon.camera import Cameras
from ....recon.gaussians import Gaussians
from ....recon.optim import SparseAdam

__all__ = ["PIXEL", "PixelMotion", "bound_pixels"]

PIXEL = "pixel"  # the column that says which pixel a Gaussian belongs to
ON_THE_RAY = 2e-3  # pixels from a pixel's centre that are rounding
ON_THE_SURFACE = 0.01  # of the depth
SLOWEST = 0.1  # of the learning rate, at the end of the run


class PixelMotion(ABC):
    """Moves each pixel's Gaussian along the pixel's ray, and its size with it, as its parameters say. Rows need the column PIXEL.

    Attributes:
        residual: natural logarithm of the factor on each pixel's inverse depth, of the last move.
    """

    def __init__(self, cameras: Cameras) -> None:
        self.cameras = cameras
        self.residual: Float[Tensor, "V H W"] = torch.zeros(len(cameras), cameras.height, cameras.width, device=cameras.device)

    def learn(self, weights: dict[str, Tensor], lr: float) -> None:
        """Makes these the parameters, with an optimiser of their own at rate `lr`, which falls to SLOWEST of it."""
        self.weights, self.lr = {name: t.requires_grad_(True) for name, t in weights.items()}, lr
        self.adam = SparseAdam(self.weights, lr)

    @abstractmethod
    def decode(self) -> Float[Tensor, "V H W"]:
        """The residual that the parameters say."""

    def move(self, gaussians: Gaussians, rows: Mapping[str, Tensor], again: bool = False) -> Gaussians:
        self.residual = self.residual.detach() if again else self.decode()
        pixel = rows[PIXEL]
        change = torch.where(pixel >= 0, self.residual.reshape(-1)[pixel.clamp_min(0)], 0.0)
        center = self.cameras.centers[self.photo(pixel)]
        means = center + (gaussians.means - center) * torch.exp(-change)[:, None]
        means = torch.where((pixel >= 0)[:, None], means, gaussians.means)
        return replace(gaussians, means=means, log_scales=gaussians.log_scales - change[:, None])

    def pixel_depth(self, rows: Mapping[str, Tensor]) -> Float[Tensor, "V H W"]:
        """z-depth of each pixel's Gaussian after the last move, with gradients to the motion alone; 0 where a pixel has none."""
        pixel = rows[PIXEL]
        forward = self.cameras.cam_from_world[self.photo(pixel), 2]
        z = (forward[:, :3] * rows["means"].detach()).sum(-1) + forward[:, 3]
        depth = torch.full((self.residual.numel(),), torch.inf, device=z.device)
        depth.scatter_reduce_(0, pixel[pixel >= 0], z[pixel >= 0], "amin")
        return torch.where(torch.isfinite(depth), depth, 0.0).reshape(self.residual.shape) * torch.exp(-self.residual)

    def step(self, progress: float) -> None:
        self.adam.step(None)
        self.adam.zero_grad()
        for name in self.weights:
            self.adam.set_lr(name, self.lr * SLOWEST**progress)

    def state(self) -> dict[str, Tensor]:
        tensors = {f"weights.{name}": t.detach().clone() for name, t in self.weights.items()}
        return tensors | {f"adam.{k}": t.clone() for k, t in self.adam.state_dict().items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, t in self.weights.items():
            t.copy_(tensors[f"weights.{name}"])
        self.adam.load_state_dict({k[5:]: t.to(self.residual.device) for k, t in tensors.items() if k.startswith("adam.")})

    def photo(self, pixel: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        return pixel.clamp_min(0) // (self.cameras.height * self.cameras.width)


@torch.no_grad()
def bound_pixels(
    means: Float[Tensor, "N 3"], cameras: Cameras, surface: Float[Tensor, "V H W"] | None = None, extents: Float[Tensor, "V H W"] | None = None
) -> Int[Tensor, "N"]:
    """The pixel on whose ray each point lies, counted through all photos; -1 where it is on none. Seeding puts points exactly on the rays of their pixels, so
    they are told by where they are, whatever was thinned and merged on the way. With `surface`, the depth of each pixel, what lies on the ray but not there (a layer behind an edge)
    belongs to none, nor does what lies in the padding that `extents` leaves out."""
    uv, z = cameras.project(means)
    w, h = cameras.width, cameras.height
    cell = uv.floor()
    off = (uv - cell - 0.5).abs().amax(-1)
    inside = (z > 0) & (cell[..., 0] >= 0) & (cell[..., 0] < w) & (cell[..., 1] >= 0) & (cell[..., 1] < h)
    off = torch.where(inside, off, torch.inf)
    least, photo = off.min(0)
    at = cell.gather(0, photo[None, :, None].expand(1, -1, 2))[0].nan_to_num(0).clamp(0, max(w, h)).long()
    bound = least < ON_THE_RAY
    if surface is not None:
        there = surface[photo, at[:, 1].clamp_max(h - 1), at[:, 0].clamp_max(w - 1)]
        bound &= (z.gather(0, photo[None])[0] - there).abs() < ON_THE_SURFACE * there
    if extents is not None:
        bound &= extents[photo, at[:, 1].clamp_max(h - 1), at[:, 0].clamp_max(w - 1)] > 0.5
    return torch.where(bound, photo * (h * w) + at[:, 1] * w + at[:, 0], -1)
