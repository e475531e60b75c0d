"""The network of `scan_splats.py`: a scan's returns to four splats each.

It works in the scanner's own directions: voxels lie along azimuth, elevation and the logarithm of range, so that a street corner at 5 and at 50 metres look
alike to it, and the gap between two beams is as many voxels wide wherever it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..recon.gaussians import Gaussians
from ..recon.neighbours import nearest
from ..recon.scan.labels import LABELS
from ..recon.se3 import quat_from_matrix, quat_multiply
from ..recon.voxel.conv import Rulebooks
from ..recon.voxel.registry import build_backbone, width_for
from ..recon.voxel.tensors import SparseVoxels, voxelize

__all__ = ["CHILDREN", "ScanNet", "ScanNetConfig", "Splats"]

CHILDREN = 4
FEATURES, AROUND, NEIGHBOURS = 8, 32, 12  # features of a return: its own, of the returns around it, and how many those are
CELL = (math.radians(0.2), math.radians(0.4), 0.05)  # azimuth, elevation, ln(range)
REACH = (math.radians(3.0), math.radians(3.0), 0.5)  # how far a child may be from its return, in the same three
SIGMA = math.radians(0.25)  # standard deviation that a splat starts from, in radians seen from the scanner
LEAST_RANGE = 0.2  # metres


@dataclass(frozen=True)
class ScanNetConfig:
    """backbone: a name of recon/voxel/registry.py, as wide as `parameters` allow. hidden: width of the head."""

    backbone: str = "unet"
    parameters: int = 1_400_000
    channels: int = 48
    hidden: int = 96


@dataclass(frozen=True)
class Splats:
    """What the network makes of N returns, world frame.

    Attributes:
        gaussians: CHILDREN a return, in the order of the returns, without colour; the first of each stands on its return.
        classes: logits of LABELS a return.
    """

    gaussians: Gaussians
    classes: Float[Tensor, "N 4"]


class ScanNet(nn.Module):
    """Trained by `python -m handful.pipelines.scan.train`; weights in priors/weights/."""

    def __init__(self, config: ScanNetConfig = ScanNetConfig()) -> None:
        super().__init__()
        self.config = config
        out = CHILDREN * 11
        self.around = nn.Sequential(nn.Linear(3, AROUND), nn.GELU(), nn.Linear(AROUND, AROUND))
        inputs = FEATURES + AROUND + 1
        head = [FEATURES + AROUND + config.channels, config.hidden, config.hidden, out]
        spent = sum(a * b + b for a, b in zip(head, head[1:], strict=False))
        width = width_for(config.backbone, inputs, config.channels, config.parameters - spent)
        self.backbone = build_backbone(config.backbone, inputs, config.channels, width)
        layers: list[nn.Module] = []
        for a, b in zip(head, head[1:], strict=False):
            layers += [nn.Linear(a, b), nn.GELU()]
        self.head = nn.Sequential(*layers[:-1])
        self.classify = nn.Sequential(nn.Linear(head[0], config.hidden), nn.GELU(), nn.Linear(config.hidden, len(LABELS)))
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.02)
        with torch.no_grad():
            last.bias.zero_()
            start = last.bias[:out].view(CHILDREN, 11)
            start[:, 1] = torch.tensor([0.0, 0.15, -0.15, 0.3])  # above, below, far above: rows between the beams
            start[:, 6] = 1.0  # no turn
            start[:, 10] = 2.0  # rather opaque

    def forward(self, xyz: Float[Tensor, "N 3"], world_from_sensor: Float[Tensor, "4 4"], books: Rulebooks | None = None) -> Splats:
        """`xyz` in the sensor's frame. The rulebooks depend on positions only and may be kept."""
        polar, frame = _polar(xyz)
        feats, origin = _features(xyz, polar)
        feats = torch.cat([feats, self.around(_neighbours(polar)).amax(1)], 1)
        voxels, index = _voxels(polar, feats, origin)
        deep = self.backbone(voxels, books if books is not None else Rulebooks(voxels)).feats[index]
        known = torch.cat([feats, deep], 1)
        child, classes = self.head(known).view(-1, CHILDREN, 11), self.classify(known)
        pinned = torch.ones(CHILDREN, 1, device=xyz.device)
        pinned[0] = 0
        at = polar[:, None] + torch.tanh(child[..., :3]) * torch.tensor(REACH, device=xyz.device) * pinned
        means = torch.cat([xyz[:, None], _cartesian(at[:, 1:])], 1)
        sigma = at[..., 2:].exp() * SIGMA * torch.exp(child[..., 3:6].clamp(-4, 3))
        turn = quat_multiply(quat_from_matrix(frame)[:, None], normalize(child[..., 6:10], dim=-1))
        R, t = world_from_sensor[:3, :3], world_from_sensor[:3, 3]
        turn = quat_multiply(quat_from_matrix(R[None])[:, None], turn)
        gaussians = Gaussians((means @ R.T + t).reshape(-1, 3), turn.reshape(-1, 4), sigma.log().reshape(-1, 3), child[..., 10].reshape(-1),
                              xyz.new_zeros(len(xyz) * CHILDREN, 1, 3))  # fmt: skip
        return Splats(gaussians, classes)


def _polar(xyz: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3 3"]]:
    """Azimuth, elevation and ln(range); and each return's own axes (left, up, away from the scanner) as columns."""
    flat = xyz[:, :2].norm(dim=1)
    polar = torch.stack([torch.atan2(xyz[:, 1], xyz[:, 0]), torch.atan2(xyz[:, 2], flat), xyz.norm(dim=1).clamp_min(LEAST_RANGE).log()], 1)
    (sa, se), (ca, ce) = polar[:, :2].sin().T, polar[:, :2].cos().T
    left = torch.stack([-sa, ca, torch.zeros_like(sa)], 1)
    away = torch.stack([ca * ce, sa * ce, se], 1)
    up = torch.linalg.cross(away, left)
    return polar, torch.stack([left, up, away], 2)


def _cartesian(polar: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    a, e, r = polar.unbind(-1)
    return torch.stack([a.cos() * e.cos(), a.sin() * e.cos(), e.sin()], -1) * r.exp()[..., None]


def _neighbours(polar: Float[Tensor, "N 3"]) -> Float[Tensor, "N k 3"]:
    """The NEIGHBOURS returns that lie nearest in direction, relative to each, in cells: finer than voxels, so that edges stay sharp."""
    flat = polar.detach().clone()
    flat[:, 2] = 0
    index, _ = nearest(flat, flat, NEIGHBOURS)
    around = (polar[index] - polar[:, None]) / polar.new_tensor(CELL)
    return torch.cat([around[..., :2].clamp(-8, 8) / 2, torch.tanh(around[..., 2:] / 4) * 2], -1)


def _voxels(polar: Tensor, feats: Tensor, origin: Tensor) -> tuple[SparseVoxels, Tensor]:
    """Voxels along the scanner's directions with the means of their returns' features and the logarithm of their number; and each return's voxel."""
    voxels, index = voxelize(polar, feats, polar.new_tensor(CELL), origin)
    count = torch.bincount(index, minlength=len(voxels)).to(feats)
    return voxels.with_feats(torch.cat([voxels.feats, count.log()[:, None]], 1)), index


def _features(xyz: Tensor, polar: Tensor) -> tuple[Tensor, Tensor]:
    """Each return's own features, and the origin of the voxels."""
    size = polar.new_tensor(CELL)
    low = polar.amin(0)
    origin = (low / size).floor() * size
    inside = (polar - origin) / size
    feats = torch.cat([
        inside - inside.floor() - 0.5, (polar[:, 2:] - 2.3) / 1.5, polar[:, 1:2].sin() * 3, xyz[:, 2:] / 5,
        (xyz[:, 2:] / 0.5).sin(), (xyz[:, 2:] / 0.5).cos(),
    ], 1)  # fmt: skip
    return feats, origin

