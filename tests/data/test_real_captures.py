"""Camera conventions proved on real photos: matched features must lie on each other's epipolar lines under the cameras as loaded."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from handful.data.colmap import read_points_bin
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.recon.capture import Capture

# folder -> options, photos, size, bound on the median epipolar residual in pixels (measured, times about two)
CAPTURES = {
    "llff_fern": (LoadOptions(downscale=8), 20, (504, 378), 0.7),
    "llff_flower": (LoadOptions(downscale=8), 34, (504, 378), 0.45),
    "llff_fortress": (LoadOptions(downscale=8), 42, (502, 376), 0.45),
    "llff_horns": (LoadOptions(downscale=8), 62, (502, 376), 0.35),
    "dtu_scan24": (LoadOptions(max_side=400), 49, (400, 300), 0.6),
    "dtu_scan37": (LoadOptions(max_side=400), 49, (400, 300), 0.6),
    "strecha_fountain_P11": (LoadOptions(max_side=672), 11, (672, 448), 0.16),
    "fox": (LoadOptions(max_side=640), 50, (360, 640), 0.5),
    "middlebury_temple16": (LoadOptions(), 16, (640, 480), 0.4),
    "synthetic_lego": (LoadOptions(split="train"), 32, (400, 400), 1.2),
    "pi3_room8": (LoadOptions(), 8, (434, 350), 0.6),
}


@cache
def capture_of(root: Path, folder: str) -> Capture:
    return load_capture(root / folder, CAPTURES[folder][0])


@lru_cache(maxsize=64)
def features(root: Path, folder: str, i: int) -> tuple[np.ndarray, np.ndarray]:
    view = capture_of(root, folder).views[i]
    grey = (view.image.load().mean(-1).numpy() * 255).astype(np.uint8)
    mask = view.image.load_mask()
    keypoints, descriptors = cv2.SIFT_create(1500).detectAndCompute(grey, None if mask is None else (mask.numpy() > 0.5).astype(np.uint8))
    return np.array([k.pt for k in keypoints]) + 0.5, descriptors  # SIFT counts from integer pixel centres


def matches(root: Path, folder: str, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    (p, a), (q, b) = features(root, folder, i), features(root, folder, j)
    matcher = cv2.BFMatcher()
    back = {m.queryIdx: m.trainIdx for m in matcher.match(b, a)}
    good = [m for m, n in matcher.knnMatch(a, b, k=2) if m.distance < 0.75 * n.distance and back[m.trainIdx] == m.queryIdx]
    return p[[m.queryIdx for m in good]].reshape(-1, 2), q[[m.trainIdx for m in good]].reshape(-1, 2)


def neighbours(capture: Capture, count: int = 3) -> list[tuple[int, int]]:
    """Pairs of evenly taken views, each with the view nearest in direction and place."""
    assert capture.cameras is not None
    centers = capture.cameras.centers.double()
    forward = capture.cameras.cam_from_world[:, 2, :3].double()
    apart = torch.cdist(centers, centers) / torch.cdist(centers, centers).max() + (1 - forward @ forward.T) + 10 * torch.eye(len(capture))
    return [(i, int(apart[i].argmin())) for i in (k * len(capture) // count for k in range(count))]


def epipolar_residuals(capture: Capture, i: int, j: int, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Distance in pixels of matches to each other's epipolar lines (Sampson)."""
    assert capture.cameras is not None
    T = capture.cameras.cam_from_world.double().numpy()
    K = capture.cameras.K.double().numpy()
    M = T[j] @ np.linalg.inv(T[i])
    tx = np.cross(np.eye(3), M[:3, 3]).T
    F = np.linalg.inv(K[j]).T @ tx @ M[:3, :3] @ np.linalg.inv(K[i])
    x, y = np.c_[p, np.ones(len(p))], np.c_[q, np.ones(len(q))]
    line_j, line_i = x @ F.T, y @ F
    return np.abs((line_j * y).sum(1)) / np.sqrt((line_j[:, :2] ** 2).sum(1) + (line_i[:, :2] ** 2).sum(1))


@pytest.mark.parametrize("folder", CAPTURES)
def test_photos_and_cameras(shared_data, folder):
    _, count, size, bound = CAPTURES[folder]
    capture = capture_of(shared_data, folder)
    assert len(capture) == count and capture.views[0].image.size == size and capture.cameras is not None
    assert (capture.cameras.width, capture.cameras.height) == size and len(capture.cameras) == count
    residuals = []
    for i, j in neighbours(capture):
        p, q = matches(shared_data, folder, i, j)
        if len(p) >= 8:
            residuals.append(epipolar_residuals(capture, i, j, p, q))
    values = np.concatenate(residuals)
    assert len(values) > 100
    assert np.median(values) < bound, f"median {np.median(values):.3f} px over {len(values)} matches"


@pytest.mark.parametrize("folder", ["strecha_fountain_P11", "pi3_room8"])
def test_half_a_pixel_matters_and_is_right(shared_data, folder):
    """These sources count from integer pixel centres: moved by half a pixel either way, matches fit worse."""
    capture = capture_of(shared_data, folder)
    n = len(capture)
    pairs = [(i, i + 1) for i in range(0, n - 1, max(1, n // 4))]
    found = [(i, j, *matches(shared_data, folder, i, j)) for i, j in pairs]

    def median(offset: float) -> float:
        return float(np.median(np.concatenate([epipolar_residuals(capture, i, j, p + offset, q + offset) for i, j, p, q in found if len(p) >= 8])))

    assert median(0.0) < min(median(0.5), median(-0.5))


@pytest.mark.parametrize("folder", ["llff_fern", "llff_flower"])
def test_llff_points_land_on_their_colours(shared_data, folder):
    """COLMAP's points in the same world, projected with the cameras of poses_bounds.npy."""
    capture = capture_of(shared_data, folder)
    points = read_points_bin(shared_data / folder / "sparse/0/points3D.bin")
    assert capture.cameras is not None and points.rgb is not None and len(points) > 1000

    def agreement(shift: float) -> float:
        out = []
        for i in (0, len(capture) // 2):
            uv, z = capture.cameras[i].project(points.xyz)
            u, v = (uv[0] + shift).floor().long().T
            ok = (z[0] > 0) & (u >= 0) & (v >= 0) & (u < 504) & (v < 378)
            out.append((capture.views[i].image.load()[v[ok], u[ok]] - points.rgb[ok]).abs().mean(-1))
        return float(torch.cat(out).median())

    assert agreement(0.0) < 0.1 and agreement(2.0) > 1.35 * agreement(0.0)  # two pixels aside is plainly worse


def test_room_depth_agrees_with_its_cameras(shared_data):
    """Depth of view 0 carried into view 1 meets view 1's own depth (0.3 % median where both see it)."""
    capture = capture_of(shared_data, "pi3_room8")
    assert capture.cameras is not None and len(capture.depth) == 8
    a, b = capture.depth[0], capture.depth[1]
    assert a is not None and b is not None and a.valid.float().mean() > 0.5
    xyz = capture.cameras[0].unproject_depth(a.depth[None])[0][a.valid]
    uv, z = capture.cameras[1].project(xyz)
    u, v = uv[0].floor().long().T
    ok = (z[0] > 0) & (u >= 0) & (v >= 0) & (u < 434) & (v < 350)
    there = b.depth[v[ok], u[ok]]
    seen = there > 0
    assert ((z[0][ok] / there)[seen] - 1).abs().median() < 0.005


def test_worlds_are_kept(shared_data):
    """What the source says of its scale: DTU in millimetres, fountain in metres, lego's cameras 4 units from the origin."""
    dtu = capture_of(shared_data, "dtu_scan24").cameras
    fountain = capture_of(shared_data, "strecha_fountain_P11").cameras
    lego = capture_of(shared_data, "synthetic_lego").cameras
    assert dtu is not None and fountain is not None and lego is not None
    P = np.load(shared_data / "dtu_scan24" / "cameras_sphere.npz")["world_mat_0"]
    ours = (dtu.K[0] @ dtu.cam_from_world[0, :3]).double().numpy()
    ours[:2] = ours[:2] * 4 - 0.5 * ours[2]  # back to 1600 pixels and integer centres
    assert np.abs(ours / np.linalg.norm(ours[2, :3]) - P[:3] / np.linalg.norm(P[2, :3])).max() / np.abs(P[:3]).max() < 1e-5
    assert torch.allclose(fountain.centers[0], torch.tensor([-7.28137, -7.57667, 0.204446]), atol=1e-4)
    assert lego.centers.norm(dim=1).sub(4.0311).abs().max() < 1e-2


def test_names_and_parts(shared_data):
    assert capture_of(shared_data, "llff_fern").names[:2] == ("image000.jpg", "image001.jpg")
    assert capture_of(shared_data, "fox").names[:2] == ("0001.jpg", "0002.jpg")
    fox = capture_of(shared_data, "fox")
    assert len(fox.unplaced) == 17 and len(fox.warnings) == 1 and "17" in fox.warnings[0]
    both = load_capture(shared_data / "synthetic_lego")
    assert len(both) == 57 and both.names[0].startswith("train/") and both.names[-1].startswith("test/") and both.white_background
    masks = capture_of(shared_data, "dtu_scan24").views[0].image.load_mask()
    assert masks is not None and 0.2 < masks.mean() < 0.9


def test_only_some_views_at_a_scale(shared_data):
    capture = load_capture(shared_data / "llff_flower", LoadOptions(downscale=4))
    full = capture_of(shared_data, "llff_flower")
    assert len(capture) == 14 and len(capture.unplaced) == 20 and capture.views[0].image.size == (1008, 756)
    assert capture.names == tuple(f"image{i:03d}.jpg" for i in (0, 1, 5, 8, 9, 12, 16, 17, 21, 24, 25, 28, 32, 33))
    assert capture.cameras is not None and full.cameras is not None
    picks = [full.names.index(n) for n in capture.names]
    assert torch.equal(capture.cameras.cam_from_world, full.cameras.cam_from_world[picks])
    assert torch.allclose(capture.cameras.K[:, 0, 0], full.cameras.K[picks, 0, 0] * 2)


def test_kitchen_photos_without_cameras(shared_data):
    capture = load_capture(shared_data / "m360_kitchen25", LoadOptions(max_photos=8))
    assert capture.names == ("00.jpg", "03.jpg", "06.jpg", "09.jpg", "12.jpg", "15.jpg", "18.jpg", "21.jpg")
    assert capture.cameras is None and capture.views[0].image.size == (779, 520)
