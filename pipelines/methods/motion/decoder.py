"""The Gaussians of a photo move together along their pixels' rays, as a small convolutional decoder says (Paliwal et al. 2024, CoherentGS, section 3.2).

A decoder per photo turns fixed noise into the change of its inverse depth. What a few convolutions make of noise is smooth first and detailed only where the photos
insist (Ulyanov et al. 2018, deep image prior), so that neighbours go the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import conv2d, gelu, interpolate

from ....recon.camera import Cameras
from ....recon.gaussians import Gaussians
from ....recon.optim import SparseAdam
from ..config import MotionConfig
from ..photos import Photos

__all__ = ["PIXEL", "Decoder", "bound_pixels"]

PIXEL = "pixel"  # the column that says which pixel a Gaussian belongs to
ON_THE_RAY = 2e-3  # pixels from a pixel's centre that are rounding
COARSEST = 8  # photo pixels per noise pixel; doubled twice on the way to the head
SLOWEST = 0.1  # of the learning rate, at the end of the run


class Decoder:
    """See `Motion` in protocol.py. Rows need the column PIXEL."""

    def __init__(self, config: MotionConfig, photos: Photos, seed: int) -> None:
        self.config, self.cameras = config, photos.cameras
        v, c = len(photos), config.channels
        h, w = self.cameras.height, self.cameras.width
        rng = torch.Generator().manual_seed(seed)

        def draw(*shape: int, deviation: float) -> Tensor:
            return (deviation * torch.randn(*shape, generator=rng)).to(self.cameras.device)

        self.noise = draw(1, v * c, -(-h // COARSEST), -(-w // COARSEST), deviation=1.0)
        deviation = (2 / (9 * c)) ** 0.5  # He et al. 2015
        self.weights = {f"weight{i}": draw(v * c, c, 3, 3, deviation=deviation) for i in range(3)}
        self.weights |= {f"bias{i}": torch.zeros(v * c, device=self.cameras.device) for i in range(3)}
        self.weights |= {"head": torch.zeros(v, c, 1, 1, device=self.cameras.device)}  # nothing moves at first
        for t in self.weights.values():
            t.requires_grad_(True)
        self.adam = SparseAdam(self.weights, config.lr)
        self.residual: Float[Tensor, "V H W"] = torch.zeros(v, h, w, device=self.cameras.device)

    def decode(self) -> Float[Tensor, "V H W"]:
        """Natural logarithm of the factor on each pixel's inverse depth."""
        v, x = len(self.cameras), self.noise
        for i in range(3):
            x = gelu(conv2d(x, self.weights[f"weight{i}"], self.weights[f"bias{i}"], padding=1, groups=v))
            if i < 2:
                x = interpolate(x, scale_factor=2, mode="bilinear")
        x = self.config.reach * torch.tanh(conv2d(x, self.weights["head"], groups=v) / self.config.reach)
        return interpolate(x, (self.cameras.height, self.cameras.width), mode="bilinear")[0]

    def move(self, gaussians: Gaussians, rows: Mapping[str, Tensor], again: bool = False) -> Gaussians:
        self.residual = self.residual.detach() if again else self.decode()
        pixel = rows[PIXEL]
        change = torch.where(pixel >= 0, self.residual.reshape(-1)[pixel.clamp_min(0)], 0.0)
        center = self.cameras.centers[self._photo(pixel)]
        means = center + (gaussians.means - center) * torch.exp(-change)[:, None]
        means = torch.where((pixel >= 0)[:, None], means, gaussians.means)
        return replace(gaussians, means=means, log_scales=gaussians.log_scales - change[:, None])

    def pixel_depth(self, rows: Mapping[str, Tensor]) -> Float[Tensor, "V H W"]:
        """z-depth of each pixel's Gaussian after the last move, with gradients to the decoder alone; 0 where a pixel has none."""
        pixel = rows[PIXEL]
        forward = self.cameras.cam_from_world[self._photo(pixel), 2]
        z = (forward[:, :3] * rows["means"].detach()).sum(-1) + forward[:, 3]
        depth = torch.full((self.residual.numel(),), torch.inf, device=z.device)
        depth.scatter_reduce_(0, pixel[pixel >= 0], z[pixel >= 0], "amin")
        return torch.where(torch.isfinite(depth), depth, 0.0).reshape(self.residual.shape) * torch.exp(-self.residual)

    def step(self, progress: float) -> None:
        self.adam.step(None)
        self.adam.zero_grad()
        for name in self.weights:
            self.adam.set_lr(name, self.config.lr * SLOWEST**progress)

    def state(self) -> dict[str, Tensor]:
        tensors = {f"weights.{name}": t.detach().clone() for name, t in self.weights.items()} | {"noise": self.noise.clone()}
        return tensors | {f"adam.{k}": t.clone() for k, t in self.adam.state_dict().items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, t in self.weights.items():
            t.copy_(tensors[f"weights.{name}"])
        self.noise = tensors["noise"].to(self.noise.device)
        self.adam.load_state_dict({k[5:]: t.to(self.noise.device) for k, t in tensors.items() if k.startswith("adam.")})

    def _photo(self, pixel: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        return pixel.clamp_min(0) // (self.cameras.height * self.cameras.width)


@torch.no_grad()
def bound_pixels(means: Float[Tensor, "N 3"], cameras: Cameras) -> Int[Tensor, "N"]:
    """The pixel on whose ray each point lies, counted through all photos; -1 where it is on none. Seeding puts points exactly on the rays of their pixels, so
    they are told by where they are, whatever was thinned and merged on the way."""
    uv, z = cameras.project(means)
    w, h = cameras.width, cameras.height
    cell = uv.floor()
    off = (uv - cell - 0.5).abs().amax(-1)
    inside = (z > 0) & (cell[..., 0] >= 0) & (cell[..., 0] < w) & (cell[..., 1] >= 0) & (cell[..., 1] < h)
    off = torch.where(inside, off, torch.inf)
    least, photo = off.min(0)
    at = cell.gather(0, photo[None, :, None].expand(1, -1, 2))[0].nan_to_num(0).clamp(0, max(w, h)).long()
    return torch.where(least < ON_THE_RAY, photo * (h * w) + at[:, 1] * w + at[:, 0], -1)
