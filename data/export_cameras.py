"""Exports that hold the cameras, for other reconstruction programs."""

from __future__ import annotations

import math
import os
from pathlib import Path

from ..recon.camera import Cameras
from ..recon.errors import CaptureError, ConfigError
from .atomic import new_folder
from .colmap import write_model
from .export import NO_CAMERAS, ExportScene
from .export_points import points_of
from .nerfstudio_json import write_transforms

__all__ = ["blender", "colmap", "colmap_text", "nerfstudio"]

MAX_POINTS = 200_000  # enough to start another program from; COLMAP's file takes 51 bytes a point


def _cameras(scene: ExportScene) -> Cameras:
    if scene.cameras is None or len(scene.cameras) != len(scene.names):
        raise ConfigError(NO_CAMERAS)
    return scene.cameras


def colmap(path: Path, scene: ExportScene, text: bool = False) -> None:
    cameras = _cameras(scene)
    with new_folder(path) as folder:
        names = _copy_photos(folder, scene)
        for mask in scene.masks:  # COLMAP looks for the photo's whole name with .png behind it
            _copy(mask, folder / "masks" / f"{mask.name}.png")
        write_model(folder / "sparse" / "0", cameras, names, points_of(scene, MAX_POINTS), text)


def colmap_text(path: Path, scene: ExportScene) -> None:
    colmap(path, scene, text=True)


def blender(path: Path, scene: ExportScene) -> None:
    """train/ with the photos, and transforms_train.json, which names them without their ending (.png). Masks are not taken along: the format has
    transparency instead. The angle, which is all that some readers know, says one focal length and the centre of the picture; keys as in transforms.json
    say the rest."""
    cameras = _cameras(scene)
    with new_folder(path) as folder:
        names = _copy_photos(folder, scene, "train")
        angle = 2 * math.atan(cameras.width / (2 * float(cameras.K[:, 0, 0].double().mean())))
        write_transforms(folder / "transforms_train.json", cameras, [f"./train/{Path(n).stem}" for n in names], extra={"camera_angle_x": angle})


def nerfstudio(path: Path, scene: ExportScene) -> None:
    """A folder, or with the ending .json the cameras alone, which then name the photos where they lie."""
    cameras = _cameras(scene)
    if path.suffix.lower() == ".json":
        there, masks = ([Path(os.path.relpath(p, path.parent)).as_posix() for p in files] for files in (scene.photos, scene.masks))
        write_transforms(path, cameras, there or [f"images/{n}" for n in scene.names], masks)
        return
    with new_folder(path) as folder:
        names = _copy_photos(folder, scene)
        for mask in scene.masks:
            _copy(mask, folder / "masks" / mask.name)
        write_transforms(folder / "transforms.json", cameras, [f"images/{n}" for n in names], [f"masks/{m.name}" for m in scene.masks])


def _copy_photos(folder: Path, scene: ExportScene, into: str = "images") -> list[str]:
    """Copies the photos into this folder and returns their names there; without photos, the names they had."""
    for photo in scene.photos:
        _copy(photo, folder / into / photo.name)
    return [p.name for p in scene.photos] or list(scene.names)


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        data = file.read_bytes()
    except OSError as e:
        raise CaptureError(f"{file} cannot be read ({e.strerror or e}); restore the scene folder or reconstruct again.") from e
    target.write_bytes(data)
