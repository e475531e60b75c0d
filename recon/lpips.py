"""LPIPS (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", section 3), version 0.1, in plain torch.

The weights come from outside (priors/weights.py finds them): torchvision's ImageNet backbones and the paper's linear heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .errors import ShapeError

__all__ = ["ALEX", "SMALLEST", "VGG", "Lpips", "LpipsNet", "lpips_keys"]


@dataclass(frozen=True)
class _Conv:
    """One convolution with its ReLU. `index`: its number among torchvision's `features`; `pool`: max pooling before it; `tap`: compared after it."""

    index: int
    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0  # kernel of the pooling (stride 2), 0 = none
    tap: bool = False


VGG = (
    _Conv(0, 3, 64),
    _Conv(2, 64, 64, tap=True),
    _Conv(5, 64, 128, pool=2),
    _Conv(7, 128, 128, tap=True),
    _Conv(10, 128, 256, pool=2),
    _Conv(12, 256, 256),
    _Conv(14, 256, 256, tap=True),
    _Conv(17, 256, 512, pool=2),
    _Conv(19, 512, 512),
    _Conv(21, 512, 512, tap=True),
    _Conv(24, 512, 512, pool=2),
    _Conv(26, 512, 512),
    _Conv(28, 512, 512, tap=True),
)
ALEX = (
    _Conv(0, 3, 64, kernel=11, stride=4, padding=2, tap=True),
    _Conv(3, 64, 192, kernel=5, padding=2, pool=3, tap=True),
    _Conv(6, 192, 384, pool=3, tap=True),
    _Conv(8, 384, 256, tap=True),
    _Conv(10, 256, 256, tap=True),
)
LpipsNet = Literal["vgg", "alex"]
_LAYERS: dict[str, tuple[_Conv, ...]] = {"vgg": VGG, "alex": ALEX}
SMALLEST = {"vgg": 16, "alex": 63}  # pixels a side that every layer still sees something of

# ImageNet's mean and deviation, for images in [-1, 1]
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


def lpips_keys(net: LpipsNet) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight: `features.{i}.weight|bias` as in torchvision, `lin{k}.model.1.weight` as in the paper's code."""
    layers = _LAYERS[net]
    keys: dict[str, tuple[int, ...]] = {}
    for c in layers:
        keys[f"features.{c.index}.weight"] = (c.outputs, c.inputs, c.kernel, c.kernel)
        keys[f"features.{c.index}.bias"] = (c.outputs,)
    for k, c in enumerate(c for c in layers if c.tap):
        keys[f"lin{k}.model.1.weight"] = (1, c.outputs, 1, 1)
    return keys


@dataclass(frozen=True)
class Lpips:
    """The distance with backbone `net`; `weights` as `lpips_keys` names them, any float dtype. Differentiable in the images."""

    net: LpipsNet
    weights: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for key, shape in lpips_keys(self.net).items():
            got = tuple(self.weights[key].shape) if key in self.weights else None
            if got != shape:
                raise ShapeError(f"LPIPS weights ({self.net}): {key} must have the shape {shape}; got {got or 'none'}.")
        object.__setattr__(self, "weights", {k: self.weights[k].float() for k in lpips_keys(self.net)})

    def to(self, device: torch.device | str) -> Lpips:
        return Lpips(self.net, {k: w.to(device) for k, w in self.weights.items()})

    def _taps(self, x: Tensor) -> list[Tensor]:
        taps: list[Tensor] = []
        for c in _LAYERS[self.net]:
            if c.pool:
                x = F.max_pool2d(x, c.pool, 2)
            weight, bias = self.weights[f"features.{c.index}.weight"], self.weights[f"features.{c.index}.bias"]
            x = F.relu(F.conv2d(x, weight, bias, c.stride, c.padding))
            if c.tap:
                taps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return taps

    def _distance(self, pair: Tensor) -> Tensor:
        shift, scale = (torch.tensor(v, device=pair.device).reshape(1, 3, 1, 1) for v in (_SHIFT, _SCALE))
        total = pair.new_zeros(())
        for k, tap in enumerate(self._taps((pair.permute(0, 3, 1, 2) * 2 - 1 - shift) / scale)):
            squared = (tap[:1] - tap[1:]).square()
            total = total + F.conv2d(squared, self.weights[f"lin{k}.model.1.weight"]).mean()
        return total

    def __call__(self, a: Float[Tensor, "V H W 3"], b: Float[Tensor, "V H W 3"]) -> Float[Tensor, "V"]:
        """Distance per view, images in [0, 1], one view at a time (a 504x378 pair holds about 0.4 GB in the VGG)."""
        if a.ndim != 4 or a.shape[-1] != 3 or a.shape != b.shape:
            raise ShapeError(f"LPIPS compares two stacks of images of one shape (V, H, W, 3); got {tuple(a.shape)} and {tuple(b.shape)}.")
        if min(a.shape[1:3]) < SMALLEST[self.net]:
            raise ShapeError(f"LPIPS ({self.net}) needs images of at least {SMALLEST[self.net]} pixels a side; got {a.shape[2]}x{a.shape[1]}.")
        return torch.stack([self._distance(torch.stack([x, y]).float()) for x, y in zip(a, b, strict=True)])
