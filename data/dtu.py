"""DTU in the layout of IDR and NeuS (Yariv et al. 2020, Wang et al. 2021): cameras_sphere.npz, image/ or images/, mask/.

world_mat_i = K [R | t] projects the data set's world (millimetres) to pixels of the original photos; scale_mat_i maps a unit sphere
around the object into it and is not used: cameras keep the world they were given in.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError
from .assemble import GivenCamera, Shot, assemble
from .axes import cam_from_world_of_projection, centers_at_half
from .decode import stored_size
from .files import find_mask, list_photos, load_npz
from .protocol import LoadOptions

__all__ = ["Dtu"]

FILES = ("cameras_sphere.npz", "cameras.npz", "cameras_large.npz")
FULL_SIZE = (1600, 1200)  # the rectified DTU photos, which world_mat refers to unless the photos are larger


class Dtu:
    """Photo number i (in the order of names) has world_mat_i; when photos are missing, the number in the name decides."""

    name = "dtu"

    def recognises(self, path: Path) -> bool:
        return (path.is_file() and path.name in FILES) or (_cameras_file(path) is not None and _photo_folder(path) is not None)

    def load(self, path: Path, options: LoadOptions) -> Capture:
        file = path if path.is_file() else _cameras_file(path)
        root = path.parent if path.is_file() else path
        folder = _photo_folder(root)
        if file is None or folder is None:
            raise CaptureError(f"{path} lacks cameras_sphere.npz or the folder image/ with the photos.")
        arrays = load_npz(file)
        keys = {int(m[1]): k for k in arrays if (m := re.fullmatch(r"world_mat_(\d+)", k))}
        numbers = sorted(keys)
        photos = list_photos(folder)
        if not numbers or not photos:
            raise CaptureError(f"{file} holds no world_mat_0, so it has no cameras." if photos else f"{folder} holds no photos.")
        shots, unplaced = [], []
        for number, photo in _numbered(photos, numbers, file):
            if number is None:
                unplaced.append(Unplaced(photo.name, f"{file.name} has no camera for it"))
                continue
            shots.append(Shot(photo.name, photo, _camera(arrays[keys[number]], photo, file), _mask(root, photo, number)))
        return assemble(shots, options, self.name, unplaced=unplaced)


def _cameras_file(root: Path) -> Path | None:
    return next((root / f for f in FILES if (root / f).is_file()), None)


def _photo_folder(root: Path) -> Path | None:
    return next((root / n for n in ("image", "images", "rgb") if list_photos(root / n)), None)


def _numbered(photos: list[Path], numbers: list[int], file: Path) -> list[tuple[int | None, Path]]:
    if len(photos) == len(numbers):
        return list(zip(numbers, photos, strict=True))
    in_name = [re.findall(r"\d+", p.stem) for p in photos]
    if any(not n for n in in_name):
        raise CaptureError(f"{file} has {len(numbers)} cameras for {len(photos)} photos without numbers in their names; it is unknown which belong together.")
    known = set(numbers)
    return [(int(n[-1]) if int(n[-1]) in known else None, p) for n, p in zip(in_name, photos, strict=True)]


def _camera(world_mat: np.ndarray, photo: Path, file: Path) -> GivenCamera:
    what = f"{photo.name} in {file}"
    if world_mat.shape not in ((4, 4), (3, 4)):
        raise CaptureError(f"The camera of {what} is no 4 x 4 matrix.")
    K, T = cam_from_world_of_projection(world_mat[:3], what)
    K = centers_at_half(K)
    size = stored_size(photo) or FULL_SIZE
    # other data sets in this layout keep their photos at the cameras' size; DTU's are often reduced, which the centre gives away
    same = 0.25 < K[0, 2] / size[0] < 0.75 and 0.25 < K[1, 2] / size[1] < 0.75
    return GivenCamera(T, K[0, 0], K[1, 1], K[0, 2], K[1, 2], size if same else FULL_SIZE)


def _mask(root: Path, photo: Path, number: int) -> Path | None:
    folders = [root / "mask", root / "masks"]
    return find_mask(folders, photo.name) or find_mask(folders, f"{number:03d}.png")
