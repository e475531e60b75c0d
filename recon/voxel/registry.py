"""All backbones by name: sparse voxels to sparse voxels, on the same coordinates; and widths at which they have equally many parameters."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import nn

from ..errors import ConfigError
from .unet import WIDTHS

__all__ = ["BACKBONES", "build_backbone", "parameters", "width_for"]

# name -> "module:factory", a factory of (cin, cout, widths)
BACKBONES: dict[str, str] = {
    "unet": "unet:UNet",
    "focal": "focal:FocalUNet",
    "sets": "sets:sets_unet",
    "patches": "patches:patches_unet",
}

STEP = 4  # channels come in multiples of it: as many as an attention has heads


def build_backbone(name: str, cin: int, cout: int, width: float = 1.0) -> nn.Module:
    """A module that takes (SparseVoxels with cin features, Rulebooks or None) and gives SparseVoxels on the same coordinates, with cout features.

    `width` scales the channels of all levels. Raises ConfigError for an unknown name.
    """
    if name not in BACKBONES:
        raise ConfigError(f"There is no backbone {name!r}; choose one of {', '.join(BACKBONES)}.")
    module, attr = BACKBONES[name].split(":")
    factory: Callable[..., nn.Module] = getattr(import_module(f".{module}", __package__), attr)
    return factory(cin, cout, tuple(max(1, round(w * width / STEP)) * STEP for w in WIDTHS))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def width_for(name: str, cin: int, cout: int, count: int) -> float:
    """The `width` at which the backbone has as near to `count` parameters as its steps of channels allow (found by halving, without any memory for weights)."""

    def at(width: float) -> int:
        with torch.device("meta"):
            return parameters(build_backbone(name, cin, cout, width))

    low, high = 0.0, 1.0
    while at(high) < count:
        low, high = high, 2 * high
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) < count else (low, middle)
    return min(low, high, key=lambda w: abs(at(w) - count))
