"""The Gaussians of a photo move together along their pixels' rays, as a small convolutional decoder says (Paliwal et al. 2024, CoherentGS, section 3.2).

A decoder per photo turns fixed noise into the change of its inverse depth. What a few convolutions make of noise is smooth first and detailed only where the photos
insist (Ulyanov et al. 2018, deep image prior), so that neighbours go the same way.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, gelu, interpolate

from ..config import MotionConfig
from ..photos import Photos
from .bound import PixelMotion

__all__ = ["Decoder"]

COARSEST = 8  # photo pixels per noise pixel; doubled twice on the way to the head


class Decoder(PixelMotion):
    """See `Motion` in protocol.py."""

    def __init__(self, config: MotionConfig, photos: Photos, seed: int) -> None:
        super().__init__(photos.cameras)
        self.config = config
        v, c = len(photos), config.channels
        h, w = self.cameras.height, self.cameras.width
        rng = torch.Generator().manual_seed(seed)

        def draw(*shape: int, deviation: float) -> Tensor:
            return (deviation * torch.randn(*shape, generator=rng)).to(self.cameras.device)

        self.noise = draw(1, v * c, -(-h // COARSEST), -(-w // COARSEST), deviation=1.0)
        deviation = (2 / (9 * c)) ** 0.5  # He et al. 2015
        weights = {f"weight{i}": draw(v * c, c, 3, 3, deviation=deviation) for i in range(3)}
        weights |= {f"bias{i}": torch.zeros(v * c, device=self.cameras.device) for i in range(3)}
        weights |= {"head": torch.zeros(v, c, 1, 1, device=self.cameras.device)}  # nothing moves at first
        self.learn(weights, config.lr)

    def decode(self) -> Float[Tensor, "V H W"]:
        v, x = len(self.cameras), self.noise
        for i in range(3):
            x = gelu(conv2d(x, self.weights[f"weight{i}"], self.weights[f"bias{i}"], padding=1, groups=v))
            if i < 2:
                x = interpolate(x, scale_factor=2, mode="bilinear")
        x = self.config.reach * torch.tanh(conv2d(x, self.weights["head"], groups=v) / self.config.reach)
        return interpolate(x, (self.cameras.height, self.cameras.width), mode="bilinear")[0]

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"noise": self.noise.clone()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        self.noise = tensors["noise"].to(self.noise.device)
