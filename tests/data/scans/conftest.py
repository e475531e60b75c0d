"""A small street for the tests of scans: a car that rolls along x, its camera ahead, its scanner on the roof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (96, 64)
P2 = np.array([[80.0, 0, 47.5, 80 * 0.06 + 47.5 * 0.003], [0, 80, 31.5, 31.5 * 0.003], [0, 0, 1, 0.003]])  # K [I | b], b = (0.06, 0, 0.003)
CAM_FROM_VELO = np.array([[0.0, -1, 0, 0.01], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]])  # x ahead, y left, z up -> x right, y down, z ahead
TURN = 0.02  # radians that camera 0 is rectified by, about its vertical
RECTIFY = np.array([[np.cos(TURN), 0, np.sin(TURN)], [0, 1, 0], [-np.sin(TURN), 0, np.cos(TURN)]])


@dataclass(frozen=True)
class Street:
    """A KITTI-like folder and the truth: points in the world, poses of the scanner (N,4,4), pixels of each frame's points by P2 itself."""

    root: Path
    world: np.ndarray
    poses: np.ndarray

    def local(self, i: int) -> np.ndarray:
        """The world's points in the scanner's frame i."""
        T = np.linalg.inv(self.poses[i])
        return self.world @ T[:3, :3].T + T[:3, 3]

    def pixels(self, i: int) -> np.ndarray:
        """P2 * R0_rect * Tr * X, literally, in KITTI's own pixels (centres are integers)."""
        cam0 = (RECTIFY @ (CAM_FROM_VELO[:3] @ np.c_[self.local(i), np.ones(len(self.world))].T)).T
        uvw = np.c_[cam0, np.ones(len(cam0))] @ P2.T
        return np.c_[uvw[:, :2] / uvw[:, 2:], uvw[:, 2]]


def pose(i: int) -> np.ndarray:
    a = 0.03 * i
    T = np.eye(4)
    T[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    T[:3, 3] = [0.8 * i, 0.1 * i, 0.02 * i]
    return T


@pytest.fixture
def street(tmp_path: Path) -> Callable[..., Street]:
    """street(n, poses) writes n frames; poses: "npy", "txt" (KITTI odometry) or "" for none."""

    def make(n: int = 4, poses: str = "npy", photos: str = "image_02", scans: str = "velodyne_points") -> Street:
        rng = np.random.default_rng(0)
        root = tmp_path / "street"
        world = np.c_[rng.uniform(6, 20, 300), rng.uniform(-5, 5, 300), rng.uniform(-2, 2, 300)]
        made = Street(root, world, np.stack([pose(i) for i in range(n)]))
        (root / photos).mkdir(parents=True)
        (root / scans).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(root / photos / f"{3 * i:010d}.png")
            rows = np.c_[made.local(i), rng.uniform(0, 1, 300)].astype("<f4")
            (root / scans / f"{3 * i:010d}.bin").write_bytes(rows.tobytes())
        flat = {"P2": P2, "R0_rect": RECTIFY, "Tr_velo_to_cam": CAM_FROM_VELO[:3]}
        (root / "calib.txt").write_text("".join(f"{k}: {' '.join(f'{v:.12e}' for v in m.ravel())}\n" for k, m in flat.items()))
        if poses == "npy":
            np.save(root / "poses_odometry.npy", made.poses)
        if poses == "txt":
            rectified = np.eye(4)
            rectified[:3, :3] = RECTIFY
            cams = made.poses @ np.linalg.inv(rectified @ CAM_FROM_VELO)
            (root / "poses.txt").write_text("".join(" ".join(f"{v:.12e}" for v in c[:3].ravel()) + "\n" for c in cams))
        return made

    return make
