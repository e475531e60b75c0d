"""Lens distortion, removed once, here: the rest of the house knows pinhole cameras only.

Every model is written in the direction undistorted -> distorted (normalised image plane, z = 1), which is what resampling needs.
Resampled with torch's grid_sample, whose coordinates span the image as ours do and are exact (OpenCV's remap rounds to 1/32 pixel).
Sources: OpenCV documentation of `calib3d` (radial-tangential, fisheye) and COLMAP's documented camera models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ..recon.errors import CaptureError

__all__ = ["LENS_NAMES", "Lens", "LensWarp", "warp_image", "warp_mask"]

# model -> names of its parameters, in order
LENS_NAMES: dict[str, tuple[str, ...]] = {
    "pinhole": (),
    "opencv": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "fisheye": ("k1", "k2", "k3", "k4"),
    "thin_prism_fisheye": ("k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1"),
    "fov": ("omega",),
}


@dataclass(frozen=True)
class Lens:
    """A distortion model and its parameters (those left out at the end are 0).

    opencv: x' = x (1 + k1 r2 + k2 r4 + k3 r6) / (1 + k4 r2 + k5 r4 + k6 r6) + 2 p1 x y + p2 (r2 + 2 x2), and the like for y.
    fisheye: equidistant, theta' = theta (1 + k1 theta2 + k2 theta4 + k3 theta6 + k4 theta8).
    """

    model: str = "pinhole"
    params: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        names = LENS_NAMES.get(self.model)
        if names is None:
            raise CaptureError(f"There is no lens model {self.model!r}; known are {', '.join(LENS_NAMES)}.")
        if len(self.params) > len(names):
            raise CaptureError(f"The lens model {self.model!r} has {len(names)} parameters, got {len(self.params)}.")
        if not np.isfinite(self.params).all():
            raise CaptureError(f"The lens parameters {self.params} hold a number that is not finite; calibrate the camera again.")

    @property
    def is_pinhole(self) -> bool:
        """True when it changes nothing: no distortion at all."""
        return self.model == "pinhole" or (self.model in ("opencv", "fov") and not any(self.params))

    def _full(self) -> tuple[float, ...]:
        return self.params + (0.0,) * (len(LENS_NAMES[self.model]) - len(self.params))

    def distort(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where a ray (x, y, 1) lands on the distorted, normalised image plane."""
        if self.model == "opencv":
            return _opencv(x, y, *self._full())
        if self.model == "fisheye":
            k1, k2, k3, k4 = self._full()
            r = np.hypot(x, y)
            theta = np.arctan(r)
            t2 = theta * theta
            scale = _ratio(theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))), r)
            return x * scale, y * scale
        if self.model == "thin_prism_fisheye":
            return _thin_prism_fisheye(x, y, *self._full())
        if self.model == "fov":
            (omega,) = self._full()
            if omega == 0.0:
                return x, y
            r = np.hypot(x, y)
            scale = _ratio(np.arctan(2 * r * np.tan(omega / 2)) / omega, r, 2 * np.tan(omega / 2) / omega)
            return x * scale, y * scale
        return x, y

    def fold_radius(self, r_max: float) -> float:
        """The undistorted radius at which the radial part stops growing: beyond it the polynomial folds back and shows ghosts."""
        if self.is_pinhole:
            return float("inf")
        radial = Lens(self.model, tuple(0.0 if n in ("p1", "p2", "sx1", "sy1") else p for n, p in zip(LENS_NAMES[self.model], self._full(), strict=True)))
        r = np.linspace(0.0, max(r_max, 1e-6), 4096)
        d, _ = radial.distort(r, np.zeros_like(r))
        falling = np.flatnonzero(~(np.diff(d) > 0))
        return float(r[falling[0]]) if len(falling) else float("inf")


def _ratio(a: np.ndarray, r: np.ndarray, at_zero: float = 1.0) -> np.ndarray:
    small = r < 1e-9
    return np.where(small, at_zero, a / np.where(small, 1.0, r))


def _opencv(x, y, k1, k2, p1, p2, k3, k4, k5, k6):
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    xy2 = 2 * x * y
    return x * radial + p1 * xy2 + p2 * (r2 + 2 * x * x), y * radial + p2 * xy2 + p1 * (r2 + 2 * y * y)


def _thin_prism_fisheye(x, y, k1, k2, p1, p2, k3, k4, sx1, sy1):
    r = np.hypot(x, y)
    scale = _ratio(np.arctan(r), r)
    u, v = x * scale, y * scale
    u2, v2, uv = u * u, v * v, u * v
    r2 = u2 + v2
    radial = r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    return u + u * radial + 2 * p1 * uv + p2 * (r2 + 2 * u2) + sx1 * r2, v + v * radial + 2 * p2 * uv + p1 * (r2 + 2 * v2) + sy1 * r2


@dataclass(frozen=True)
class LensWarp:
    """How one photo of `size` is undistorted: its lens and its intrinsics in pixels of that size, which stay what they were."""

    lens: Lens
    fx: float
    fy: float
    cx: float
    cy: float
    size: tuple[int, int]


@lru_cache(maxsize=2)  # the photos of one capture mostly share one lens
def _grid(warp: LensWarp) -> tuple[torch.Tensor, np.ndarray]:
    """For every undistorted pixel centre: where it is in the photo, in [-1, 1] over its extent, and whether it is in it."""
    w, h = warp.size
    x = (np.arange(w) + 0.5 - warp.cx) / warp.fx
    y = (np.arange(h) + 0.5 - warp.cy) / warp.fy
    x, y = np.meshgrid(x, y)
    r = np.hypot(x, y)
    with np.errstate(all="ignore"):
        xd, yd = warp.lens.distort(x, y)
        u, v = xd * warp.fx + warp.cx, yd * warp.fy + warp.cy
        valid = (u >= 0) & (u <= w) & (v >= 0) & (v <= h) & (r < warp.lens.fold_radius(float(r.max())))
    grid = np.stack([np.where(valid, 2 * u / w - 1, 0.0), np.where(valid, 2 * v / h - 1, 0.0)], axis=-1)
    return torch.from_numpy(grid.astype(np.float32))[None], valid


def _sample(a: np.ndarray, grid: torch.Tensor, mode: str) -> np.ndarray:
    planes = torch.from_numpy(np.ascontiguousarray(a)).permute(2, 0, 1)[None]
    out = torch.nn.functional.grid_sample(planes, grid, mode, padding_mode="border", align_corners=False)
    return out[0].permute(1, 2, 0).numpy()


def warp_image(image: np.ndarray, warp: LensWarp) -> np.ndarray:
    """H,W,3 float32 in [0, 1], bicubic; what lies outside the photo is 0 (and 0 in `warp_mask`)."""
    grid, valid = _grid(warp)
    return np.clip(_sample(image, grid, "bicubic"), 0.0, 1.0) * valid[..., None]


def warp_mask(mask: np.ndarray | None, warp: LensWarp) -> np.ndarray:
    """H,W float32: the mask (ones when None), bilinear, 0 where the photo shows nothing."""
    grid, valid = _grid(warp)
    if mask is None:
        return valid.astype(np.float32)
    return _sample(mask[..., None], grid, "bilinear")[..., 0] * valid
