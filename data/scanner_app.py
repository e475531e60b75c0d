"""3D Scanner App's "all data" export: frame_00000.jpg and .json, depth_00000.png, conf_00000.png of an iPhone or iPad.

frame_*.json: `cameraPoseARFrame`, ARKit's camera-to-world as 16 numbers row by row (x right, y up, z backwards; y of the world is up), and
`intrinsics`, 9 numbers row by row for the photo. Depth in 16-bit millimetres, confidence 0 to 2. (As public readers of the export have it:
the app's makers describe no format.)
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError
from .assemble import GivenCamera
from .axes import cam_from_world_of_opengl
from .files import list_photos, read_json
from .phone_frames import PhoneFrame, assemble_frames
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
        unplaced: list[Unplaced] = []
        found: list[PhoneFrame] = []
        for photo in list_photos(path):
            camera = photo.with_suffix(".json")
            if not photo.name.startswith(PHOTO):
                continue
            if not camera.is_file():
                unplaced.append(Unplaced(photo.name, f"{camera.name} is not there"))
                continue
            number = photo.stem.removeprefix(PHOTO)
            found.append(PhoneFrame(photo, partial(_camera, camera), path / f"depth_{number}.png", path / f"conf_{number}.png"))
        return assemble_frames(found, options, self.name, (path,), unplaced)


def _camera(file: Path) -> GivenCamera:
    data = read_json(file)
    try:
        M = np.array(data["cameraPoseARFrame"], np.float64).reshape(4, 4)
        K = np.array(data["intrinsics"], np.float64).reshape(3, 3)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise CaptureError(f"{file} is no frame of 3D Scanner App: it needs cameraPoseARFrame (16 numbers) and intrinsics (9); export the scan again.") from e
    return GivenCamera(cam_from_world_of_opengl(M, str(file)), K[0, 0], K[1, 1], K[0, 2], K[1, 2])
