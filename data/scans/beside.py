"""Scans that lie beside photos: taken along by every capture whose own format has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...recon.capture import Capture
from ...recon.errors import HandfulError
from ...recon.sweeps import Sweep
from ..files import natural_key
from .registry import read_scan

__all__ = ["scans_beside", "with_scans_beside"]

MOST_RETURNS = 50_000_000  # of all scans together: 3 GB with all they carry

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
    root = _root(path)
    named = [f for f in root.iterdir() if f.name.lower().startswith("scan")]
    kept = [f for n in FOLDERS if (root / n).is_dir() for f in (root / n).iterdir()]
    found = [f for f in (*named, *kept) if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file()]
    return sorted(found, key=lambda f: natural_key(f.relative_to(root).as_posix()))


def _root(path: Path) -> Path:
    """The folder of the capture: the one above sparse/ where a model of COLMAP inside it is what was given."""
    from ..colmap import find_model

    folder = path if path.is_dir() else path.parent
    model = find_model(folder)
    return folder if model is None else model[1]


def with_scans_beside(capture: Capture, path: Path) -> Capture:
    """The same with the scans beside it, taken to be in the cameras' world; as it is where it has scans or there are none.

    Scans are named by their file's path inside the capture, unless the file names them itself. What cannot be read becomes a warning, and so
    does what goes beyond MOST_RETURNS: photos never fail for a scan.
    """
    if capture.sweeps:
        return capture
    sweeps: list[Sweep] = []
    notes: list[str] = []
    room = MOST_RETURNS
    try:
        files = scans_beside(path)
    except OSError as e:
        return replace(capture, warnings=(*capture.warnings, f"Whether scans lie beside the photos in {path} is not known ({e.strerror or e})."))
    for k, file in enumerate(files):
        try:
            found = read_scan(file)
        except (HandfulError, OSError) as e:
            notes.append(f"{str(e).rstrip('.')}. The scan is left out.")
            continue
        inside = file.relative_to(_root(path)).as_posix()
        taken = found.sweeps if found.named else [replace(s, name=inside + s.name.removeprefix(file.name)) for s in found.sweeps]
        notes += found.told(file)
        if sum(map(len, taken)) > room:
            sweeps += _thinned(taken, room)
            notes.append(f"The scans beside the photos have more than {MOST_RETURNS / 1e6:g} million returns: {inside} is taken evenly, the {len(files) - k - 1} files after it are left out.")
            break
        room -= sum(map(len, taken))
        sweeps += taken
    if sweeps:
        names = ", ".join(dict.fromkeys(s.name for s in sweeps[:3])) + (", .." if len(sweeps) > 3 else "")
        notes.insert(0, f"{len(sweeps)} scan{'s' if len(sweeps) > 1 else ''} beside the photos ({names}) come{'s' if len(sweeps) == 1 else ''} along, taken to be in the cameras' world.")
    return replace(capture, sweeps=tuple(sweeps), warnings=(*capture.warnings, *notes)) if files else capture


def _thinned(sweeps: Sequence[Sweep], most: int) -> list[Sweep]:
    """At most that many returns in all, evenly from each."""
    step = -(-sum(map(len, sweeps)) // max(1, most))
    return [s.kept(torch.arange(step - 1, len(s), step)) for s in sweeps if len(s) >= step]
