"""Scans beside photos come along with every format that has none of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from handful.data.colmap import write_model
from handful.data.ply import write_points
from handful.data.registry import load_capture
from handful.data.scans import beside
from handful.data.scans.beside import scans_beside
from handful.data.scans.npz_files import write_sweep
from handful.recon.errors import ShapeError
from handful.recon.points import PointCloud
from handful.recon.sweeps import Sweep

from .writers import pcd_bytes, ply_bytes


def columns(n: int = 50) -> dict[str, np.ndarray]:
    xyz = np.random.default_rng(0).normal(size=(n, 3)).astype("f4")
    return {k: xyz[:, i].copy() for i, k in enumerate("xyz")}


def test_beside_cameras(nerfstudio_folder):
    root = nerfstudio_folder()
    (root / "scan_room.ply").write_bytes(ply_bytes(columns()))
    (root / "lidar").mkdir()
    (root / "lidar" / "b10.pcd").write_bytes(pcd_bytes(columns(), viewpoint="1 0 0 1 0 0 0"))
    (root / "lidar" / "b9.pcd").write_bytes(pcd_bytes(columns(), viewpoint="2 0 0 1 0 0 0"))
    (root / "scans").mkdir()
    write_sweep(root / "scans" / "c.npz", Sweep(torch.ones(4, 3), torch.eye(4), "from the scene folder"))
    for path in (root, root / "transforms.json"):
        capture = load_capture(path)
        assert capture.source == "nerfstudio" and capture.cameras is not None
        assert [s.name for s in capture.sweeps] == ["lidar/b9.pcd", "lidar/b10.pcd", "scan_room.ply", "from the scene folder"]
        assert [float(s.world_origins[0, 0]) for s in capture.sweeps] == [2, 1, 0, 0]
        assert len(capture.warnings) == 1 and "4 scans beside the photos" in capture.warnings[0]
    assert load_capture(root, adapter="nerfstudio").sweeps


def test_beside_photos_alone_and_none(photo_folder):
    root = photo_folder(3)
    assert load_capture(root).sweeps == () and load_capture(root).warnings == ()
    (root / "Scan.ply").write_bytes(ply_bytes(columns()))
    capture = load_capture(root)
    assert len(capture.sweeps) == 1 and capture.cameras is None


def test_what_is_ours_or_no_scan_is_not_taken(photo_folder):
    root = photo_folder(3)
    cloud = PointCloud(torch.rand(5, 3), torch.rand(5, 3))
    for name in ("points3D.ply", "scene.ply", "points.ply", "sparse_pc.ply", "mesh.ply", ".scan.ply", "scan.txt", "scan.bin", "scan.npy"):
        write_points(root / name, cloud)
    (root / "scan24.ply").mkdir()
    assert scans_beside(root) == []


def test_a_recording_stands_for_itself(tmp_path):
    """What else lies in the folder of downloads is none of its business."""
    for name in ("room.r3d", "clip.mp4", "scan.ply"):
        (tmp_path / name).write_bytes(b"")
    assert scans_beside(tmp_path / "room.r3d") == scans_beside(tmp_path / "clip.mp4") == []
    assert scans_beside(tmp_path / "transforms.json") == [tmp_path / "scan.ply"]


def test_a_colmap_model_inside(nerfstudio_folder):
    root = nerfstudio_folder()
    write_model(root / "sparse" / "0", load_capture(root).cameras, [f"p{i}.jpg" for i in range(3)])
    (root / "scan.ply").write_bytes(ply_bytes(columns()))
    assert scans_beside(root / "sparse" / "0") == scans_beside(root / "sparse") == scans_beside(root) == [root / "scan.ply"]


@pytest.mark.parametrize("name", ["0", "sparse", "sparse/0"])
def test_a_folder_of_photos_named_as_a_model_has_no_neighbours(photo_folder, name):
    root = photo_folder(3, folder=f"all/{name}")
    for folder in (root.parent, root.parent.parent):
        (folder / "scan.ply").write_bytes(ply_bytes(columns()))
    assert scans_beside(root) == []


def test_too_many_returns_are_taken_evenly(nerfstudio_folder, monkeypatch):
    root = nerfstudio_folder()
    for i in range(4):
        (root / f"scan{i}.ply").write_bytes(ply_bytes(columns(50)))
    monkeypatch.setattr(beside, "MOST_RETURNS", 120)
    capture = load_capture(root)
    assert [(s.name, len(s)) for s in capture.sweeps] == [("scan0.ply", 50), ("scan1.ply", 50), ("scan2.ply", 16)]
    assert [w for w in capture.warnings if "million" in w] == [next(w for w in capture.warnings if "scan2.ply is taken evenly, the 1 files" in w)]


@pytest.mark.parametrize("error", [ShapeError("Wrong."), PermissionError(13, "Permission denied")])
def test_photos_never_fail_for_a_scan(nerfstudio_folder, monkeypatch, error):
    def fails(_: object) -> None:
        raise error

    root = nerfstudio_folder()
    (root / "scan.ply").write_bytes(ply_bytes(columns()))
    with monkeypatch.context() as m:
        m.setattr(beside, "read_scan", fails)
        capture = load_capture(root)
        assert len(capture) == 3 and "left out" in capture.warnings[0] and "\n" not in capture.warnings[0]
    if isinstance(error, OSError):
        monkeypatch.setattr(beside, "scans_beside", fails)
        capture = load_capture(root)
        assert len(capture) == 3 and "Permission denied" in capture.warnings[0]


def test_a_broken_scan_is_a_warning(nerfstudio_folder, monkeypatch):
    root = nerfstudio_folder()
    whole = ply_bytes(columns())
    (root / "scan1.ply").write_bytes(whole[:-5])
    broken = columns()
    broken["x"][:7] = np.nan
    (root / "scan2.ply").write_bytes(ply_bytes(broken))
    (root / "scan3.las").write_bytes(b"LASF" + bytes(300))
    monkeypatch.setitem(__import__("sys").modules, "laspy", None)
    capture = load_capture(root)
    assert [len(s) for s in capture.sweeps] == [43]
    assert any("scan1.ply" in w and "left out" in w for w in capture.warnings)
    assert any("scan2.ply has 7 rows" in w for w in capture.warnings)
    assert any("handful[las]" in w and "left out" in w for w in capture.warnings)


def test_a_format_with_scans_of_its_own_takes_no_others(street):
    made = street(2)
    (made.root / "scan.ply").write_bytes(ply_bytes(columns()))
    assert len(load_capture(made.root).sweeps) == 2


def test_select_keeps_scans(nerfstudio_folder):
    root = nerfstudio_folder()
    (root / "scan.ply").write_bytes(ply_bytes(columns()))
    capture = load_capture(root)
    assert len(capture.select(capture.names[:1]).sweeps) == 1


@pytest.mark.parametrize("name", ["points.ply", "scene.ply"])
def test_a_named_point_cloud_of_nerfstudio_is_no_scan(nerfstudio_folder, name):
    root = nerfstudio_folder()
    write_points(root / name, PointCloud(torch.rand(5, 3), torch.rand(5, 3)))
    data = json.loads((root / "transforms.json").read_text())
    (root / "transforms.json").write_text(json.dumps({**data, "ply_file_path": name}))
    capture = load_capture(root)
    assert capture.sweeps == () and capture.points is not None
