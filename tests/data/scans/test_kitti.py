"""KITTI-like folders: cameras against the calibration's own formula, scans in the poses' world, options, and what is broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.kitti import read_calibration
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.recon.capture import Capture
from handful.recon.errors import BackendUnavailable, CaptureError


def seen(capture: Capture, i: int, world: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and z-depth of world points in view i."""
    assert capture.cameras is not None
    T, K = capture.cameras.cam_from_world[i].double(), capture.cameras.K[i].double()
    cam = world.double() @ T[:3, :3].T + T[:3, 3]
    return ((cam @ K.T)[:, :2] / cam[:, 2:]).numpy(), cam[:, 2].numpy()


@pytest.mark.parametrize("poses", ["npy", "txt"])
def test_points_fall_where_the_calibration_says(street, poses):
    made = street(4, poses=poses)
    capture = load_capture(made.root)
    assert capture.source == "kitti" and capture.names == tuple(f"{3 * i:010d}.png" for i in range(4)) and not capture.warnings
    assert [s.name for s in capture.sweeps] == [f"velodyne_points/{3 * i:010d}.bin" for i in range(4)]
    for i, sweep in enumerate(capture.sweeps):
        truth = made.pixels(i)
        uv, z = seen(capture, i, sweep.world_xyz)
        assert np.abs(uv - truth[:, :2] - 0.5).max() < 2e-3  # theirs count from the middle of the first pixel, ours from its corner
        assert np.abs(z - truth[:, 2]).max() < 1e-4
        assert np.abs(sweep.world_xyz.numpy() - made.world).max() < 1e-4  # all scans saw the same points
        assert sweep.origin_known and sweep.intensity is not None and 0 <= float(sweep.intensity.min()) <= float(sweep.intensity.max()) <= 1
        assert np.abs(sweep.world_origins[0].numpy() - made.poses[i, :3, 3]).max() < 1e-5


def test_options_hold_for_photos_and_scans(street):
    made = street(6)
    capture = load_capture(made.root, LoadOptions(max_side=48, max_photos=3))
    assert capture.names == tuple(f"{3 * i:010d}.png" for i in (0, 2, 4))
    assert [s.name[-14:-4] for s in capture.sweeps] == [n[:-4] for n in capture.names]
    uv, _ = seen(capture, 1, capture.sweeps[1].world_xyz)
    assert np.abs(uv - (made.pixels(2)[:, :2] + 0.5) / 2).max() < 2e-3


def test_folders_of_the_raw_recordings(street):
    made = street(2, poses="", photos="image_02/data", scans="velodyne_points/data")
    calib = dict(line.split(": ") for line in (made.root / "calib.txt").read_text().splitlines())
    (made.root / "calib.txt").unlink()
    tr = np.array(calib["Tr_velo_to_cam"].split(), float).reshape(3, 4)
    above = made.root.parent
    (above / "calib_cam_to_cam.txt").write_text(f"calib_time: 09-Jan-2012 13:57:47\nP_rect_02: {calib['P2']}\nR_rect_00: {calib['R0_rect']}\n")
    (above / "calib_velo_to_cam.txt").write_text(f"R: {' '.join(map(str, tr[:, :3].ravel()))}\nT: {' '.join(map(str, tr[:, 3]))}\n")
    np.save(made.root / "poses.npy", made.poses)
    capture = load_capture(made.root)
    uv, _ = seen(capture, 1, capture.sweeps[1].world_xyz)
    assert np.abs(uv - made.pixels(1)[:, :2] - 0.5).max() < 2e-3
    assert capture.sweeps[1].name == "velodyne_points/data/0000000003.bin"


def test_without_poses(street, monkeypatch):
    def missing(sweeps):
        raise BackendUnavailable("Poses need kiss-icp.")

    monkeypatch.setattr("handful.data.kitti.odometry", missing)
    made = street(3, poses="")
    capture = load_capture(made.root, LoadOptions(max_side=48))
    assert capture.cameras is None and len(capture.sweeps) == 3
    assert all(torch.equal(s.world_from_sensor, torch.eye(4)) for s in capture.sweeps)
    assert len(capture.warnings) == 1 and "no poses" in capture.warnings[0] and capture.warnings[0].endswith("Poses need kiss-icp.")
    assert [v.focal_prior_px for v in capture.views] == [pytest.approx(40)] * 3
    camera = read_calibration(made.root).camera(made.poses[1])  # for who finds the poses later
    truth = made.pixels(1)
    cam = made.world @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    assert camera.cx is not None and camera.cy is not None
    uv = np.c_[camera.fx * cam[:, 0] / cam[:, 2] + camera.cx, camera.fy * cam[:, 1] / cam[:, 2] + camera.cy]
    assert np.abs(uv - truth[:, :2] - 0.5).max() < 1e-6 and np.abs(cam[:, 2] - truth[:, 2]).max() < 1e-9


def test_poses_of_a_longer_drive_are_picked_by_number(street):
    made = street(3)
    drive = np.stack([np.eye(4)] * 9)
    drive[::3] = made.poses  # the photos are frames 0, 3, 6
    np.save(made.root / "poses_odometry.npy", drive)
    capture = load_capture(made.root)
    assert np.abs(torch.stack([s.world_from_sensor for s in capture.sweeps]).numpy() - made.poses).max() < 1e-6


def test_scans_without_photo_and_photos_without_scan(street):
    made = street(4)
    (made.root / "image_02" / "0000000003.png").unlink()
    (made.root / "velodyne_points" / "0000000006.bin").unlink()
    np.save(made.root / "poses_odometry.npy", made.poses[[0, 2, 3]])
    capture = load_capture(made.root)
    assert [s.name[-14:-4] for s in capture.sweeps] == ["0000000000", "0000000009"]
    assert any("1 scans" in w and "no photo" in w for w in capture.warnings) and any("0000000006.png has no scan" in w for w in capture.warnings)


def test_broken_scan_is_left_out(street):
    made = street(3)
    file = made.root / "velodyne_points" / "0000000003.bin"
    file.write_bytes(file.read_bytes()[:-7])
    capture = load_capture(made.root)
    assert len(capture) == 3 and len(capture.sweeps) == 2
    assert not capture.unplaced  # it is no photo, and is not counted as one
    assert ["0000000003.bin" in w and "left out" in w for w in capture.warnings] == [True]


@pytest.mark.parametrize("poses", ["npy", ""])
def test_rows_of_nuscenes_in_a_folder_of_kitti(street, poses):
    """The ending .pcd.bin is no part of the name that photos and scans share."""
    made = street(3, poses=poses)
    for file in sorted((made.root / "velodyne_points").iterdir()):
        rows = np.fromfile(file, "<f4").reshape(-1, 4)
        file.with_suffix(".pcd.bin").write_bytes(np.c_[rows, np.zeros(len(rows))].astype("<f4").tobytes())
        file.unlink()
    capture = load_capture(made.root)
    assert [s.name[-11:] for s in capture.sweeps] == ["000.pcd.bin", "003.pcd.bin", "006.pcd.bin"]
    if poses:
        assert np.abs(torch.stack([s.world_from_sensor for s in capture.sweeps]).numpy() - made.poses).max() < 1e-6


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda r: (r / "calib.txt").unlink(), "no calib.txt"),
        (lambda r: (r / "calib.txt").write_text("P2: 1 2 3\n"), "P2 or P_rect_02 with 12 numbers"),
        (lambda r: (r / "calib.txt").write_bytes(b"\xff\xfe\x00"), "not a text file"),
        (lambda r: np.save(r / "poses_odometry.npy", np.eye(4)), "(N, 4, 4)"),
        (lambda r: np.save(r / "poses_odometry.npy", np.stack([np.eye(4)] * 2)), "2 poses for 3 photos"),
        (lambda r: np.save(r / "poses_odometry.npy", np.full((3, 4, 4), np.nan)), "not finite"),
        (lambda r: np.save(r / "poses_odometry.npy", np.stack([np.diag([1.5, 1.5, 1.5, 1])] * 3)), "scales by 1.5"),
        (lambda r: np.save(r / "poses_other.npy", np.zeros((3, 4, 4))), "2 files of poses"),
        (lambda r: [f.write_bytes(b"") for f in (r / "velodyne_points").iterdir()], "None of the scans"),
    ],
)
def test_broken_folders_are_one_sentence(street, harm, words):
    made = street(3)
    harm(made.root)
    with pytest.raises(CaptureError) as e:
        load_capture(made.root)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_pose_lines_that_are_none(street):
    made = street(2, poses="txt")
    for text, words in (("1 2 3\n", "has 3 numbers"), ("a b\n", "no number")):
        (made.root / "poses.txt").write_text(text)
        with pytest.raises(CaptureError, match=words):
            load_capture(made.root)


def test_real_sequence(shared_data: Path):
    capture = load_capture(shared_data / "lidar_kitti_seq", LoadOptions(max_side=621, max_photos=3))
    assert len(capture) == len(capture.sweeps) == 3 and capture.cameras is not None and capture.images().shape[1:] == (188, 621, 3)
    for i, sweep in enumerate(capture.sweeps):
        assert 100_000 < len(sweep) < 125_000
        uv, z = seen(capture, i, sweep.world_xyz)
        ahead = (z > 0) & (uv >= 0).all(1) & (uv < (621, 188)).all(1)
        assert 0.12 < ahead.mean() < 0.2  # a fifth of the turn, and all rings but those right below
        assert 2 < np.quantile(z[ahead], 0.01) and 5 < np.median(z[ahead]) < 30 and z[ahead].max() < 121
        road = ahead & (abs(uv[:, 0] - 310) < 60) & (uv[:, 1] > 150)
        K = capture.cameras.K[i]
        height = z[road] * (uv[road, 1] - float(K[1, 2])) / float(K[1, 1])
        assert abs(np.median(height) - 1.65) < 0.1  # the camera's height over the road (Geiger et al. 2013, figure 3)


def test_colours_of_the_street_agree_between_frames(shared_data: Path):
    """Points of one scan, coloured by their own photo and by the next one: the poses, the calibration and the photos fit each other."""
    capture = load_capture(shared_data / "lidar_kitti_seq", LoadOptions(max_photos=10))
    images = capture.images()

    def apart(shift: int) -> float:
        world = capture.sweeps[2].world_xyz
        colours, inside = [], torch.ones(len(world), dtype=torch.bool)
        for view in (2, 3):
            uv, z = seen(capture, view, world)
            at = torch.from_numpy(uv).floor().long() + torch.tensor([shift if view == 3 else 0, 0])
            ok = (torch.from_numpy(z) > 2) & (at >= 0).all(1) & (at < torch.tensor([images.shape[2], images.shape[1]])).all(1)
            inside &= ok
            colours.append(images[view][at[:, 1].clamp(0, images.shape[1] - 1), at[:, 0].clamp(0, images.shape[2] - 1)])
        return float((colours[0] - colours[1]).abs().mean(-1)[inside].median())

    assert apart(0) < 0.75 * min(apart(-12), apart(12))


def test_single_frame(shared_data: Path, tmp_path: Path):
    capture = load_capture(shared_data / "lidar_kitti_000008")
    assert capture.source == "kitti" and len(capture.sweeps) == 1 and len(capture.sweeps[0]) == 17238
    uv, z = seen(capture, 0, capture.sweeps[0].world_xyz)
    assert ((uv > -1).all(1) & (uv < (1243, 376)).all(1) & (z > 0)).mean() > 0.999  # the source kept only what the camera sees
    calibration = tmp_path / "frame"
    shutil.copytree(shared_data / "lidar_kitti_000008", calibration)
    frame = json.loads((calibration / "000008.json").read_text())
    frame["data_list"][0]["images"]["R0_rect"] = [[10**400] * 4] * 4
    for text in ("{}", json.dumps(frame)):
        (calibration / "000008.json").write_text(text)
        with pytest.raises(CaptureError, match="holds no calibration"):
            load_capture(calibration)


def test_poses_are_found_where_there_are_none(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("kiss_icp", reason="needs kiss-icp")
    drive = shared_data / "lidar_kitti_seq"
    for folder in ("image_02", "velodyne_points"):
        (tmp_path / folder).mkdir()
        for file in sorted((drive / folder).iterdir())[:4]:
            (tmp_path / folder / file.name).symlink_to(file)
    (tmp_path / "calib.txt").write_text((drive / "calib.txt").read_text())
    (tmp_path / "velodyne_points" / "0000000009.npz").unlink()  # the last photo has no scan
    found, given = load_capture(tmp_path, LoadOptions(max_side=320)), load_capture(drive, LoadOptions(max_side=320))
    assert found.cameras is not None and given.cameras is not None and len(found) == 3 == len(found.sweeps)
    assert "found by odometry over 3 scans" in found.warnings[0] and "1 photo without a scan" in found.warnings[0]
    assert float((found.cameras.centers - given.cameras.centers[:3]).norm(dim=1).max()) < 0.6  # of 1.06 m; the first steps are vague
    assert torch.equal(found.sweeps[0].world_from_sensor, torch.eye(4))
