"""COLMAP models: pycolmap reads what we write and writes what we read; broken files are one sentence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.axes import quat_wxyz_of_rotation, rotation_of_quat_wxyz
from handful.data.colmap import read_model, write_model
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.recon.camera import Cameras
from handful.recon.errors import CaptureError, HandfulError, ShapeError
from handful.recon.points import PointCloud
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def some_cameras(n: int = 3, same_K: bool = False) -> Cameras:
    rng = np.random.default_rng(0)
    T = np.tile(np.eye(4), (n, 1, 1))
    K = np.tile(np.array([[80.0, 0, 48], [0, 81.0, 32], [0, 0, 1]]), (n, 1, 1))
    for i in range(n):
        T[i, :3, :3] = rotation_of_quat_wxyz(rng.normal(size=4))
        T[i, :3, 3] = rng.normal(size=3) * 5
        if not same_K:
            K[i, 0, 0] += i
    return Cameras(torch.tensor(T, dtype=torch.float32), torch.tensor(K, dtype=torch.float32), 96, 64)


def some_points(n: int = 20) -> PointCloud:
    torch.manual_seed(1)
    return PointCloud(torch.randn(n, 3), torch.rand(n, 3))


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("same_K", [False, True])
def test_pycolmap_opens_what_we_write(tmp_path, text, same_K):
    import pycolmap

    cameras, points = some_cameras(3, same_K), some_points()
    names = ["a.jpg", "sub/b c.jpg", "ü.jpg"] if not text else ["a.jpg", "sub/b.jpg", "ü.jpg"]
    write_model(tmp_path / "sparse" / "0", cameras, names, points, text=text)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    assert len(model.cameras) == (1 if same_K else 3) and len(model.points3D) == 20
    by_name = {im.name: im for im in model.images.values()}
    assert set(by_name) == set(names)
    for i, name in enumerate(names):
        image = by_name[name]
        camera = model.cameras[image.camera_id]
        assert np.abs(image.cam_from_world().matrix() - cameras.cam_from_world[i, :3].numpy()).max() < 1e-6
        assert np.abs(camera.calibration_matrix() - cameras.K[i].numpy()).max() < 1e-6 and (camera.width, camera.height) == (96, 64)
        xyz = np.array([0.3, -0.2, 0.5])
        uv, z = cameras[i].to(dtype=torch.float64).project(torch.tensor(xyz)[None])
        if z[0, 0] > 0:
            assert np.abs(np.asarray(image.project_point(xyz)) - uv[0, 0].numpy()).max() < 1e-3
    assert points.rgb is not None
    for k, p in model.points3D.items():
        assert np.abs(p.xyz - points.xyz[k - 1].numpy()).max() < 1e-6
        assert np.abs(p.color / 255 - points.rgb[k - 1].numpy()).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("lens", ["SIMPLE_RADIAL", "OPENCV", "OPENCV_FISHEYE"])
def test_we_open_what_pycolmap_writes(tmp_path, photo_folder, text, lens):
    """A model of pycolmap's own making, with observations and tracks, loaded as a capture with its photos."""
    import pycolmap

    options = pycolmap.SyntheticDatasetOptions()
    options.num_points3D, options.num_cameras_per_rig, options.num_rigs, options.num_frames_per_rig = 30, 1, 1, 4
    options.camera_width, options.camera_height = 96, 64
    options.camera_model_id = getattr(pycolmap.CameraModelId, lens)
    extra = {"SIMPLE_RADIAL": [0.05], "OPENCV": [0.05, -0.01, 0.001, 0.002], "OPENCV_FISHEYE": [0.05, -0.01, 0.001, 0.002]}[lens]
    options.camera_params = ([80.0] if lens == "SIMPLE_RADIAL" else [80.0, 82.0]) + [47.0, 33.0] + extra
    model = pycolmap.synthesize_dataset(options)
    root = photo_folder(4, folder="c/images").parent
    for i, image in enumerate(model.images.values()):
        image.name = f"p{i}.jpg"
    sparse = root / "sparse" / "0"
    sparse.mkdir(parents=True)
    (model.write_text if text else model.write_binary)(str(sparse))
    ours = read_model(sparse)
    assert len(ours.images) == 4 and ours.points is not None and len(ours.points) == 30
    capture = load_capture(root)
    assert capture.source == "colmap" and capture.names == ("p0.jpg", "p1.jpg", "p2.jpg", "p3.jpg") and capture.cameras is not None
    for image in model.images.values():
        i = capture.names.index(image.name)
        assert np.abs(image.cam_from_world().matrix() - capture.cameras.cam_from_world[i, :3].numpy()).max() < 1e-5
        k = capture.cameras.K[i]
        assert [float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])] == [80.0, 80.0 if lens == "SIMPLE_RADIAL" else 82.0, 47.0, 33.0]
    assert (capture.masks() is None) == (lens == "OPENCV_FISHEYE"), "that lens sees more than the pinhole picture, the others leave corners out"
    assert not capture.is_cut_out()
    assert capture.points is not None and capture.select(capture.names[:2]).points is None


def test_paths_that_lead_to_a_model(tmp_path, photo_folder):
    root = photo_folder(3, folder="c/images").parent
    write_model(root / "sparse" / "0", some_cameras(2), ["p0.jpg", "p2.jpg"])
    for path in (root, root / "sparse" / "0", root / "sparse"):
        capture = load_capture(path)
        assert capture.source == "colmap" and capture.names == ("p0.jpg", "p2.jpg")
        assert [(u.name, u.reason) for u in capture.unplaced] == [("p1.jpg", "COLMAP has not placed it")]
    photo_folder(3, size=(24, 16), folder="c/images_4")
    small = load_capture(root, LoadOptions(downscale=4))
    assert small.views[0].image.size == (24, 16) and small.cameras is not None and float(small.cameras.K[0, 0, 0]) == 20.0


def test_missing_photos(photo_folder):
    root = photo_folder(2, folder="c/images").parent
    write_model(root / "sparse" / "0", some_cameras(3), ["p0.jpg", "gone.jpg", "p1.jpg"])
    capture = load_capture(root)
    assert capture.names == ("p0.jpg", "p1.jpg") and capture.unplaced[0].name == "gone.jpg"
    write_model(root / "sparse" / "0", some_cameras(2), ["x.jpg", "y.jpg"])
    with pytest.raises(CaptureError, match="None of the 2 photos"):
        load_capture(root)
    write_model(root / "sparse" / "0", some_cameras(2), ["../../secret.jpg", "p1.jpg"])
    with pytest.raises(CaptureError, match="outside its folder"):
        load_capture(root)


def test_writing_replaces_as_a_whole(tmp_path):
    folder = tmp_path / "sparse" / "0"
    write_model(folder, some_cameras(3), ["a", "b", "c"], text=True)
    write_model(folder, some_cameras(2), ["a", "b"])
    assert sorted(p.name for p in folder.iterdir()) == ["cameras.bin", "images.bin", "points3D.bin"]
    assert [p.name for p in folder.parent.iterdir()] == ["0"]  # no temporary left
    with pytest.raises(ShapeError):
        write_model(folder, some_cameras(2), ["a"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(HandfulError, match="Cannot write"):
        write_model(tmp_path / "file", some_cameras(2), ["a", "b"])
    assert (tmp_path / "file").read_text() == "x"


def test_points_that_are_not_finite_are_left_out(tmp_path):
    xyz = torch.tensor([[0.0, 0, 0], [float("nan"), 0, 0], [1, 2, 3]])
    write_model(tmp_path / "m", some_cameras(1), ["a"], PointCloud(xyz))
    points = read_model(tmp_path / "m").points
    assert points is not None and torch.equal(points.xyz, xyz[[0, 2]])


def test_quaternions_both_ways():
    for q in np.random.default_rng(0).normal(size=(50, 4)).tolist() + [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]:
        q = np.array(q) / np.linalg.norm(q)
        back = quat_wxyz_of_rotation(rotation_of_quat_wxyz(q))
        assert min(np.abs(back - q).max(), np.abs(back + q).max()) < 1e-12 and back[0] >= -1e-15


# -- headers that lie ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good_model(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("m") / "model"
    write_model(folder, some_cameras(3), ["a.jpg", "b.jpg", "c.jpg"], some_points(5))
    text = tmp_path_factory.mktemp("m") / "text"
    write_model(text, some_cameras(3), ["a.jpg", "b.jpg", "c.jpg"], some_points(5), text=True)
    return {p.name: p.read_bytes() for f in (folder, text) for p in f.iterdir()}


def write_files(folder: Path, files: dict[str, bytes], text: bool) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        if name.endswith(".txt") == text:
            (folder / name).write_bytes(data)
    return folder


LIES = {
    "huge count of cameras": ("cameras.bin", lambda b: struct.pack("<Q", 2**60) + b[8:]),
    "huge count of photos": ("images.bin", lambda b: struct.pack("<Q", 2**63) + b[8:]),
    "huge count of points": ("points3D.bin", lambda b: struct.pack("<Q", 10**12) + b[8:]),
    "one more photo": ("images.bin", lambda b: struct.pack("<Q", 4) + b[8:]),
    "truncated photos": ("images.bin", lambda b: b[:-5]),
    "truncated points": ("points3D.bin", lambda b: b[:-5]),
    "empty cameras": ("cameras.bin", lambda b: b""),
    "huge track": ("points3D.bin", lambda b: b[:51] + struct.pack("<Q", 2**62) + b[59:]),
    "unknown model": ("cameras.bin", lambda b: b[:12] + struct.pack("<i", 77) + b[16:]),
    "negative model": ("cameras.bin", lambda b: b[:12] + struct.pack("<i", -1) + b[16:]),
    "size of zero": ("cameras.bin", lambda b: b[:16] + struct.pack("<QQ", 0, 0) + b[32:]),
    "NaN focal length": ("cameras.bin", lambda b: b[:32] + struct.pack("<d", float("nan")) + b[40:]),
    "no photo at all": ("images.bin", lambda b: struct.pack("<Q", 0)),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_binaries(tmp_path, good_model, lie):
    name, change = LIES[lie]
    folder = write_files(tmp_path / "m", good_model | {name: change(good_model[name])}, text=False)
    with pytest.raises(CaptureError) as e:
        read_model(folder)
    assert str(folder) in str(e.value) and "\n" not in str(e.value)


TEXT_LIES = {
    "words": ("cameras.txt", b"hello world\n"),
    "unknown model": ("cameras.txt", b"1 BANANA 96 64 1 2 3\n"),
    "too few parameters": ("cameras.txt", b"1 PINHOLE 96 64 1 2 3\n"),
    "a photo without a name": ("images.txt", b"1 1 0 0 0 0 0 0 1\n\n"),
    "short point": ("points3D.txt", b"1 0 0\n"),
    "not text": ("images.txt", b"\xff\xfe\x00\x01"),
}


@pytest.mark.parametrize("lie", TEXT_LIES)
def test_lying_texts(tmp_path, good_model, lie):
    name, content = TEXT_LIES[lie]
    folder = write_files(tmp_path / "m", good_model | {name: content}, text=True)
    with pytest.raises(CaptureError) as e:
        read_model(folder)
    assert str(folder) in str(e.value) and "\n" not in str(e.value)


def test_cameras_that_are_nonsense(photo_folder):
    root = photo_folder(2, folder="c/images").parent
    bad = some_cameras(2)
    for change in ("nan", "zero"):
        write_model(root / "sparse" / "0", bad, ["p0.jpg", "p1.jpg"])
        file = root / "sparse" / "0" / "images.bin"
        data = bytearray(file.read_bytes())
        values = [float("nan")] * 4 if change == "nan" else [0.0] * 4
        struct.pack_into("<4d", data, 12, *values)
        file.write_bytes(bytes(data))
        with pytest.raises(CaptureError, match="p0.jpg"):
            load_capture(root)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz_never_another_error(tmp_path_factory, good_model, data):
    name = data.draw(st.sampled_from(["cameras.bin", "images.bin", "points3D.bin", "cameras.txt", "images.txt", "points3D.txt"]))
    content = bytearray(good_model[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    folder = write_files(tmp_path_factory.mktemp("f") / "m", good_model | {name: bytes(content)}, text=name.endswith(".txt"))
    try:
        read_model(folder)
    except CaptureError as e:
        assert str(folder) in str(e)
