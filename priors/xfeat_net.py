"""XFeat (Potje et al., CVPR 2024): the network and its keypoints, in the plain form that its published weights fit.

Written after the authors' Apache-2.0 release. kornia has it from 0.8.3 on only, which Python 3.10 cannot install; names and results are
kornia's (tests/priors/test_xfeat_net.py), so that the same photos give the same matches on every Python.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["XFeat", "XFeatNet"]


class _Layer(nn.Module):
    """Convolution, normalisation, ReLU; a class of its own because the weights' names have its ".layer." in them."""

    def __init__(self, inside: int, outside: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        conv = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
        self.layer = nn.Sequential(conv, nn.BatchNorm2d(outside, affine=False), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class XFeatNet(nn.Module):
    """Image (sides multiples of 32) -> descriptors, keypoint logits (64 pixels of a cell and "none") and reliability at 1/8 size."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(1)
        self.skip1 = nn.Sequential(nn.AvgPool2d(4, stride=4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(_Layer(1, 4), _Layer(4, 8, stride=2), _Layer(8, 8), _Layer(8, 24, stride=2))
        self.block2 = nn.Sequential(_Layer(24, 24), _Layer(24, 24))
        self.block3 = nn.Sequential(_Layer(24, 64, stride=2), _Layer(64, 64), _Layer(64, 64, 1))
        self.block4 = nn.Sequential(_Layer(64, 64, stride=2), _Layer(64, 64), _Layer(64, 64))
        self.block5 = nn.Sequential(_Layer(64, 128, stride=2), _Layer(128, 128), _Layer(128, 128), _Layer(128, 64, 1))
        self.block_fusion = nn.Sequential(_Layer(64, 64), _Layer(64, 64), nn.Conv2d(64, 64, 1))
        self.heatmap_head = nn.Sequential(_Layer(64, 64, 1), _Layer(64, 64, 1), nn.Conv2d(64, 1, 1), nn.Sigmoid())
        self.keypoint_head = nn.Sequential(_Layer(64, 64, 1), _Layer(64, 64, 1), _Layer(64, 64, 1), nn.Conv2d(64, 65, 1))

    def forward(self, image: Float[Tensor, "1 C H W"]) -> tuple[Tensor, Tensor, Tensor]:
        x = self.norm(image.mean(dim=1, keepdim=True))
        x3 = self.block3(self.block2(self.block1(x) + self.skip1(x)))
        x4 = self.block4(x3)
        x5 = self.block5(x4)
        size = x3.shape[-2:]
        x4, x5 = (F.interpolate(y, size, mode="bilinear", align_corners=False) for y in (x4, x5))
        features = self.block_fusion(x3 + x4 + x5)
        return features, self.keypoint_head(F.pixel_unshuffle(x, 8)), self.heatmap_head(features)


class XFeat(nn.Module):
    """The network with its way from maps to keypoints. `load` takes the published weights."""

    def __init__(self, top_k: int = 4096, detection_threshold: float = 0.05) -> None:
        super().__init__()
        self.top_k, self.detection_threshold = top_k, detection_threshold
        self.net = XFeatNet()

    def load(self, state: dict[str, Tensor]) -> None:
        """The fine matcher's weights are left out: nothing here uses it."""
        self.net.load_state_dict({k: v for k, v in state.items() if not k.startswith("fine_matcher.")})

    @staticmethod
    def interpolator(maps: Float[Tensor, "1 C h w"], at: Float[Tensor, "1 N 2"], H: int, W: int, mode: str = "bicubic") -> Float[Tensor, "1 N C"]:
        """The maps at pixels (x, y) of the H x W image, by the rule the weights were trained with (it is half a pixel off the usual one)."""
        grid = 2.0 * (at / torch.tensor([W - 1, H - 1], device=at.device, dtype=maps.dtype)) - 1.0
        return F.grid_sample(maps, grid[:, :, None], mode=mode, align_corners=False)[..., 0].permute(0, 2, 1)

    def detectAndCompute(self, image: Float[Tensor, "1 C H W"], top_k: int | None = None) -> list[dict[str, Tensor]]:
        """Keypoints (integer pixels x, y as floats) with scores and unit descriptors, best first; at most `top_k`."""
        h, w = image.shape[-2:]
        features, logits, reliability = self.net(image)
        # channel 8 j + i of a cell is its pixel in row j, column i
        heat = F.pixel_shuffle(logits.softmax(1)[:, :64], 8)
        xy = _peaks(heat[0, 0], self.detection_threshold)[None]
        at = xy.to(features.dtype)
        score = self.interpolator(heat, at, h, w, "nearest") * self.interpolator(reliability, at, h, w, "bilinear")
        score, best = score[0, :, 0].topk(min(top_k or self.top_k, xy.shape[1]))
        best = best[score > 0]
        descriptors = self.interpolator(F.normalize(features, dim=1), at[:, best], h, w)[0]
        return [{"keypoints": at[0, best], "scores": score[score > 0], "descriptors": F.normalize(descriptors, dim=-1)}]


def _peaks(heat: Float[Tensor, "H W"], least: float) -> Int[Tensor, "N 2"]:
    """Pixels (x, y) above `least` and above all 24 around them, row by row; none within 2 pixels of the border."""
    center = heat[2:-2, 2:-2]
    peak = center > least
    h, w = center.shape
    for dy in range(5):
        for dx in range(5):
            if (dy, dx) != (2, 2):
                peak &= center > heat[dy : dy + h, dx : dx + w]
    return peak.nonzero().flip(-1) + 2
