"""A scan as the page shows it: not too many returns, evenly taken, coloured by what one wants to know of them. No viser here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.colormap import rainbow
from ..recon.gaussians import Gaussians
from ..recon.neighbours import Neighbours
from ..recon.raster.protocol import Rasterizer, RasterOptions
from ..recon.scan.between import returns_in_view
from ..recon.scan.sight import sampled
from ..recon.se3 import Similarity
from ..recon.sweeps import Sweep, evenly
from .photos import Photo

__all__ = ["Cloud", "Coloring", "depth_error", "photo_colors", "ramp"]

MOST = 400_000  # returns that are drawn
UNSEEN = (0.35, 0.35, 0.35)  # no photo sees it, or nothing is drawn there
ERROR_SIDE = 480  # pixels: the scene's depth is drawn at this longer side
ERROR_SCALE = 0.2  # relative difference of depth at the end of the scale


@dataclass(frozen=True)
class Coloring:
    """Colours of the returns, sRGB in [0, 1], and what they mean: a line of Markdown, empty where it needs no words."""

    rgb: Float[Tensor, "N 3"]
    legend: str = ""


@dataclass(frozen=True)
class Cloud:
    """Returns of all scans together, world frame (float64), with what is known of each: distance (from where it was seen), rgb and intensity where every scan
    has them."""

    xyz: Float[Tensor, "N 3"]
    distance: Float[Tensor, "N"] | None = None
    rgb: Float[Tensor, "N 3"] | None = None
    intensity: Float[Tensor, "N"] | None = None

    @staticmethod
    def of(sweeps: Sequence[Sweep], most: int = MOST) -> Cloud:
        """At most `most` returns, the same share of every scan."""
        thin = [s.exact() for s in evenly(sweeps, most)]
        xyz = torch.cat([s.world_xyz for s in thin])
        distance = torch.cat([(s.world_xyz - s.world_origins).norm(dim=-1) for s in thin]) if all(s.origin_known for s in thin) else None
        rgbs, intensities = [s.rgb for s in thin if s.rgb is not None], [s.intensity for s in thin if s.intensity is not None]
        rgb = torch.cat(rgbs).cpu().float() if len(rgbs) == len(thin) else None
        intensity = torch.cat(intensities).cpu().float() if len(intensities) == len(thin) else None
        return Cloud(xyz, distance, rgb, intensity)

    def __len__(self) -> int:
        return len(self.xyz)

    def spacing(self) -> float:
        """Median distance from a return to its nearest, world units: of this size they cover a surface."""
        if len(self) < 2:
            return 1.0
        _, distance = Neighbours(self.xyz - self.xyz.mean(0)).nearest((self.xyz - self.xyz.mean(0))[:: max(1, len(self) // 5000)], 2)
        return float(distance[:, 1].median())

    def carried(self, world: Similarity) -> Cloud:
        """In a world that has moved."""
        return replace(self, xyz=world.apply(self.xyz.to(world.t)), distance=None if self.distance is None else self.distance * float(world.scale))


def ramp(values: Float[Tensor, "N"]) -> Coloring:
    """From violet (low) to red (high), between the 2nd and the 98th percentile; where a value is not finite, grey."""
    good = torch.isfinite(values)
    if not bool(good.any()):
        return Coloring(torch.tensor(UNSEEN).expand(len(values), 3))
    sample = values[good][:: max(1, int(good.sum()) // 100_000)].float()
    low, high = torch.quantile(sample, torch.tensor([0.02, 0.98])).tolist()
    rgb = rainbow((values.float() - low) / max(high - low, 1e-9))
    return Coloring(torch.where(good[:, None], rgb, torch.tensor(UNSEEN)), _scale_legend(f"{low:.3g}", f"{high:.3g}"))


def photo_colors(cloud: Cloud, photos: Sequence[Photo]) -> Coloring:
    """What the nearest photo that sees a return shows there."""
    rgb = torch.tensor(UNSEEN).repeat(len(cloud), 1)
    placed = [p for p in photos if p.camera is not None]
    extents = [None if p.extent is None else torch.from_numpy(p.extent) for p in placed]
    for photo, (index, uv, _) in zip(placed, _nearest_seen(cloud, [p.camera for p in placed if p.camera is not None], extents), strict=True):
        h, w = photo.picture.shape[:2]
        assert photo.camera is not None, "only placed ones are asked"
        at = uv * (torch.tensor([w, h]) / torch.tensor([photo.camera.width, photo.camera.height]))
        rgb[index] = sampled(torch.from_numpy(photo.picture.astype(np.float32) / 255), at)
    return Coloring(rgb, "grey: no photo sees it")


@torch.no_grad()
def depth_error(
    cloud: Cloud, gaussians: Gaussians, cameras: Cameras, rasterizer: Rasterizer, stop: Callable[[], bool] = lambda: False
) -> tuple[Float[Tensor, "N"], Coloring]:
    """How far the scene's depth, drawn from the nearest photo that sees a return, is from the return: relative, NaN where nothing is drawn or no photo looks.
    `stop` is asked before each photo; the rest is then left out."""
    error = torch.full((len(cloud),), torch.nan)
    shrink = min(1.0, ERROR_SIDE / max(cameras.width, cameras.height))
    small = cameras.to("cpu", torch.float32).resized(max(1, round(cameras.width * shrink)), max(1, round(cameras.height * shrink)))
    for i, (index, uv, z) in enumerate(_nearest_seen(cloud, [small[i] for i in range(len(small))])):
        if stop():
            break
        if len(index) == 0:
            continue
        out = rasterizer.render(gaussians, small[i], RasterOptions(camera_grads=False))
        column, row = uv.long().unbind(-1)  # the pixel itself: a mean over an edge is no depth
        depth, there = out.depth[0][row, column].cpu(), out.alpha[0][row, column].cpu() > 0.5
        error[index] = torch.where(there, (depth / z - 1).abs(), torch.nan)
    good = torch.isfinite(error)
    rgb = torch.where(good[:, None], rainbow(error / ERROR_SCALE), torch.tensor(UNSEEN))
    middle = f"; half of the returns are within {float(error[good].median()):.1%}" if bool(good.any()) else ""
    return error, Coloring(rgb, f"{_scale_legend('0 %', f'{ERROR_SCALE:.0%} of the depth and more')}; grey: no photo sees it, or nothing is there{middle}")


def _nearest_seen(
    cloud: Cloud, cameras: Sequence[Cameras], extents: Sequence[Bool[Tensor, "H W"] | None] | None = None
) -> list[tuple[Int[Tensor, "m"], Float[Tensor, "m 2"], Float[Tensor, "m"]]]:
    """Per camera: the returns that it sees and no nearer camera does, their pixels and depths. What lies beyond a photo's extent it does not see."""
    best = torch.full((len(cloud),), torch.inf, dtype=torch.float64)
    owner = torch.full((len(cloud),), -1)
    seen = []
    for i, camera in enumerate(cameras):
        returns, _ = returns_in_view(camera, cloud.xyz)
        extent = None if extents is None else extents[i]
        if extent is not None:
            returns = returns.kept(_within(extent, returns.uv, camera))
        seen.append(returns)
        far = (cloud.xyz[returns.index] - camera.centers[0].cpu().double()).norm(dim=-1)
        nearer = far < best[returns.index]
        best[returns.index[nearer]], owner[returns.index[nearer]] = far[nearer], i
    kept = [r.kept(owner[r.index] == i) for i, r in enumerate(seen)]
    return [(r.index, r.uv, r.z) for r in kept]


def _within(extent: Bool[Tensor, "H W"], uv: Float[Tensor, "m 2"], camera: Cameras) -> Bool[Tensor, "m"]:
    h, w = extent.shape
    column = (uv[:, 0] * w / camera.width).long().clamp(0, w - 1)
    row = (uv[:, 1] * h / camera.height).long().clamp(0, h - 1)
    return extent[row, column]


def _scale_legend(low: str, high: str) -> str:
    """The colours between two words."""
    blocks = "".join(
        f'<span style="color: rgb({", ".join(str(round(255 * c)) for c in color)})">&#9632;</span>' for color in rainbow(torch.linspace(0, 1, 11)).tolist()
    )
    return f"{low} {blocks} {high}"
