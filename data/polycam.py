"""Polycam's raw export: keyframes/ with images, cameras, depth and confidence of an iPhone with LiDAR.

PolyCam/polyform, README ("Polycam's data format"): t_ij is camera-to-world, row-major, in ARKit's axes and gravity-aligned world (y up);
corrected_cameras/ and corrected_images/ are optimised and undistorted, and there only for some captures. (nerfstudio's importer cycles the
rows of t to put z up; here the world stays as it is.)
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

__all__ = ["Polycam"]


class Polycam:
    """The folder with keyframes/, or keyframes/ itself. Depth travels as sensor depth; a depth picture that is broken is left out with a warning."""

    name = "polycam"

    def recognises(self, path: Path) -> bool:
        root = _root(path)
        return root is not None and any((root / f"{c}cameras").is_dir() and (root / f"{c}images").is_dir() for c in ("corrected_", ""))

    def load(self, path: Path, options: LoadOptions) -> Capture:
        root = _root(path)
        if root is None:
            raise CaptureError(f"{path} holds no keyframes/ of a Polycam capture; export it as raw data.")
        kind = next((c for c in ("corrected_", "") if list_photos(root / f"{c}images") and (root / f"{c}cameras").is_dir()), None)
        if kind is None:
            raise CaptureError(f"{root} has no photos with cameras (corrected_images/ and corrected_cameras/, or images/ and cameras/); export it again.")
        notes = [] if kind else [f"{root} has no corrected cameras: the photos are a little distorted, and the cameras are the phone's own guess."]
        unplaced: list[Unplaced] = []
        found: list[PhoneFrame] = []
        for photo in list_photos(root / f"{kind}images"):
            camera = root / f"{kind}cameras" / f"{photo.stem}.json"
            if camera.is_file():
                depth, levels = (root / folder / f"{photo.stem}.png" for folder in ("depth", "confidence"))
                found.append(PhoneFrame(photo, partial(_camera, camera), depth, levels))
            else:
                unplaced.append(Unplaced(photo.name, f"{camera.parent.name}/{camera.name} is not there"))
        return assemble_frames(found, options, self.name, (root.parent, root), unplaced, notes)


def _root(path: Path) -> Path | None:
    return next((f for f in (path / "keyframes", path) if f.is_dir() and f.name == "keyframes"), None)


def _camera(file: Path) -> GivenCamera:
    data = read_json(file)
    try:
        M = np.array([[float(data[f"t_{i}{j}"]) for j in range(4)] for i in range(3)])
        fx, fy, cx, cy = (float(data[k]) for k in ("fx", "fy", "cx", "cy"))
        size = (int(data["width"]), int(data["height"])) if {"width", "height"} <= data.keys() else None
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise CaptureError(f"{file} is no Polycam camera: it needs t_00 to t_23, fx, fy, cx, cy; export the capture again.") from e
    return GivenCamera(cam_from_world_of_opengl(M, str(file)), fx, fy, cx, cy, size)
