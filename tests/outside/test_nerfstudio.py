"""nerfstudio's own parser as judge: it understands our transforms.json and sparse/0, and we understand a captured one, as it does.

Needs HANDFUL_NERFSTUDIO_PYTHON, the Python of an environment that `tests/outside/environment.sh` makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handful.data.export import export_scene
from handful.data.nerfstudio_json import frame_camera
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.data.synthetic import demo_capture
from handful.pipelines.cli.export import Export
from handful.pipelines.init.protocol import CameraReport, InitState
from handful.pipelines.methods.config import SplatConfig
from handful.pipelines.scene_folder import load_scene, write_scene_folder
from handful.recon.camera import Cameras
from handful.recon.capture import Capture
from handful.recon.gaussians import Gaussians
from handful.recon.points import PointCloud
from handful.recon.raster.registry import get_rasterizer
from handful.recon.scene import SplatScene

GRID = 5
PHOTOS = ["left__a.png", "left__b.png", "right__a.png", "right__b c.png"]
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera axes to OpenCV's


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory):
    """judge("transforms", file, method, grid), judge("blender", folder, grid) or judge("colmap", folder): what nerfstudio says."""
    python = os.environ.get("HANDFUL_NERFSTUDIO_PYTHON")
    if not python:
        pytest.skip("needs nerfstudio: tests/outside/environment.sh makes its environment")

    script = str(Path(__file__).with_name("nerfstudio_reads.py"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    errors = (tmp_path_factory.mktemp("judge") / "stderr").open("w+")
    process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    assert process.stdin is not None and process.stdout is not None

    def ask(*request: object) -> dict[str, Any]:
        assert process.stdin is not None and process.stdout is not None
        print(json.dumps(request, default=str), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            errors.seek(0)
            raise AssertionError(f"nerfstudio gave no answer: {errors.read()[-2000:]}")
        return json.loads(answer)

    yield ask
    process.stdin.close()
    process.wait(timeout=30)
    errors.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene folder as `handful reconstruct` writes it, of photos in two folders of the capture."""
    demo = demo_capture(n=4, held_out=1, width=64, height=48, supersample=1)
    names = ("left/a.jpg", "left/b.jpg", "right/a.jpg", "right/b c.jpg")
    views = tuple(replace(v, name=n) for v, n in zip(demo.photos.views, names, strict=True))
    cameras = demo.photo_cameras.to(dtype=torch.float32)
    torch.manual_seed(0)
    n = 200
    points = PointCloud(torch.randn(n, 3), torch.rand(n, 3))
    g = Gaussians(points.xyz, torch.randn(n, 4), torch.full((n, 3), -2.5), torch.full((n,), 2.0), torch.randn(n, 1, 3))
    init = InitState(Capture(views, cameras), points, CameraReport("given", 4, 4, 0.0, 60.0, "given", 0.2, 0))
    out = tmp_path_factory.mktemp("scene")
    write_scene_folder(out, SplatScene(g, cameras, names, get_rasterizer("reference"), (0, 0, 0)), init, SplatConfig(), {"method": "handful"})
    return out


def cam_from_world(said: dict[str, Any]) -> np.ndarray:
    """nerfstudio's cameras in our world and axes: its turn, shift and scale of the scene undone."""
    undo = np.linalg.inv(np.vstack([np.array(said["transform"]), [0, 0, 0, 1]]))
    M = np.array(said["camera_to_world"])
    M = np.concatenate([M, np.tile([[[0, 0, 0, 1.0]]], (len(M), 1, 1))], 1)
    M[:, :3, 3] /= said["scale"]
    return np.linalg.inv(undo @ M @ FLIP)


def rays_in_our_world(said: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    undo = np.linalg.inv(np.vstack([np.array(said["transform"]), [0, 0, 0, 1]]))
    origins = np.array(said["origins"]) / said["scale"] @ undo[:3, :3].T + undo[:3, 3]
    return origins, np.array(said["directions"]) @ undo[:3, :3].T


def same_poses(said: dict[str, Any], cameras: Cameras) -> None:
    """To float32, which nerfstudio computes in: angles in radians, lengths as a share of the scene's extent."""
    theirs, ours = cam_from_world(said), cameras.cam_from_world.double().numpy()
    extent = np.ptp(cameras.centers.double().numpy(), axis=0).max()
    assert np.abs(theirs[:, :3, :3] - ours[:, :3, :3]).max() < 2e-6
    assert np.abs(np.linalg.inv(theirs)[:, :3, 3] - cameras.centers.double().numpy()).max() < 5e-6 * extent


def same_rays(said: dict[str, Any], cameras: Cameras) -> None:
    """The ray it shoots through a pixel is the ray we render there."""
    origins, directions = rays_in_our_world(said)
    far = torch.tensor(origins[:, None] + 3.0 * directions)
    for i in range(len(cameras)):
        uv, z = cameras[i].to(dtype=torch.float64).project(far[i])
        assert float(z.min()) > 0 and np.abs(uv[0].numpy() - np.array(said["pixels"])).max() < 1e-3


@pytest.mark.parametrize("method", ["none", "up", "pca"])
def test_it_reads_the_scene_folder(judge, folder: Path, method: str):
    said = judge("transforms", folder / "transforms.json", method, GRID)
    scene = load_scene(folder)
    assert [Path(f).relative_to(folder).as_posix() for f in said["files"]] == [f"images/{name}" for name in PHOTOS]
    assert all(Path(f).is_file() for f in said["files"])
    same_poses(said, scene.cameras)
    K = scene.cameras.K.double()
    assert np.abs(np.array(said["intrinsics"]) - torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], 1).numpy()).max() < 1e-5
    assert said["sizes"] == [[64, 48]] * 4 and not np.any(said["distortion"])
    same_rays(said, scene.cameras)


def test_it_reads_an_export_with_intrinsics_of_their_own(judge, folder: Path, tmp_path: Path):
    scene = load_scene(folder)
    K = scene.cameras.K.clone()
    K[:, 0, 0] += torch.arange(4) * 3.0
    K[:, 1, 2] -= torch.arange(4) * 0.25
    cameras = Cameras(scene.cameras.cam_from_world, K, 64, 48)
    export_scene(tmp_path / "transforms.json", scene.gaussians, cameras, ["a.png", "b.png", "c.png", "d.png"])
    said = judge("transforms", tmp_path / "transforms.json", "up", GRID)
    same_poses(said, cameras)
    K = K.double()
    assert np.abs(np.array(said["intrinsics"]) - torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], 1).numpy()).max() < 1e-5


def test_exports_name_the_photos_of_the_scene_folder(folder: Path, tmp_path: Path):
    """Their pixels are what the exported cameras are for; the capture's own may be larger, turned, or of another name."""
    import pycolmap

    Export(scene=folder, out=folder / "again.json", quiet=True).run()
    assert all((folder / frame["file_path"]).is_file() for frame in json.loads((folder / "again.json").read_text())["frames"])
    Export(scene=folder, out=tmp_path, format="colmap", quiet=True).run()
    cameras = load_scene(folder).cameras
    for model in (folder / "sparse" / "0", tmp_path / "sparse" / "0"):
        images = sorted(pycolmap.Reconstruction(str(model)).images.values(), key=lambda image: image.name)
        assert [image.name for image in images] == PHOTOS
        assert all((folder / "images" / image.name).is_file() for image in images)
        for i, image in enumerate(images):
            assert np.abs(image.cam_from_world().matrix() - cameras.cam_from_world[i, :3].numpy()).max() < 1e-6


def test_it_reads_what_handful_export_writes(judge, folder: Path):
    Export(scene=folder, out=folder / "again.json", quiet=True).run()
    said = judge("transforms", folder / "again.json", "up", GRID)
    assert all(Path(f).is_file() for f in said["files"])
    same_poses(said, load_scene(folder).cameras)


def test_it_reads_our_colmap_model(judge, folder: Path, tmp_path: Path):
    Export(scene=folder, out=tmp_path, format="colmap", quiet=True).run()
    scene = load_scene(folder)
    for model in (folder / "sparse" / "0", tmp_path / "sparse" / "0"):
        said = judge("colmap", model)
        assert sorted(said["images"]) == PHOTOS
        for i, name in enumerate(PHOTOS):
            image = said["images"][name]
            K = scene.cameras.K[i].double().numpy()
            assert np.abs(np.array(image["R"]) - scene.cameras.cam_from_world[i, :3, :3].double().numpy()).max() < 1e-6
            assert np.abs(np.array(image["t"]) - scene.cameras.cam_from_world[i, :3, 3].double().numpy()).max() < 1e-6
            assert image["model"] == "PINHOLE" and image["size"] == [64, 48]
            assert np.abs(np.array(image["params"]) - [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]).max() < 1e-6
        assert np.abs(np.array(said["points"])[:, :3] - scene.gaussians.means.double().numpy()).max() < 1e-6


def test_its_blender_parser_reads_our_export(judge, folder: Path, tmp_path: Path):
    """Every camera, the photos, the one focal length that the format has, and the rays."""
    Export(scene=folder, out=tmp_path / "out", format="blender", quiet=True).run()
    said = judge("blender", tmp_path / "out", GRID)
    cameras = load_scene(folder).cameras
    assert [Path(f).relative_to(tmp_path / "out").as_posix() for f in said["files"]] == [f"train/{name}" for name in PHOTOS]
    same_poses(said, cameras)
    K = cameras.K.double()
    assert said["sizes"] == [[64, 48]] * 4
    assert np.abs(np.array(said["intrinsics"]) - torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], 1).numpy()).max() < 1e-4
    same_rays(said, cameras)


def test_we_read_a_captured_one_as_it_does(judge, shared_data: Path):
    """fox: 50 phone photos with lens distortion; poses, intrinsics, and where each ray falls in the distorted photo."""
    file = shared_data / "fox" / "transforms.json"
    said = judge("transforms", file, "up", 9)
    ours = load_capture(shared_data / "fox", LoadOptions(max_side=640))
    assert ours.cameras is not None and len(ours) == 50
    where = {Path(f).name: i for i, f in enumerate(said["files"])}
    pick = [where[name] for name in ours.names]
    same_poses({**said, "camera_to_world": [said["camera_to_world"][i] for i in pick]}, ours.cameras)
    fx, fy, cx, cy = np.array(said["intrinsics"])[pick].T
    width, height = np.array(said["sizes"])[pick].T
    K = ours.cameras.K.double().numpy()
    theirs = np.stack([fx / width, fy / height, cx / width, cy / height], 1)
    mine = np.stack([K[:, 0, 0] / 360, K[:, 1, 1] / 640, K[:, 0, 2] / 360, K[:, 1, 2] / 640], 1)
    assert np.abs(theirs - mine).max() < 1e-6
    lens = frame_camera(json.loads(file.read_text())["frames"][0], json.loads(file.read_text()), "fox").lens
    origins, directions = rays_in_our_world(said)
    for i, j in enumerate(pick):
        T = ours.cameras.cam_from_world[i].double().numpy()
        ray = (origins[j] + 5.0 * directions[j]) @ T[:3, :3].T + T[:3, 3]
        x, y = lens.distort(ray[:, 0] / ray[:, 2], ray[:, 1] / ray[:, 2])
        pixel = np.stack([x * fx[i] + cx[i], y * fy[i] + cy[i]], 1)
        assert (ray[:, 2] > 0).all() and np.abs(pixel - np.array(said["pixels"])).max() < 0.05  # of 1080 x 1920
