"""nerfstudio's and instant-ngp's transforms.json: photos with camera-to-world matrices in OpenGL axes.

Format: nerfstudio documentation, "Data conventions"; instant-ngp documentation, "Preparing datasets". Intrinsics may stand at the top
or in each frame; distortion (OpenCV radial-tangential and fisheye) is removed when the photos are loaded. The world stays as given.
Pictures in extents/ (as Handful writes them) are white where a photo of the same name is one, not padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from ..recon.camera import Cameras
from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError, ShapeError
from ..recon.points import PointCloud
from .assemble import GivenCamera, Shot, assemble
from .atomic import write_json
from .axes import cam_from_world_of_opengl, opengl_of_cam_from_world
from .decode import stored_size
from .files import MASK_FOLDERS, common_parent, find_by_stem, find_mask, inside, natural_key, read_json
from .ply import read_points
from .protocol import LoadOptions
from .scene_mark import EXTENTS
from .undistort import Lens

__all__ = ["Nerfstudio", "read_cameras", "write_transforms"]

FILE = "transforms.json"
_FISHEYE = {"OPENCV_FISHEYE", "FISHEYE"}
_PERSPECTIVE = {"OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"}


class Nerfstudio:
    """Views are named by their path below the folder all photos share (images/0001.jpg -> 0001.jpg)."""

    name = "nerfstudio"

    def recognises(self, path: Path) -> bool:
        split = ("transforms_train.json", "transforms_test.json", "transforms_val.json")
        return (path / FILE).is_file() or (path.is_file() and path.suffix == ".json" and path.name not in split)

    def load(self, path: Path, options: LoadOptions) -> Capture:
        file = path / FILE if path.is_dir() else path
        root = file.parent
        data = read_json(file)
        frames = frames_of(data, file)
        paths = [_posix(f["file_path"]) for f in frames]
        prefix = common_parent(paths)
        masks = [root / m for m in MASK_FOLDERS]
        shots: list[Shot] = []
        unplaced: list[Unplaced] = []
        for frame, relative in sorted(zip(frames, paths, strict=True), key=lambda p: natural_key(p[1])):
            name = relative.removeprefix(prefix)
            photo = _photo(root, relative, file)
            if photo is None:
                unplaced.append(Unplaced(name, f"{file.name} names it, but there is no such file"))
                continue
            camera = frame_camera(frame, data, f"{relative} in {file}", photo)
            named, extent = name if PurePosixPath(name).suffix else name + photo.suffix, find_mask([root / EXTENTS], name)
            shots.append(Shot(named, photo, camera, _mask(frame, root, masks, name, file), extent_file=extent))
        warnings = []
        if unplaced and shots:
            warnings.append(f"{file} names {len(frames)} photos, {len(unplaced)} of them are not there (the first is {unplaced[0].name}); the rest is used.")
        if not shots:
            raise CaptureError(f"None of the {len(frames)} photos that {file} names is there; the first is {paths[0]}.")
        if len({s.name for s in shots}) != len(shots):
            raise CaptureError(f"{file} names a photo twice; each frame needs a file of its own.")
        return assemble(shots, options, self.name, unplaced=unplaced, warnings=warnings, points=_points(data, root, file))


def _posix(path: str) -> str:
    p = path.replace("\\", "/")
    while p.startswith("./"):
        p = p[2:]
    return p


def frames_of(data: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    frames = data.get("frames")
    if not isinstance(frames, list) or not frames:
        raise CaptureError(f"{file} has no list of frames, so it names no photo.")
    for i, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str) or not frame["file_path"].strip():
            raise CaptureError(f"{file}: frame {i} has no file_path.")
    return frames


def _photo(root: Path, relative: str, file: Path) -> Path | None:
    """The photo a frame names; instant-ngp and Blender leave the ending out."""
    photo = inside(root, relative, file)
    return photo if photo.is_file() else find_by_stem(photo)


def _mask(frame: dict[str, Any], root: Path, folders: list[Path], name: str, file: Path) -> Path | None:
    given = frame.get("mask_path")
    if isinstance(given, str) and given:
        mask = inside(root, _posix(given), file)
        if not mask.is_file():
            raise CaptureError(f"{file} names the mask {given}, which is not there.")
        return mask
    return find_mask(folders, name)


def _points(data: dict[str, Any], root: Path, file: Path) -> PointCloud | None:
    given = data.get("ply_file_path")
    if not isinstance(given, str) or not given:
        return None
    ply = inside(root, _posix(given), file)
    return read_points(ply) if ply.is_file() else None


def _number(value: Any, key: str, what: str) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
    except OverflowError:  # JSON's whole numbers have no limit
        pass
    raise CaptureError(f"The camera of {what} has {key} = {repr(value)[:40]}, which is not a finite number.")


def matrix_of(frame: dict[str, Any], what: str) -> np.ndarray:
    """A frame's transform_matrix. Raises CaptureError when it is no 4 x 4 of numbers."""
    try:
        M = np.array(frame.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as e:
        raise CaptureError(f"The camera of {what} has no transform_matrix of numbers.") from e
    if M.shape not in ((4, 4), (3, 4)):
        raise CaptureError(f"The camera of {what} has no 4 x 4 transform_matrix.")
    return M


def focal_of_angle(angle: Any, side: float, what: str) -> float:
    """Focal length in pixels from the field of view (radians) across `side` pixels. Raises CaptureError for a senseless angle."""
    angle = _number(angle, "camera_angle_x", what)
    if not 0 < angle < math.pi:
        raise CaptureError(f"The camera of {what} has a field of view of {angle:g} radians; it must lie between 0 and 3.14.")
    return 0.5 * side / math.tan(0.5 * angle)


def frame_camera(frame: dict[str, Any], top: dict[str, Any], what: str, photo: Path | None = None) -> GivenCamera:
    """One frame's camera; what the frame does not say stands at the top of the file, and the size also in the photo. Raises CaptureError."""

    def get(key: str) -> float | None:
        value = frame.get(key, top.get(key))
        return None if value is None else _number(value, key, what)

    M = matrix_of(frame, what)
    w, h = get("w"), get("h")
    size = (round(w), round(h)) if w and h else None if photo is None else stored_size(photo)
    fx, fy = get("fl_x"), get("fl_y")
    if fx is None and fy is None and size is not None:
        # instant-ngp's older files hold the angle only; one angle stands for both axes (square pixels)
        for side, key in ((size[0], "camera_angle_x"), (size[1], "camera_angle_y")):
            if fx is None and get(key) is not None:
                fx = focal_of_angle(get(key), side, what)
    fx, fy = fx or fy, fy or fx
    if fx is None or fy is None:
        raise CaptureError(f"The camera of {what} has no focal length (fl_x, or camera_angle_x).")
    return GivenCamera(cam_from_world_of_opengl(M, what), fx, fy, get("cx"), get("cy"), size, _lens(frame, top, get, what))


def _lens(frame: dict[str, Any], top: dict[str, Any], get, what: str) -> Lens:
    model = str(frame.get("camera_model", top.get("camera_model", "OPENCV"))).upper()
    fisheye = model in _FISHEYE or bool(frame.get("is_fisheye", top.get("is_fisheye", False)))
    if not fisheye and model not in _PERSPECTIVE:
        raise CaptureError(f"The camera of {what} is of the model {model}, which is not read; use OPENCV, PINHOLE or OPENCV_FISHEYE.")
    if fisheye:
        return Lens("fisheye", tuple(get(k) or 0.0 for k in ("k1", "k2", "k3", "k4")))
    params = tuple(get(k) or 0.0 for k in ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"))
    return Lens("opencv", params) if any(params) else Lens()


def read_cameras(path: str | Path) -> Cameras:
    """The cameras alone, in the order of the frames, as `write_transforms` wrote them: one size, no distortion.

    Raises CaptureError when the file is broken, or when its cameras differ in size or have distortion (then load it as a capture).
    """
    path = Path(path)
    data = read_json(path)
    cameras = [frame_camera(f, data, f"{f['file_path']} in {path}") for f in frames_of(data, path)]
    size = cameras[0].size
    if size is None or any(c.size != size or not c.lens.is_pinhole for c in cameras):
        raise CaptureError(f"{path} has cameras without a size, of different sizes or with distortion; load it as a capture instead.")
    T = torch.tensor(np.stack([c.cam_from_world for c in cameras]), dtype=torch.float32)
    K = torch.eye(3).repeat(len(cameras), 1, 1)
    for i, c in enumerate(cameras):
        K[i, 0, 0], K[i, 1, 1] = c.fx, c.fy
        K[i, 0, 2], K[i, 1, 2] = size[0] / 2 if c.cx is None else c.cx, size[1] / 2 if c.cy is None else c.cy
    return Cameras(T, K, *size).validate()


def write_transforms(
    path: str | Path, cameras: Cameras, files: Sequence[str], masks: Sequence[str] = (), extra: Mapping[str, Any] | None = None
) -> None:
    """Writes the cameras of the photos `files` (posix paths relative to the json), atomically. Intrinsics stand at the top
    when all agree, else in each frame. `masks`: one for each photo, or none. `extra`: more keys for the top."""
    if len(files) != len(cameras):
        raise ShapeError(f"write_transforms: {len(files)} files for {len(cameras)} cameras.")
    K = cameras.K.detach().cpu().double().numpy()
    T = cameras.cam_from_world.detach().cpu().double().numpy()
    top: dict[str, Any] = {"camera_model": "OPENCV", "w": cameras.width, "h": cameras.height, **(extra or {})}

    def intrinsics(k: np.ndarray) -> dict[str, float]:
        return {"fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2], "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}

    shared = len(K) > 0 and bool((K == K[:1]).all())
    if shared:
        top |= intrinsics(K[0])
    frames = []
    for i, (file, k, t) in enumerate(zip(files, K, T, strict=True)):
        frame: dict[str, Any] = {"file_path": file, "transform_matrix": opengl_of_cam_from_world(t).tolist()}
        if masks:
            frame["mask_path"] = masks[i]
        frames.append(frame if shared else frame | intrinsics(k))
    write_json(path, top | {"frames": frames})
