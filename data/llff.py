"""LLFF captures: poses_bounds.npy beside images_8/, images_4/, ... (Mildenhall et al. 2019), and NeX's variant of it.

Two layouts: 17 columns (3x5 [R | t | H, W, f] and two depth bounds), and NeX's 14 (3x4 and bounds) with hwf_cxcy.npy.
The photos are used as they are: LLFF's cameras have no distortion, even where COLMAP had found some.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError
from .assemble import GivenCamera, Shot, assemble
from .axes import cam_from_world_of_llff
from .files import MASK_FOLDERS, find_mask, list_photos, load_npy
from .protocol import LoadOptions

__all__ = ["Llff"]

POSES = "poses_bounds.npy"


class Llff:
    """Views are named by their file (image000.jpg). With `downscale` d the folder images_d is taken, even when it holds some views only."""

    name = "llff"

    def recognises(self, path: Path) -> bool:
        return (path / POSES).is_file() or (path.name == POSES and path.is_file())

    def load(self, path: Path, options: LoadOptions) -> Capture:
        root = path if path.is_dir() else path.parent
        poses, intrinsics = _read_poses(root)
        folder, used = _photo_folder(root, len(poses), options)
        photos = _photos_by_pose(root, folder, len(poses))
        shots, unplaced = [], []
        masks = [root / m for m in MASK_FOLDERS]
        for i, (name, file) in enumerate(photos):
            if file is None:
                unplaced.append(Unplaced(name, f"there is no such photo in {folder.name}/"))
                continue
            h, w, fx, fy, cx, cy = intrinsics[i]
            T = cam_from_world_of_llff(poses[i], f"{name} in {root / POSES}")
            shots.append(Shot(file.name, file, GivenCamera(T, fx, fy, cx, cy, (round(w), round(h))), find_mask(masks, file.name)))
        return assemble(shots, used, self.name, unplaced=unplaced)


_Row = tuple[float, float, float, float, float | None, float | None]


def _read_poses(root: Path) -> tuple[np.ndarray, list[_Row]]:
    """(N,3,4) camera-to-world in LLFF axes, and H, W, fx, fy, cx, cy per view (None = the centre)."""
    file = root / POSES
    table = load_npy(file)
    if table.ndim != 2 or table.shape[1] not in (14, 17) or len(table) == 0:
        raise CaptureError(f"{file} has shape {table.shape}; expected N x 17 (LLFF), or N x 14 (NeX) with hwf_cxcy.npy beside it.")
    if table.shape[1] == 17:
        m = table[:, :15].reshape(-1, 3, 5)
        rows: list[_Row] = [(float(h), float(w), float(f), float(f), None, None) for h, w, f in m[:, :, 4]]
        poses = m[:, :, :4]
    else:
        hwf_file = root / "hwf_cxcy.npy"
        if not hwf_file.is_file():
            raise CaptureError(f"{file} has 14 columns (NeX), so {hwf_file} must be there with H, W, fx, fy, cx, cy.")
        hwf = load_npy(hwf_file).reshape(-1)
        if hwf.size != 6:
            raise CaptureError(f"{hwf_file} holds {hwf.size} numbers; expected 6: H, W, fx, fy, cx, cy.")
        h, w, fx, fy, cx, cy = (float(x) for x in hwf)
        rows = [(h, w, fx, fy, cx, cy)] * len(table)
        poses = table[:, :12].reshape(-1, 3, 4)
    for i, (h, w, fx, *_) in enumerate(rows):
        if not (np.isfinite([h, w, fx]).all() and h >= 1 and w >= 1 and fx > 0):
            raise CaptureError(f"Camera {i} in {file} has no usable height, width and focal length ({h:g}, {w:g}, {fx:g}).")
    return poses, rows


def _scale_folders(root: Path) -> dict[int, Path]:
    """Reduction factor -> folder that holds photos; images/ is factor 1."""
    found = {1: root / "images"} if list_photos(root / "images") else {}
    for p in root.iterdir():
        m = re.fullmatch(r"images_(\d+)", p.name)
        if m and int(m[1]) > 0 and list_photos(p):
            found[int(m[1])] = p
    return dict(sorted(found.items()))


def _photo_folder(root: Path, n: int, options: LoadOptions) -> tuple[Path, LoadOptions]:
    """The folder to read and what is left of the options. Without `downscale`: the largest scale that has all views."""
    folders = _scale_folders(root)
    if not folders:
        raise CaptureError(f"{root} holds {POSES} but no photos; expected them in images/, images_4/ or images_8/.")
    if options.downscale is None:
        complete = [f for f in folders.values() if len(list_photos(f)) >= n]
        return (complete or [max(folders.values(), key=lambda f: len(list_photos(f)))])[0], options
    if options.downscale in folders:
        return folders[options.downscale], replace(options, downscale=None)
    larger = [d for d in folders if options.downscale % d == 0 and d < options.downscale]
    if not larger:
        raise CaptureError(f"{root} has photos at 1/{', 1/'.join(map(str, folders))} only, none to make 1/{options.downscale} from.")
    # the smallest that has all views, else the fullest
    best = max(larger, key=lambda d: (len(list_photos(folders[d])), d))
    return folders[best], replace(options, downscale=options.downscale // best)


def _photos_by_pose(root: Path, folder: Path, n: int) -> list[tuple[str, Path | None]]:
    """One (name, file or None) per pose. Poses follow the plain sorting of names, as LLFF's own loader has it."""
    files = sorted(list_photos(folder), key=lambda p: p.name)
    if len(files) == n:
        return [(p.name, p) for p in files]
    if len(files) < n:
        by_stem = {p.stem: p for p in files}
        for other in _scale_folders(root).values():
            names = sorted(list_photos(other), key=lambda p: p.name)
            if len(names) == n and set(by_stem) <= {p.stem for p in names}:
                return [(p.name, by_stem.get(p.stem)) for p in names]
    raise CaptureError(f"{root / POSES} has {n} cameras, but {folder} has {len(files)} photos, so it is unknown which belongs to which; restore the missing photos or remove the extra ones.")
