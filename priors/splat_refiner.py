"""Mends finished splats at once, by a small network that was trained on Handful's own reconstructions of made-up captures (`pipelines/refiner/`); its weights come with Handful.

After SplatFormer (Chen et al. 2025: attention between splats, residuals to all they are, trained on views far from the photos) and PointGS (2025: splats and what
the photos show of them, joined by attention). What differs: docs/refine.md.
"""

from __future__ import annotations

import json
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..recon.errors import BackendUnavailable, ShapeError
from ..recon.gaussians import Gaussians
from ..recon.scene import SplatScene
from .refiner_net import RefinerConfig, RefinerNet, ask_photos, changed

__all__ = ["SplatRefiner", "load_refiner", "save_refiner"]

WEIGHTS = Path(__file__).parent / "weights" / "splat_refiner.safetensors"


class SplatRefiner:
    """The trained network on one device."""

    name = "splat-refiner"
    version = "1"
    license = "Apache-2.0"

    def __init__(self, weights: Path = WEIGHTS, device: str | torch.device = "cpu") -> None:
        """Raises BackendUnavailable where there are no weights."""
        self.net, self.device = deepcopy(load_refiner(weights)).to(device), device  # the loaded one is shared

    def refine(self, scene: SplatScene, images: Float[Tensor, "P H W 3"], strengths: tuple[float, ...] = (1.0,)) -> list[Gaussians]:
        """The scene's splats with so many times the network's change; those that nothing would draw (not finite, no turn) are dropped.

        Args:
            images: the photos that the scene was made from, in the order and size of its cameras.

        Raises ShapeError for photos that are not those, and for surfels (the network knows ellipsoids).
        """
        cameras = scene.cameras
        if tuple(images.shape) != (len(cameras), cameras.height, cameras.width, 3):
            raise ShapeError(f"The scene has {len(cameras)} photos of {cameras.width}x{cameras.height}; got images of shape {tuple(images.shape)}.")
        if scene.surfels:
            raise ShapeError("The refiner knows ellipsoids, not surfels.")
        gaussians = scene.gaussians.detach().to(self.device)
        gaussians = gaussians[_drawn(gaussians)]
        if not len(gaussians):
            return [gaussians for _ in strengths]
        with torch.no_grad():
            heard, around = ask_photos(gaussians, cameras.to(self.device), images.to(self.device), scene.rasterizer, scene.background)
            change = self.net(gaussians, around, heard)
            return [changed(gaussians, s * change, around, heard) for s in strengths]


def _drawn(g: Gaussians) -> Bool[Tensor, "N"]:
    fields = (g.means, g.quats_wxyz, g.log_scales, g.logit_opacities[:, None], g.sh.flatten(1))
    finite = torch.stack([f.isfinite().all(1) for f in fields]).all(0)
    return finite & (g.quats_wxyz.norm(dim=1) > 0)


def save_refiner(net: RefinerNet, path: Path) -> None:
    """Half precision, like the scan network's."""
    from safetensors.torch import save_file

    config = json.dumps({k: getattr(net.config, k) for k in RefinerConfig.__dataclass_fields__})
    save_file({k: v.detach().half().contiguous() for k, v in net.state_dict().items()}, str(path), {"config": config})


@lru_cache(maxsize=2)
def load_refiner(path: Path = WEIGHTS) -> RefinerNet:
    """The trained network, ready to use. Raises BackendUnavailable where its weights are missing or of another shape."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as f:
            net = RefinerNet(RefinerConfig(**json.loads((f.metadata() or {})["config"])))
            net.load_state_dict({k: f.get_tensor(k).float() for k in f.keys()})  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as e:
        raise BackendUnavailable(
            f"{path} holds no weights for the refiner ({str(e).splitlines()[0]}); make them with `python -m handful.pipelines.refiner.train`."
        ) from e
    return net.eval()
