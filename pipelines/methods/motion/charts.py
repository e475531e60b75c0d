"""An atlas of charts: each photo's depth is a surface that bends as a light model says, and the Gaussians bound to it follow and turn (Guédon et al. 2025, MAtCha, section 4).

The paper bends a chart by features on a sparse grid of the picture together with features of the depth, so that foreground and background of one neighbourhood may part. Here
both are one grid over picture and depth, cut smoothly at each pixel's own depth (as a bilateral grid is), in some sizes from coarse to fine whose sum it is: smooth first, detailed
where the photos insist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, normalize, pad

from ....recon.camera import pixel_centers
from ....recon.gaussians import Gaussians
from ....recon.se3 import quat_multiply
from ..config import MotionConfig
from ..photos import Photos
from .bound import PIXEL, PixelMotion

__all__ = ["Charts"]

CELLS = (48, 24, 12)  # photo pixels per cell of the grids
LAYERS = 6  # cells along the depth
FINE = 2  # photo pixels per cell of the charts
BROKEN = 0.03  # relative step of the inverse depth to the next pixel from which there is no surface to turn


class Charts(PixelMotion):
    """See `Motion` in protocol.py."""

    def __init__(self, config: MotionConfig, photos: Photos, seed: int) -> None:
        super().__init__(photos.cameras)
        self.config, device = config, self.cameras.device
        v, h, w = self.residual.shape
        inverse = 1 / photos.completed.clamp_min(1e-9)
        half = avg_pool2d(inverse[:, None], FINE, ceil_mode=True)[:, 0].log()  # all that bends is measured in cells of so many pixels
        self.slopes: Float[Tensor, "V h w 2"] = _smooth(_slopes(half)) / FINE  # of the log inverse depth, per pixel
        self.whole: Float[Tensor, "V h w"] = (_slopes(half).abs().amax(-1) < BROKEN * FINE).float()
        self.coarse: Float[Tensor, "V h w"] = torch.zeros_like(half)
        self.learn({f"grid{cell}": torch.zeros(v, 1, LAYERS, -(-h // cell) + 1, -(-w // cell) + 1, device=device) for cell in CELLS}, config.lr_charts)
        self._at = _places(half)
        K = self.cameras.K[:, None, None]
        xy = pixel_centers(half.shape[2], half.shape[1], device) * FINE
        self._ray = xy - K[..., :2, 2]  # from the principal point, pixels
        self._focal = torch.stack([K[..., 0, 0], K[..., 1, 1]], -1)
        self._first = self._normals(torch.zeros_like(self.slopes))

    def decode(self) -> Float[Tensor, "V H W"]:
        parts = [grid_sample(grid, self._at, align_corners=True, padding_mode="border")[:, 0, 0] for grid in self.weights.values()]
        self.coarse = self.config.reach * torch.tanh(torch.stack(parts).sum(0) / self.config.reach)
        _, h, w = self.residual.shape
        return interpolate(self.coarse[:, None], scale_factor=FINE, mode="bilinear")[:, 0, :h, :w]

    def move(self, gaussians: Gaussians, rows: Mapping[str, Tensor], again: bool = False) -> Gaussians:
        moved = super().move(gaussians, rows, again)
        if again:
            self.coarse = self.coarse.detach()
        pixel = rows[PIXEL]
        v, h, w = self.residual.shape
        hh, hw = self.coarse.shape[1:]
        at, photo = pixel.clamp_min(0) % (h * w), self.photo(pixel)
        cell = photo * hh * hw + at // w // FINE * hw + at % w // FINE
        turn = self.turns().reshape(-1, 4).gather(0, cell[:, None].expand(-1, 4))  # its gradient sums in a fixed order, unlike that of an index
        return replace(moved, quats_wxyz=torch.where((pixel >= 0)[:, None], quat_multiply(turn, gaussians.quats_wxyz), gaussians.quats_wxyz))

    def turns(self) -> Float[Tensor, "V h w 4"]:
        """Rotations in the world (wxyz) from each cell's first normal to that of the last move; none where there is no surface."""
        a, b = self._first, self._normals(_slopes(self.coarse) / FINE)
        axis = torch.linalg.cross(a, b) @ self.cameras.cam_from_world[:, None, :3, :3]
        turn = torch.cat([1 + (a * b).sum(-1, keepdim=True), axis * self.whole[..., None]], -1)
        return normalize(turn, dim=-1, eps=1e-12)

    def bends(self, i: int) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"], Float[Tensor, "h w"]]:
        """How far chart i has left its first shape, in cells: 1 - cosine between its normals and those at first, and the change of how the log inverse depth bends from pixel to
        pixel; and 1 where it is a surface at all."""
        r = self.coarse[i : i + 1]
        turned = 1 - (self._first[i] * self._normals(_slopes(r) / FINE, slice(i, i + 1))[0]).sum(-1)
        p = pad(r[None], (1, 1, 1, 1), mode="replicate")[0, 0]
        curved = (p[1:-1, 2:] + p[1:-1, :-2] + p[2:, 1:-1] + p[:-2, 1:-1] - 4 * p[1:-1, 1:-1]).abs() / FINE
        return turned, curved, self.whole[i]

    def _normals(self, bend: Float[Tensor, "V h w 2"], photos: slice = slice(None)) -> Float[Tensor, "V h w 3"]:
        """Unit normals in the cameras' frames where the slopes have changed by `bend`. The inverse depth x of a plane is linear in the pixel: n ~ (fx x_u, fy x_v, x - u x_u - v x_v),
        here divided by x."""
        g = self.slopes[photos] + bend
        return normalize(torch.cat([self._focal[photos] * g, 1 - (self._ray[photos] * g).sum(-1, keepdim=True)], -1), dim=-1, eps=1e-12)


def _places(log_inverse: Float[Tensor, "V h w"]) -> Float[Tensor, "V 1 h w 3"]:
    """Where the cells lie in the grids, [-1, 1]: x, y, and their depth among the photo's depths."""
    v, h, w = log_inverse.shape
    lo, hi = (torch.quantile(log_inverse.flatten(1)[:, ::7].contiguous(), q, dim=1)[:, None, None] for q in (0.02, 0.98))
    deep = (2 * (log_inverse - lo) / (hi - lo).clamp_min(1e-6) - 1).clamp(-1, 1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, h, device=deep.device), torch.linspace(-1, 1, w, device=deep.device), indexing="ij")
    return torch.stack([x.expand(v, h, w), y.expand(v, h, w), deep], -1)[:, None]


def _slopes(maps: Float[Tensor, "V h w"]) -> Float[Tensor, "V h w 2"]:
    """Change per cell to the right and down, over both neighbours; at borders over one."""
    right, down = torch.gradient(maps, dim=(2, 1))
    return torch.stack([right, down], -1)


def _smooth(maps: Float[Tensor, "V h w C"]) -> Float[Tensor, "V h w C"]:
    return avg_pool2d(maps.permute(0, 3, 1, 2), 3, 1, padding=1, count_include_pad=False).permute(0, 2, 3, 1)
