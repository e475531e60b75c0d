"""A scan to splats at once, by a small network that was trained on made-up streets and rooms (`pipelines/scan/train.py`); its weights come with Handful.

Looks around from where the scan was taken, so a scan must say where that is (or the caller does).
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..recon.gaussians import Gaussians
from ..recon.sweeps import Sweep
from .net_files import unpacked
from .scan_net import CHILDREN, ScanNet, ScanNetConfig

__all__ = ["ScanPrediction", "ScanSplats", "load_scan_net", "weights_digest"]

WEIGHTS = Path(__file__).parent / "weights"
MOST_RETURNS = 60_000  # at a time; denser scans are thinned, evenly
SIDEWAYS = 0.7  # z of the mean direction above which a scan's own z axis is no "up" but where it looks (a depth picture)


@dataclass(frozen=True)
class ScanPrediction:
    """Splats without colour, world frame; `source`: the return each was made from; `label`: index into LABELS of each of the sweep's returns."""

    gaussians: Gaussians
    source: Int[Tensor, "M"]
    label: Int[Tensor, "N"]


class ScanSplats:
    name = "scan-splats"
    version = "1"
    license = "Apache-2.0"

    def __init__(self, backbone: str = "unet", device: str = "cpu") -> None:
        """`backbone`: by name, or a file that the training wrote. Raises BackendUnavailable where there are no weights."""
        self.net, self.device = deepcopy(load_scan_net(backbone)).to(device), device  # the loaded one is shared

    def predict(self, sweep: Sweep, viewpoint: Float[Tensor, "3"] | None = None) -> ScanPrediction:
        """`viewpoint`: where the scan was taken, world frame, for a scan that does not say."""
        if not len(sweep):
            none = torch.zeros(0, dtype=torch.long)
            empty = torch.zeros(0, 3)
            return ScanPrediction(Gaussians(empty, torch.zeros(0, 4), empty, torch.zeros(0), torch.zeros(0, 1, 3)), none, none)
        pick = _thinned(len(sweep))
        local, frame = _around(sweep, viewpoint)
        with torch.no_grad():
            made = self.net(local[pick].to(self.device), frame.to(self.device))
        label = made.classes.argmax(1).cpu()
        # a return that was left out is what its neighbour in the list is
        all_labels = label[torch.bucketize(torch.arange(len(sweep)), pick).clamp_max(len(pick) - 1)]
        return ScanPrediction(made.gaussians.to("cpu"), pick.repeat_interleave(CHILDREN), all_labels)


def _thinned(count: int) -> Int[Tensor, "M"]:
    if count <= MOST_RETURNS:
        return torch.arange(count)
    return torch.linspace(0, count - 1, MOST_RETURNS, dtype=torch.float64).round().long()


def _around(sweep: Sweep, viewpoint: Float[Tensor, "3"] | None) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "4 4"]]:
    """The returns seen from where they were measured, z up, and that frame in the world."""
    frame, R = sweep.world_from_sensor.clone(), sweep.world_from_sensor[:3, :3]
    if viewpoint is not None:
        eye = (viewpoint - frame[:3, 3]) @ R
    elif sweep.origins is not None:  # contiguous: the median of an expanded tensor is nan (torch 2.13)
        eye = sweep.origins.contiguous().median(0).values
    else:
        eye = torch.zeros(3)
    local = sweep.xyz - eye  # never by way of the world: map coordinates leave float32 no centimetres
    frame[:3, 3] = sweep.to_world(eye[None])[0]
    ahead = torch.nn.functional.normalize(local, dim=1).mean(0)
    if float(ahead[2].abs()) > SIDEWAYS:
        s = float(ahead[2].sign())  # 1: OpenCV's axes, y down; -1: OpenGL's, y up
        turn = torch.tensor([[0.0, 0.0, s], [-1.0, 0.0, 0.0], [0.0, -s, 0.0]])  # rows: ahead, left, up
        local, frame = local @ turn.T, frame.clone()
        frame[:3, :3] = frame[:3, :3] @ turn.T
    return local, frame


def _file(backbone: str) -> Path:
    return WEIGHTS / f"scan_{backbone}.safetensors"


@lru_cache(maxsize=4)
def load_scan_net(backbone: str = "unet", path: Path | None = None) -> ScanNet:
    """The trained network, ready to use. Raises BackendUnavailable where its weights are missing or of another shape."""
    path = path or (Path(backbone) if backbone.endswith(".safetensors") else _file(backbone))
    build = lambda **config: ScanNet(ScanNetConfig(**config))  # noqa: E731
    return unpacked(path, build, f"the scan network {backbone!r}", "python -m handful.pipelines.scan.train")


def weights_digest(backbone: str = "unet") -> str:
    """sha256 of the weights, for caches."""
    return hashlib.sha256(_file(backbone).read_bytes()).hexdigest()


