"""A VM grid that a convolutional network makes from fixed noise: what such a network produces easily looks like the world, which is all the prior there is
(Shi et al. 2023, ZeroRF, section 3; Ulyanov et al. 2018, Deep Image Prior)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .vm import vm_features

__all__ = ["VmGenerator"]

STAGES = 3  # doublings
NOISE = 128  # channels


class VmGenerator(nn.Module):
    """Stands in for `VmGrid`: `grids()` runs the network; its weights are what is learned.

    The three planes go through one two-dimensional network, the three lines through one one-dimensional one, each from noise of its own.

    Args:
        side: of the planes, a multiple of 8; channels: as VmGrid's; widths: channels of the network at 1/8, 1/4, 1/2 and full size.
    """

    def __init__(self, side: int = 160, channels: int = 16, widths: tuple[int, ...] = (64, 64, 32, 16), rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.side, self.channels, self.features = side, channels, 3 * channels
        small = side >> STAGES
        self.register_buffer("plane_noise", torch.randn(3, NOISE, small, small, generator=rng))
        self.register_buffer("line_noise", torch.randn(3, NOISE, small, generator=rng))
        self.plane_net = _network(nn.Conv2d, widths, channels)
        self.line_net = _network(nn.Conv1d, widths, channels)
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d)):
                fan = module.weight[0].numel()
                with torch.no_grad():
                    module.weight.copy_(torch.randn(module.weight.shape, generator=rng) * fan**-0.5)
                    assert module.bias is not None
                    module.bias.zero_()

    def grids(self) -> tuple[Float[Tensor, "3 S S C"], Float[Tensor, "3 S C"]]:
        planes = self.plane_net(self.plane_noise).permute(0, 2, 3, 1).contiguous()
        return planes, 1 + self.line_net(self.line_noise).transpose(1, 2).contiguous()

    def forward(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        return vm_features(*self.grids(), xyz)


def _network(conv: type[nn.Conv1d] | type[nn.Conv2d], widths: tuple[int, ...], channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [conv(NOISE, widths[0], 3, padding=1)]
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [_Residual(conv, before), _Doubled(conv, before, after)]
    return nn.Sequential(*layers, _Residual(conv, widths[-1]), nn.GroupNorm(8, widths[-1]), nn.SiLU(), conv(widths[-1], channels, 3, padding=1))


class _Doubled(nn.Module):
    """Each pixel twice as wide and high (nearest neighbour), then a convolution of three. Done as one transposed convolution, which never multiplies by the same pixel
    twice: 16 taps for four pixels instead of 36, and no enlarged copy."""

    def __init__(self, conv: type[nn.Conv1d] | type[nn.Conv2d], before: int, after: int) -> None:
        super().__init__()
        self.conv = conv(before, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        for dim in range(2, weight.ndim):
            a, b, c = weight.unbind(dim)
            weight = torch.stack([c, b + c, a + b, a], dim)  # what reaches the pixels before, twice its own, and after
        transposed = nn.functional.conv_transpose2d if weight.ndim == 4 else nn.functional.conv_transpose1d
        return transposed(x, weight.transpose(0, 1), self.conv.bias, stride=2, padding=1)


class _Residual(nn.Module):
    def __init__(self, conv: type[nn.Conv1d] | type[nn.Conv2d], width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), conv(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
