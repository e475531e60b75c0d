"""Sines and cosines of a place at doubling frequencies (Mildenhall et al. 2020, NeRF, section 5.1): nothing to learn, all is left to the network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["FrequencyEncoding"]


class FrequencyEncoding(nn.Module):
    """A place, from -1 to 1 in the cube, then sine and cosine of 2^k pi times it, k = 0 to `frequencies` - 1.

    `share` of the frequencies are open, from the lowest on and the last of them in part; 1 = all (Yang et al. 2023, FreeNeRF, section 3.3). It is part of
    the state: `share.fill_(...)` sets it.
    """

    share: Float[Tensor, ""]

    def __init__(self, frequencies: int = 10) -> None:
        super().__init__()
        self.frequencies, self.features = frequencies, 3 + 6 * frequencies
        self.register_buffer("share", torch.ones(()))

    def forward(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        p = 2 * xyz - 1
        k = torch.arange(self.frequencies, device=xyz.device, dtype=xyz.dtype)
        angle = p[:, None] * (torch.pi * 2**k)[:, None]
        opened = (self.share * self.frequencies - k).clamp(0, 1)
        waves = torch.cat([angle.sin(), angle.cos()], 2) * opened[:, None]
        return torch.cat([p, waves.flatten(1)], 1)
