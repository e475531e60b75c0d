"""First Gaussians: one for each (thinned) pixel at its depth, plus what no photo shows, a ring around each photo and a layer behind depth edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...recon.camera import Cameras, pixel_centers
from ...recon.capture import Capture
from ...recon.depth import DepthMap
from ...recon.depth_fill import complete_depth
from ...recon.fill import beyond_borders, push_pull
from ...recon.gaussians import Gaussians
from ...recon.hull import Hull
from ...recon.sh import sh_dc_from_rgb
from ...recon.windows import window_max
from .config import SeedConfig
from .surface import surface_discs

__all__ = ["seed_gaussians"]

RING_STRIDE = 4  # pixels between the splats of the ring: nothing sharp is known there
AGREES = 0.015  # two depths are the same surface when they differ by less than this (relative)
CLEAR = 1 / 3  # of a photo's median depth: nothing that is only guessed may stand nearer to where a photo was taken
HULL_REACH, HULL_STEPS = (0.2, 3.0), 192  # of the median depth: where the front of an object's hull is looked for
EDGE = 0.06  # relative depth difference that makes a depth edge


@dataclass(frozen=True)
class Layer:
    """Candidate splats of one photo on a pixel grid, world frame; sigma: standard deviations along the splat's own axes."""

    xyz: Float[Tensor, "M 3"]
    rgb: Float[Tensor, "M 3"]
    opacity: Float[Tensor, "M"]
    quats_wxyz: Float[Tensor, "M 4"]
    sigma: Float[Tensor, "M 3"]

    @staticmethod
    def of_balls(xyz: Float[Tensor, "M 3"], rgb: Float[Tensor, "M 3"], opacity: float, sigma: Float[Tensor, "M"]) -> Layer:
        quats = torch.zeros(len(xyz), 4)
        quats[:, 0] = 1
        return Layer(xyz, rgb, torch.full((len(xyz),), opacity), quats, sigma[:, None].repeat(1, 3))

    def keep(self, which: Bool[Tensor, "M"], grow: float = 1.0) -> Layer:
        return Layer(self.xyz[which], self.rgb[which], self.opacity[which], self.quats_wxyz[which], self.sigma[which] * grow)


def seed_gaussians(capture: Capture, depth: tuple[DepthMap, ...], config: SeedConfig) -> Gaussians:
    """Gaussians in the capture's world. `depth` is aligned with the capture's views, which all have cameras."""
    assert capture.cameras is not None, "seeding follows the initialiser, which gives every view a camera"
    cameras = capture.cameras.to(dtype=torch.float32)
    images, masks, extents, cut_out = capture.images(), capture.masks(), capture.extents(), capture.is_cut_out()
    shows = torch.ones(images.shape[:3], dtype=torch.bool) if extents is None else extents > 0.5
    inside = torch.ones(images.shape[:3], dtype=torch.bool) if masks is None else masks > 0.5
    dense = torch.stack([complete_depth(d.depth, d.confidence, images[i]) for i, d in enumerate(depth)])
    hull = Hull.of(cameras, masks, extents) if cut_out and masks is not None and config.hull else None
    if hull is not None:
        typical = torch.stack([_median_depth(d, z) for d, z in zip(depth, dense, strict=True)])
        if bool((typical > 0).any()):  # a photo that shares nothing with another has no depth; it stands about as far away as they do
            typical = torch.where(typical > 0, typical, typical[typical > 0].median())
        dense = torch.stack([_held(hull, cameras[i], dense[i], typical[i]) for i in range(len(cameras))])
    keep = [inside[i] & ~_explained(cameras, depth, dense, i) if config.merge else inside[i].clone() for i in range(len(cameras))]
    if not config.guesses:
        keep = [k & d.valid for k, d in zip(keep, depth, strict=True)]
    coarse = config.guess_spacing**2
    doubtful = [~d.valid & _looked_at(cameras, dense, i) for i, d in enumerate(depth)]
    wanted = sum(int((k & ~o).sum()) + int((k & o).sum()) / coarse for k, o in zip(keep, doubtful, strict=True))
    rate = min(1.0, config.budget_for(inside.numel()) / max(1, wanted))
    reach = CLEAR * torch.stack([_median_depth(d, z) for d, z in zip(depth, dense, strict=True)])
    shown, extra = [], []
    for i in range(len(cameras)):
        guessed = keep[i] & ~depth[i].valid
        keep[i][guessed] &= ~_in_the_way(cameras[i].unproject_depth(dense[i][None])[0][guessed], cameras, reach)
        for which, share in ((~doubtful[i], rate), (doubtful[i], rate / coarse)):
            shown.append(_photo_layer(cameras[i], images[i], depth[i], dense[i], keep[i] & which, share, config))
        if config.behind > 0:
            extra.append(_behind_layer(cameras[i], images[i], dense[i], inside[i], config))
        if config.surround > 0 and not cut_out:
            extra.append(_ring(cameras, images[i], dense, shows, i, config))
    wide = reach.clamp_min(float(reach.median()))  # a close-up is near what it shows; what no photo shows has no such excuse
    extra = [layer.keep(~_in_the_way(layer.xyz, cameras, wide)) for layer in extra]
    return _assemble([*shown, *_thinned(extra, config.extra)], len(cameras), config)


def _held(hull: Hull, camera: Cameras, dense: Float[Tensor, "H W"], typical: Tensor) -> Float[Tensor, "H W"]:
    """The depth where it lies in the hull; elsewhere that of the hull's front."""
    xyz = camera.unproject_depth(dense[None])[0]
    front = hull.first_depth(camera, typical * torch.linspace(*HULL_REACH, HULL_STEPS))
    beyond = ~hull.reached(xyz.reshape(-1, 3), 0.0).view(dense.shape) & front.isfinite()
    return torch.where(beyond, front, dense)


def _median_depth(prior: DepthMap, dense: Tensor) -> Tensor:
    """Of what was measured, or of everything where that is little."""
    measured = prior.depth[prior.valid]
    return measured.median() if len(measured) > 0.02 * dense.numel() else dense.median()


def _in_the_way(xyz: Float[Tensor, "... 3"], cameras: Cameras, reach: Float[Tensor, "V"]) -> Bool[Tensor, "..."]:
    """Points within `reach` of a place where a photo was taken, or of the way from there to its neighbours. Somebody stood and walked there: what is guessed
    there (depth continued over a table towards its edge, the ring around a neighbour's photo) is fog before every camera that moves between the photos, and
    no photo shows it from the front."""
    near = torch.zeros(xyz.shape[:-1], dtype=torch.bool)
    for i, j in ways(cameras.distances, reach / CLEAR):
        a, along = cameras.centers[i], cameras.centers[j] - cameras.centers[i]
        t = (((xyz - a) @ along) / (along @ along).clamp_min(1e-20)).clamp(0, 1)[..., None]
        near |= (xyz - a - t * along).norm(dim=-1) < torch.lerp(reach[i], reach[j], t[..., 0])
    return near


def ways(distance: Float[Tensor, "V V"], depth: Float[Tensor, "V"]) -> list[tuple[int, int]]:
    """Pairs of neighbours by the distances of the photos (no third photo is nearer to both: the relative neighbourhood graph, Toussaint 1980) no further apart than what they look at,
    and each photo with itself."""
    between = torch.maximum(distance[:, None, :], distance[None, :, :]).amin(2) < distance  # the third photo may not be i or j: their maximum is no less
    near = distance <= torch.minimum(depth[:, None], depth[None, :])
    pairs = (near & ~between).triu().nonzero().tolist()
    return [(i, j) for i, j in pairs]


def _thinned(layers: list[Layer], budget: int) -> list[Layer]:
    """A random share of every layer, the rest grown to cover the same area."""
    rate = min(1.0, budget / max(1, sum(len(layer.xyz) for layer in layers)))
    if rate == 1.0:
        return layers
    if rate == 0.0:
        return []
    rng = torch.Generator().manual_seed(0)
    return [layer.keep(torch.rand(len(layer.xyz), generator=rng) < rate, grow=1 / rate**0.5) for layer in layers]


def _assemble(layers: list[Layer], views: int, config: SeedConfig) -> Gaussians:
    xyz, rgb, opacity, quats, sigma = (
        torch.cat([getattr(layer, name) for layer in layers]).contiguous() for name in ("xyz", "rgb", "opacity", "quats_wxyz", "sigma")
    )
    degree = config.sh_degree if config.sh_degree is not None else 0 if views <= 5 else 1 if views <= 12 else 2
    sh = torch.zeros(len(xyz), (degree + 1) ** 2, 3)
    sh[:, 0] = sh_dc_from_rgb(rgb)
    return Gaussians(xyz, quats, sigma.log(), torch.logit(opacity.clamp(0.005, 0.99)), sh)


def _spacing(camera: Cameras, z: Tensor) -> Tensor:
    """World size of one pixel at z-depth z."""
    return z / (0.5 * (camera.K[0, 0, 0] + camera.K[0, 1, 1]))


def _explained(cameras: Cameras, depth: tuple[DepthMap, ...], dense: Tensor, i: int) -> Bool[Tensor, "H W"]:
    """Pixels of photo i that an earlier photo shows at least as closely, both depths agreeing and confident."""
    h, w = dense.shape[1:]
    xyz = cameras[i].unproject_depth(dense[i][None]).reshape(-1, 3)
    confident = depth[i].valid.reshape(-1)
    found = torch.zeros(h * w, dtype=torch.bool)
    for j in range(i):
        uv, z = cameras[j].project(xyz)
        x, y = uv[0, :, 0].floor().long(), uv[0, :, 1].floor().long()
        ok = (x >= 0) & (x < w) & (y >= 0) & (y < h) & (z[0] > 0)
        at = (y.clamp(0, h - 1) * w) + x.clamp(0, w - 1)
        there = dense[j].reshape(-1)[at]
        same = ((z[0] - there).abs() < AGREES * there) & depth[j].valid.reshape(-1)[at]
        as_close = z[0] <= 1.1 * dense[i].reshape(-1)
        found |= ok & confident & same & as_close
    return found.reshape(h, w)


def _looked_at(cameras: Cameras, dense: Float[Tensor, "V H W"], i: int) -> Bool[Tensor, "H W"]:
    """Pixels of photo i whose place lies within another photo, too, in front of it or hidden there."""
    h, w = dense.shape[1:]
    xyz = cameras[i].unproject_depth(dense[i][None]).reshape(-1, 3)
    within = torch.zeros(h * w, dtype=torch.bool)
    for j in range(len(cameras)):  # one by one: all at once would take the memory of all photos times all photos
        if j != i:
            uv, z = cameras[j].project(xyz)
            within |= (z[0] > 0) & (uv[0] > 0).all(-1) & (uv[0, :, 0] < w) & (uv[0, :, 1] < h)
    return within.reshape(h, w)


def _photo_layer(camera: Cameras, image: Tensor, prior: DepthMap, dense: Tensor, keep: Tensor, rate: float, config: SeedConfig) -> Layer:
    h, w = dense.shape
    xy = pixel_centers(w, h)
    # interleaved gradient noise: an even, seedless thinning at any rate
    noise = (52.9829189 * ((0.06711056 * xy[..., 0] + 0.00583715 * xy[..., 1]) % 1.0)) % 1.0
    pick = keep & (noise < rate) & (dense > 0)
    xyz = camera.unproject_depth(dense[None])[0][pick]
    trust = torch.where(prior.valid, prior.confidence, 0.0)[pick]
    opacity = config.faint_opacity + (config.opacity - config.faint_opacity) * trust
    sigma = _spacing(camera, dense[pick]) * config.size / rate**0.5
    quats, stretch = surface_discs(camera, dense, config.thickness, config.tilt)
    return Layer(xyz, image[pick], opacity, quats[pick], sigma[:, None] * stretch[pick])


def _behind_layer(camera: Cameras, image: Tensor, dense: Tensor, inside: Tensor, config: SeedConfig) -> Layer:
    """Continues the background into a band behind each depth edge, where a moved camera looks past the foreground."""
    h, w = dense.shape
    band = max(1, round(config.behind / 100 * max(h, w)))
    far = dense
    for _ in range(2):  # two passes make the square window rounder and reach across the blurred edge itself
        far = window_max(far, band // 2)
    front = dense < far * (1 - EDGE)
    known = (inside & ~front & (dense > 0)).float()
    if not bool(front.any()) or not bool(known.any()):
        return Layer.of_balls(torch.zeros(0, 3), torch.zeros(0, 3), config.surround_opacity, torch.zeros(0))
    filled = push_pull(torch.cat([image, 1 / dense.clamp_min(1e-6)[..., None]], -1), known)
    z = 1 / filled[..., 3].clamp_min(1e-9)
    stride = 2
    grid = torch.zeros(h, w, dtype=torch.bool)
    grid[::stride, ::stride] = True
    pick = front & grid & inside & (z > dense * (1 + EDGE / 2))
    xyz = camera.unproject_depth(z[None])[0][pick]
    sigma = _spacing(camera, z[pick]) * config.size * stride
    return Layer.of_balls(xyz, filled[..., :3][pick], config.surround_opacity, sigma)


def _box(where: Bool[Tensor, "H W"]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the smallest box around what is true; the whole where nothing is."""
    rows, columns = where.any(1).nonzero(), where.any(0).nonzero()
    if not len(rows):
        return 0, 0, where.shape[1], where.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _ring(cameras: Cameras, image: Tensor, dense: Tensor, shows: Bool[Tensor, "V H W"], i: int, config: SeedConfig) -> Layer:
    """Continues a photo beyond its borders with the blurred colour and depth of its edge, unless another photo looks there.

    Args:
        shows: where each picture is a photo, not padding or a corner that the lens left out.
    """
    h, w = dense.shape[1:]
    x0, y0, x1, y1 = _box(shows[i])
    photo, known = torch.cat([image, 1 / dense[i].clamp_min(1e-6)[..., None]], -1)[y0:y1, x0:x1], shows[i, y0:y1, x0:x1]
    margin = round(config.surround * max(known.shape) / RING_STRIDE) * RING_STRIDE
    canvas = beyond_borders(photo if bool(known.all()) else push_pull(photo, known.float()), margin)
    camera = cameras[i].cropped(x0 - margin, y0 - margin, canvas.shape[1], canvas.shape[0])
    z = 1 / canvas[..., 3].clamp_min(1e-9)
    pick = torch.zeros(canvas.shape[:2], dtype=torch.bool)
    pick[::RING_STRIDE, ::RING_STRIDE] = True
    pick[margin : margin + y1 - y0, margin : margin + x1 - x0] &= ~known
    xyz, rgb, z = camera.unproject_depth(z[None])[0][pick], canvas[..., :3][pick], z[pick]
    free = torch.ones(len(xyz), dtype=torch.bool)
    for j in range(len(cameras)):
        if j != i:
            uv, zj = cameras[j].project(xyz)
            x, y = uv[0, :, 0].floor().long(), uv[0, :, 1].floor().long()
            shown = (x >= 0) & (x < w) & (y >= 0) & (y < h) & (zj[0] > 0)
            x, y = x.clamp(0, w - 1), y.clamp(0, h - 1)
            shown, there = shown & shows[j, y, x], dense[j][y, x]
            free &= ~(shown & (zj[0] < there * 1.05))
    sigma = _spacing(camera, z) * config.size * RING_STRIDE
    return Layer.of_balls(xyz[free], rgb[free], config.surround_opacity, sigma[free])
