"""Depth from the photos themselves: plane sweep, semi-global aggregation, agreement between the views."""

from __future__ import annotations

from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..camera import Cameras
from ..depth import DepthMap
from ..errors import ShapeError
from ..kernels import native_or_none
from . import reference
from .check import agreement, confidence, drop_speckles, normals_from_slopes, support
from .config import StereoConfig
from .refine import Photos, Sweep, refine_views
from .setup import choose_sources, inverse_depths, range_from_geometry, range_from_points, source_maps
from .stages import match_view

__all__ = ["stereo_depth"]


def stereo_depth(
    images: Float[Tensor, "V H W 3"],
    cameras: Cameras,
    limits: Float[Tensor, "V 2"] | None = None,
    config: StereoConfig | None = None,
    masks: Float[Tensor, "V H W"] | None = None,
    xyz: Float[Tensor, "N 3"] | None = None,
    backend: str = "auto",
) -> list[DepthMap]:
    """One metric depth map per photo.

    Args:
        images: sRGB in [0, 1].
        cameras: one per photo, of the photos' size.
        limits: inverse z-depths (far, near) per view, 1 / world units; far may be 0. None: from `xyz`, else searched.
        masks: 0 where a pixel must be ignored; such pixels get no depth and are never matched.
        xyz: world points seen by the photos; they choose the range of depths and which photos are compared.
        backend: auto, native or reference.

    Returns depth everywhere inside the mask (a guess where `valid` is false), `confidence` in [0, 1], `valid` where another view agrees,
    and normals. A photo that shares nothing with the others has confidence 0 and depth 0.

    Raises ShapeError when photos and cameras differ in number or size, or there is only one photo.
    """
    config = config or StereoConfig()
    v, h, w = images.shape[:3]
    if len(cameras) != v or (cameras.width, cameras.height) != (w, h):
        raise ShapeError(f"Stereo needs one {w}x{h} camera per photo; got {v} photos and {len(cameras)} cameras of {cameras.width}x{cameras.height}.")
    if v < 2:
        raise ShapeError("Stereo needs two photos or more; give another photo of the same scene.")
    scale = min(1.0, config.max_side / max(w, h))
    if scale < 1.0:
        small = (max(2, round(h * scale)), max(2, round(w * scale)))
        img = F.interpolate(images.permute(0, 3, 1, 2), small, mode="area").permute(0, 2, 3, 1).contiguous()
        msk = None if masks is None else (F.interpolate(masks[:, None], small, mode="area")[:, 0] > 0.999).float()
        return [_enlarge(m, h, w) for m in stereo_depth(img, cameras.resized(small[1], small[0]), limits, config, msk, xyz, backend)]
    with torch.no_grad():
        cams = cameras.to(device="cpu", dtype=torch.float32)
        return _run(images.detach().cpu().float(), cams, limits, config, masks, xyz, backend)


def _enlarge(m: DepthMap, h: int, w: int) -> DepthMap:
    """Nearest neighbour: mixing depths across an edge would invent points in the air."""
    def up(t: Tensor) -> Tensor:
        return F.interpolate(t[None, None].float(), (h, w), mode="nearest-exact")[0, 0]

    assert m.normal is not None
    normal = torch.stack([up(c) for c in m.normal.unbind(-1)], -1)
    return DepthMap(up(m.depth), up(m.confidence), up(m.valid) > 0.5, normal, m.kind)


def _run(
    images: Tensor, cameras: Cameras, limits: Tensor | None, config: StereoConfig, masks: Tensor | None, xyz: Tensor | None, backend: str
) -> list[DepthMap]:
    v, h, w = images.shape[:3]
    if limits is None:
        limits = _find_limits(images, cameras, config, masks, xyz, backend)
    sources = choose_sources(cameras, limits, config.max_sources, xyz)
    grey = (images @ torch.tensor([0.299, 0.587, 0.114])).clamp(0, 1).contiguous()
    rgb = (images.clamp(0, 1) * 255 + 0.5).to(torch.uint8).contiguous()
    mask = torch.ones(v, h, w, dtype=torch.uint8) if masks is None else (masks > 0.5).to(torch.uint8).contiguous()
    photos = Photos(grey, rgb, mask)
    sweep = Sweep(
        torch.zeros(v, h, w), torch.zeros(v, h, w, 2), torch.zeros(v, h, w), torch.ones(v, h, w), torch.zeros(v), limits[:, 1].clone()
    )
    for i in range(v):
        if not sources[i]:
            continue
        maps = source_maps(cameras, i, sources[i])
        planes = inverse_depths(cameras, maps, limits[i], config)
        win = match_view(grey, rgb[i], mask, i, sources[i], maps, planes, config, backend)
        sweep.step[i] = planes[1] - planes[0]
        sweep.inv[i] = (planes[0] + win.plane * sweep.step[i]) * mask[i]
        sweep.margin[i], sweep.cost[i] = win.margin, win.cost
    kernels = native_or_none() if backend != "reference" else None
    if kernels is not None and config.refine_rounds > 0:
        refine_views(kernels, photos, cameras, sources, sweep, config, xyz)
    else:
        for i in range(v):
            sweep.slopes[i] = reference.fit_planes(sweep.inv[i], max(3.0 * float(sweep.step[i]), 1e-12))
    return [_finish(sweep, cameras, i, sources[i], mask[i], config, kernels) for i in range(v)]


def _finish(
    sweep: Sweep, cameras: Cameras, i: int, sources: list[int], mask: Tensor, config: StereoConfig, kernels: ModuleType | None
) -> DepthMap:
    inv = sweep.inv
    h, w = inv.shape[1:]
    if not sources:
        zero = torch.zeros(h, w)
        return DepthMap(zero, zero, zero > 0, torch.zeros(h, w, 3))
    agree = agreement(inv, cameras, i, sources, config.check_px, config.check_relative, kernels)
    agreed = (agree.count > 0) & (mask > 0) & (inv[i] > 0)
    step = float(sweep.step[i])
    sure = confidence(agree, support(inv[i], sweep.slopes[i], agreed, step), sweep.margin[i], sweep.cost[i])
    valid = drop_speckles(inv[i], agreed & (sure > config.valid_above), config.speckle, 1.5 * step)
    sure = torch.where(valid, sure, torch.zeros_like(sure))
    depth = torch.where(inv[i] > 0, 1.0 / inv[i].clamp(min=1e-9), torch.zeros_like(inv[i]))
    return DepthMap(depth, sure, valid, normals_from_slopes(inv[i], sweep.slopes[i], cameras.K[i]))


def _find_limits(
    images: Tensor, cameras: Cameras, config: StereoConfig, masks: Tensor | None, xyz: Tensor | None, backend: str
) -> Float[Tensor, "V 2"]:
    """From the points where they suffice, else from a coarse sweep at 1/4 size over all depths the cameras could see."""
    v, h, w = images.shape[:3]
    limits = torch.full((v, 2), float("nan"))
    if xyz is not None and len(xyz):
        limits = range_from_points(cameras, xyz)
    missing = torch.isnan(limits[:, 0])
    if not bool(missing.any()):
        return limits
    wide = range_from_geometry(cameras)
    size = (max(24, h // 4), max(24, w // 4))
    small = F.interpolate(images.permute(0, 3, 1, 2), size, mode="area").permute(0, 2, 3, 1).contiguous()
    msk = None if masks is None else F.interpolate(masks[:, None], size, mode="area")[:, 0]
    cams = cameras.resized(size[1], size[0])
    for i, m in enumerate(_run(small, cams, wide, config, msk, None, backend)):
        good = m.valid
        if not bool(missing[i]):
            continue
        limits[i] = wide[i]
        if int(good.sum()) >= 100:
            inv = 1.0 / m.depth[good]
            lo, hi = (float(torch.quantile(inv, q)) for q in (0.005, 0.995))
            limits[i] = torch.tensor([max(0.0, min(0.6 * lo, lo - 0.15 * (hi - lo))), 1.25 * hi + 0.15 * (hi - lo)])
    return limits
