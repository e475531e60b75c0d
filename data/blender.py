"""Blender captures (the NeRF synthetic scenes, Mildenhall et al. 2020): transforms_train.json, transforms_test.json, RGBA or white renders.

`camera_angle_x` is the horizontal field of view, the matrices are camera-to-world in OpenGL axes, the principal point is the centre, unless the file has
the keys of instant-ngp for focal length, centre and distortion.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError, ConfigError
from .assemble import GivenCamera, Shot, assemble
from .axes import cam_from_world_of_opengl
from .decode import stored_size
from .files import find_by_stem, inside, natural_key, read_json
from .nerfstudio_json import focal_of_angle, frame_camera, frames_of, matrix_of
from .protocol import LoadOptions

__all__ = ["Blender"]

PARTS = ("train", "val", "test")
FULLY_SAID = frozenset("fl_x fl_y cx cy k1 k2 k3 k4 p1 p2 w h camera_model is_fisheye".split())  # a file with any of these (instant-ngp) says more than an angle


class Blender:
    """Views are named part/file (train/r_0.png), whatever the split asked for. Transparency is composited on white."""

    name = "blender"

    def recognises(self, path: Path) -> bool:
        if path.is_file():
            return path.name in (_file(path, part).name for part in PARTS)
        return not (path / "transforms.json").is_file() and any(_file(path, part).is_file() for part in PARTS)

    def load(self, path: Path, options: LoadOptions) -> Capture:
        if path.is_file():
            part = path.stem.removeprefix("transforms_")
            path, options = path.parent, options if options.split else replace(options, split=part)
        there = [p for p in PARTS if _file(path, p).is_file()]
        if not there:
            raise CaptureError(f"{path} holds no transforms_train.json or transforms_test.json.")
        if options.split is not None and options.split not in PARTS:
            raise ConfigError(f"There is no split {options.split!r}; a Blender capture has {', '.join(there)}.")
        if options.split is not None and options.split not in there:
            raise CaptureError(f"{path} has no transforms_{options.split}.json; it has {', '.join(there)}.")
        shots: list[Shot] = []
        unplaced: list[Unplaced] = []
        for part in there if options.split is None else [options.split]:
            _read_part(path, part, shots, unplaced)
        if not shots:
            raise CaptureError(f"None of the {len(unplaced)} photos that {path} names is there; the first is {unplaced[0].name}.")
        return assemble(shots, options, self.name, unplaced=unplaced, white=True)


def _file(root: Path, part: str) -> Path:
    return root / f"transforms_{part}.json"


def _read_part(root: Path, part: str, shots: list[Shot], unplaced: list[Unplaced]) -> None:
    file = _file(root, part)
    data = read_json(file)
    for frame in sorted(frames_of(data, file), key=lambda f: natural_key(f["file_path"])):
        relative = frame["file_path"].removeprefix("./")
        photo = inside(root, relative, file)
        found = photo if photo.is_file() else find_by_stem(photo)
        folder = Path(part) / Path(relative.removeprefix(f"{part}/")).parent
        name = (folder / Path(relative).name).as_posix()
        if found is None:
            unplaced.append(Unplaced(name, f"{file.name} names it, but there is no such file"))
            continue
        what = f"{relative} in {file}"
        name = (folder / found.name).as_posix()
        if FULLY_SAID & (data.keys() | frame.keys()):
            shots.append(Shot(name, found, frame_camera(frame, data, what, found)))
            continue
        size = stored_size(found) or (1, 1)  # a broken photo is reported by assemble, together with all others
        focal = focal_of_angle(data.get("camera_angle_x"), size[0], what)
        T = cam_from_world_of_opengl(matrix_of(frame, what), what)
        shots.append(Shot(name, found, GivenCamera(T, focal, focal, size=size)))
