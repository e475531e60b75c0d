"""Mends finished splats at once, by a small network that was trained on Handful's own reconstructions of made-up captures (`pipelines/refiner/`); its weights come with Handful.

After SplatFormer (Chen et al. 2025: attention between splats, residuals to all they are, trained on views far from the photos) and PointGS (2025: splats and what
the photos show of them, joined by attention). What differs: docs/refine.md.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..recon.errors import ShapeError
from ..recon.gaussians import Gaussians
from ..recon.scene import SplatScene
from .net_files import unpacked
from .refiner_net import RefinerConfig, RefinerNet, ask_photos, changed

__all__ = ["WEIGHTS", "SplatRefiner", "load_refiner"]

WEIGHTS = Path(__file__).parent / "weights" / "splat_refiner.safetensors"


class SplatRefiner:
    """The trained network on one device."""

    def __init__(self, weights: Path = WEIGHTS, device: str | torch.device = "cpu") -> None:
        """Raises BackendUnavailable where there are no weights."""
        self.net, self.device = deepcopy(load_refiner(weights)).to(device), device  # the loaded one is shared

    def refine(
        self, scene: SplatScene, images: Float[Tensor, "P H W 3"], strengths: tuple[float, ...] = (1.0,), counts: Float[Tensor, "P H W"] | None = None
    ) -> list[Gaussians]:
        """The scene's splats with so many times the network's change; those that nothing would draw (not finite, no turn) are dropped.

        Args:
            images: the photos that the scene was made from, in the order and size of its cameras.
            counts: above 0.5 where they count; None = everywhere.

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
            counts = None if counts is None else counts.to(self.device)
            heard, around = ask_photos(gaussians, cameras.to(self.device), images.to(self.device), scene.rasterizer, scene.background, counts)
            change = self.net(gaussians, around, heard).nan_to_num(0.0, 0.0, 0.0)
            return [changed(gaussians, s * change, around, heard) for s in strengths]


def _drawn(g: Gaussians) -> Bool[Tensor, "N"]:
    fields = (g.means, g.quats_wxyz, g.log_scales, g.logit_opacities[:, None], g.sh.flatten(1))
    finite = torch.stack([f.isfinite().all(1) for f in fields]).all(0)
    return finite & (g.quats_wxyz.norm(dim=1) > 0)


@lru_cache(maxsize=2)
def load_refiner(path: Path = WEIGHTS) -> RefinerNet:
    """The trained network, ready to use. Raises BackendUnavailable where its weights are missing or of another shape."""
    return unpacked(path, lambda **config: RefinerNet(RefinerConfig(**config)), "the refiner", "python -m handful.pipelines.refiner.train")
