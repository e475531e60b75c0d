"""GMFlow with refinement (Xu et al., CVPR 2022, arXiv 2111.13680): optical flow as global matching of transformer features, in plain torch.

Written after the paper; the names of the parameters are those of the published weights, so that they load strictly.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["GMFlowNet"]

_WIDTH = 128  # channels of every feature
_WINDOWS = (2, 8)  # the picture is cut into so many windows along each side for attention, at 1/8 and at 1/4 size
_SEARCH = 4  # radius of the second matching, pixels of 1/4 size
_UP = 4  # the flow at 1/4 size becomes the photo's
_NORMAL = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of the photos the network was trained on


class _Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride), nn.InstanceNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.instance_norm(self.conv1(x)))
        y = F.relu(F.instance_norm(self.conv2(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Backbone(nn.Module):
    """Photo -> features at 1/8 and 1/4 size; one 3x3 kernel, run with two strides, makes both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.layer1 = nn.Sequential(_Residual(64, 64), _Residual(64, 64))
        self.layer2 = nn.Sequential(_Residual(64, 96, 2), _Residual(96, 96))
        self.layer3 = nn.Sequential(_Residual(96, _WIDTH), _Residual(_WIDTH, _WIDTH))
        self.conv2 = nn.Conv2d(_WIDTH, _WIDTH, 1)
        self.trident_conv = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(F.instance_norm(self.conv1(image)))
        x = self.conv2(self.layer3(self.layer2(self.layer1(x))))
        return F.conv2d(x, self.trident_conv.weight, stride=2, padding=1), self.trident_conv(x)


class _Attention(nn.Module):
    """One-headed attention of `source` to `target` inside windows; with `feed` followed by the two-layer network on both."""

    def __init__(self, feed: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.merge = (nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(4))
        self.norm1 = nn.LayerNorm(_WIDTH)
        self.mlp = None
        if feed:
            wide = 8 * _WIDTH
            self.mlp = nn.Sequential(nn.Linear(2 * _WIDTH, wide, bias=False), nn.GELU(), nn.Linear(wide, _WIDTH, bias=False))
            self.norm2 = nn.LayerNorm(_WIDTH)

    def forward(
        self, source: Float[Tensor, "B H W C"], target: Float[Tensor, "B H W C"], splits: int, shifted: bool
    ) -> Float[Tensor, "B H W C"]:
        h, w = source.shape[1:3]
        shift = (h // splits // 2, w // splits // 2) if shifted else (0, 0)
        q, k, v = (
            _cut(torch.roll(x, (-shift[0], -shift[1]), (1, 2)), splits)
            for x in (self.q_proj(source), self.k_proj(target), self.v_proj(target))
        )
        score = q @ k.transpose(1, 2) / math.sqrt(_WIDTH)
        if shifted:
            score = score + _apart(int(h), int(w), splits, shift).to(score).repeat(len(source), 1, 1)
        message = torch.roll(_join(score.softmax(-1) @ v, splits, h, w), shift, (1, 2))
        message = self.norm1(self.merge(message))
        if self.mlp is not None:
            message = self.norm2(self.mlp(torch.cat([source, message], -1)))
        return source + message


def _cut(x: Float[Tensor, "B H W C"], splits: int) -> Float[Tensor, "N P C"]:
    """Windows of `splits` x `splits`, pixels of each in a row."""
    b, h, w, c = x.shape
    return x.reshape(b, splits, h // splits, splits, w // splits, c).permute(0, 1, 3, 2, 4, 5).reshape(b * splits * splits, -1, c)


def _join(x: Float[Tensor, "N P C"], splits: int, h: int, w: int) -> Float[Tensor, "B H W C"]:
    c = x.shape[-1]
    return x.reshape(-1, splits, splits, h // splits, w // splits, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)


def _apart(h: int, w: int, splits: int, shift: tuple[int, int]) -> Float[Tensor, "N P P"]:
    """-100 between two pixels of a rolled window that were not neighbours before rolling."""

    def part(n: int, by: int) -> Tensor:
        at = torch.arange(n)
        return (at >= n - n // splits).long() + (at >= n - by).long()

    label = (3 * part(h, shift[0])[:, None] + part(w, shift[1])[None]).float()
    label = _cut(label[None, :, :, None], splits)[..., 0]
    return -100.0 * (label[:, :, None] != label[:, None, :]).float()


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = _Attention(feed=False)
        self.cross_attn_ffn = _Attention(feed=True)

    def forward(self, both: Tensor, other: Tensor, splits: int, shifted: bool) -> Tensor:
        return self.cross_attn_ffn(self.self_attn(both, both, splits, shifted), other, splits, shifted)


class _Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block() for _ in range(6))

    def forward(self, f0: Float[Tensor, "B C H W"], f1: Float[Tensor, "B C H W"], splits: int) -> tuple[Tensor, Tensor]:
        both = torch.cat([f0, f1]).permute(0, 2, 3, 1)
        for k, block in enumerate(self.layers):
            both = block(both, torch.cat(both.chunk(2)[::-1]), splits, k % 2 == 1)
        f0, f1 = both.permute(0, 3, 1, 2).chunk(2)
        return f0, f1


class _Spread(nn.Module):
    """Flow handed from pixels that have a match to those that look like them (occluded ones have none of their own)."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)

    def everywhere(self, f: Float[Tensor, "B C H W"], flow: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B 2 H W"]:
        q = self.q_proj(f.flatten(2).transpose(1, 2))
        k = self.k_proj(q)  # of the query, not of the feature: what the weights were trained with
        weight = (q @ k.transpose(1, 2) / math.sqrt(_WIDTH)).softmax(-1)
        return (weight @ flow.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(flow.shape)

    def nearby(self, f: Float[Tensor, "B C H W"], flow: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B 2 H W"]:
        q = self.q_proj(f.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        k = self.k_proj(f.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        weight = (torch.stack([(q * near).sum(1) for near in _shifts(k, 1)], 1) / math.sqrt(_WIDTH)).softmax(1)
        return (weight[:, :, None] * torch.stack(_shifts(flow, 1), 1)).sum(1)


def _shifts(x: Float[Tensor, "B C H W"], radius: int) -> list[Tensor]:
    """What lies at each offset of a window around every pixel, row by row; 0 outside the picture."""
    h, w = x.shape[-2:]
    wide = F.pad(x, (radius,) * 4)
    return [wide[:, :, dy : dy + h, dx : dx + w] for dy in range(2 * radius + 1) for dx in range(2 * radius + 1)]


def _grid(h: int, w: int, like: Tensor) -> Float[Tensor, "2 H W"]:
    y, x = torch.meshgrid(torch.arange(h, device=like.device), torch.arange(w, device=like.device), indexing="ij")
    return torch.stack([x, y]).to(like)


def _match_everywhere(f0: Float[Tensor, "B C H W"], f1: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 2 H W"]:
    """Expected place of every pixel among all pixels of the second picture, minus its own."""
    h, w = f0.shape[-2:]
    weight = (f0.flatten(2).transpose(1, 2) @ f1.flatten(2) / math.sqrt(_WIDTH)).softmax(-1)
    grid = _grid(h, w, f0)
    place = (weight @ grid.flatten(1).T).transpose(1, 2).reshape(-1, 2, h, w)
    return place - grid


def _match_nearby(f0: Float[Tensor, "B C H W"], f1: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 2 H W"]:
    """The same among the pixels of a small window."""
    score = torch.stack([(f0 * near).sum(1) for near in _shifts(f1, _SEARCH)], 1) / math.sqrt(_WIDTH)
    inside = torch.stack(_shifts(torch.ones_like(f0[:1, :1]), _SEARCH), 1)[:, :, 0] > 0
    weight = score.masked_fill(~inside, -1e9).softmax(1)
    offset = torch.arange(-_SEARCH, _SEARCH + 1).to(f0)
    dy, dx = torch.meshgrid(offset, offset, indexing="ij")
    return torch.stack([(weight * d.reshape(1, -1, 1, 1)).sum(1) for d in (dx, dy)], 1)


def _warp(x: Float[Tensor, "B C H W"], flow: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B C H W"]:
    h, w = x.shape[-2:]
    at = _grid(h, w, x) + flow
    scale = torch.tensor([2 / (w - 1), 2 / (h - 1)], device=x.device, dtype=x.dtype).reshape(2, 1, 1)
    return F.grid_sample(x, (at * scale - 1).permute(0, 2, 3, 1), align_corners=True)


def _position(h: int, w: int, splits: int) -> Float[Tensor, "C H W"]:
    """Sines and cosines of the place inside each window: 64 channels of y, then 64 of x."""
    half = _WIDTH // 2
    rate = 10000.0 ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half)

    def code(n: int) -> Tensor:
        angle = (torch.arange(1, n + 1) / (n + 1e-6) * 2 * math.pi)[:, None] / rate
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1).T.repeat(1, splits)

    y, x = code(h // splits), code(w // splits)
    return torch.cat([y[:, :, None].expand(-1, h, w), x[:, None, :].expand(-1, h, w)])


class GMFlowNet(nn.Module):
    """Two batches of photos in [0, 1] (sides multiples of 32) -> displacement in pixels from the first to the second."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _Backbone()
        self.transformer = _Transformer()
        self.feature_flow_attn = _Spread()
        self.upsampler = nn.Sequential(nn.Conv2d(2 + _WIDTH, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * _UP * _UP, 1))

    def forward(self, image0: Float[Tensor, "B 3 H W"], image1: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2 H W"]:
        mean, deviation = (torch.tensor(v, device=image0.device, dtype=image0.dtype).reshape(3, 1, 1) for v in _NORMAL)
        scales = self.backbone((torch.cat([image0, image1]) - mean) / deviation)
        f0, f1 = self._features(scales[0], _WINDOWS[0], None)
        flow = self.feature_flow_attn.everywhere(f0, _match_everywhere(f0, f1))
        flow = 2 * F.interpolate(flow, scales[1].shape[-2:], mode="bilinear", align_corners=True)
        f0, f1 = self._features(scales[1], _WINDOWS[1], flow)
        flow = self.feature_flow_attn.nearby(f0, flow + _match_nearby(f0, f1))
        return self._upsample(flow, f0)

    def _features(self, both: Float[Tensor, "B C H W"], splits: int, flow: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both photos' features made aware of each other; the second ones brought to where `flow` says they belong."""
        f0, f1 = both.chunk(2)
        if flow is not None:
            f1 = _warp(f1, flow)
        code = _position(int(f0.shape[2]), int(f0.shape[3]), splits).to(f0)
        return self.transformer(f0 + code, f1 + code, splits)

    def _upsample(self, flow: Float[Tensor, "B 2 h w"], f0: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 2 H W"]:
        """Every pixel is a convex mix of the nine coarse ones around it."""
        b, _, h, w = flow.shape
        weight = self.upsampler(torch.cat([flow, f0], 1)).reshape(b, 9, _UP * _UP, h, w).softmax(1)
        near = torch.stack(_shifts(_UP * flow, 1), 1)
        fine = (weight[:, :, None] * near[:, :, :, None]).sum(1)
        return F.pixel_shuffle(fine.reshape(b, 2 * _UP * _UP, h, w), _UP)
