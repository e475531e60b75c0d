"""All export formats by name. A new one is one file with a writer and one line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ..recon.camera import Cameras
from ..recon.errors import ConfigError
from ..recon.gaussians import Gaussians

__all__ = ["EXPORTERS", "ExportScene", "Exporter", "export_scene"]


@dataclass(frozen=True)
class ExportScene:
    """What there is to write: the splats, and the cameras of the photos `names` (both empty where unknown).

    `photos`: where the files of these photos lie, in the size the cameras are for, `masks` those of their masks (white where pixels count); empty where
    there are none.
    """

    gaussians: Gaussians
    cameras: Cameras | None = None
    names: tuple[str, ...] = ()
    photos: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Exporter:
    """One format.

    Attributes:
        writer: "module:function" in this room; function(path, scene) writes all or nothing.
        suffixes: endings of a path that mean this format.
        what: for the user, one line.
    """

    writer: str
    suffixes: tuple[str, ...]
    what: str


EXPORTERS: dict[str, Exporter] = {
    "ply": Exporter("export_splats:ply", (".ply",), "standard 3DGS layout, read by every splat viewer"),
    "splat": Exporter("export_splats:splat", (".splat",), "32 bytes a splat, no view-dependent colour"),
    "spz": Exporter("export_splats:spz", (".spz",), "compressed to about a tenth of the ply"),
    "colmap": Exporter("export_cameras:colmap", (), "folder with images/ and sparse/0: cameras, and the splats' centres as points"),
    "nerfstudio": Exporter("export_cameras:nerfstudio", (".json",), "folder with images/ and transforms.json, or that file alone"),
}


def export_scene(
    path: str | Path,
    gaussians: Gaussians,
    cameras: Cameras | None = None,
    names: Sequence[str] = (),
    format: str | None = None,
    photos: Sequence[Path] = (),
    masks: Sequence[Path] = (),
) -> Path:
    """Writes the scene to `path` in `format`, or in the one its ending names. Returns what was written.

    A format that is a folder takes the `photos` and their `masks` along and wants a new (or empty) one.

    Raises ConfigError for a format or ending that is not known, HandfulError when the disk cannot be written.
    """
    path = Path(path)
    if format is None:
        format = next((name for name, e in EXPORTERS.items() if path.suffix.lower() in e.suffixes), None)
        if format is None:
            endings = ", ".join(s for e in EXPORTERS.values() for s in e.suffixes)
            raise ConfigError(f"The ending of {path.name!r} names no format; use one of {endings}, or say --format {' | '.join(EXPORTERS)}.")
    if format not in EXPORTERS:
        raise ConfigError(f"There is no export format {format!r}; choose one of {', '.join(EXPORTERS)}.")
    module, attr = EXPORTERS[format].writer.split(":")
    write: Callable[[Path, ExportScene], None] = getattr(import_module(f".{module}", __package__), attr)
    write(path, ExportScene(gaussians, cameras, tuple(names), tuple(photos), tuple(masks)))
    return path
