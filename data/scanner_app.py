"""3D Scanner App's "all data" export: frame_00000.jpg and .json, depth_00000.png, conf_00000.png of an iPhone or iPad.

frame_*.json: `cameraPoseARFrame`, ARKit's camera-to-world as 16 numbers row by row (x right, y up, z backwards; y of the world is up), and
`intrinsics`, 9 numbers row by row for the photo. Depth in 16-bit millimetres, confidence 0 to 2. (As public readers of the export have it:
the app's makers describe no format.)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError
from .assemble import GivenCamera, Shot, assemble, subset_indices
from .axes import cam_from_world_of_opengl
from .files import list_photos, read_json
from .phone_depth import depth_and_trust
from .protocol import LoadOptions

__all__ = ["ScannerApp"]

PHOTO = "frame_"


class ScannerApp:
    """Photos are those frames that were kept as JPEG; depth of the frames between them is left aside."""

    name = "scannerapp"

    def recognises(self, path: Path) -> bool:
        if not path.is_dir():
            return False
        first = next(path.glob(f"{PHOTO}*.json"), None)
        return first is not None and any(path.glob(f"{PHOTO}*.jpg")) and any(path.glob("depth_*.png"))

    def load(self, path: Path, options: LoadOptions) -> Capture:
        photos = [p for p in list_photos(path) if p.name.startswith(PHOTO)]
        posed = [p for p in photos if p.with_suffix(".json").is_file()]
        unplaced = [Unplaced(p.name, f"{p.stem}.json is not there") for p in photos if p not in posed]
        notes: list[str] = []
        shots = []
        for i in subset_indices(len(posed), options.max_photos):
            photo = posed[i]
            number = photo.stem.removeprefix(PHOTO)
            depth, trust = depth_and_trust(path / f"depth_{number}.png", path / f"conf_{number}.png", notes)
            shots.append(Shot(photo.name, photo, _camera(photo.with_suffix(".json")), depth=depth, trust=trust))
        return assemble(shots, replace(options, max_photos=None), self.name, unplaced=unplaced, warnings=notes)


def _camera(file: Path) -> GivenCamera:
    data = read_json(file)
    try:
        M = np.array(data["cameraPoseARFrame"], np.float64).reshape(4, 4)
        K = np.array(data["intrinsics"], np.float64).reshape(3, 3)
    except (KeyError, TypeError, ValueError) as e:
        raise CaptureError(f"{file} is no frame of 3D Scanner App: it needs cameraPoseARFrame (16 numbers) and intrinsics (9); export the scan again.") from e
    return GivenCamera(cam_from_world_of_opengl(M, str(file)), K[0, 0], K[1, 1], K[0, 2], K[1, 2])
