"""A field becomes splats: it is photographed from all around, and splats are seeded on its depth and optimised on those pictures and the photos."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.capture import ArrayImage, Capture, View
from ...recon.depth import DepthMap
from ...recon.field.scene import FieldScene
from ...recon.field.space import BoxSpace
from ...recon.framing import frame_scene, look_at
from ...recon.gaussians import Gaussians
from ...recon.points import PointCloud
from ...recon.scene import SplatScene
from ..events import StepDone
from ..init.protocol import CameraReport, InitState, Progress
from ..methods.config import OptimConfig, SeedConfig, SplatConfig, TermsConfig
from ..methods.splat import SplatMethod
from ..paths import make_path
from ..protocol import Start

__all__ = ["seeded_splats", "splats_of_field", "views_around"]

AROUND = 24  # pictures of the field beside the photos
LOWER = 10.0  # degrees below the lowest photo from which it is still looked at
SOLID = 0.5  # opacity from which a pixel's depth is a surface

# what the field shows is dense and without doubt: nothing has to be guessed, dropped out or held smooth
DISTILLED = SplatConfig(
    seed=replace(SeedConfig(), surround=0.0, behind=0.0, guesses=False),
    optim=replace(OptimConfig(), steps=600, opacity_decay=0.995, dropout=0.0),
    terms=replace(TermsConfig(), smooth=0.0, depth=0.3, depth_final=0.1),
)


def splats_of_field(scene: FieldScene, capture: Capture, seed: int = 0, progress: Progress | None = None) -> SplatScene:
    """Splats that look as the field does, in its world, with its photos' cameras.

    Args:
        capture: the photos the field was made from, with cameras.
    """
    start = photographed(scene, capture, AROUND, seed)
    config = replace(DISTILLED, seed=replace(DISTILLED.seed, sh_degree=min(scene.field.decoder.degree, 2)))
    run = SplatMethod(config).start(start)
    for event in run.events():
        if progress is not None and isinstance(event, StepDone):
            progress("turning the field into splats", event.step / event.steps)
    splats = run.snapshot()
    return replace(splats, cameras=scene.cameras, names=scene.names, background=scene.background)


def seeded_splats(scene: FieldScene, capture: Capture) -> Gaussians:
    """Splats on what the photos' cameras see of the field, as they are seeded: to look at while it learns."""
    return SplatMethod(DISTILLED).seed(photographed(scene, capture, 0))


def photographed(scene: FieldScene, capture: Capture, around: int, seed: int = 0) -> Start:
    """What splats can start from: the photos and `around` pictures of the field from elsewhere, all with its depth."""
    assert capture.cameras is not None, "a field is made from photos with cameras"
    photos = capture.cameras.to("cpu", torch.float32)
    more = views_around(scene, photos, around) if around else photos[:0]
    views, maps = list(capture.views), []
    cameras = Cameras(torch.cat([photos.cam_from_world, more.cam_from_world]), torch.cat([photos.K, more.K]), photos.width, photos.height)
    for k in range(len(cameras)):
        out = scene.render(cameras[k], normal=True)
        assert out.normal is not None
        if k >= len(photos):
            views.append(View(f"field/{k - len(photos):03}.png", ArrayImage(out.color[0].clamp(0, 1).cpu())))
        solid = (out.alpha[0] > SOLID) & (out.depth[0] > 0)
        maps.append(DepthMap(out.depth[0].cpu(), (out.alpha[0] * solid).cpu(), solid.cpu(), normal=out.normal[0].cpu()))
    seen = Capture(tuple(views), cameras, white_background=capture.white_background, source="field")
    report = CameraReport("given", len(views), len(views), None, float(photos.K[0, 0, 0]), "given", None, 0)
    return Start(InitState(seen, PointCloud(torch.zeros(0, 3)), report), tuple(maps), seed=seed, device=scene.cells.device)


def views_around(scene: FieldScene, photos: Cameras, count: int) -> Cameras:
    """Of a box: evenly spread directions from a little below the lowest photo to the top, as far away as the photos. Of what has no end: between the photos."""
    if isinstance(scene.space, BoxSpace):
        frame = frame_scene(photos)
        focus, up = frame.focus.float(), frame.up.float()
        offsets = photos.centers - focus
        distance = torch.linalg.vector_norm(offsets, dim=1)
        lowest = float((offsets @ up / distance).min())
        eyes = focus + float(distance.median()) * _directions(count, up, math.sin(max(math.asin(lowest) - math.radians(LOWER), -math.pi / 2)))
        poses = look_at(eyes, focus.expand_as(eyes), up)
        return Cameras(poses, photos.K.mean(0, keepdim=True).expand(count, -1, -1).contiguous(), photos.width, photos.height)
    return make_path("between", photos, count, None).to("cpu", torch.float32)


def _directions(count: int, up: Float[Tensor, "3"], lowest: float) -> Float[Tensor, "V 3"]:
    """Unit vectors on a spiral whose component along `up` runs evenly from `lowest` to 1 (a Fibonacci lattice on the cap)."""
    height = lowest + (1 - lowest) * (torch.arange(count) + 0.5) / count
    turn = torch.arange(count) * math.pi * (3 - math.sqrt(5))
    spare = torch.eye(3)[int(up.abs().argmin())]
    x = torch.nn.functional.normalize(torch.linalg.cross(up, spare), dim=0)
    y = torch.linalg.cross(up, x)
    flat = (1 - height.square()).clamp_min(0).sqrt()
    return flat[:, None] * (turn.cos()[:, None] * x + turn.sin()[:, None] * y) + height[:, None] * up
