"""SEA-RAFT, medium (Wang et al., ECCV 2024, arXiv 2405.14793): a direct guess of the flow, then a few steps of refinement, in plain torch.

Written after the paper; the names of the parameters are those of the published weights (BSD-3-Clause), so that they load strictly.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["SeaRaftNet"]

_WIDTH = 128  # channels of state and context
_LEVELS, _RADIUS = 4, 4  # of the correlation pyramid that a step looks at
_STAGES = ((64, 3), (128, 4), (256, 6))  # channels and blocks: the first three stages of a ResNet-34


class _Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, padding=1), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, padding=1), nn.BatchNorm2d(outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.bn3 = nn.BatchNorm2d(outside)
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride), self.bn3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Encoder(nn.Module):
    """Picture -> 256 channels at 1/8 size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 64, 7, 2, padding=3), nn.BatchNorm2d(64)
        inside = 64
        for k, (outside, blocks) in enumerate(_STAGES):
            stage = [_Residual(inside if i == 0 else outside, outside, 2 if i == 0 and k > 0 else 1) for i in range(blocks)]
            self.add_module(f"layer{k + 1}", nn.Sequential(*stage))
            inside = outside
        self.final_conv = nn.Conv2d(inside, 2 * _WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for k in range(len(_STAGES)):
            x = self.get_submodule(f"layer{k + 1}")(x)
        return self.final_conv(x)


class _Motion(nn.Module):
    """What the correlations around the present flow, and the flow itself, say."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(_LEVELS * (2 * _RADIUS + 1) ** 2, 2 * _WIDTH, 1)
        self.convc2 = nn.Conv2d(2 * _WIDTH, 3 * _WIDTH // 2, 3, padding=1)
        self.convf1 = nn.Conv2d(2, _WIDTH, 7, padding=3)
        self.convf2 = nn.Conv2d(_WIDTH, _WIDTH // 2, 3, padding=1)
        self.conv = nn.Conv2d(2 * _WIDTH, _WIDTH - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        seen = F.relu(self.convc2(F.relu(self.convc1(correlation))))
        moved = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([seen, moved], 1))), flow], 1)


class _ConvNext(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(inside, inside, 7, padding=3, groups=inside)
        self.norm = nn.LayerNorm(inside, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(inside, 4 * outside), nn.Linear(4 * outside, inside)
        self.gamma = nn.Parameter(1e-6 * torch.ones(inside))
        self.final = nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return self.final(x + y.permute(0, 3, 1, 2))


class _Update(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Motion()
        self.refine = nn.ModuleList(_ConvNext(3 * _WIDTH, _WIDTH) for _ in range(2))

    def forward(self, state: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> Tensor:
        given = torch.cat([context, self.encoder(flow, correlation)], 1)
        for block in self.refine:
            state = block(torch.cat([state, given], 1))
        return state


class _Correlation:
    """All products of the two photos' features, the second also at half, quarter and eighth size."""

    def __init__(self, f0: Float[Tensor, "B C H W"], f1: Float[Tensor, "B C H W"]) -> None:
        b, c, h, w = f0.shape
        self.size = (b, h, w)
        self.volumes = []
        for _ in range(_LEVELS):
            products = f0.flatten(2).transpose(1, 2) @ f1.flatten(2) / math.sqrt(c)
            self.volumes.append(products.reshape(b * h * w, 1, *f1.shape[-2:]))
            f1 = F.interpolate(f1, scale_factor=0.5, mode="bilinear", align_corners=False)

    def around(self, place: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B K H W"]:
        """The products in a window around `place` (x, y in pixels of 1/8 size) at each level; 0 outside the picture."""
        b, h, w = self.size
        step = torch.arange(-_RADIUS, _RADIUS + 1).to(place)
        # x changes along the window's first axis: the order the weights were trained with
        window = torch.stack(torch.meshgrid(step, step, indexing="ij"), -1)[None]
        center = place.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        out = []
        for level, volume in enumerate(self.volumes):
            at = center / 2**level + window
            scale = torch.tensor([volume.shape[3] - 1, volume.shape[2] - 1]).to(at).clamp_min(1)
            read = F.grid_sample(volume, 2 * at / scale - 1, align_corners=True)
            out.append(read.reshape(b, h, w, -1))
        return torch.cat(out, -1).permute(0, 3, 1, 2)


class SeaRaftNet(nn.Module):
    """Two batches of photos in [0, 1] (sides multiples of 8, at least 128) -> displacement in pixels from the first to the second."""

    def __init__(self, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps
        self.cnet, self.fnet = _Encoder(6), _Encoder(3)
        self.init_conv = nn.Conv2d(2 * _WIDTH, 2 * _WIDTH, 3, padding=1)
        self.upsample_weight = nn.Sequential(nn.Conv2d(_WIDTH, 2 * _WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * _WIDTH, 64 * 9, 1))
        # flow (2), and four numbers about its uncertainty that only training needs
        self.flow_head = nn.Sequential(nn.Conv2d(_WIDTH, 2 * _WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * _WIDTH, 6, 3, padding=1))
        self.update_block = _Update()

    def forward(self, image0: Float[Tensor, "B 3 H W"], image1: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2 H W"]:
        image0, image1 = 2 * image0 - 1, 2 * image1 - 1
        state, context = self.init_conv(self.cnet(torch.cat([image0, image1], 1))).split(_WIDTH, 1)
        flow = self.flow_head(state)[:, :2]
        correlation = _Correlation(self.fnet(image0), self.fnet(image1))
        h, w = flow.shape[-2:]
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grid = torch.stack([x, y]).to(flow)
        for _ in range(self.steps):
            state = self.update_block(state, context, correlation.around(grid + flow), flow)
            flow = flow + self.flow_head(state)[:, :2]
        return self._upsample(flow, state)

    def _upsample(self, flow: Float[Tensor, "B 2 h w"], state: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 2 H W"]:
        """Every pixel is a convex mix of the nine coarse ones around it."""
        b, _, h, w = flow.shape
        weight = (0.25 * self.upsample_weight(state)).reshape(b, 1, 9, 64, h, w).softmax(2)
        near = F.unfold(8 * flow, 3, padding=1).reshape(b, 2, 9, 1, h, w)
        return F.pixel_shuffle((weight * near).sum(2).reshape(b, 2 * 64, h, w), 8)
