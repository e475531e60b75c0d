"""Camera files of every format, whole and broken: transforms.json, poses_bounds.npy, npz, text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.axes import (
    cam_from_world_of_llff,
    cam_from_world_of_opengl,
    cam_from_world_of_projection,
    opengl_of_cam_from_world,
    rigid,
)
from handful.data.nerfstudio_json import read_cameras, write_transforms
from handful.data.ply import write_points
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.recon.camera import Cameras
from handful.recon.errors import CaptureError, ConfigError, ShapeError
from handful.recon.points import PointCloud
from PIL import Image


def rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def edit(file: Path, **changes: object) -> None:
    data = json.loads(file.read_text())
    for key, value in changes.items():
        where = data["frames"][0] if key.startswith("frame_") else data
        key = key.removeprefix("frame_")
        if value is None:
            where.pop(key, None)
        else:
            where[key] = value
    file.write_text(json.dumps(data))


def refused(root: Path, words: str, **options: object) -> None:
    with pytest.raises(CaptureError, match=words) as e:
        load_capture(root, LoadOptions(**options)).images()  # type: ignore[arg-type]
    assert "\n" not in str(e.value)


# -- axes ------------------------------------------------------------------------------------------------------------------------------


def test_opengl_axes():
    """A camera at (1, 2, 3) that looks along -z with y up: a point before it, up and to the right, lies up and right in the picture."""
    M = np.eye(4)
    M[:3, 3] = 1, 2, 3
    T = cam_from_world_of_opengl(M, "x")
    assert np.allclose(T @ [1 + 0.5, 2 + 0.25, 3 - 2, 1], [0.5, -0.25, 2, 1])
    assert np.allclose(opengl_of_cam_from_world(T), M)


def test_llff_axes():
    """Columns down, right, backwards."""
    R = rotation(0)
    down, right, back, center = R[:, 1], R[:, 0], -R[:, 2], np.array([1.0, 2, 3])
    T = cam_from_world_of_llff(np.stack([down, right, back, center], axis=1), "x")
    assert np.allclose(T[:3] @ [*(center + 2 * R[:, 2] + 0.5 * right), 1], [0.5, 0, 2])


@pytest.mark.parametrize("scale", [1.0, -3.0, 1e-4])
def test_projection_matrices(scale):
    K = np.array([[80.0, 0.5, 48], [0, 82, 32], [0, 0, 1]])
    T = rigid(rotation(3), np.array([4.0, -5, 600]), "x")
    K2, T2 = cam_from_world_of_projection(scale * (K @ T[:3]), "x")
    assert np.allclose(K2, K) and np.allclose(T2, T)
    with pytest.raises(CaptureError):
        cam_from_world_of_projection(np.zeros((3, 4)), "x")
    with pytest.raises(CaptureError, match="not finite"):
        cam_from_world_of_projection(np.full((3, 4), np.nan), "x")


def test_what_is_no_rotation():
    assert np.allclose(rigid(rotation(1) * 1.7, np.zeros(3), "x")[:3, :3], rotation(1))  # a uniform scale is dropped
    for bad in (np.diag([1.0, 1, -1]), np.diag([1.0, 1, 1.1]), np.zeros((3, 3)), np.full((3, 3), np.inf)):
        with pytest.raises(CaptureError, match="the cup"):
            rigid(bad, np.zeros(3), "the cup")


# -- transforms.json -------------------------------------------------------------------------------------------------------------------


def test_transforms_read_as_nerfstudio_reads_them(tmp_path):
    """Written cameras, projected by the rules of nerfstudio's documentation (camera-to-world, +x right, +y up, looking along -z)."""
    T = np.stack([rigid(rotation(i), np.array([0.1, 0.2, 4.0 + i]), "x") for i in range(3)])
    K = np.tile([[80.0, 0, 47], [0, 82, 33], [0, 0, 1]], (3, 1, 1))
    cameras = Cameras(torch.tensor(T, dtype=torch.float32), torch.tensor(K, dtype=torch.float32), 96, 64)
    file = tmp_path / "transforms.json"
    write_transforms(file, cameras, [f"images/{i}.png" for i in range(3)])
    data = json.loads(file.read_text())
    assert (data["w"], data["h"], data["camera_model"]) == (96, 64, "OPENCV")
    xyz = np.random.default_rng(0).normal(size=(10, 3))
    ours, depth = cameras.project(torch.tensor(xyz, dtype=torch.float32))
    for i, frame in enumerate(data["frames"]):
        c2w = np.array(frame["transform_matrix"])
        cam = (xyz - c2w[:3, 3]) @ c2w[:3, :3]
        u = data["fl_x"] * cam[:, 0] / -cam[:, 2] + data["cx"]
        v = data["fl_y"] * -cam[:, 1] / -cam[:, 2] + data["cy"]
        assert np.allclose(ours[i], np.stack([u, v], axis=1), atol=1e-2) and np.allclose(depth[i], -cam[:, 2], atol=1e-4)
    back = read_cameras(file)
    assert torch.equal(back.K, cameras.K) and torch.allclose(back.cam_from_world, cameras.cam_from_world, atol=1e-6)
    with pytest.raises(ShapeError):
        write_transforms(file, cameras, ["a"])


def test_per_frame_intrinsics_round_trip(tmp_path):
    K = torch.tensor([[80.0, 0, 48], [0, 80, 32], [0, 0, 1]]).repeat(2, 1, 1)
    K[1, 0, 0] = 90
    cameras = Cameras(torch.eye(4).repeat(2, 1, 1), K, 96, 64)
    write_transforms(tmp_path / "t.json", cameras, ["a.png", "b.png"])
    assert torch.equal(read_cameras(tmp_path / "t.json").K, K)
    edit(tmp_path / "t.json", frame_w=100)
    with pytest.raises(CaptureError, match="different sizes"):
        read_cameras(tmp_path / "t.json")


def test_intrinsics_in_all_their_places(nerfstudio_folder):
    root = nerfstudio_folder(3)
    file = root / "transforms.json"

    def first() -> list[float]:
        cameras = load_capture(root).cameras
        assert cameras is not None
        k = cameras.K[0]
        return [round(float(x), 3) for x in (k[0, 0], k[1, 1], k[0, 2], k[1, 2])]

    assert first() == [80, 80, 48, 32]
    edit(file, frame_fl_x=70.0, frame_cx=47.0)
    assert first() == [70, 80, 47, 32]
    edit(file, w=192, h=128)  # the cameras are those of photos twice the size
    assert first() == [35, 40, 23.5, 16]
    edit(file, w=None, h=None, fl_x=None, fl_y=None, cx=None, cy=None, frame_fl_x=None, frame_cx=None, camera_angle_x=2 * np.arctan(0.5))
    assert first() == [96, 96, 48, 32]


def test_distortion_is_removed(nerfstudio_folder):
    root = nerfstudio_folder(2, k1=0.2, k2=0.0)
    capture = load_capture(root)
    masks = capture.masks()
    assert masks is not None and masks[0, 0, 0] == 0 and masks[0, 32, 48] == 1
    plain = load_capture(nerfstudio_folder(2))
    assert (capture.images()[0][30:34, 46:50] - plain.images()[0][30:34, 46:50]).abs().max() < 0.02  # the middle stays
    assert (capture.images()[0] - plain.images()[0]).abs().mean() > 0.01
    fisheye = load_capture(nerfstudio_folder(2, camera_model="OPENCV_FISHEYE", k1=0.01))
    assert (fisheye.images()[0] - plain.images()[0]).abs().mean() > 0.01


def test_photo_names_without_ending_and_masks_and_points(nerfstudio_folder):
    root = nerfstudio_folder(3)
    edit(root / "transforms.json", frame_file_path="./images/p0", frame_mask_path="m.png", ply_file_path="p.ply")
    from PIL import Image

    Image.new("L", (96, 64), 0).save(root / "m.png")
    write_points(root / "p.ply", PointCloud(torch.zeros(5, 3)))
    capture = load_capture(root)
    assert capture.names[0] == "p0.jpg" and capture.points is not None and len(capture.points) == 5
    masks = capture.masks()
    assert masks is not None and masks[0].max() == 0 and masks[1].min() == 1


def test_missing_photos_are_left_out_with_one_warning(nerfstudio_folder):
    root = nerfstudio_folder(4)
    (root / "images" / "p1.jpg").unlink()
    capture = load_capture(root)
    assert capture.names == ("p0.jpg", "p2.jpg", "p3.jpg") and capture.unplaced[0].name == "p1.jpg" and len(capture.warnings) == 1
    assert capture.cameras is not None and capture.cameras.centers[:, 0].tolist() == [0, 2, 3]


def test_corrupt_photos_of_a_camera_file_are_left_out(nerfstudio_folder):
    root = nerfstudio_folder(3)
    (root / "images" / "p1.jpg").write_text("x" * 50)
    capture = load_capture(root)
    assert capture.names == ("p0.jpg", "p2.jpg") and capture.cameras is not None and capture.cameras.centers[:, 0].tolist() == [0, 2]
    (root / "images" / "p2.jpg").write_text("x" * 50)
    refused(root, r"p1.jpg is named like a photo")


NAN = float("nan")
JSON_LIES = {
    "climbs out": ({"frame_file_path": "../../etc/secret.jpg"}, "outside its folder"),
    "climbs out and back": ({"frame_file_path": "images/../../capture/images/p0.jpg"}, "outside its folder"),
    "absolute": ({"frame_file_path": "/etc/passwd"}, "outside its folder"),
    "absolute on Windows": ({"frame_file_path": "C:\\secret.jpg"}, "outside its folder"),
    "mask climbs out": ({"frame_mask_path": "../m.png"}, "outside its folder"),
    "points climb out": ({"ply_file_path": "../p.ply"}, "outside its folder"),
    "mask is missing": ({"frame_mask_path": "m.png"}, "m.png, which is not there"),
    "NaN in a matrix": ({"frame_transform_matrix": [[NAN] * 4] * 4}, r"p0.jpg in .* not finite"),
    "NaN focal length": ({"fl_x": NAN}, r"fl_x = nan"),
    "text for a number": ({"fl_x": "wide"}, "fl_x = 'wide'"),
    "negative focal length": ({"fl_x": -5.0}, "no usable focal length"),
    "no focal length": ({"fl_x": None, "fl_y": None}, "no focal length"),
    "angle beyond reason": ({"fl_x": None, "fl_y": None, "camera_angle_x": 4.0}, "field of view"),
    "mirrored": ({"frame_transform_matrix": np.diag([1.0, 1, -1, 1]).tolist()}, "mirrored"),
    "a flat matrix": ({"frame_transform_matrix": [1, 2, 3]}, "4 x 4"),
    "no matrix": ({"frame_transform_matrix": None}, "4 x 4"),
    "words for a matrix": ({"frame_transform_matrix": "identity"}, "transform_matrix"),
    "no path": ({"frame_file_path": None}, "no file_path"),
    "unknown model": ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
    "twice the same": ({"frame_file_path": "images/p1.jpg"}, "twice"),
    "other shape": ({"w": 64, "h": 96}, "64 x 96 photo"),
    "no frames": ({"frames": []}, "no list of frames"),
    "frames of text": ({"frames": ["a"]}, "file_path"),
    "NaN distortion": ({"k1": NAN}, "k1"),
    "a number without end": ({"w": 10**400}, "w = 1000.*not a finite number"),
    "a matrix without end": ({"frame_transform_matrix": [[10**400] * 4] * 4}, "transform_matrix"),
    "focal length of a dream": ({"fl_x": 1e9, "fl_y": 1e9}, r"focal length of 1e\+09"),
    "focal length of nothing": ({"fl_x": 1e-9, "fl_y": 1e-9}, "focal length of 1e-09"),
    "centre on the moon": ({"cx": 1e12}, r"centre at \(1e\+12, 32\)"),
    "beyond the stars": ({"frame_transform_matrix": [[1, 0, 0, 1e30], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}, "p0.jpg lies 1e.30 units away"),
}


@pytest.mark.parametrize("lie", JSON_LIES)
def test_lying_transforms(nerfstudio_folder, lie):
    changes, words = JSON_LIES[lie]
    root = nerfstudio_folder(3)
    edit(root / "transforms.json", **changes)
    refused(root, words)


def test_map_coordinates_are_refused_where_they_cannot_be_held(nerfstudio_folder):
    """Cameras a metre apart, 4000 km from the origin: float32 would round their places by a quarter of a metre."""
    root = nerfstudio_folder(3)
    data = json.loads((root / "transforms.json").read_text())
    for offset, fine in ((1e4, True), (4e6, False)):
        for i, frame in enumerate(data["frames"]):
            frame["transform_matrix"][0][3] = offset + i
        (root / "transforms.json").write_text(json.dumps(data))
        if fine:
            load_capture(root)
        else:
            refused(root, "subtract a common offset")


def test_a_mark_of_byte_order_does_no_harm(nerfstudio_folder):
    root = nerfstudio_folder(2)
    (root / "transforms.json").write_bytes(b"\xef\xbb\xbf" + (root / "transforms.json").read_bytes())
    assert len(load_capture(root)) == 2


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "[" * 100_000, "\x00"])
def test_broken_json(nerfstudio_folder, text):
    root = nerfstudio_folder(2)
    (root / "transforms.json").write_text(text)
    refused(root, "transforms.json")
    (root / "transforms.json").write_bytes(b"\xff\xfe")
    refused(root, "not a text file")


# -- LLFF ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def llff_folder(photo_folder, tmp_path):
    def make(n: int = 4, columns: int = 17) -> Path:
        root = photo_folder(n, folder="llff/images_8", size=(96, 64)).parent
        rows = []
        for i in range(n):
            pose = np.array([[0.0, 1, 0, i], [1, 0, 0, 0], [0, 0, -1, 0]])  # down, right, backwards: an upright camera
            if columns == 17:
                pose = np.concatenate([pose, [[512], [768], [640]]], axis=1)
            rows.append([*pose.ravel(), 1.0, 9.0])
        np.save(root / "poses_bounds.npy", np.array(rows))
        if columns == 14:
            np.save(root / "hwf_cxcy.npy", np.array([[512.0], [768], [640], [648], [380], [250]]))
        return root

    return make


def test_llff_layouts(llff_folder):
    capture = load_capture(llff_folder(4))
    assert capture.source == "llff" and capture.cameras is not None and capture.cameras.centers[:, 0].tolist() == [0, 1, 2, 3]
    assert capture.cameras.K[0].tolist() == [[80, 0, 48], [0, 80, 32], [0, 0, 1]]
    assert torch.equal(capture.cameras.cam_from_world[0], torch.eye(4))
    capture = load_capture(llff_folder(4, 14))
    assert capture.cameras is not None and capture.cameras.K[0].tolist() == [[80, 0, 47.5], [0, 81, 31.25], [0, 0, 1]]
    assert load_capture(llff_folder(4) / "poses_bounds.npy").names == capture.names


def test_llff_scales(llff_folder, photo_folder):
    root = llff_folder(4)
    assert load_capture(root, LoadOptions(downscale=16)).views[0].image.size == (48, 32)  # made from images_8
    refused(root, "none to make 1/4 from", downscale=4)
    photo_folder(2, folder="llff/images_4", size=(192, 128))
    some = load_capture(root, LoadOptions(downscale=4))
    assert some.names == ("p0.jpg", "p1.jpg") and some.views[0].image.size == (192, 128) and [u.name for u in some.unplaced] == ["p2.jpg", "p3.jpg"]
    assert load_capture(root).views[0].image.size == (96, 64)  # the largest scale that has all views
    shutil.rmtree(root / "images_8")
    refused(root, "4 cameras, but .* 2 photos")


def test_broken_llff(llff_folder):
    root = llff_folder(3)
    good = np.load(root / "poses_bounds.npy")

    def with_poses(a: np.ndarray, words: str) -> None:
        np.save(root / "poses_bounds.npy", a)
        refused(root, words)

    with_poses(np.zeros((3, 5)), "shape")
    with_poses(np.zeros((0, 17)), "shape")
    with_poses(good[:, :14], "hwf_cxcy.npy")
    bad = good.copy()
    bad[1, 3] = np.nan
    with_poses(bad, r"p1.jpg in .* not finite")
    bad = good.copy()
    bad[0, 4] = 0
    with_poses(bad, "Camera 0 .* no usable height")
    with_poses(np.array([["a"]]), "no array of numbers")
    with_poses(np.concatenate([good, good]), "6 cameras, but .* 3 photos")
    (root / "poses_bounds.npy").write_bytes(b"\x93NUMPY garbage")
    refused(root, "not a readable .npy")
    (root / "poses_bounds.npy").write_text("hello")
    refused(root, "is no .npy file")
    np.save(root / "poses_bounds.npy", np.array([{"a": 1}]), allow_pickle=True)
    refused(root, "not a readable .npy")
    np.save(root / "poses_bounds.npy", good[:, :14])
    np.save(root / "hwf_cxcy.npy", np.zeros(5))
    refused(root, "expected 6")
    shutil.rmtree(root / "images_8")
    np.save(root / "poses_bounds.npy", good)
    refused(root, "no photos")


# -- DTU, Blender, Middlebury, Strecha, posed RGB-D ------------------------------------------------------------------------------------


def test_dtu(photo_folder, tmp_path):
    root = photo_folder(3, size=(96, 72), folder="dtu/image").parent
    K = np.array([[100.0, 0, 48], [0, 100, 36], [0, 0, 1]])
    mats = {}
    for i in range(3):
        P = np.eye(4)
        P[:3] = K @ rigid(rotation(i), np.array([1.0, 2, 500]), "x")[:3]
        mats |= {f"world_mat_{i}": P, f"scale_mat_{i}": np.eye(4) * 7}
    np.savez(root / "cameras_sphere.npz", **mats)
    capture = load_capture(root)
    assert capture.source == "dtu" and capture.cameras is not None
    assert torch.allclose(capture.cameras.K[0], torch.tensor([[100, 0, 48.5], [0, 100, 36.5], [0, 0, 1]]), atol=1e-3)
    assert torch.allclose(capture.cameras.cam_from_world[2, :3, 3], torch.tensor([1.0, 2, 500]), atol=1e-3)
    (root / "image" / "p1.jpg").unlink()  # now the numbers in the names decide
    assert load_capture(root).names == ("p0.jpg", "p2.jpg")
    np.savez(root / "cameras_sphere.npz", **(mats | {"world_mat_0": np.full((4, 4), np.nan)}))
    refused(root, "p0.jpg")
    np.savez(root / "cameras_sphere.npz", other=np.eye(4))
    refused(root, "world_mat_0")
    (root / "cameras_sphere.npz").write_bytes(b"PK\x03\x04 broken")
    refused(root, "not a readable .npz")
    np.savez(root / "cameras_sphere.npz", **{k.replace("_mat_", "_mat_00"): v for k, v in mats.items()})
    assert load_capture(root).names == ("p0.jpg", "p2.jpg")


def test_a_file_that_unpacks_to_gigabytes_is_not_unpacked(photo_folder, monkeypatch):
    root = photo_folder(2, folder="dtu/image").parent
    np.savez_compressed(root / "cameras_sphere.npz", world_mat_0=np.eye(4), bomb=np.zeros(10_000_000))
    assert (root / "cameras_sphere.npz").stat().st_size < 1_000_000
    monkeypatch.setattr("handful.data.files.MOST_ARRAYS", 50_000_000)
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: pytest.fail("unpacked"))
    refused(root, "would unpack to 0.1 GB")


def test_blender(tmp_path, make_texture):
    from PIL import Image

    for part in ("train", "test"):
        frames = []
        for i in range(2):
            rgba = np.dstack([make_texture(96, 96, seed=i), np.full((96, 96), 255, np.uint8)])
            rgba[:, :48, 3] = 0
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(rgba).save(tmp_path / part / f"r_{i}.png")
            frames.append({"file_path": f"./{part}/r_{i}", "transform_matrix": np.eye(4).tolist()})
        (tmp_path / f"transforms_{part}.json").write_text(json.dumps({"camera_angle_x": 2 * np.arctan(0.5), "frames": frames}))
    capture = load_capture(tmp_path)
    assert capture.names == ("train/r_0.png", "train/r_1.png", "test/r_0.png", "test/r_1.png") and capture.white_background
    assert capture.images()[0][:, :48].min() == 1 and capture.masks() is None
    assert capture.cameras is not None and capture.cameras.K[0].tolist() == [[96, 0, 48], [0, 96, 48], [0, 0, 1]]
    assert load_capture(tmp_path, LoadOptions(split="test")).names == ("test/r_0.png", "test/r_1.png")
    with pytest.raises(ConfigError, match="no split 'banana'"):
        load_capture(tmp_path, LoadOptions(split="banana"))
    refused(tmp_path, "no transforms_val.json", split="val")
    (tmp_path / "train" / "r_1.png").write_bytes(b"")
    assert len(load_capture(tmp_path)) == 3


def test_blender_files_of_instant_ngp_keep_centre_and_distortion(photo_folder):
    root = photo_folder(2, folder="b/train").parent
    for part in ("train", "test"):
        frames = [{"file_path": f"./train/p{i}.jpg", "transform_matrix": np.eye(4).tolist()} for i in range(2)]
        said = {"camera_angle_x": 1.0, "fl_x": 80.0, "fl_y": 81.0, "cx": 47.0, "cy": 33.0, "k1": 0.1, "w": 96, "h": 64}
        (root / f"transforms_{part}.json").write_text(json.dumps({**said, "frames": frames}))
    capture = load_capture(root, LoadOptions(split="train"))
    assert capture.source == "blender" and capture.cameras is not None
    assert capture.cameras.K[0].tolist() == [[80, 0, 47], [0, 81, 33], [0, 0, 1]]
    assert capture.extents() is not None, "the lens left corners out"


def test_blender_names_keep_their_folders(photo_folder):
    root = photo_folder(1, folder="b/train/cam0").parents[1]
    photo_folder(1, folder="b/train/cam1")
    frames = [{"file_path": f"./train/cam{i}/p0", "transform_matrix": np.eye(4).tolist()} for i in range(2)]
    (root / "transforms_train.json").write_text(json.dumps({"camera_angle_x": 1.0, "frames": frames}))
    assert load_capture(root).names == ("train/cam0/p0.jpg", "train/cam1/p0.jpg")


def test_middlebury(photo_folder):
    root = photo_folder(2, folder="m/images").parent
    line = "p{i}.png 80 0 47.5 0 80 31.5 0 0 1 1 0 0 0 1 0 0 0 1 0.5 0 2"
    par = root / "toy_par.txt"
    par.write_text("2\n" + "\n".join(line.format(i=i) for i in range(2)) + "\n")
    capture = load_capture(root)
    assert capture.source == "middlebury" and capture.names == ("p0.jpg", "p1.jpg") and capture.cameras is not None
    assert capture.cameras.K[0].tolist() == [[80, 0, 48], [0, 80, 32], [0, 0, 1]] and capture.cameras.centers[0].tolist() == [-0.5, 0, -2]
    for text, words in (("5\n" + line.format(i=0), "promises 5"), ("", "no Middlebury"), ("1\np0.png 1 2 x", "no Middlebury"), ("1\n" + line.format(i=0)[:-1] + "nan", "not finite")):
        par.write_text(text)
        refused(root, words)


def test_strecha(photo_folder):
    root = photo_folder(2, folder="s/images").parent
    text = "80 0 47.5\n0 80 31.5\n0 0 1\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n1 2 3\n96 64\n"
    (root / "gt_dense_cameras").mkdir()
    files = [root / "gt_dense_cameras" / f"p{i}.jpg.camera" for i in range(2)]
    for f in files:
        f.write_text(text)
    capture = load_capture(root)
    assert capture.source == "strecha" and capture.cameras is not None and capture.cameras.centers[0].tolist() == [1, 2, 3]
    for bad, words in (("1 2 3", "expected 26"), (text.replace("1 2 3", "1 x 3"), "no number"), (text.replace("1 2 3", "1 nan 3"), "not finite"), (text.replace("96 64", "inf 64"), "not finite"), (text.replace("96 64", "0 0"), "0 x 0 pixels")):
        files[0].write_text(bad)
        refused(root, words)


def test_posed_rgbd(photo_folder):
    root = photo_folder(2, folder="r/rgb", suffix=".png").parent
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = 1
    K = np.tile([[80.0, 0, 47.5], [0, 80, 31.5], [0, 0, 1]], (2, 1, 1))
    depths = np.full((2, 64, 96), 2.0)
    depths[0, :32] = np.nan
    np.savez(root / "condition.npz", poses=poses, intrinsics=K, depths=depths)
    capture = load_capture(root, LoadOptions(max_side=48))
    assert capture.source == "rgbd" and capture.cameras is not None and capture.cameras.centers[1].tolist() == [1, 0, 0]
    depth = capture.depth[0]
    assert depth is not None and depth.depth.shape == (32, 48) and depth.depth[:16].max() == 0 and depth.depth[16:].min() == 2
    assert not depth.valid[:16].any() and depth.kind == "metric"
    (root / "masks").mkdir()
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(root / "masks" / "p1.png")
    masks = load_capture(root).masks()
    assert masks is not None and masks.amax((1, 2)).tolist() == [1, 0]
    np.savez(root / "condition.npz", poses=poses[:1], intrinsics=K)
    refused(root, r"poses of shape \(2, 4, 4\)")
    np.savez(root / "condition.npz", poses=poses, intrinsics=K, depths=depths[:1])
    refused(root, "depths of shape")
