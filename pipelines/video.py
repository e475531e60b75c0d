"""A camera path through a scene as pictures: what each frame shows, and all of them to a file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.colormap import colorize_depth, colorize_normal, inverse_depth_range
from ..recon.errors import ConfigError
from ..recon.field.scene import FieldScene
from ..recon.framing import frame_scene
from ..recon.scene import Scene, SplatScene
from .frame_sinks import open_sink

__all__ = ["LAYERS", "RenderReport", "nearest_photo", "parse_what", "picture", "render_path"]

LAYERS = ("color", "depth", "normal", "photo")
_PROBES = 5  # frames looked at, small, to fix one depth scale for the whole video


@dataclass(frozen=True)
class RenderReport:
    """What was made. `seconds` is rendering and writing together, of the `drawn` frames that an earlier run had not left."""

    file: Path
    frames: int
    width: int
    height: int
    seconds: float
    drawn: int

    @property
    def frames_per_second(self) -> float:
        return self.drawn / max(self.seconds, 1e-9)


def parse_what(what: str) -> tuple[str, ...]:
    """ "color+depth" to ("color", "depth"): the pictures that stand side by side. Raises ConfigError for anything else."""
    layers = tuple(part.strip() for part in what.split("+"))
    for layer in layers:
        if layer not in LAYERS:
            raise ConfigError(f"There is nothing called {layer!r} to render; choose from {', '.join(LAYERS)}, or several joined by +.")
    return layers


def render_path(
    scene: SplatScene,
    cameras: Cameras,
    out: Path,
    what: str = "color",
    fps: float = 30.0,
    on_frame: Callable[[int, int, float], None] | None = None,
    photos: Sequence[Float[Tensor, "h w 3"]] = (),
    field: FieldScene | None = None,
) -> RenderReport:
    """Renders every camera to `out`: an .mp4 or .gif file, one .png, or (without an ending) a folder of PNG frames. Interrupted by Ctrl-C or killed, the
    same call goes on where it stopped.

    Args:
        scene: what to draw.
        cameras: one per frame; an mp4 needs even sizes, an odd last row or column is left out.
        what: color, depth, normal, photo (the nearest one), or several joined by "+", side by side.
        on_frame: called with (frames done, frames, seconds left) after each.
        photos: those of scene.cameras; needed for the layer photo.
        field: drawn in place of the scene that was made from it.

    Raises ConfigError for an unknown layer or ending, HandfulError when the output cannot be written.
    """
    layers = parse_what(what)
    if "photo" in layers and len(photos) != len(scene.cameras):
        raise ConfigError("There are no photos to show beside the frames; render a scene folder, or leave `photo` out of --what.")
    began = time.monotonic()
    drawn = scene if field is None else field
    depth_range = _depth_range(drawn, cameras) if "depth" in layers else None
    nearest = nearest_photo(scene, cameras) if "photo" in layers else [0] * len(cameras)
    with open_sink(out, cameras.width * len(layers), cameras.height, len(cameras), fps, _job(scene, cameras, layers, fps, field is not None)) as sink:
        first = sink.done
        for i in range(first, len(cameras)):
            sink.add(picture(drawn, cameras[i], layers, depth_range, photos[nearest[i]] if "photo" in layers else None))
            if on_frame is not None:
                each = (time.monotonic() - began) / (i + 1 - first)
                on_frame(i + 1, len(cameras), each * (len(cameras) - i - 1))
    return RenderReport(out, len(cameras), sink.width, sink.height, time.monotonic() - began, len(cameras) - first)


def _job(scene: SplatScene, cameras: Cameras, layers: tuple[str, ...], fps: float, field: bool) -> str:
    """Digest of all that decides the frames."""
    h = hashlib.sha256(f"{layers} {fps} {cameras.width} {cameras.height} {scene.background} {scene.names} {field}".encode())
    for tensor in (*(getattr(scene.gaussians, f.name) for f in fields(scene.gaussians)), cameras.cam_from_world, cameras.K, scene.cameras.cam_from_world):
        h.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()


def nearest_photo(scene: SplatScene, cameras: Cameras) -> list[int]:
    """For each camera the photo that stands nearest and looks most alike: turning by a radian counts as going as far as the scene is away."""
    photos = scene.cameras.to("cpu", torch.float64)
    depth = frame_scene(photos, scene.gaussians.means, scene.gaussians.opacities).depth
    path = cameras.to("cpu", torch.float64)
    walk = torch.cdist(path.centers, photos.centers) / depth
    turn = torch.arccos((path.cam_from_world[:, 2, :3] @ photos.cam_from_world[:, 2, :3].T).clamp(-1, 1))
    return (walk + turn).argmin(1).tolist()


def picture(
    scene: Scene,
    camera: Cameras,
    layers: tuple[str, ...] = ("color",),
    depth_range: tuple[float, float] | None = None,
    photo: Float[Tensor, "h w 3"] | None = None,
) -> Float[Tensor, "H W 3"]:
    """One camera's layers side by side, in [0, 1], on the CPU; `photo` is what the layer of that name shows."""
    output = scene.render(camera, normal="normal" in layers)
    alpha = output.alpha[0].cpu()
    parts: list[Tensor] = []
    for layer in layers:
        if layer == "color":
            parts.append(output.color[0].cpu().nan_to_num(0.0).clamp(0, 1))
        elif layer == "depth":
            parts.append(colorize_depth(output.depth[0].cpu(), depth_range, alpha))
        elif layer == "photo":
            assert photo is not None, "render_path gives it"
            parts.append(_fitted(photo, camera.width, camera.height))
        else:
            assert output.normal is not None, "asked for above"
            parts.append(colorize_normal(output.normal[0].cpu(), alpha))
    return torch.cat(parts, 1)


def _fitted(photo: Float[Tensor, "h w 3"], width: int, height: int) -> Float[Tensor, "H W 3"]:
    """The whole photo in a frame of that size, black beside it."""
    h, w = photo.shape[:2]
    scale = min(width / w, height / h)
    fit_w, fit_h = max(1, round(w * scale)), max(1, round(h * scale))
    small = torch.nn.functional.interpolate(photo.permute(2, 0, 1)[None].float(), (fit_h, fit_w), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    frame = torch.zeros(height, width, 3)
    top, left = (height - fit_h) // 2, (width - fit_w) // 2
    frame[top : top + fit_h, left : left + fit_w] = small.clamp(0, 1)
    return frame


def _depth_range(scene: Scene, cameras: Cameras) -> tuple[float, float]:
    """One scale for all frames, or the colours would breathe."""
    n = len(cameras)
    probes = cameras[sorted({round(i * (n - 1) / max(_PROBES - 1, 1)) for i in range(_PROBES)})]
    shrink = max(1, max(cameras.width, cameras.height) // 240)
    output = scene.render(probes.resized(max(1, cameras.width // shrink), max(1, cameras.height // shrink)))
    return inverse_depth_range(torch.where(output.alpha > 0.5, output.depth, 0.0))
