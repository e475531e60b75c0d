"""Scans that lie beside photos: taken along by every capture whose own format has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...recon.capture import Capture
from ...recon.errors import BackendUnavailable, CaptureError
from ...recon.sweeps import Sweep
from ..files import natural_key
from .registry import read_scan

__all__ = ["scans_beside", "with_scans_beside"]

FOLDERS = ("lidar", "scans")
DESCRIBES = frozenset(".json .npy .npz .txt".split())  # files that stand for their folder; a video or an archive stands for itself
# bare rows (.bin, .npy) say too little to be picked up unasked: they may be poses, or COLMAP's own files
SUFFIXES = frozenset(".ply .pcd .las .laz .e57 .npz".split())


def scans_beside(path: Path) -> list[Path]:
    """Files scan* beside the photos, and all in lidar/ or scans/, in natural order. So points3D.ply, scene.ply or points.ply of a scene or an export are never taken.

    Args:
        path: what the capture was loaded from: its folder, or a file or folder inside that describes it (transforms.json, sparse/0).
    """
    if path.is_file() and path.suffix.lower() not in DESCRIBES:
        return []
    root = path if path.is_dir() else path.parent
    if root.name == "0":
        root = root.parent
    if root.name == "sparse":
        root = root.parent
    named = [f for f in root.iterdir() if f.name.lower().startswith("scan")]
    kept = [f for n in FOLDERS if (root / n).is_dir() for f in (root / n).iterdir()]
    found = [f for f in (*named, *kept) if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file()]
    return sorted(found, key=lambda f: natural_key(f.relative_to(root).as_posix()))


def with_scans_beside(capture: Capture, path: Path) -> Capture:
    """The same with the scans beside it, taken to be in the cameras' world; as it is where it has scans or there are none. What cannot be read becomes a warning."""
    if capture.sweeps:
        return capture
    sweeps: list[Sweep] = []
    notes: list[str] = []
    files = scans_beside(path)
    for file in files:
        try:
            found = read_scan(file)
        except (CaptureError, BackendUnavailable) as e:
            notes.append(f"{str(e).rstrip('.')}. The scan is left out.")
            continue
        sweeps += found.sweeps
        notes += found.told(file)
    if sweeps:
        names = ", ".join(dict.fromkeys(s.name for s in sweeps[:3])) + (", .." if len(sweeps) > 3 else "")
        notes.insert(0, f"{len(sweeps)} scan{'s' if len(sweeps) > 1 else ''} beside the photos ({names}) come{'s' if len(sweeps) == 1 else ''} along, taken to be in the cameras' world.")
    return replace(capture, sweeps=tuple(sweeps), warnings=(*capture.warnings, *notes)) if files else capture
