"""Exports with cameras and of points: what our own readers and other programs make of them, and `handful export` from file to file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data import atomic
from handful.data.export import export_format, export_scene
from handful.data.ply import read_gaussians, read_points, write_gaussians
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.pipelines.cli.export import Export
from handful.recon.camera import Cameras
from handful.recon.errors import BackendUnavailable, ConfigError, HandfulError
from handful.recon.gaussians import Gaussians
from handful.recon.points import PointCloud
from PIL import Image

from ..splat_scenes import some_gaussians


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Gaussians, Cameras, list[str], list[Path]]:
    """Three cameras of one focal length, their photos, and splats of which some are faint or broken."""
    photos = []
    for i in range(3):
        photos.append(tmp_path / f"p{i}.png")
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(photos[-1])
    K = torch.tensor([[80.0, 0, 47], [0, 81, 33], [0, 0, 1]]).repeat(3, 1, 1)
    T = torch.eye(4).repeat(3, 1, 1)
    T[:, 0, 3] = torch.arange(3) * 0.5
    T[1, :3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    g = some_gaussians(60, 1)
    g.logit_opacities[:20] = -5.0
    g.means[30, 0] = float("nan")
    return g, Cameras(T, K, 96, 64), [p.name for p in photos], photos


@pytest.mark.parametrize("format", ["blender", "colmap", "colmap-text", "nerfstudio"])
def test_cameras_come_back(tmp_path: Path, scene, format: str):
    g, cameras, names, photos = scene
    export_scene(tmp_path / "out", g, cameras, names, format, photos)
    back = load_capture(tmp_path / "out", LoadOptions())
    assert len(back) == 3 and back.cameras is not None
    assert torch.allclose(back.cameras.cam_from_world, cameras.cam_from_world, atol=1e-6) and torch.allclose(back.cameras.K, cameras.K, atol=1e-4)
    assert torch.equal(back.views[1].image.load(), torch.from_numpy(np.array(Image.open(photos[1]))).float() / 255)


def test_blender_as_its_readers_want_it(tmp_path: Path, scene):
    g, cameras, names, photos = scene
    export_scene(tmp_path / "out", g, cameras, names, "blender", photos)
    data = json.loads((tmp_path / "out" / "transforms_train.json").read_text())
    assert data["camera_angle_x"] == pytest.approx(2 * np.arctan(48 / 80)) and data["frames"][0]["file_path"] == "./train/p0"
    assert (tmp_path / "out" / "train" / "p0.png").is_file()


def test_pycolmap_reads_the_text(tmp_path: Path, scene):
    import pycolmap

    g, cameras, names, photos = scene
    for format in ("colmap", "colmap-text"):
        export_scene(tmp_path / format, g, cameras, names, format, photos)
        model = pycolmap.Reconstruction(str(tmp_path / format / "sparse" / "0"))
        images = sorted(model.images.values(), key=lambda image: image.name)
        assert [image.name for image in images] == names and len(model.points3D) == 39
        for i, image in enumerate(images):
            assert np.abs(image.cam_from_world().matrix() - cameras.cam_from_world[i, :3].numpy()).max() < 1e-6
        assert np.allclose(next(iter(model.cameras.values())).params, [80, 81, 47, 33])
    assert (tmp_path / "colmap-text" / "sparse" / "0" / "images.txt").is_file()


def test_points_are_the_opaque_centres(tmp_path: Path, scene):
    g, *_ = scene
    export_scene(tmp_path / "points.ply", g, format="points")
    keep = torch.isfinite(g.means).all(1) & (g.opacities > 0.1)
    points = read_points(tmp_path / "points.ply")
    assert torch.equal(points.xyz, g.means[keep]) and points.rgb is not None and len(points) == 39


def test_other_points_stand_in_for_the_centres(tmp_path: Path, scene):
    import pycolmap

    g, cameras, names, photos = scene
    normals = torch.nn.functional.normalize(torch.randn(50, 3), dim=1)
    cloud = PointCloud(torch.randn(50, 3), torch.rand(50, 3), normals=normals)
    export_scene(tmp_path / "p.ply", g, points=cloud)  # with points, a .ply is one of points
    back = read_points(tmp_path / "p.ply")
    assert torch.equal(back.xyz, cloud.xyz) and back.normals is not None and torch.equal(back.normals, normals)
    export_scene(tmp_path / "colmap", g, cameras, names, "colmap", photos, points=cloud)
    model = pycolmap.Reconstruction(str(tmp_path / "colmap" / "sparse" / "0"))
    assert np.allclose(sorted(p.xyz[0] for p in model.points3D.values()), sorted(cloud.xyz[:, 0].tolist()))
    for name, format in (("s.spz", None), ("s.ply", "ply"), ("n.json", None)):
        with pytest.raises(ConfigError, match="Points are written as colmap"):
            export_scene(tmp_path / name, g, cameras, names, format, points=cloud)


def test_las(tmp_path: Path, scene):
    laspy = pytest.importorskip("laspy", reason="needs laspy")
    g, *_ = scene
    for ending in ("las", "laz"):
        export_scene(tmp_path / f"p.{ending}", g)
        data = laspy.read(tmp_path / f"p.{ending}")
        keep = torch.isfinite(g.means).all(1) & (g.opacities > 0.1)
        assert np.abs(np.asarray(data.xyz) - g.means[keep].double().numpy()).max() < 1e-6
        assert data.red.max() > 255, "sixteen bits"


def test_las_says_what_to_install(tmp_path: Path, scene, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "laspy", None)
    with pytest.raises(BackendUnavailable, match=r"handful\[las\]"):
        export_scene(tmp_path / "p.las", scene[0])


def test_from_file_to_file(tmp_path: Path, scene, capsys):
    write_gaussians(tmp_path / "a.ply", scene[0])
    Export(scene=tmp_path / "a.ply", out=tmp_path / "b.sog").run()
    said = Export(scene=tmp_path / "b.sog", out=tmp_path / "c.ply").run()
    assert said["gaussians"] == len(read_gaussians(tmp_path / "c.ply")) == 59
    assert capsys.readouterr().out.count("\n") == 2  # a small file needs no bar


@pytest.mark.parametrize(
    ("out", "format", "words"),
    [
        ("b.xyz", None, "names no format"), ("b", "colmap", "no cameras"), ("full", "sog", "not empty"), ("a.ply/b.spz", None, "Cannot write"),
        ("a.ply", "sog", "file of that name"), ("a.ply/b", "sog", "Cannot write"), ("b.usdz", None, "not written"), ("b.usdc", None, "usd-core"),
        ("b.las", None, "laspy"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_told_before_a_large_file_is_read(tmp_path: Path, monkeypatch, out: str, format: str | None, words: str):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    write_gaussians(tmp_path / "a.ply", some_gaussians(3, 0))
    for package in ("pxr", "laspy"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.setattr("handful.data.splats.read_splats", lambda *_: pytest.fail("read for nothing"))
    with pytest.raises(HandfulError, match=words):
        Export(scene=tmp_path / "a.ply", out=tmp_path / out, format=format, quiet=True).run()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ply", "full"]


def test_nothing_is_made_for_a_scene_that_is_not_there(tmp_path: Path):
    for out in ("new/b.ply", "new/er/b.sog"):
        with pytest.raises(HandfulError, match="none"):
            Export(scene=tmp_path / "none", out=tmp_path / out, quiet=True).run()
    with pytest.raises(HandfulError) as e:
        export_format(tmp_path / "b.xyz")
    assert ".usdc" in str(e.value) and ".usdz" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_comes_while_a_folder_is_written_is_left_alone(tmp_path: Path):
    for i, folder in enumerate((atomic.atomic_folder, atomic.new_folder)):
        out = tmp_path / f"out{i}"
        with pytest.raises(HandfulError, match="a file of that name"), folder(out) as new:
            (new / "x").touch()
            out.write_text("precious")
        assert out.read_text() == "precious"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with atomic.new_folder(tmp_path / "link") as new:
        (new / "x").touch()
    assert (tmp_path / "empty" / "x").is_file() and sorted(p.name for p in tmp_path.iterdir()) == ["empty", "link", "out0", "out1"]


@pytest.mark.parametrize("format", ["colmap", "sog"])
def test_a_folder_that_fills_while_it_is_written_is_left_alone(tmp_path: Path, scene, monkeypatch, format: str):
    """A long copy takes minutes, and somebody else may come."""
    g, cameras, names, photos = scene
    out, real = tmp_path / "out", atomic.atomic_folder

    @contextmanager
    def slow(path: Path, replace: bool = True) -> Iterator[Path]:
        with real(path, replace) as folder:
            out.mkdir()
            (out / "theirs.txt").write_text("precious")
            yield folder

    monkeypatch.setattr(atomic, "atomic_folder", slow)
    with pytest.raises(ConfigError, match="not empty"):
        export_scene(out, g, cameras, names, format, photos)
    assert [p.name for p in out.iterdir()] == ["theirs.txt"] and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
