"""A made-up miniature of nuScenes: two scenes, two cameras, tables as the devkit's schema has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handful.data.axes import quat_wxyz_of_rotation
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.recon.errors import CaptureError
from handful.recon.scan.moments import moment_of
from PIL import Image

K = np.array([[90.0, 0, 47.5], [0, 90.0, 31.5], [0, 0, 1]])
CAMERA = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # ego (x ahead, z up) from a camera that looks ahead
BEHIND = np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])


def pose(i: float) -> np.ndarray:
    a = 0.05 * i
    T = np.eye(4)
    T[:3, :3] = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    T[:3, 3] = [600 + 2 * i, 1600 + 0.3 * i, 0.1 * i]
    return T


def rigid(R: np.ndarray, t: list[float]) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T


SENSORS = {"LIDAR_TOP": rigid(np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]), [0.94, 0, 1.84]), "CAM_FRONT": rigid(CAMERA, [1.7, 0, 1.5]), "CAM_BACK": rigid(BEHIND, [0.0, 0, 1.55])}


def row(T: np.ndarray) -> dict[str, Any]:
    return {"translation": T[:3, 3].tolist(), "rotation": quat_wxyz_of_rotation(T[:3, :3]).tolist()}


@pytest.fixture
def miniature(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """The folder, and world points that every scan saw."""
    rng = np.random.default_rng(0)
    world = np.array([604.0, 1600, 1]) + rng.uniform(-15, 15, (400, 3))
    root, tables = tmp_path / "mini", tmp_path / "mini" / "v1.0-mini"
    tables.mkdir(parents=True)
    sensor = [{"token": f"s{c}", "channel": c, "modality": "lidar" if "LIDAR" in c else "camera"} for c in (*SENSORS, "RADAR_FRONT")]
    calibrated = [{"token": f"c{c}", "sensor_token": f"s{c}", "camera_intrinsic": K.tolist() if "CAM" in c else [], **row(T)} for c, T in SENSORS.items()]
    calibrated.append({"token": "cRADAR_FRONT", "sensor_token": "sRADAR_FRONT", "camera_intrinsic": [], **row(np.eye(4))})
    sample, data, ego = [], [], []
    for i in range(5):
        scene = "town" if i < 3 else "quay"
        sample.append({"token": f"p{i}", "scene_token": scene, "timestamp": 1000 + i, "prev": "", "next": ""})
        for c in (*SENSORS, "RADAR_FRONT"):
            T = pose(i + (0.1 if c == "CAM_BACK" else 0))  # each record has its own pose: the car moves between them
            name = f"samples/{c}/{scene}__{c}__{i}" + (".jpg" if "CAM" in c else ".pcd.bin" if "LIDAR" in c else ".pcd")
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            size = {"width": 96, "height": 64} if "CAM" in c else {"width": 0, "height": 0}
            data.append({"token": f"d{i}{c}", "sample_token": f"p{i}", "ego_pose_token": f"e{i}{c}", "calibrated_sensor_token": f"c{c}", "filename": name, "is_key_frame": True, **size})
            ego.append({"token": f"e{i}{c}", "timestamp": i, **row(T)})
            if "CAM" in c:
                Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(root / name)
            elif "LIDAR" in c:
                inverse = np.linalg.inv(T @ SENSORS[c])
                local = world @ inverse[:3, :3].T + inverse[:3, 3]
                (root / name).write_bytes(np.c_[local, rng.uniform(0, 255, 400), np.zeros(400)].astype("<f4").tobytes())
        data.append({**data[-1], "token": f"w{i}", "is_key_frame": False, "filename": f"sweeps/CAM_FRONT/{i}.jpg"})
    rows = {"sensor": sensor, "calibrated_sensor": calibrated, "sample": sample, "sample_data": data, "ego_pose": ego, "scene": [{"token": "town", "name": "scene-0061"}, {"token": "quay", "name": "scene-0103"}]}
    for name, table in rows.items():
        (tables / f"{name}.json").write_text(json.dumps(table))
    return root, world


def test_a_scene(miniature):
    root, world = miniature
    capture = load_capture(root, LoadOptions(split="scene-0061"))
    assert capture.source == "nuscenes" and len(capture) == 6 and not capture.warnings and capture.cameras is not None
    assert set(capture.names) == {f"samples/{c}/{1000 + i}.jpg" for c in ("CAM_FRONT", "CAM_BACK") for i in range(3)}
    assert [s.name for s in capture.sweeps] == [f"samples/LIDAR_TOP/town__LIDAR_TOP__{i}.pcd.bin" for i in range(3)]
    assert [s.moment for s in capture.sweeps] == ["1000", "1001", "1002"] and {moment_of(n) for n in capture.names} == {"1000", "1001", "1002"}
    for sweep in capture.sweeps:
        assert np.abs(sweep.world_xyz.numpy() - world).max() < 2e-3 and sweep.ring is not None and sweep.origin_known
    for i, name in enumerate(capture.names):
        frame, back = int(name[-5]), "BACK" in name
        T = np.linalg.inv(pose(frame + 0.1 * back) @ SENSORS["CAM_BACK" if back else "CAM_FRONT"])
        assert np.abs(capture.cameras.cam_from_world[i].numpy() - T).max() < 2e-4
    assert np.abs(capture.cameras.K[0].numpy() - (K + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])).max() < 1e-5


def test_options(miniature):
    root, _ = miniature
    capture = load_capture(root / "v1.0-mini", LoadOptions(split="quay", max_photos=2, max_side=48))
    assert len(capture) == 2 and capture.cameras is not None and capture.cameras.width == 48
    kept = {int(n[-5]) for n in capture.names}
    assert {int(s.name[-9]) for s in capture.sweeps} == kept


def test_several_scenes_need_a_name(miniature):
    root, _ = miniature
    with pytest.raises(CaptureError, match="2 scenes .*scene-0061"):
        load_capture(root)
    with pytest.raises(CaptureError, match="no scene 'nowhere'"):
        load_capture(root, LoadOptions(split="nowhere"))


def test_a_left_out_photo_takes_the_scan_of_its_moment_along(miniature):
    root, _ = miniature
    capture = load_capture(root, LoadOptions(split="town"))
    kept = [n for n in capture.names if moment_of(n) != "1001"]
    assert [s.moment for s in capture.select(kept).sweeps] == ["1000", "1002"]


@pytest.mark.parametrize("times", [[7, 7, 8, 9, 10], [None, 1, 2, 3, 4], [0.5, 1, 2, 3, 4]])
def test_samples_without_a_time_of_their_own_go_by_their_token(miniature, times):
    root, _ = miniature
    edit(root, "sample", lambda rows: [r.update(timestamp=t) for r, t in zip(rows, times, strict=True)])
    capture = load_capture(root, LoadOptions(split="town"))
    assert {moment_of(n) for n in capture.names} == {s.moment for s in capture.sweeps} == {"p0", "p1", "p2"}


@pytest.mark.parametrize("mask", ["samples/CAM_BACK/1001.png", "samples/CAM_BACK/town__CAM_BACK__1.jpg.png"])
def test_masks(miniature, mask):
    """By the photo's name, or by its file's."""
    root, _ = miniature
    file = root / "masks" / mask
    file.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(file)
    capture = load_capture(root, LoadOptions(split="town"))
    masks = capture.masks()
    assert masks is not None and [n for n, m in zip(capture.names, masks, strict=True) if not m.any()] == ["samples/CAM_BACK/1001.jpg"]


def test_tables_of_several_releases_need_a_choice(miniature):
    root, _ = miniature
    shutil.copytree(root / "v1.0-mini", root / "v1.0-trainval")
    with pytest.raises(CaptureError, match="2 releases.*v1.0-mini or .*v1.0-trainval"):
        load_capture(root, LoadOptions(split="town"))
    assert len(load_capture(root / "v1.0-mini", LoadOptions(split="town"))) == 6
    shutil.rmtree(root / "v1.0-trainval")
    named = root.rename(root.parent / "v1.0-mini")  # as people name what they unpack
    assert len(load_capture(named, LoadOptions(split="town"))) == 6


def edit(root: Path, table: str, change: Any) -> None:
    file = root / "v1.0-mini" / f"{table}.json"
    rows = json.loads(file.read_text())
    change(rows)
    file.write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("sample_data", lambda r: r[1].update(ego_pose_token="?"), "lacks"),
        ("sample_data", lambda r: r[1].update(filename="../../out.jpg"), "outside its folder"),
        ("sample_data", lambda r: r[0].update(filename="../../LIDAR_TOP/out.bin"), "outside its folder"),
        ("calibrated_sensor", lambda r: r[1].update(camera_intrinsic=[1, 2]), "lacks"),
        ("calibrated_sensor", lambda r: r[1].update(rotation=[0, 0, 0, 0]), "lacks"),
        ("ego_pose", lambda r: r[1].update(translation=[float("nan")] * 3), "not finite"),
        ("ego_pose", lambda r: r.append(7), "no table"),
        ("sample_data", lambda r: r.clear(), "no photo"),
        ("sample_data", lambda r: r[1].update(width=float("inf")), "lacks"),
    ],
)
def test_broken_tables(miniature, table, change, words):
    root, _ = miniature
    edit(root, table, change)
    with pytest.raises(CaptureError, match=words) as e:
        load_capture(root, LoadOptions(split="town"))
    assert "\n" not in str(e.value)


def test_files_that_are_missing(miniature):
    root, _ = miniature
    (root / "samples/CAM_BACK/town__CAM_BACK__1.jpg").unlink()
    (root / "samples/LIDAR_TOP/town__LIDAR_TOP__2.pcd.bin").write_bytes(b"x" * 7)
    capture = load_capture(root, LoadOptions(split="town"))
    assert len(capture) == 5 and len(capture.sweeps) == 2
    assert [u.name for u in capture.unplaced] == ["samples/CAM_BACK/town__CAM_BACK__1.jpg"]  # the scan is no photo
    assert any("town__LIDAR_TOP__2" in w for w in capture.warnings)
