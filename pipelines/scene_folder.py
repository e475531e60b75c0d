"""The folder a reconstruction leaves: everything other programs need, and everything Handful needs to show it again.

    scene.ply         Gaussians, standard 3DGS layout          transforms.json  cameras for nerfstudio
    images/           the photos as used (upright, resized)    sparse/0/        cameras and points for COLMAP
    config.json       method and settings                      metrics.json     what was measured
    preview.png       photos, renders, depth, a new view       checkpoint/      to continue
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.atomic import write_bytes, write_json
from ..data.colmap import write_model
from ..data.image_io import encode_png
from ..data.nerfstudio_json import read_cameras, write_transforms
from ..data.ply import read_gaussians, write_gaussians
from ..recon.camera import Cameras
from ..recon.errors import CaptureError
from ..recon.gaussians import Gaussians
from ..recon.raster.registry import get_rasterizer
from ..recon.scene import SplatScene
from .config import to_jsonable
from .init.protocol import InitState
from .methods.config import SplatConfig
from .preview import write_preview

__all__ = ["SceneFolder", "load_scene", "write_scene_folder"]

VERSION = 1


@dataclass(frozen=True)
class SceneFolder:
    """A scene folder, opened. `scene.cameras` are those of the photos `scene.names`, in the scene's world."""

    path: Path
    scene: SplatScene
    metrics: dict[str, Any]

    @property
    def gaussians(self) -> Gaussians:
        return self.scene.gaussians

    @property
    def cameras(self) -> Cameras:
        return self.scene.cameras

    @property
    def names(self) -> tuple[str, ...]:
        return self.scene.names

    def images(self) -> Float[Tensor, "V H W 3"]:
        """The photos as used, sRGB in [0, 1]."""
        return torch.stack([_read_image(self.path / file) for file in image_names(self.names)])


def image_names(view_names: Sequence[str]) -> list[str]:
    """Where photos lie inside the scene folder: PNG files, folders of the capture flattened; the ending is kept where two would meet."""
    flat = [n.replace("/", "__") for n in view_names]
    stems = [f.rsplit(".", 1)[0] for f in flat]
    return [f"images/{s if stems.count(s) == 1 else f.replace('.', '_')}.png" for f, s in zip(flat, stems, strict=True)]


def write_scene_folder(out: Path, scene: SplatScene, init: InitState, config: SplatConfig, metrics: dict[str, Any]) -> SceneFolder:
    """Writes or replaces every file, each atomically; `scene.ply` last, so that its presence means a whole folder."""
    images = init.capture.images()
    files = image_names(scene.names)
    for name, image in zip(files, images, strict=True):
        write_bytes(out / name, encode_png(image))
    cameras = scene.cameras.to("cpu")
    write_model(out / "sparse" / "0", cameras, [f.removeprefix("images/") for f in files], init.points)
    write_transforms(out / "transforms.json", cameras, files)
    background = list(scene.background)
    write_json(out / "config.json", {"version": VERSION, "method": metrics.get("method"), "settings": to_jsonable(config),
                                      "names": list(scene.names), "background": background})  # fmt: skip
    write_json(out / "metrics.json", {"version": VERSION, **metrics})
    write_preview(out / "preview.png", scene, images)
    write_gaussians(out / "scene.ply", scene.gaussians.to("cpu"))
    return SceneFolder(out, scene, metrics)


def load_scene(path: Path, rasterizer: str = "auto", device: torch.device | str = "cpu") -> SceneFolder:
    """Opens a scene folder. Raises CaptureError when it is none."""
    if not (path / "scene.ply").is_file():
        hint = " (its reconstruction has not finished; run the same `handful reconstruct` again)" if (path / "checkpoint").is_dir() else ""
        raise CaptureError(f"{path} holds no scene.ply{hint}; give the folder that `handful reconstruct -o` wrote.")
    config, metrics = _read_json(path / "config.json"), _read_json(path / "metrics.json")
    cameras = read_cameras(path / "transforms.json")
    gaussians = read_gaussians(path / "scene.ply").to(device)
    background = tuple(float(c) for c in config.get("background", (0, 0, 0)))
    scene = SplatScene(gaussians, cameras, tuple(config.get("names", ())), get_rasterizer(rasterizer, device), background)  # pyright: ignore[reportArgumentType]
    if len(scene.names) != len(cameras):
        raise CaptureError(f"{path}: config.json names {len(scene.names)} photos but transforms.json has {len(cameras)}; restore the folder.")
    return SceneFolder(path, scene, metrics)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise CaptureError(f"{path} cannot be read ({e}); give a folder that `handful reconstruct -o` wrote.") from e
    if not isinstance(data, dict):
        raise CaptureError(f"{path} is not a JSON object; give a folder that `handful reconstruct -o` wrote.")
    return data


def _read_image(path: Path) -> Float[Tensor, "H W 3"]:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as im:
            return torch.from_numpy(np.asarray(im.convert("RGB")).copy()).float() / 255
    except OSError as e:
        raise CaptureError(f"{path} cannot be read ({e}); restore the scene folder or reconstruct again.") from e
