"""Depth Anything 3 (Lin et al., 2025, arXiv 2511.10647): depth and cameras of several photos at once. The only file that imports depth_anything_3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.capture import View
from ..recon.errors import BackendUnavailable, ConfigError
from ..recon.pointmaps import PointMaps
from .depth_relative import RelativeDepth, at_size
from .pointmap_common import IMAGENET, batch, from_depth, work_size
from .weight_files import load_tensors

__all__ = ["DepthAnything3", "DepthAnything3Points", "network"]

# without its dependencies: among them are another OpenCV, which overwrites ours, and numpy 1
_INSTALL = "pip install --no-deps depth-anything-3==0.1.1 && pip install addict einops omegaconf"
_SIDE = 504  # the photo's longer side as the network was trained


@dataclass
class DepthAnything3Points:
    """Point maps and cameras, in a frame of the network's own scale.

    Attributes:
        weights: "da3-small" or "da3-base"; "da3-large" may not be used commercially.
        side: the photo's longer side as the network sees it.
        device: where the network runs.
    """

    weights: tuple[str, ...] = ("da3-small",)
    side: int = _SIDE
    device: str = "cpu"
    name: str = "depth-anything-3"
    version: str = "1"
    license: str = "Apache-2.0"
    packages: ClassVar[dict[str, str]] = {"depth_anything_3": _INSTALL}
    _net: Any = field(default=None, repr=False, compare=False)

    def predict(self, views: Sequence[View]) -> PointMaps:
        if self._net is None:
            self._net = network(self.weights[0], self.device)
        out = _run(self._net, views, self.side, self.device)
        depth, certainty, pose, K = (out[k][0].float().cpu().clone() for k in ("depth", "depth_conf", "extrinsics", "intrinsics"))
        return from_depth(views, depth, certainty, pose, K)


@dataclass
class DepthAnything3(RelativeDepth):
    """Stereo, completed by what Depth Anything 3 makes of all photos together.

    Attributes:
        weights: as of the point map prior of the same name.
        side: here the photo's longer side as the network sees it.
    """

    side: int = _SIDE
    weights: tuple[str, ...] = ("da3-small",)
    name: str = "depth-anything-3"
    version: str = "1"
    license: str = "Apache-2.0"
    packages: ClassVar[dict[str, str]] = {"depth_anything_3": _INSTALL}
    _net: Any = field(default=None, repr=False, compare=False)

    def inverse_depth(self, views: Sequence[View]) -> list[Float[Tensor, "H W"]]:
        if self._net is None:
            self._net = network(self.weights[0], self.device)
        depth = _run(self._net, views, self.side, self.device)["depth"][0].float().cpu()
        width, height = views[0].image.size
        return list(at_size(1.0 / depth.clamp_min(1e-6), width, height).clone())


def _run(net: Any, views: Sequence[View], side: int, device: str) -> dict[str, Tensor]:
    images = batch(views, work_size(*views[0].image.size, side))
    mean, deviation = (torch.tensor(v).reshape(3, 1, 1) for v in IMAGENET)
    with torch.inference_mode():
        return net(((images - mean) / deviation)[None].to(device), None, None, [], False, False, "saddle_balanced")


def network(name: str, device: str = "cpu", pretrained: bool = True) -> Any:
    """The network of that name, with its weights or (tests) with random ones."""
    try:
        from depth_anything_3.cfg import create_object, load_config
        from depth_anything_3.registry import MODEL_REGISTRY
    except ImportError as e:
        raise BackendUnavailable(f"Depth Anything 3 needs its package ({e}); run `{_INSTALL}`.") from e
    if name not in ("da3-small", "da3-base", "da3-large"):
        raise ConfigError(f"There is no any-view model {name!r} of Depth Anything 3; choose da3-small, da3-base or da3-large.")
    net = create_object(load_config(MODEL_REGISTRY[name]))
    if pretrained:
        state = {k.removeprefix("model."): v for k, v in load_tensors(name).items()}
        odd = net.load_state_dict(state, strict=False)
        if odd.missing_keys:
            raise BackendUnavailable(f"The {name} weights do not fit the installed network ({odd.missing_keys[0]}); update its package.")
    return net.to(device).eval()
