"""The network of `splat_refiner.py`: splats and what photos say of them to small changes of each splat (after SplatFormer, Chen et al. 2025).

It sees a scene from the mean of its photos: in a frame that looks as they look on the mean, around the point they look at, with the distance there as the unit; what lies beyond
is contracted (Barron et al. 2022, Mip-NeRF 360, 3.1), so that a hall and a toy are alike to it. Its last layer starts from zero: an untrained network changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..recon.camera import Cameras
from ..recon.gaussians import Gaussians
from ..recon.raster.protocol import Rasterizer, RasterOptions
from ..recon.se3 import matrix_from_quat, quat_multiply
from ..recon.sh import SH_C0, rgb_from_sh_dc, sh_basis, sh_dc_from_rgb
from ..recon.voxel.conv import Rulebooks
from ..recon.voxel.registry import build_backbone, width_for
from ..recon.voxel.tensors import voxelize

__all__ = ["RefinerConfig", "RefinerNet", "Surroundings", "Testimony", "ask_photos", "changed", "surroundings"]

OWN, TOLD, OUT = 22, 12, 13  # numbers of a splat itself, of what one photo says of it, and of its change
CELL = 1 / 40  # edge of a voxel, contracted units
GRID = (163, 163, 163)  # voxels from -2 to 2, and one more on either side
REACH = 0.05  # how far a splat moves for a change of one, in distances from the nearest photo
AGREED = 0.3  # length of the mean of the photos' directions from which they look one way
OPACITY, COLOR = 4.0, 0.3  # logits, and colour, for a change of one


@dataclass(frozen=True)
class RefinerConfig:
    """backbone: a name of recon/voxel/registry.py, as wide as `parameters` allow. channels: of what a voxel says. hidden: width of the other layers."""

    backbone: str = "patches"
    parameters: int = 1_000_000
    channels: int = 48
    hidden: int = 64


@dataclass(frozen=True)
class Surroundings:
    """Where photos look: rotation to the mean photo's axes (rows: right, down, ahead), the point, and how far it is."""

    rotation: Float[Tensor, "3 3"]
    center: Float[Tensor, "3"]
    unit: float


@dataclass(frozen=True)
class Testimony:
    """What P photos say of each of N splats.

    Attributes:
        told: numbers of each splat in each photo. inside: whether the splat is in the frame, 1 or 0. footprint: size of a pixel where the splat is, world units,
            and distance from the nearest photo, both of the photo that is nearest (of those that have it in the frame, if any).
    """

    told: Float[Tensor, "P N 12"]
    inside: Float[Tensor, "P N"]
    footprint: Float[Tensor, "N"]
    distance: Float[Tensor, "N"]


class RefinerNet(nn.Module):
    """Trained by `python -m handful.pipelines.refiner.train`; weights in priors/weights/."""

    def __init__(self, config: RefinerConfig = RefinerConfig()) -> None:
        super().__init__()
        self.config = config
        h = config.hidden
        self.witness = nn.Sequential(nn.Linear(TOLD, h), nn.GELU(), nn.Linear(h, h // 2))
        known = OWN + h  # own numbers, mean and largest of the photos'
        self.enter = nn.Sequential(nn.Linear(known, h), nn.GELU(), nn.Linear(h, h))
        width = width_for(config.backbone, h + 1, config.channels, config.parameters)
        self.backbone = build_backbone(config.backbone, h + 1, config.channels, width)
        self.head = nn.Sequential(nn.Linear(h + known + config.channels, 2 * h), nn.GELU(), nn.Linear(2 * h, h), nn.GELU(), nn.Linear(h, OUT))
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, gaussians: Gaussians, around: Surroundings, heard: Testimony) -> Float[Tensor, "N 13"]:
        """The changes, to be made by `changed`."""
        own, place = _own(gaussians, around, heard)
        said = self._said(heard)
        known = torch.cat([own, said], 1)
        point = self.enter(known)
        voxels, index = voxelize(place, point, CELL, place.new_full((3,), -2.0 - CELL), GRID)
        count = torch.bincount(index, minlength=len(voxels)).to(point)
        voxels = voxels.with_feats(torch.cat([voxels.feats, count.log()[:, None] / 4], 1))
        deep = self.backbone(voxels, Rulebooks(voxels)).feats[index]
        return self.head(torch.cat([point, known, deep], 1))

    def _said(self, heard: Testimony) -> Float[Tensor, "N h"]:
        """Mean and largest of what the photos say, one after the other: thirty photos need no more memory than one."""
        total, largest = torch.zeros(()), None
        for told, inside in zip(heard.told, heard.inside, strict=True):
            words = self.witness(told) * inside[:, None]
            total = total.to(words) + words
            largest = words if largest is None else torch.maximum(largest, words)
        assert largest is not None, "a scene has photos"
        return torch.cat([total / heard.inside.sum(0).clamp_min(1)[:, None], largest], 1)


def changed(gaussians: Gaussians, change: Float[Tensor, "N 13"], around: Surroundings, heard: Testimony) -> Gaussians:
    """The splats after so much change: place, sizes, turn, opacity, colour of the first band."""
    R = around.rotation
    shift = torch.tanh(change[:, :3]) @ R * (REACH * heard.distance[:, None])
    half = change[:, 6:9] @ R * 0.5
    turn = torch.cat([torch.ones_like(half[:, :1]), half], 1)
    sh = torch.cat([gaussians.sh[:, :1] + sh_dc_from_rgb(change[:, 10:13] * COLOR + 0.5)[:, None], gaussians.sh[:, 1:]], 1)
    return replace(
        gaussians, means=gaussians.means + shift, log_scales=gaussians.log_scales + change[:, 3:6], quats_wxyz=quat_multiply(turn, gaussians.quats_wxyz),
        logit_opacities=gaussians.logit_opacities + OPACITY * change[:, 9], sh=sh,
    )  # fmt: skip


def surroundings(cameras: Cameras, depth: Float[Tensor, "P H W"]) -> Surroundings:
    """From the photos' cameras and the scene's depth in each (0 where it is empty)."""
    forward, down = cameras.cam_from_world[:, 2, :3].mean(0), cameras.cam_from_world[:, 1, :3].mean(0)
    across = torch.linalg.cross(down, forward)
    if float(forward.norm()) > AGREED and float(across.norm()) > AGREED * float(forward.norm()):
        ahead, right = (torch.nn.functional.normalize(x, dim=0) for x in (forward, across))
        rotation = torch.stack([right, torch.linalg.cross(ahead, right), ahead])
    else:  # photos all around look nowhere on the mean
        rotation = cameras.cam_from_world[0, :3, :3]
    medians = torch.stack([d[d > 0].median() if bool((d > 0).any()) else d.new_ones(()) for d in depth])
    looked_at = cameras.centers + cameras.cam_from_world[:, 2, :3] * medians[:, None]
    center = looked_at.mean(0)
    return Surroundings(rotation, center, float((cameras.centers - center).norm(dim=1).mean().clamp_min(1e-9)))


def ask_photos(
    gaussians: Gaussians,
    cameras: Cameras,
    images: Float[Tensor, "P H W 3"],
    rasterizer: Rasterizer,
    background: tuple[float, float, float],
    counts: Float[Tensor, "P H W"] | None = None,
) -> tuple[Testimony, Surroundings]:
    """Asks every photo about every splat: is it in the frame, before or behind what is drawn there, how much of the picture is it, does its colour fit.

    Args:
        counts: above 0.5 where a photo counts; elsewhere it says nothing. None = everywhere.
    """
    axes, thin = matrix_from_quat(gaussians.quats_wxyz), gaussians.log_scales.argmin(1)
    normal = axes[torch.arange(len(thin), device=thin.device), :, thin]
    told, inside, far, depths = [], [], [], []
    for i in range(len(cameras)):
        camera, image = cameras[i], images[i]
        with torch.enable_grad():
            base = replace(gaussians.detach(), sh=gaussians.sh.detach().clone().requires_grad_(True))
            out = rasterizer.render(base, camera, RasterOptions(background=background, camera_grads=False))
            (grad,) = torch.autograd.grad(out.color.sum(), base.sh)
        share = grad[:, 0].amax(1).clamp_min(0) / SH_C0  # sum of the splat's weights over the picture, pixels (a channel that is clamped at 0 has no gradient)
        uv, z = camera.project(gaussians.means)
        u, v = uv[0].nan_to_num(-1).clamp(-1, 1e6).floor().long().unbind(-1)
        w, h = camera.width, camera.height
        here = (u >= 0) & (v >= 0) & (u < w) & (v < h) & (z[0] > 1e-6)
        u, v = u.clamp(0, w - 1), v.clamp(0, h - 1)
        surface, alpha = out.depth[0].detach()[v, u], out.alpha[0].detach()[v, u]
        behind = torch.where(surface > 0, (z[0].clamp_min(1e-6) / surface.clamp_min(1e-6)).log(), -1.0).clamp(-1, 1)
        way = torch.nn.functional.normalize(gaussians.means - camera.centers[0], dim=1)
        basis = sh_basis(way, gaussians.sh_degree)
        off = image[v, u] - (0.5 + (basis[..., None] * gaussians.sh).sum(1))
        error = (image - out.color[0].detach()).abs().mean(-1)[v, u]
        facing = (way * normal).sum(1).abs()
        told.append(torch.stack([
            behind, (10 * behind).clamp(-1, 1), alpha, *off.unbind(1), off.abs().mean(1), error, facing, torch.log1p(share), torch.log1p(share * 20) / 3,
            torch.ones_like(alpha),
        ], 1))  # fmt: skip
        if counts is not None:
            here = here & (counts[i][v, u] > 0.5)
        inside.append(here.to(alpha))
        far.append(torch.where(here, z[0], (gaussians.means - camera.centers[0]).norm(dim=1) * 1e3))
        depths.append(out.depth[0].detach())
    nearest, which = torch.stack(far).min(0)
    distance = torch.where(torch.stack(inside).sum(0) > 0, nearest, nearest / 1e3)
    around = surroundings(cameras, torch.stack(depths))
    distance = distance.clamp(0.05 * around.unit, 20 * around.unit)
    return Testimony(torch.stack(told), torch.stack(inside), distance / cameras.K[which, 0, 0], distance), around


def _own(gaussians: Gaussians, around: Surroundings, heard: Testimony) -> tuple[Float[Tensor, "N 22"], Float[Tensor, "N 3"]]:
    """Numbers of each splat itself, and its place in contracted units, within [-2, 2]."""
    local = (gaussians.means - around.center) @ around.rotation.T / around.unit
    far = local.norm(dim=1, keepdim=True).clamp_min(1e-6)
    place = torch.where(far > 1, (2 - 1 / far) * local / far, local)
    axes = matrix_from_quat(gaussians.quats_wxyz)
    axes = around.rotation @ axes
    spread = (2 * (gaussians.log_scales - gaussians.log_scales.amax(1, keepdim=True))).exp()
    shape = (axes * spread[:, None]) @ axes.transpose(1, 2)
    order = gaussians.log_scales.sort(dim=1).values
    pixels = (order - heard.footprint.log()[:, None]).clamp(-6, 6)
    cell = (place + 2) / CELL
    own = torch.cat([
        place, cell - cell.floor() - 0.5, far.log().clamp(-4, 6) / 2, shape[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], pixels / 2,
        (gaussians.logit_opacities / 4).clamp(-3, 3)[:, None], gaussians.opacities[:, None], rgb_from_sh_dc(gaussians.sh[:, 0]).clamp(-0.5, 1.5) - 0.5,
        (heard.distance / around.unit).log()[:, None],
    ], 1)  # fmt: skip
    return own, place
