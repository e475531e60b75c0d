"""Photos in rgb/ with condition.npz beside them: poses (V,4,4 camera-to-world, OpenCV axes), intrinsics (V,3,3), depths (V,H,W z-depth).

The layout of Pi3's example captures. Depth maps travel as sensor depth.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..recon.capture import Capture
from ..recon.errors import CaptureError
from .assemble import GivenCamera, Shot, assemble
from .axes import centers_at_half, rigid, rigid_inverse
from .files import MASK_FOLDERS, find_mask, list_photos, load_npz
from .protocol import LoadOptions

__all__ = ["PosedRgbd"]

FILE = "condition.npz"


class PosedRgbd:
    """Photo number i in the order of names has poses[i]."""

    name = "rgbd"

    def recognises(self, path: Path) -> bool:
        return (path / FILE).is_file() or (path.is_file() and path.name == FILE)

    def load(self, path: Path, options: LoadOptions) -> Capture:
        path = path if path.is_dir() else path.parent
        file = path / FILE
        arrays = load_npz(file)
        folder = next((path / n for n in ("rgb", "images") if list_photos(path / n)), path)
        photos = list_photos(folder)
        n = len(photos)
        for key, shape in (("poses", (n, 4, 4)), ("intrinsics", (n, 3, 3))):
            if key not in arrays or arrays[key].shape != shape:
                raise CaptureError(f"{file} needs {key} of shape {shape} for the {n} photos in {folder}; it has {arrays[key].shape if key in arrays else 'none'}.")
        depths = arrays.get("depths")
        if depths is not None and (depths.ndim != 3 or len(depths) != n):
            raise CaptureError(f"{file} has depths of shape {depths.shape}; expected ({n}, H, W).")
        masks = [path / m for m in MASK_FOLDERS]
        shots = []
        for i, photo in enumerate(photos):
            T = rigid_inverse(rigid(arrays["poses"][i, :3, :3], arrays["poses"][i, :3, 3], f"{photo.name} in {file}"))
            K = centers_at_half(arrays["intrinsics"][i])
            depth = None if depths is None else np.asarray(depths[i])
            shots.append(Shot(photo.name, photo, GivenCamera(T, K[0, 0], K[1, 1], K[0, 2], K[1, 2]), find_mask(masks, photo.name), depth=depth))
        return assemble(shots, options, self.name)
