"""The reverse start, a field from splats: beside the photos it learns from pictures of a finished scene, and lies where the splats do. The scene is one that was kept
(`placed_as`, `with_splats`), or is made of the same photos first (`after_splats`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace

import torch

from ...recon.camera import Cameras
from ...recon.capture import ArrayImage, Capture, Unplaced, View
from ...recon.depth import DepthMap
from ...recon.errors import CaptureError
from ...recon.scene import SplatScene
from ...recon.se3 import rotation_angle
from ..events import StepDone
from ..init.protocol import InitState, Progress
from ..measure import measure
from ..methods.photos import Photos, background_of
from ..methods.splat import SplatMethod
from ..protocol import Start
from ..scene_folder import SceneFolder, image_names
from .config import FieldConfig, first_splats
from .convert import AROUND, SOLID, views_around

__all__ = ["after_splats", "placed_as", "splats_digest", "with_splats"]

APART, TURNED = 0.01, 1.0  # of the cameras' extent, and degrees: beyond that given cameras are not the scene's
THUMBNAIL, UNLIKE = 16, 0.1  # pixels of a side, and mean difference of colours beyond which two photos are not the same


def placed_as(capture: Capture, folder: SceneFolder) -> Capture:
    """The photos with the cameras that the scene has of them; cameras that were found for it may have been refined there.

    Photos that the scene does not know keep the camera that came with the capture; without one they are left out.

    Raises CaptureError, one sentence, where the scene is not one of these photos and cameras.
    """
    files = [f.removeprefix("images/") for f in image_names(folder.names)]  # as they are called in the scene folder, which is a capture, too
    place = {name: k for names in (files, folder.names) for k, name in enumerate(names)}
    known = [v.name for v in capture.views if v.name in place]
    if len(known) < 2:
        raise CaptureError(f"{folder.path} is a scene of other photos (it knows {len(known)} of these {len(capture)}); give the scene that was made from these.")
    there = [place[n] for n in known]
    _refuse_other_photos(capture.select(known), folder, there)
    width, height = capture.views[0].image.size
    theirs = folder.cameras.to("cpu", torch.float32).resized(width, height)[there]
    if capture.cameras is None:
        left_out = tuple(Unplaced(n, f"{folder.path} has no camera for it.") for n in capture.names if n not in place)
        return replace(capture.select(known), cameras=theirs, unplaced=(*capture.unplaced, *left_out))
    ours = [capture.names.index(n) for n in known]
    _refuse_other_cameras(capture.cameras[ours], theirs, folder)
    T, K = capture.cameras.cam_from_world.clone().float(), capture.cameras.K.clone().float()
    T[ours], K[ours] = theirs.cam_from_world, theirs.K
    return replace(capture, cameras=Cameras(T, K, width, height))


def splats_digest(folder: SceneFolder) -> str:
    """sha256 over the splats' file."""
    return hashlib.sha256((folder.path / "scene.ply").read_bytes()).hexdigest()


def with_splats(start: Start, scene: SplatScene, config: FieldConfig) -> Start:
    """The same start with the splats' depth in place of what was measured, where they are solid, and with pictures of them from between and around the photos.

    The pictures' masks are the splats' opacity: how much of a pixel is theirs, not background. Of an object on nothing all of it counts: beside it there is nothing.
    Behind the splats the pictures show what the field, by its settings, has behind it.
    """
    capture = start.init.capture
    assert capture.cameras is not None, "a field starts from photos with cameras"
    photos = capture.cameras.to("cpu", torch.float32)
    alone = capture.white_background or capture.is_cut_out()
    maps = []
    for k, measured in enumerate(start.depth):
        out = scene.render(photos[k])
        solid = (out.alpha[0].cpu() > SOLID) & (out.depth[0].cpu() > 0)
        depth, trust = torch.where(solid, out.depth[0].cpu(), measured.depth.cpu()), torch.where(solid, out.alpha[0].cpu(), measured.confidence.cpu())
        maps.append(DepthMap(depth, trust, solid | measured.valid.cpu()))
    cameras = views_around(photos, AROUND, alone)
    start = replace(start, depth=tuple(maps))
    behind = torch.tensor(background_of(Photos.of(start), capture.white_background, config.background)) - torch.tensor(scene.background)
    views = []
    for k in range(len(cameras)):
        out = scene.render(cameras[k])
        color, alpha = _as_bytes(out.color[0].cpu() + (1 - out.alpha[0].cpu())[..., None] * behind), _as_bytes(out.alpha[0])
        views.append(View(f"splats/{k:03}.png", ArrayImage(color, mask=torch.ones_like(alpha) if alone else alpha)))
    return replace(start, pictures=Capture(tuple(views), cameras, white_background=capture.white_background, source="splats"))


def after_splats(
    start: Start, init: InitState, config: FieldConfig, anew: bool = False, progress: Progress | None = None, hurry: Callable[[], bool] = lambda: False
) -> Start:
    """`with_splats`, the scene being made first, as `first_splats` says (there must be some to make); cameras that were found are as it has refined them.

    Args:
        start: of the field; init: its photos before anything was measured for it.
        anew: no prior answers from the cache; hurry: asked between steps; once true, the splats there are have to do.
    """
    tell, first = progress or (lambda what, share: None), first_splats(config)
    assert first is not None, "else there is nothing to start from"
    run = SplatMethod(first).start(measure(init, first, start.estimated_cameras, start.seed, start.device, anew))
    for event in run.events():
        if isinstance(event, StepDone):
            tell("making splats first", event.step / event.steps)
        if hurry():
            run.stop()
    scene = run.snapshot()
    tell("taking pictures of the splats", 0.0)
    cameras = scene.cameras.to("cpu", torch.float32)
    return with_splats(replace(start, init=replace(start.init, capture=replace(start.init.capture, cameras=cameras))), scene, config)


def _as_bytes(x: torch.Tensor) -> torch.Tensor:
    """Rounded as a checkpoint keeps it, so that a run that goes on sees the very same numbers."""
    return (x.clamp(0, 1).cpu() * 255).round() / 255


def _refuse_other_photos(capture: Capture, folder: SceneFolder, places: list[int]) -> None:
    kept = folder.images()[places]
    small = [torch.nn.functional.interpolate(i.permute(0, 3, 1, 2), (THUMBNAIL, THUMBNAIL), mode="area") for i in (capture.images(), kept)]
    unlike = (small[0] - small[1]).abs().mean((1, 2, 3))
    if float(unlike.max()) > UNLIKE:
        raise CaptureError(f"{folder.path} is a scene of other photos (its {capture.names[int(unlike.argmax())]} shows something else); give the scene that was made from these.")


def _refuse_other_cameras(given: Cameras, theirs: Cameras, folder: SceneFolder) -> None:
    a, b = given.to("cpu", torch.float64), theirs.to("cpu", torch.float64)
    apart = float((a.centers - b.centers).norm(dim=1).max() / b.distances.max().clamp_min(1e-12))
    turned = math.degrees(float(rotation_angle(a.cam_from_world[:, :3, :3] @ b.cam_from_world[:, :3, :3].transpose(1, 2)).max()))
    focal = float((a.K[:, [0, 1], [0, 1]] / b.K[:, [0, 1], [0, 1]] - 1).abs().max())
    if apart > APART or turned > TURNED or focal > APART:
        raise CaptureError(f"{folder.path} has other cameras than these photos came with; give the scene that was made with them.")
