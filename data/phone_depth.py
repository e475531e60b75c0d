"""Depth as Apple's ARKit measures it (ARFrame.sceneDepth): metres at a quarter of a thousand pixels, three levels of confidence, guesses beyond 5 m.

Apple's documentation of ARDepthData (`depthMap`: metres from the camera plane, `confidenceMap`: low, medium, high); Polycam's polyform,
README: "The max range of the lidar sensor is 5M, so the depth map for any part of the scene larger than that is a total guess". The
intrinsics are those of the photo, scaled; Apple counts the principal point from the top left corner of the top left pixel
(AVCameraCalibrationData.intrinsicMatrix), as we do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..recon.errors import CaptureError
from .axes import cam_from_world_of_opengl, rotation_of_quat_wxyz
from .decode import decode_photo

__all__ = ["cam_from_world_of_arkit", "depth_and_trust", "depth_of_millimetres", "rotation_of_xyzw", "trust_of_levels"]

REACH = 5.0  # metres that the sensor measures; what it writes beyond is a guess


def depth_of_millimetres(file: Path) -> np.ndarray:
    """h,w float32 metres from a grey 16-bit picture of millimetres, 0 = none. Raises CaptureError."""
    grey = decode_photo(file, upright=False).rgb[..., 0]
    if grey.dtype != np.uint16:
        raise CaptureError(f"{file} is no depth picture: it has 8 bits, but depth is stored as 16-bit millimetres; export it again.")
    return grey.astype(np.float32) / 1000


def depth_and_trust(depth_file: Path, level_file: Path, notes: list[str]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What `Shot` takes as depth and trust, from a picture of millimetres and one of levels. Pictures that are not there, or broken (a note says so), give None."""
    if not depth_file.is_file():
        return None, None
    try:
        depth = depth_of_millimetres(depth_file)
        levels = decode_photo(level_file, upright=False).rgb[..., 0] if level_file.is_file() else None
        return depth, trust_of_levels(levels, depth)
    except (CaptureError, ValueError) as e:
        notes.append(f"The depth in {depth_file} is left out: {str(e).rstrip('.')}.")
        return None, None


def trust_of_levels(levels: np.ndarray | None, depth: np.ndarray) -> np.ndarray:
    """h,w confidence in [0, 1]: low, medium, high are 0, 0.5, 1 (as 0, 1, 2, or as bytes 0, 127, 255), and nothing beyond 5 m counts.

    Args:
        levels: as stored; None = all high.
        depth: h,w metres.

    Raises ValueError when the two differ in size.
    """
    if levels is None:
        trust = np.ones(depth.shape, np.float32)
    elif levels.shape != depth.shape:
        raise ValueError(f"the confidence has {levels.shape[1]} x {levels.shape[0]} pixels, the depth {depth.shape[1]} x {depth.shape[0]}")
    else:
        trust = np.round(levels.astype(np.float32) / (2.0 if levels.max(initial=0) <= 2 else 255.0) * 2) / 2
    return np.where((depth > 0) & (depth <= REACH), trust, 0.0).astype(np.float32)


def cam_from_world_of_arkit(xyzw: np.ndarray, position: np.ndarray, what: str) -> np.ndarray:
    """From ARKit's camera as a quaternion (x, y, z, w) and a place: camera-to-world, x right, y up, z backwards. Raises CaptureError."""
    M = np.eye(4)
    M[:3, :3], M[:3, 3] = rotation_of_xyzw(xyzw), position
    return cam_from_world_of_opengl(M, what)


def rotation_of_xyzw(xyzw: np.ndarray) -> np.ndarray:
    """3x3; not finite for a quaternion of length zero, which `rigid` refuses."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return rotation_of_quat_wxyz(np.roll(np.asarray(xyzw, np.float64), 1))
