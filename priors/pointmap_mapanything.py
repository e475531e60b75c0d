"""MapAnything (Keetha et al., 2025, arXiv 2509.13414): metric points and cameras of all photos in one pass, by the authors' package.

The only file that imports mapanything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..recon.capture import View
from ..recon.errors import BackendUnavailable
from ..recon.pointmaps import PointMaps
from .pointmap_common import IMAGENET, batch, from_depth, work_size
from .weight_files import weight_path

__all__ = ["MapAnything"]

_INSTALL = "pip install git+https://github.com/facebookresearch/map-anything"


@dataclass
class MapAnything:
    """Point maps and cameras in metres, as far as a network can tell them.

    Attributes:
        weights: the model and its settings: the Apache-2.0 variant.
        side: the photo's longer side as the network sees it.
        device: where the network runs.
    """

    weights: tuple[str, ...] = ("map-anything-apache", "map-anything-apache-config")
    side: int = 518
    device: str = "cpu"
    name: str = "mapanything"
    version: str = "1"
    license: str = "Apache-2.0"
    packages: ClassVar[dict[str, str]] = {"mapanything": _INSTALL}
    _net: Any = field(default=None, repr=False, compare=False)

    def predict(self, views: Sequence[View]) -> PointMaps:
        if self._net is None:
            self._net = self._load()
        images = batch(views, work_size(*views[0].image.size, self.side))
        mean, deviation = (torch.tensor(v).reshape(3, 1, 1) for v in IMAGENET)
        asked = [{"img": ((im - mean) / deviation)[None].to(self.device), "data_norm_type": ["dinov2"]} for im in images]
        with torch.inference_mode():
            out = self._net.infer(asked, memory_efficient_inference=False, use_amp=False, apply_mask=False, mask_edges=False)
        depth, certainty = (torch.stack([o[key].reshape(images.shape[-2:]) for o in out]).float().cpu() for key in ("depth_z", "conf"))
        pose, K = (torch.cat([o[key] for o in out]).float().cpu() for key in ("camera_poses", "intrinsics"))
        return from_depth(views, depth, certainty, torch.linalg.inv(pose), K, metric=True)  # the package gives world_from_cam

    def _load(self) -> Any:
        try:
            from mapanything.models import MapAnything as Network
        except ImportError as e:
            raise BackendUnavailable(f"MapAnything needs its package ({e}); run `{_INSTALL}`.") from e
        if not any(Path(torch.hub.get_dir()).glob("facebookresearch_dinov2_*")):
            raise BackendUnavailable(
                "MapAnything's package builds its encoder from code that torch.hub downloads from github.com/facebookresearch/dinov2 and runs, which Handful does not do "
                "unasked; if you trust it, run `python -c \"import torch; torch.hub.list('facebookresearch/dinov2')\"` once."
            )
        model, config = (weight_path(name) for name in self.weights)
        if model.parent != config.parent:
            raise BackendUnavailable(
                f"MapAnything's {model.name} and {config.name} must lie in one folder, not in {model.parent} and {config.parent}."
            )
        return Network.from_pretrained(str(model.parent)).to(self.device).eval()
