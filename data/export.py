"""All export formats by name: the files of splats (`splats.py`), and the formats with cameras. A new one is one file with a writer and one line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..recon.camera import Cameras
from ..recon.errors import ConfigError
from ..recon.gaussians import Gaussians
from ..recon.points import PointCloud
from .atomic import ensure_place, refuse_filled
from .splat_rows import Progress
from .splats import SPLAT_FORMATS, check_splat_writer, splat_format_of, write_splats

__all__ = ["CAMERA_FORMATS", "EXPORTERS", "ExportScene", "Exporter", "export_format", "export_scene"]


@dataclass(frozen=True)
class ExportScene:
    """What there is to write: the splats, and the cameras of the photos `names` (both empty where unknown).

    `photos`: where the files of these photos lie, in the size the cameras are for, `masks` those of their masks (white where pixels count); empty where
    there are none. `points`: what formats of points write; None = the splats' centres.
    """

    gaussians: Gaussians
    cameras: Cameras | None = None
    names: tuple[str, ...] = ()
    photos: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    points: PointCloud | None = None


@dataclass(frozen=True)
class Exporter:
    """One format.

    Attributes:
        writer: "module:function" in this room; function(path, scene) writes all or nothing.
        suffixes: endings of a path that mean this format.
        what: for the user, one line.
        cameras: whether it holds the cameras, in a folder unless the path has one of the endings.
        check: "module:function" that raises BackendUnavailable where a package is missing.
        points: whether points are written that may be others than the splats' centres.
    """

    writer: str
    suffixes: tuple[str, ...]
    what: str
    cameras: bool = True
    check: str | None = None
    points: bool = False


CAMERA_FORMATS: dict[str, Exporter] = {
    "colmap": Exporter("export_cameras:colmap", (), "folder with images/ and sparse/0: cameras, and the splats' centres as points", points=True),
    "colmap-text": Exporter("export_cameras:colmap_text", (), "the same with .txt files", points=True),
    "nerfstudio": Exporter("export_cameras:nerfstudio", (".json",), "folder with images/ and transforms.json, or that file alone"),
    "blender": Exporter("export_cameras:blender", (), "folder with train/ and transforms_train.json, as the NeRF synthetic scenes have it"),
    "points": Exporter("export_points:points", (), "the splats' centres with their colours as a .ply of points", cameras=False, points=True),
    "las": Exporter("export_points:las", (".las", ".laz"), "the same for surveying and GIS programs", cameras=False, check="las_file:laspy_module", points=True),
}
NO_CAMERAS = "This scene has no cameras with photo names, so only files of splats and points can be written."
EXPORTERS: dict[str, str] = {name: f.what for name, f in (SPLAT_FORMATS | CAMERA_FORMATS).items()}
"""Every format and what it is, for the user."""


def export_format(path: str | Path, format: str | None = None, cameras: bool = True, points: bool = False) -> str:
    """The format, by its name or by the ending of `path`, which has been proved to be a place for it: to be asked before a large scene is read.

    Args:
        cameras: whether there are any; points: whether those are to be written, not splats.

    Raises ConfigError for a format or ending that is not known or holds no points, cameras that are missing, an ending that is only read, or a folder that is not empty;
    BackendUnavailable when a package is missing, HandfulError when the disk cannot be written.
    """
    path = Path(path)
    if format is None and points and path.suffix.lower() == ".ply":
        format = "points"
    if format is None:
        format = splat_format_of(path) or next((name for name, e in CAMERA_FORMATS.items() if path.suffix.lower() in e.suffixes), None)
        if format is None:
            written = [s for f in SPLAT_FORMATS.values() for s in f.suffixes if s not in f.only_read]
            endings = ", ".join([*written, *(s for e in CAMERA_FORMATS.values() for s in e.suffixes)])
            raise ConfigError(f"The ending of {path.name!r} names no format; use one of {endings}, or say --format {' | '.join(EXPORTERS)}.")
    if format not in EXPORTERS:
        raise ConfigError(f"There is no export format {format!r}; choose one of {', '.join(EXPORTERS)}.")
    if points and not (format in CAMERA_FORMATS and CAMERA_FORMATS[format].points):
        named = ", ".join(name for name, e in CAMERA_FORMATS.items() if e.points)
        raise ConfigError(f"Points are written as {named}, and {path.name!r} would be {format}; name a .ply or .las, or say --format.")
    with_cameras = format in CAMERA_FORMATS and CAMERA_FORMATS[format].cameras
    if with_cameras and not cameras:
        raise ConfigError(NO_CAMERAS)
    if format in SPLAT_FORMATS:
        check_splat_writer(path, format)
    elif (check := CAMERA_FORMATS[format].check) is not None:
        _named(check)()
    endings = (CAMERA_FORMATS[format] if with_cameras else SPLAT_FORMATS["sog"]).suffixes
    if (with_cameras or format == "sog") and path.suffix.lower() not in endings:
        refuse_filled(path)
        ensure_place(path, folder=True)
    else:
        ensure_place(path)
    return format


def export_scene(
    path: str | Path,
    gaussians: Gaussians,
    cameras: Cameras | None = None,
    names: Sequence[str] = (),
    format: str | None = None,
    photos: Sequence[Path] = (),
    masks: Sequence[Path] = (),
    progress: Progress | None = None,
    points: PointCloud | None = None,
) -> Path:
    """Writes the scene to `path` in `format`, or in the one its ending names. Returns what was written.

    `points` stand in for the splats' centres in formats of points. A format that is a folder takes the `photos` and their `masks` along and wants a new (or empty) one.

    Raises ConfigError for a format or ending that is not known, HandfulError when the disk cannot be written.
    """
    path, format = Path(path), export_format(path, format, cameras is not None, points is not None)
    if format in SPLAT_FORMATS:
        write_splats(path, gaussians, format, progress)
        return path
    write: Callable[[Path, ExportScene], None] = _named(CAMERA_FORMATS[format].writer)
    write(path, ExportScene(gaussians, cameras, tuple(names), tuple(photos), tuple(masks), points))
    return path


def _named(what: str) -> Callable[..., Any]:
    """The function that is called "module:function" here."""
    module, attr = what.split(":")
    return getattr(import_module(f".{module}", __package__), attr)
