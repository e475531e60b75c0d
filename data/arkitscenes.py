"""A recording of ARKitScenes (Baruch et al., NeurIPS 2021): photos, depth and confidence of an iPad, with ARKit's trajectory.

apple/ARKitScenes, DATA.md: depth in 16-bit millimetres, confidence 0 to 2, .pincam (width height fx fy cx cy), .traj (seconds, axis-angle,
translation). threedod/benchmark_scripts/utils/tenFpsDataLoader.py inverts what a line holds, and nerfstudio's reader turns the camera from
OpenCV's axes to OpenGL's: a line is cam_from_world with OpenCV's axes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError
from .assemble import GivenCamera
from .axes import rigid, rigid_inverse
from .files import list_photos, read_text
from .phone_frames import PhoneFrame, assemble_frames
from .protocol import LoadOptions

__all__ = ["ARKitScenes"]

SETS = ("lowres_wide", "vga_wide", "wide")  # photos, with NAME_intrinsics/ beside them; depth belongs to any of them
TRAJECTORY = "lowres_wide.traj"
_SAME = 0.005  # seconds: as far as Apple's own loader reaches for a pose
_GAP = 0.15  # seconds between poses, of which ten come in one: over a longer gap nobody knows how the hand went
_CLOCK = 0.0015  # seconds: photos and their intrinsics may be named a millisecond apart


class ARKitScenes:
    """The folder of one recording, or the one with its ID_frames/. Photos get the pose of their own time, between the two poses around it;
    those without such poses are left out by name."""

    name = "arkitscenes"

    def recognises(self, path: Path) -> bool:
        return _root(path) is not None

    def load(self, path: Path, options: LoadOptions) -> Capture:
        root = _root(path)
        kind = None if root is None else next((k for k in SETS if list_photos(root / k) and (root / f"{k}_intrinsics").is_dir()), None)
        if root is None or kind is None:
            raise CaptureError(f"{path} holds no {TRAJECTORY} with {SETS[0]}/ and {SETS[0]}_intrinsics/; download these parts of the recording.")
        times, poses = _trajectory(root / TRAJECTORY)
        pincams = {t: f for f in (root / f"{kind}_intrinsics").glob("*.pincam") if (t := _time(f)) is not None}
        known = np.array(sorted(pincams))
        unplaced: list[Unplaced] = []
        found: list[PhoneFrame] = []
        for photo in list_photos(root / kind):
            t = _time(photo)
            pose = None if t is None else _pose_at(t, times, poses)
            lens = None if t is None else _nearest(known, t, _CLOCK)
            if pose is None or lens is None:
                unplaced.append(Unplaced(photo.name, f"{TRAJECTORY} has no pose at its time" if pose is None else "it has no .pincam"))
            else:
                camera = partial(_camera, pincams[float(known[lens])], pose)
                found.append(PhoneFrame(photo, camera, root / "lowres_depth" / photo.name, root / "confidence" / photo.name))
        return assemble_frames(found, options, self.name, (path, root), unplaced)


def _root(path: Path) -> Path | None:
    if not path.is_dir():
        return None
    return next((f for f in (path, path / f"{path.name}_frames") if (f / TRAJECTORY).is_file()), None)


def _time(file: Path) -> float | None:
    """Seconds from a name VIDEO_SECONDS.png."""
    try:
        seconds = float(file.name.removesuffix(file.suffix).rsplit("_", 1)[-1])
    except ValueError:
        return None
    return seconds if np.isfinite(seconds) else None


def _nearest(times: np.ndarray, t: float, within: float) -> int | None:
    if not len(times):
        return None
    i = int(np.abs(times - t).argmin())
    return i if abs(times[i] - t) <= within else None


def _pose_at(t: float, times: np.ndarray, poses: list[np.ndarray]) -> np.ndarray | None:
    """cam_from_world at the time t: the camera's place on the line between its neighbours', its turn on the shortest way between theirs (slerp)."""
    import cv2

    after = int(np.searchsorted(times, t))
    if not 0 < after < len(times) or not times[after] - times[after - 1] <= _GAP:
        near = _nearest(times, t, _SAME)
        return None if near is None else poses[near]
    a, b = rigid_inverse(poses[after - 1]), rigid_inverse(poses[after])
    share = (t - times[after - 1]) / (times[after] - times[after - 1])
    turn = cv2.Rodrigues(a[:3, :3].T @ b[:3, :3])[0]
    world_from_cam = np.eye(4)
    world_from_cam[:3, :3] = a[:3, :3] @ cv2.Rodrigues(share * turn)[0]
    world_from_cam[:3, 3] = (1 - share) * a[:3, 3] + share * b[:3, 3]
    return rigid_inverse(world_from_cam)


def _trajectory(file: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """Times, rising, and cam_from_world at each."""
    import cv2

    try:
        table = np.array([[float(v) for v in line.split()] for line in read_text(file).splitlines() if line.strip()])
    except ValueError as e:
        raise CaptureError(f"{file} holds something that is no number, or lines of different length; download it again.") from e
    if table.ndim != 2 or table.shape[1] != 7:
        raise CaptureError(f"{file} needs lines of 7 numbers (seconds, axis-angle, translation); download it again.")
    table = table[np.unique(table[:, 0], return_index=True)[1]]
    return table[:, 0], [rigid(cv2.Rodrigues(row[1:4])[0], row[4:], f"{file} at {row[0]:.3f} s") for row in table]


def _camera(file: Path, cam_from_world: np.ndarray) -> GivenCamera:
    try:
        w, h, fx, fy, cx, cy = (float(v) for v in read_text(file).split())
        size = (int(w), int(h))
    except (ValueError, OverflowError) as e:
        raise CaptureError(f"{file} needs 6 numbers: width, height, fx, fy, cx, cy; download it again.") from e
    return GivenCamera(cam_from_world, fx, fy, cx, cy, size)
