"""A field becomes splats: it is photographed from all around, and splats are seeded on its depth and optimised on those pictures and the photos."""

from __future__ import annotations

import math
from collections.abc import Callable
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
GLANCE = 160  # pixels of the longer side of photos, for a look while it learns
SOLID = 0.5  # opacity from which a pixel's depth is a surface

# what the field shows is dense and without doubt: nothing has to be guessed, dropped out or held smooth
DISTILLED = SplatConfig(
    seed=replace(SeedConfig(), surround=0.0, behind=0.0, guesses=False),
    optim=replace(OptimConfig(), steps=600, opacity_decay=0.995, dropout=0.0),
    terms=replace(TermsConfig(), smooth=0.0, depth=0.3, depth_final=0.1),
)


def splats_of_field(
    scene: FieldScene, capture: Capture, seed: int = 0, progress: Progress | None = None, hurry: Callable[[], bool] = lambda: False
) -> SplatScene:
    """Splats that look as the field does, in its world, with its photos' cameras.

    Args:
        capture: the photos the field was made from, with cameras.
        hurry: asked between pictures and steps; once true, no more are made, and what is there has to do.
    """
    tell = progress or (lambda what, share: None)
    start = photographed(scene, capture, AROUND, seed, lambda share: tell("taking pictures of the field", share), hurry)
    config = replace(DISTILLED, seed=replace(DISTILLED.seed, sh_degree=min(scene.field.decoder.degree, 2)))
    run = SplatMethod(config).start(start)
    run.background = scene.background
    for event in run.events():
        if isinstance(event, StepDone):
            tell("turning the field into splats", event.step / event.steps)
        if hurry():
            run.stop()
    splats = run.snapshot()
    return replace(splats, cameras=scene.cameras, names=scene.names)


def seeded_splats(scene: FieldScene, capture: Capture) -> Gaussians:
    """Splats on what the photos' cameras see of the field, coarse and as they are seeded: to look at while it learns."""
    assert capture.cameras is not None, "a field is made from photos with cameras"
    w, h = capture.cameras.width, capture.cameras.height
    shrink = max(1.0, max(w, h) / GLANCE)
    w, h = max(2, round(w / shrink)), max(2, round(h / shrink))
    images = torch.nn.functional.interpolate(capture.images().permute(0, 3, 1, 2), (h, w), mode="area").permute(0, 2, 3, 1)
    views = tuple(replace(v, image=ArrayImage(i)) for v, i in zip(capture.views, images, strict=True))
    small = Capture(views, capture.cameras.resized(w, h), white_background=capture.white_background, source="field")
    return SplatMethod(DISTILLED).seed(photographed(scene, small, 0))


def photographed(
    scene: FieldScene,
    capture: Capture,
    around: int,
    seed: int = 0,
    tell: Callable[[float], None] = lambda share: None,
    hurry: Callable[[], bool] = lambda: False,
) -> Start:
    """What splats can start from: the photos and `around` pictures of the field from elsewhere, all with its depth."""
    assert capture.cameras is not None, "a field is made from photos with cameras"
    photos = capture.cameras.to("cpu", torch.float32)
    more = views_around(photos, around, isinstance(scene.space, BoxSpace)) if around and not hurry() else photos[:0]
    cut_out, views, maps = capture.is_cut_out(), list(capture.views), []
    cameras = Cameras(torch.cat([photos.cam_from_world, more.cam_from_world]), torch.cat([photos.K, more.K]), photos.width, photos.height)
    for k in range(len(cameras)):
        if k >= len(photos) and hurry():
            break
        out = scene.render(cameras[k])
        alpha, depth = out.alpha[0].cpu(), out.depth[0].cpu()
        if k >= len(photos):
            # beside an object there is nothing, in these pictures as in the photos
            picture = ArrayImage(out.color[0].clamp(0, 1).cpu(), mask=alpha.clamp(0, 1) if cut_out else None)
            views.append(View(f"field/{k - len(photos):03}.png", picture))
        solid = (alpha > SOLID) & (depth > 0)
        maps.append(DepthMap(depth, alpha * solid, solid))
        tell((k + 1) / len(cameras))
    seen = Capture(tuple(views), cameras[: len(views)], white_background=capture.white_background, source="field")
    report = CameraReport("given", len(views), len(views), None, float(photos.K[0, 0, 0]), "given", None, 0)
    return Start(InitState(seen, PointCloud(torch.zeros(0, 3)), report), tuple(maps), seed=seed, device=scene.cells.device)


def views_around(photos: Cameras, count: int, around: bool) -> Cameras:
    """`around` an object: evenly spread directions from a little below the lowest photo to the top, as far away as the photos. Of what has no end: between the photos."""
    if around:
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
