"""Strecha's benchmark (Strecha et al. 2008): one PHOTO.camera text file each, with K, distortion, R, the camera centre and the size.

R is world_from_cam with OpenCV axes, so cam_from_world = R^T [I | -C].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError
from .assemble import GivenCamera, Shot, assemble
from .axes import centers_at_half, rigid
from .files import MASK_FOLDERS, find_by_stem, find_mask, list_photos, natural_key, read_text
from .protocol import LoadOptions
from .undistort import Lens

__all__ = ["Strecha"]

CAMERA_FOLDERS = (".", "gt_dense_cameras", "cameras", "images")


class Strecha:
    """Photos beside the .camera files or in images/."""

    name = "strecha"

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and _camera_folder(path) is not None

    def load(self, path: Path, options: LoadOptions) -> Capture:
        folder = _camera_folder(path)
        if folder is None:
            raise CaptureError(f"{path} holds no PHOTO.camera files.")
        photos = next((f for f in (path / "images", path, folder) if list_photos(f)), path / "images")
        masks = [path / m for m in MASK_FOLDERS]
        shots, unplaced = [], []
        for file in sorted(folder.glob("*.camera"), key=lambda p: natural_key(p.name)):
            name = file.name.removesuffix(".camera")
            photo = photos / name
            found = photo if photo.is_file() else find_by_stem(photo.with_suffix(""))
            if found is None:
                unplaced.append(Unplaced(name, f"{file.name} is there, but not the photo"))
            else:
                shots.append(Shot(found.name, found, _camera(file), find_mask(masks, found.name)))
        return assemble(shots, options, self.name, unplaced=unplaced)


def _camera_folder(root: Path) -> Path | None:
    return next((root / n for n in CAMERA_FOLDERS if any((root / n).glob("*.camera"))), None)


def _camera(file: Path) -> GivenCamera:
    try:
        values = np.array([float(x) for x in read_text(file).split()])
    except ValueError as e:
        raise CaptureError(f"{file} holds something that is no number.") from e
    if values.size != 26:
        raise CaptureError(f"{file} holds {values.size} numbers; expected 26: K (9), distortion (3), R (9), centre (3), width, height.")
    K, lens, R, C = centers_at_half(values[:9].reshape(3, 3)), values[9:12], values[12:21].reshape(3, 3), values[21:24]
    if not np.isfinite(values[24:]).all():
        raise CaptureError(f"{file} has a size that is not finite.")
    size = (round(values[24]), round(values[25]))
    T = rigid(R.T, -R.T @ C, str(file))
    radial = Lens("opencv", (lens[0], lens[1], 0.0, 0.0, lens[2])) if lens.any() else Lens()
    return GivenCamera(T, K[0, 0], K[1, 1], K[0, 2], K[1, 2], size, radial)
