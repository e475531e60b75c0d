"""All formats of scans. A new one is one file and one line here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ...recon.errors import CaptureError
from ...recon.sweeps import Sweep
from .parts import ScanFile

__all__ = ["NEEDS", "SCAN_FORMATS", "is_scan", "load_sweeps", "read_scan", "scan_status"]

# ending -> ("module:function", what it is); longer endings first; the module is imported when first asked
SCAN_FORMATS: dict[str, tuple[str, str]] = {
    ".pcd.bin": ("bin_files:read_nuscenes", "nuScenes: float32 rows of x, y, z, intensity, ring"),
    ".bin": ("bin_files:read_kitti", "KITTI: float32 rows of x, y, z, reflectance"),
    ".ply": ("ply_points:read_ply", "PLY points: colour, intensity, confidence, viewpoints"),
    ".pcd": ("pcd:read_pcd", "PCD of the Point Cloud Library, compressed or not"),
    ".las": ("las:read_las", "surveys as LAS"),
    ".laz": ("las:read_las", "the same, compressed"),
    ".e57": ("e57:read_e57", "survey stations as E57"),
    ".npz": ("npz_files:read_npz", "arrays named as the fields of Sweep, or KITTI in millimetres"),
    ".npy": ("npz_files:read_npy", "an array of rows x, y, z, intensity, ring"),
}

# ending -> packages beyond Handful's own, and the extra that brings them
NEEDS: dict[str, tuple[tuple[str, ...], str]] = {".las": (("laspy",), "las"), ".laz": (("laspy", "lazrs"), "las"), ".e57": (("pye57",), "e57")}


def scan_status() -> dict[str, str]:
    """Ending -> whether it can be read here, or what to install."""
    from importlib.util import find_spec

    status = {}
    for ending in SCAN_FORMATS:
        packages, extra = NEEDS.get(ending, ((), ""))
        lacks = [p for p in packages if find_spec(p) is None]
        status[ending] = f"missing {' and '.join(lacks)}: pip install 'handful[{extra}]'" if lacks else "reads"
    return status


def is_scan(path: Path) -> bool:
    """Whether the name ends as a file of scans does."""
    return path.name.lower().endswith(tuple(SCAN_FORMATS))


def read_scan(path: str | Path) -> ScanFile:
    """The scans of one file, with what was dropped. Raises CaptureError in one sentence when it cannot be used; BackendUnavailable when its format needs a package."""
    path = Path(path)
    if not path.is_file():
        raise CaptureError(f"There is no file {path}.")
    for ending, (where, _) in SCAN_FORMATS.items():
        if path.name.lower().endswith(ending):
            module, function = where.split(":")
            return getattr(import_module(f".{module}", __package__), function)(path)
    raise CaptureError(f"{path} is no scan that can be read; it may be {', '.join(SCAN_FORMATS)}.")


def load_sweeps(path: str | Path) -> tuple[Sweep, ...]:
    """The scans of one file, each with at least one return. Raises what `read_scan` raises."""
    return read_scan(path).sweeps
