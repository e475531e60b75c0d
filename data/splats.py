"""All files of splats that can be read and written, by name. A new format is one file with its two functions and one line here."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ..recon.errors import CaptureError, ConfigError
from ..recon.gaussians import Gaussians
from .splat_rows import Progress

__all__ = ["SPLAT_FORMATS", "SplatFormat", "check_splat_writer", "is_splat_file", "read_splats", "splat_format_of", "write_splats"]


@dataclass(frozen=True)
class SplatFormat:
    """One format.

    Attributes:
        module: in this room, with the functions
        reader: function(path, progress) -> Gaussians, raises CaptureError; and
        writer: function(path, gaussians, progress) writes all or nothing.
        suffixes: endings of a path that mean this format.
        what: for the user, one line.
        only_read: those of the suffixes that are not written.
        check: function of the module that raises BackendUnavailable where a package is missing.
    """

    module: str
    reader: str
    writer: str
    suffixes: tuple[str, ...]
    what: str
    only_read: tuple[str, ...] = ()
    check: str | None = None


SPLAT_FORMATS: dict[str, SplatFormat] = {
    "ply": SplatFormat("ply", "read_gaussians", "write_gaussians", (".ply",), "standard 3DGS layout, read by every splat viewer; nothing is lost"),
    "compressed-ply": SplatFormat("compressed_ply", "read_compressed_ply", "write_compressed_ply", (".compressed.ply",), "PlayCanvas' layout, about a quarter of the ply"),
    "splat": SplatFormat("splat_file", "read_splat", "write_splat", (".splat",), "32 bytes a splat, no view-dependent colour"),
    "spz": SplatFormat("spz", "read_spz", "write_spz", (".spz",), "Niantic's, compressed to about a tenth of the ply"),
    "sog": SplatFormat("sog", "read_sog", "write_sog", (".sog",), "PlayCanvas' images in a zip (or, without the ending, in a folder), a tenth to a twentieth of the ply"),
    "glb": SplatFormat("glb", "read_glb", "write_glb", (".glb",), "glTF with KHR_gaussian_splatting; next to nothing is lost"),
    "usd": SplatFormat("usd", "read_usd", "write_usd", (".usdc", ".usd", ".usda", ".usdz"), "OpenUSD's ParticleField3DGaussianSplat, by usd-core; next to nothing is lost", (".usdz",), "_pxr"),
}


def splat_format_of(path: str | Path) -> str | None:
    """The format that the ending of `path` means; the longer ending wins. None for any other."""
    name = Path(path).name.lower()
    found = [(len(s), key) for key, f in SPLAT_FORMATS.items() for s in f.suffixes if name.endswith(s)]
    return max(found)[1] if found else None


def is_splat_file(path: str | Path) -> bool:
    """Whether `read_splats` is for this path: a file, whatever its ending, or a SOG folder. Of what is not there the ending tells."""
    path = Path(path)
    if path.is_dir():
        return (path / "meta.json").is_file() and not (path / "scene.ply").is_file()
    return path.is_file() or splat_format_of(path) is not None or path.name == "meta.json"


def read_splats(path: str | Path, progress: Progress | None = None) -> Gaussians:
    """Reads any of the formats, told by the first bytes, or by the ending where they tell nothing (.splat).

    Raises CaptureError in one sentence when the file is none of them or is broken.
    """
    path = Path(path)
    return _function(_format_inside(path), "reader")(path, progress)


def write_splats(path: str | Path, gaussians: Gaussians, format: str, progress: Progress | None = None) -> None:
    """Writes in one of SPLAT_FORMATS, all or nothing. Raises HandfulError when the disk cannot be written."""
    _function(format, "writer")(path, gaussians, progress)


def check_splat_writer(path: str | Path, format: str) -> None:
    """Raises ConfigError for an ending that is only read, BackendUnavailable where a package is missing: to be asked before there is anything to write."""
    f, ending = SPLAT_FORMATS[format], Path(path).suffix.lower()
    if ending in f.only_read:
        raise ConfigError(f"{Path(path).name}: a {ending} is read, but not written; write a {f.suffixes[0]}.")
    if f.check is not None:
        _function(format, "check")()


def _function(format: str, kind: str) -> Callable:
    f = SPLAT_FORMATS[format]
    return getattr(import_module(f".{f.module}", __package__), getattr(f, kind))


def _format_inside(path: Path) -> str:
    if path.is_dir() or path.name == "meta.json":
        return "sog"
    try:
        with path.open("rb") as f:
            head = f.read(65536)
    except OSError as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror or e}).") from e
    if head.startswith(b"ply"):
        return "compressed-ply" if b"packed_position" in head.split(b"end_header", 1)[0] else "ply"
    if head.startswith(b"PK\x03\x04"):
        return "usd" if _holds_usd(path) else "sog"
    magics = {b"\x1f\x8b": "spz", struct.pack("<I", 0x5053474E): "spz", b"glTF": "glb", b"PXR-USDC": "usd", b"#usda ": "usd"}
    found = next((name for magic, name in magics.items() if head.startswith(magic)), splat_format_of(path))
    if found is None:
        endings = ", ".join(s for f in SPLAT_FORMATS.values() for s in f.suffixes)
        raise CaptureError(f"{path} is no file of splats that can be read; these are: {endings}.")
    return found


def _holds_usd(path: Path) -> bool:
    """Whether a zip is a .usdz: its first file is the stage."""
    try:
        with zipfile.ZipFile(path) as z:
            names = z.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return splat_format_of(path) == "usd"  # whoever reads it tells what is wrong
    return bool(names) and Path(names[0]).suffix.lower() in (".usd", ".usda", ".usdc")
