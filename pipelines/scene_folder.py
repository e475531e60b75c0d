"""The folder a reconstruction leaves: everything other programs need, and everything Handful needs to show it again.

    scene.ply         Gaussians, standard 3DGS layout          transforms.json  cameras for nerfstudio
    images/           the photos as used (upright, resized)    sparse/0/        cameras and points for COLMAP
    masks/            white where pixels count (if any)     extents/         white where there is a photo at all (if not everywhere)
    config.json       method and settings                      metrics.json     what was measured
    preview.png       photos, renders, depth, a new view       checkpoint/      to continue
    scans/            what a range sensor measured, in the scene's world (if anything; see data/scans/npz_files.py)
    field.safetensors the radiance field that the splats were made from (if one was)
    edits.json        what was edited in the viewer (if any); the files above are those of the scene before
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.atomic import beside, write_bytes, write_json, writing
from ..data.colmap import write_model
from ..data.edits_file import EDITS, read_edits
from ..data.image_io import encode_png
from ..data.nerfstudio_json import read_cameras, write_transforms
from ..data.ply import read_gaussians, write_gaussians
from ..data.scans.npz_files import write_sweep
from ..data.scene_mark import EXTENTS, is_scene_folder
from ..recon.camera import Cameras
from ..recon.edits import EditStep, apply_edits, scale_after
from ..recon.errors import CaptureError, HandfulError
from ..recon.field.scene import FieldScene
from ..recon.gaussians import Gaussians
from ..recon.raster.changed import closer
from ..recon.raster.constants import NEAR_PLANE
from ..recon.raster.registry import get_rasterizer
from ..recon.scene import SplatScene
from .catalog import AnyConfig
from .config import to_jsonable
from .init.protocol import InitState
from .nerf.field_file import FIELD, load_field, save_field
from .preview import write_preview

__all__ = ["SceneFolder", "extent_name", "image_names", "load_scene", "mask_name", "scan_names", "write_scene_folder"]

VERSION = 1
MOST_RETURNS = 1_000_000  # of a scan, evenly: the folder keeps scans to look at and to judge by


@dataclass(frozen=True)
class SceneFolder:
    """A scene folder, opened. `scene.cameras` are those of the photos `scene.names`, in the scene's world."""

    path: Path
    scene: SplatScene
    metrics: dict[str, Any]

    def edits(self) -> tuple[EditStep, ...]:
        """Raises CaptureError for an edits.json that cannot be meant."""
        return read_edits(self.path / EDITS)

    def edited(self) -> SceneFolder:
        """The same with its edits applied: what is shown, drawn and exported."""
        steps = self.edits()
        if not steps:
            return self
        gaussians, cameras = apply_edits(self.gaussians, self.cameras, steps)
        rasterizer = closer(self.scene.rasterizer, NEAR_PLANE * scale_after(steps))
        return replace(self, scene=replace(self.scene, gaussians=gaussians, cameras=cameras, rasterizer=rasterizer))

    @property
    def has_field(self) -> bool:
        """Whether the splats were made from a radiance field that is kept here."""
        return (self.path / FIELD).is_file()

    def field(self, device: torch.device | str = "cpu") -> FieldScene:
        """The radiance field that the splats were made from. Raises CaptureError where there was none."""
        if not self.has_field:
            raise CaptureError(f"{self.path} holds no {FIELD}: only scenes of methods such as zerorf do. Leave --field away.")
        return load_field(self.path / FIELD, self.cameras, self.names, self.scene.background, device)

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
        """The photos as used, sRGB in [0, 1]. Raises CaptureError where one is missing or of another size than its camera."""
        files = [self.path / file for file in image_names(self.names)]
        images = [_read_image(file) for file in files]
        for file, image in zip(files, images, strict=True):
            if image.shape[:2] != (self.cameras.height, self.cameras.width):
                size = f"{image.shape[1]} x {image.shape[0]}"
                raise CaptureError(f"{file} has {size} pixels, its camera {self.cameras.width} x {self.cameras.height}; restore the scene folder or reconstruct again.")
        return torch.stack(images)

    def extents(self) -> list[Float[Tensor, "H W"] | None]:
        """Where each picture is a photo, not padding or a corner that the lens left out; None = everywhere."""
        files = [self.path / extent_name(file) for file in image_names(self.names)]
        return [_read_image(file)[..., 0] if file.is_file() else None for file in files]


def image_names(view_names: Sequence[str]) -> list[str]:
    """Where photos lie inside the scene folder: PNG files, folders of the capture flattened; the ending is kept where two would meet."""
    flat = [n.replace("/", "__").replace("\\", "__") for n in view_names]
    stems = [f.rsplit(".", 1)[0].lower() for f in flat]  # "A" and "a" are one file on some disks
    used: set[str] = set()
    names = []
    for f, s in zip(flat, stems, strict=True):
        stem = f.rsplit(".", 1)[0] if stems.count(s) == 1 else f.replace(".", "_")
        unique, i = stem, 2
        while unique.lower() in used:
            unique, i = f"{stem}_{i}", i + 1
        used.add(unique.lower())
        names.append(f"images/{unique}.png")
    return names


def write_scene_folder(
    out: Path, scene: SplatScene, init: InitState, config: AnyConfig, metrics: dict[str, Any], field: FieldScene | None = None
) -> SceneFolder:
    """Writes or replaces every file. All of them are written into a hidden folder first, so that a disk that fills up leaves what was
    there; then each takes its place, `scene.ply` last, so that its presence means a whole folder."""
    before = _images_of(out)
    with writing(out):
        staging = beside(out / "scene")
        staging.mkdir(parents=True)
        try:
            _write_files(staging, scene, init, config, metrics)
            if field is not None:
                save_field(staging / FIELD, field)
            written = {p.relative_to(staging).as_posix() for p in staging.rglob("*") if p.is_file()}
            files = sorted((p for p in staging.rglob("*") if p.is_file()), key=lambda p: p.name == "scene.ply")
            for file in files:
                target = out / file.relative_to(staging)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
        except HandfulError as e:
            raise HandfulError(str(e).replace(str(staging), str(out))) from e  # the name that the user knows
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        for stale in before - written:  # photos and masks of the result that was replaced
            (out / stale).unlink(missing_ok=True)
    return SceneFolder(out, scene, metrics)


def _write_files(out: Path, scene: SplatScene, init: InitState, config: AnyConfig, metrics: dict[str, Any]) -> None:
    images, masks, extents = init.capture.images(), init.capture.masks(), init.capture.extents()
    files = image_names(scene.names)
    for i, name in enumerate(files):
        write_bytes(out / name, encode_png(images[i]))
        for maps, path in ((masks, mask_name(name)), (extents, extent_name(name))):
            if maps is not None:
                write_bytes(out / path, encode_png(maps[i, ..., None].expand(-1, -1, 3)))
    cameras = scene.cameras.to("cpu")
    write_model(out / "sparse" / "0", cameras, [f.removeprefix("images/") for f in files], init.points)
    write_transforms(out / "transforms.json", cameras, files)
    background = list(scene.background)
    write_json(out / "config.json", {"version": VERSION, "method": metrics.get("method"), "settings": to_jsonable(config),
                                      "names": list(scene.names), "background": background,
                                      "scans": scan_names([s.name for s in init.capture.sweeps])})  # fmt: skip
    write_json(out / "metrics.json", {"version": VERSION, **metrics})
    for name, sweep in zip(scan_names([s.name for s in init.capture.sweeps]), init.capture.sweeps, strict=True):
        even = max(1, -(-len(sweep) // MOST_RETURNS))
        write_sweep(out / name, sweep.kept(torch.arange(0, len(sweep), even)))
    write_preview(out / "preview.png", scene, images)
    write_gaussians(out / "scene.ply", scene.gaussians.to("cpu"))


def scan_names(sweep_names: Sequence[str]) -> list[str]:
    """Where scans lie inside the scene folder: named as they were, with their number where two would meet."""
    stems = [PurePosixPath(n).stem for n in sweep_names]
    return [f"scans/{s}.npz" if stems.count(s) == 1 else f"scans/{k:04}_{s}.npz" for k, s in enumerate(stems)]


def mask_name(image_name: str) -> str:
    return image_name.replace("images/", "masks/", 1)


def extent_name(image_name: str) -> str:
    return image_name.replace("images/", f"{EXTENTS}/", 1)


def _images_of(out: Path) -> set[str]:
    """The photos, masks, extents and scans of the scene in `out`, by its config.json; empty when there is none."""
    if not is_scene_folder(out):
        return set()
    config = _read_json(out / "config.json")
    names, scans = config["names"], config.get("scans", [])
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        return set()
    files = image_names(names)
    ours = [s for s in scans if isinstance(s, str) and PurePosixPath(s).parent == PurePosixPath("scans")] if isinstance(scans, list) else []
    return {*files, *map(mask_name, files), *map(extent_name, files), *ours, *([FIELD] if isinstance(config["settings"], dict) and "grid" in config["settings"] else [])}


def load_scene(path: Path, rasterizer: str = "auto", device: torch.device | str = "cpu") -> SceneFolder:
    """Opens a scene folder. Raises CaptureError when it is none."""
    if not path.exists():
        raise CaptureError(f"There is no folder {path}; give the folder that `handful reconstruct -o` wrote.")
    if not (path / "scene.ply").is_file():
        hint = " (its reconstruction has not finished; run the same `handful reconstruct` again)" if (path / "checkpoint").is_dir() else ""
        raise CaptureError(f"{path} holds no scene.ply{hint}; give the folder that `handful reconstruct -o` wrote.")
    config, metrics = _read_json(path / "config.json"), _read_json(path / "metrics.json")
    cameras = read_cameras(path / "transforms.json")
    gaussians = read_gaussians(path / "scene.ply").to(device)
    names, background = _names_and_background(config, path / "config.json")
    settings = config.get("settings")
    surfels = isinstance(settings, dict) and settings.get("surfels") is True
    scene = SplatScene(gaussians, cameras, names, get_rasterizer(rasterizer, device), background, surfels)
    if len(scene.names) != len(cameras):
        raise CaptureError(f"{path}: config.json names {len(scene.names)} photos but transforms.json has {len(cameras)}; restore the folder.")
    return SceneFolder(path, scene, metrics)


def _names_and_background(config: dict[str, Any], file: Path) -> tuple[tuple[str, ...], tuple[float, float, float]]:
    names, background = config.get("names", []), config.get("background", [0, 0, 0])
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise CaptureError(f"{file}: 'names' is not a list of photo names; restore the folder or reconstruct again.")
    if not isinstance(background, list) or len(background) != 3 or not all(type(c) in (int, float) and 0 <= c <= 1 for c in background):
        raise CaptureError(f"{file}: 'background' is not three numbers from 0 to 1; restore the folder or reconstruct again.")
    r, g, b = map(float, background)
    return tuple(names), (r, g, b)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror if isinstance(e, OSError) else e}); give a folder that `handful reconstruct -o` wrote.") from e
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
        raise CaptureError(f"{path} cannot be read ({e.strerror or e}); restore the scene folder or reconstruct again.") from e
