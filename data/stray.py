"""Stray Scanner's recordings: rgb.mp4, odometry.csv, camera_matrix.csv, depth/ and confidence/.

strayrobots/scanner, docs/format.md. The app turns ARKit's camera by half a turn about x before it writes the quaternion
(StrayScanner/OdometryEncoder.swift: q_WA * q_AC), so poses are camera-to-world with OpenCV's axes in ARKit's gravity-aligned world (y up).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..recon.capture import Capture
from ..recon.errors import CaptureError
from .assemble import GivenCamera, Shot, assemble
from .axes import rigid, rigid_inverse
from .files import MASK_FOLDERS, find_mask, read_text
from .phone_depth import depth_and_trust, rotation_of_xyzw
from .protocol import LoadOptions
from .video import DEFAULT_FRAMES, ODOMETRY, RECORDING, choose_frames, frame_sharpness, frames_as_png, pale

__all__ = ["Stray"]

MATRIX = "camera_matrix.csv"


@dataclass(frozen=True)
class _Frame:
    """A row of odometry.csv: number of the frame, place, quaternion x y z w, and fx fy cx cy where the row has its own."""

    number: int
    position: np.ndarray
    xyzw: np.ndarray
    intrinsics: tuple[float, float, float, float] | None


class Stray:
    """The sharpest frame of each of `max_photos` windows of the recording (24 unless said), named frame_000123.png by its number."""

    name = "stray"

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and (path / ODOMETRY).is_file() and (path / RECORDING).is_file()

    def load(self, path: Path, options: LoadOptions) -> Capture:
        frames = {f.number: f for f in _odometry(path / ODOMETRY)}
        sharp = frame_sharpness(path / RECORDING)
        posed = [i for i in range(len(sharp)) if i in frames]
        if not posed:
            raise CaptureError(f"{path / ODOMETRY} has no pose for any of the {len(sharp)} frames of {RECORDING}; record it again.")
        chosen = [posed[i] for i in choose_frames(sharp[posed], options.max_photos or DEFAULT_FRAMES)]
        common = _matrix(path / MATRIX) if (path / MATRIX).is_file() else None
        masks = [path / m for m in MASK_FOLDERS]
        notes = pale(path / RECORDING)
        shots = []
        for i, png in zip(chosen, frames_as_png(path / RECORDING, chosen), strict=True):
            name = f"frame_{i:06d}.png"
            K = frames[i].intrinsics or common
            if K is None:
                raise CaptureError(f"{path} has no {MATRIX}, and {ODOMETRY} no fx, fy, cx, cy; copy the whole recording.")
            T = rigid_inverse(rigid(rotation_of_xyzw(frames[i].xyzw), frames[i].position, f"{name} in {path / ODOMETRY}"))
            depth, trust = depth_and_trust(path / "depth" / f"{i:06d}.png", path / "confidence" / f"{i:06d}.png", notes)
            shots.append(Shot(name, path / RECORDING / name, GivenCamera(T, *K), find_mask(masks, name), png, depth, trust=trust))
        return assemble(shots, replace(options, max_photos=None), self.name, warnings=notes)


def _odometry(file: Path) -> list[_Frame]:
    lines = [[v.strip() for v in line.split(",")] for line in read_text(file).splitlines() if line.strip()]
    names = lines[0] if lines else []
    try:
        at = {n: names.index(n) for n in ("frame", "x", "y", "z", "qx", "qy", "qz", "qw")}
        own = [names.index(n) for n in ("fx", "fy", "cx", "cy")] if {"fx", "fy", "cx", "cy"} <= set(names) else []
        rows = [(int(r[at["frame"]]), [float(r[at[n]]) for n in list(at)[1:]], [float(r[i]) for i in own]) for r in lines[1:]]
    except (ValueError, IndexError) as e:
        raise CaptureError(f"{file} is no odometry of Stray Scanner: a header timestamp, frame, x, y, z, qx, qy, qz, qw, then numbers; copy the recording again.") from e
    return [_Frame(n, np.array(v[:3]), np.array(v[3:]), (k[0], k[1], k[2], k[3]) if k else None) for n, v, k in rows]


def _matrix(file: Path) -> tuple[float, float, float, float]:
    try:
        K = np.array([[float(v) for v in line.split(",")] for line in read_text(file).splitlines() if line.strip()])
    except ValueError as e:
        raise CaptureError(f"{file} holds something that is no number; copy the recording again.") from e
    if K.shape != (3, 3):
        raise CaptureError(f"{file} holds a matrix of shape {K.shape}; the camera's is 3 x 3. Copy the recording again.")
    return float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
