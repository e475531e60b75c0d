"""Camera paths as files: our own JSON, and nerfstudio's camera_path.json read as well.

Ours: {"format": "handful-camera-path", "version": 1, "fps": 30, "width": 1280, "height": 720,
"loop": false, "keyframes": [{"time": 0.0, "cam_from_world": [[...4 rows of 4...]], "fov_y_degrees": 50.0}, ...]}.
Times are seconds and grow; between keyframes the camera moves smoothly, with "loop" also from the last one back to the first. "moves", in
one that was made on a scene, lists those among its edits that move it, as edits.json does: the path is of the world they left, and follows when they change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.atomic import write_json
from ..data.edits_file import steps_from_jsonable, steps_to_jsonable
from ..recon.camera import Cameras
from ..recon.camera_path import CameraPath
from ..recon.edits import EditStep, Move, carry_between
from ..recon.errors import ConfigError, ShapeError
from .paths import PATHS

__all__ = ["PATH", "load_path", "save_path"]

PATH = "path.json"  # of the viewer, in a scene's folder

_FORMAT, _VERSION = "handful-camera-path", 1
_MAX_BYTES, _MAX_KEYFRAMES = 64_000_000, 100_000


def save_path(path: Path, camera_path: CameraPath, steps: Sequence[EditStep] | None = None) -> None:
    """Writes our format, beside and then renamed. `steps`: the edits of the scene it was made on; None = it goes with no scene in particular."""
    cameras = camera_path.cameras.to("cpu", torch.float64)
    fov = torch.rad2deg(2 * torch.atan(cameras.height / (2 * cameras.K[:, 1, 1])))
    keyframes = [
        {"time": float(t), "cam_from_world": T.tolist(), "fov_y_degrees": float(f)}
        for t, T, f in zip(camera_path.times, cameras.cam_from_world, fov, strict=True)
    ]
    head = {"format": _FORMAT, "version": _VERSION, "fps": camera_path.fps, "loop": camera_path.loop}
    head |= {"width": cameras.width, "height": cameras.height}
    if steps is not None:
        head["moves"] = steps_to_jsonable([step for step in steps if isinstance(step, Move)])
    write_json(path, {**head, "keyframes": keyframes})


def load_path(path: Path, steps: Sequence[EditStep] = ()) -> CameraPath:
    """Reads our format or nerfstudio's camera_path.json (its world must be the scene's); ours is carried into the world that the edits `steps` leave. Raises
    ConfigError with one sentence."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} is larger than any camera path ({_MAX_BYTES // 1_000_000} MB).")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
        why = e.strerror if isinstance(e, OSError) else f"it is no JSON: {e}"
        raise ConfigError(f"The camera path {path} cannot be read ({why}); name one of {', '.join(PATHS)}, or a path file (.json).") from e
    try:
        if isinstance(data, dict) and data.get("format") == _FORMAT:
            loaded = _ours(data, steps)
        elif isinstance(data, dict) and "camera_path" in data:
            loaded = _nerfstudio(data)
        else:
            raise ValueError("it is neither Handful's nor nerfstudio's format")
        loaded.cameras.validate()
    except (KeyError, TypeError, ValueError, ArithmeticError, ShapeError) as e:
        what = f"{e.args[0]!r} is missing" if isinstance(e, KeyError) and e.args else str(e)
        raise ConfigError(f"{path} is not a camera path: {what}.") from e
    return loaded


def _ours(data: dict[str, Any], steps: Sequence[EditStep]) -> CameraPath:
    if data.get("version") != _VERSION:
        raise ValueError(f"version {data.get('version')!r} is not known, only {_VERSION} is")
    keys = _keyframes(data["keyframes"])
    loaded = _assemble(
        _poses(keys, "cam_from_world"),
        [float(k["fov_y_degrees"]) for k in keys],
        [float(k["time"]) for k in keys],
        (int(data["width"]), int(data["height"])),
        float(data.get("fps", 30)),
        _flag(data.get("loop", False)),
    )
    loaded.cameras.validate()
    carry = carry_between(steps_from_jsonable(data["moves"]), steps) if "moves" in data else None
    return loaded if carry is None else replace(loaded, cameras=carry.apply_to_cameras(loaded.cameras))


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"loop must be true or false, got {value!r}")
    return value


def _nerfstudio(data: dict[str, Any]) -> CameraPath:
    """OpenGL axes (y up, z backwards), camera-to-world row by row, vertical field of view in degrees, one entry per frame."""
    if data.get("camera_type", "perspective") != "perspective":
        raise ValueError(f"camera type {data['camera_type']!r} is not supported, only perspective is")
    keys = _keyframes(data["camera_path"])
    world_from_cam = _poses(keys, "camera_to_world") * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    R_T = world_from_cam[:, :3, :3].transpose(1, 2)  # a rigid inverse cannot fail; whether it is rigid is validated after
    cam_from_world = world_from_cam.clone()
    cam_from_world[:, :3, :3] = R_T
    cam_from_world[:, :3, 3:] = -R_T @ world_from_cam[:, :3, 3:]
    fps = float(data.get("fps", 30))
    return _assemble(
        cam_from_world,
        [float(k["fov"]) for k in keys],
        [i / fps for i in range(len(keys))],
        (int(data["render_width"]), int(data["render_height"])),
        fps,
    )


def _keyframes(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_KEYFRAMES or not all(isinstance(k, dict) for k in value):
        raise ValueError(f"it needs a list of 1 to {_MAX_KEYFRAMES} keyframes")
    return value


def _poses(keys: list[dict[str, Any]], field: str) -> Float[Tensor, "n 4 4"]:
    flat = [[x for row in k[field] for x in (row if isinstance(row, list) else [row])] for k in keys]
    for i, numbers in enumerate(flat):
        if len(numbers) != 16:
            raise ValueError(f"{field} of keyframe {i} must have 16 numbers, it has {len(numbers)}")
    return torch.tensor(flat, dtype=torch.float64).reshape(-1, 4, 4)


def _assemble(poses: Tensor, fov_y_degrees: list[float], times: list[float], size: tuple[int, int], fps: float, loop: bool = False) -> CameraPath:
    width, height = size
    if not (2 <= width <= 32768 and 2 <= height <= 32768):
        raise ValueError(f"a frame of {width}x{height} pixels is not possible")
    if not 0 < fps <= 1000:
        raise ValueError(f"{fps:g} frames a second are not possible")
    if not all(0 < f < 180 for f in fov_y_degrees):
        raise ValueError("every field of view must lie between 0 and 180 degrees")
    if not all(math.isfinite(t) for t in times) or any(b <= a for a, b in zip(times, times[1:], strict=False)):
        raise ValueError("the times of the keyframes must grow")
    focal = torch.tensor([height / 2 / math.tan(math.radians(f) / 2) for f in fov_y_degrees], dtype=torch.float64)
    K = torch.zeros(len(times), 3, 3, dtype=torch.float64)
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1.0
    return CameraPath(Cameras(cam_from_world=poses, K=K, width=width, height=height), torch.tensor(times, dtype=torch.float64), fps, loop)
