"""`handful mesh`: the surface of a scene of splats, where it is, upright in a .glb, without what was cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.atomic import write_bytes, write_json
from handful.data.edits_file import write_edits
from handful.data.image_io import encode_png
from handful.data.nerfstudio_json import write_transforms
from handful.data.ply import write_gaussians
from handful.recon.camera import Cameras
from handful.recon.edits import CropBox
from handful.recon.errors import ConfigError
from handful.recon.framing import look_at
from handful.recon.gaussians import Gaussians
from handful.recon.sh import sh_dc_from_rgb

open3d = pytest.importorskip("open3d", reason="needs open3d")

from handful.pipelines.cli.export import Export  # noqa: E402
from handful.pipelines.cli.mesh import MeshCommand, _photos_without_gaps  # noqa: E402
from handful.pipelines.cli.render import RenderCommand  # noqa: E402
from handful.pipelines.mesh import MeshOptions, facing, mesh_scene  # noqa: E402
from handful.pipelines.scene_folder import load_scene  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A red ball of radius 0.5 before a green wall at z = 1; photos look along z, y is down."""
    out = tmp_path / "scene"
    torch.manual_seed(0)
    n = 6000
    ball = torch.nn.functional.normalize(torch.randn(n, 3), dim=-1) * 0.5
    grid = torch.linspace(-2, 2, 90)
    wall = torch.stack([*torch.meshgrid(grid, grid, indexing="ij"), torch.full((90, 90), 1.0)], -1).flatten(0, 1)
    means = torch.cat([ball, wall])
    quats = torch.zeros(len(means), 4)
    normal = torch.cat([torch.nn.functional.normalize(ball, dim=-1), torch.tensor([0.0, 0, 1]).expand(len(wall), 3)])
    axis = torch.linalg.cross(torch.tensor([0.0, 0, 1]).expand_as(normal), normal)  # the disc's short axis, z, turns into the normal
    quats[:, 0], quats[:, 1:] = 1 + normal[:, 2], axis
    scales = torch.tensor([0.03, 0.03, 0.003]).log().expand(len(means), 3)
    rgb = torch.cat([torch.tensor([0.8, 0.1, 0.1]).expand(n, 3), torch.tensor([0.1, 0.7, 0.2]).expand(len(wall), 3)])
    write_gaussians(out / "scene.ply", Gaussians(means, quats, scales, torch.full((len(means),), 4.0), sh_dc_from_rgb(rgb)[:, None]))
    eye = torch.tensor([[-1.0, 0, -3], [0, -0.5, -3], [1, 0, -3]])
    K = torch.tensor([[150.0, 0, 80], [0, 150, 60], [0, 0, 1]]).expand(3, 3, 3).clone()
    cameras = Cameras(look_at(eye, torch.zeros(3, 3), torch.tensor([0.0, -1, 0])), K, 160, 120)
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        write_bytes(out / "images" / name, encode_png(torch.rand(120, 160, 3)))
    write_transforms(out / "transforms.json", cameras, [f"images/{name}" for name in names])
    write_json(out / "config.json", {"version": 1, "names": names, "background": [0, 0, 0]})
    write_json(out / "metrics.json", {"version": 1})
    return out


def test_the_surface_of_the_splats(folder: Path) -> None:
    mesh = mesh_scene(load_scene(folder).scene, MeshOptions(resolution=128))
    radius = np.linalg.norm(mesh.vertices, axis=1)
    ball, wall = radius < 0.75, mesh.vertices[:, 2] > 0.8
    assert ball.sum() > 1000 and wall.sum() > 1000 and (ball | wall).mean() > 0.98, "nothing hangs between ball and wall"
    assert np.median(np.abs(radius[ball] - 0.5)) < 0.03 and np.median(np.abs(mesh.vertices[wall, 2] - 1)) < 0.01  # discs are as deep as their centres
    assert mesh.colors[ball].mean(0)[0] > 0.6 > 0.4 > mesh.colors[ball].mean(0)[1] and mesh.colors[wall].mean(0)[1] > 0.5
    near = mesh_scene(load_scene(folder).scene, MeshOptions(resolution=128, reach=1.05))
    assert near.vertices[:, 2].max() < 0.9, "the wall is beyond reach"


def test_a_glb_stands_upright_and_a_crop_is_kept(folder: Path, tmp_path: Path) -> None:
    write_edits(folder / "edits.json", [CropBox((0.0, 0.0, 0.0), (0.7, 0.7, 0.7))])
    summary = MeshCommand(scene=folder, out=tmp_path / "m.glb", resolution=128, quiet=True).run()
    glb = open3d.io.read_triangle_mesh(str(tmp_path / "m.glb"))
    assert summary["triangles"] == len(glb.triangles) > 1000
    cut = np.asarray(glb.vertices)
    assert np.linalg.norm(cut, axis=1).max() < 0.75, "no wall"
    MeshCommand(scene=folder, out=tmp_path / "m.ply", resolution=128, unedited=True, quiet=True).run()
    whole = np.asarray(open3d.io.read_triangle_mesh(str(tmp_path / "m.ply")).vertices)
    assert whole[:, 2].max() > 0.9
    # photos look along z with y down: in the .glb the ball's front, which they see, looks to +z
    front = whole[np.linalg.norm(whole, axis=1) < 0.6].mean(0)
    assert front[2] < -0.2 and cut.mean(0)[2] > 0.2 and np.abs(cut.mean(0)[:2]).max() < 0.12


def test_padding_is_no_texture(folder: Path) -> None:
    """Where a picture is padding, the scene itself stands in; the rest of it, and pictures without padding, stay."""
    extent = torch.ones(120, 160, 3)
    extent[:, :60] = 0
    write_bytes(folder / "extents" / "b.png", encode_png(extent))
    scene = load_scene(folder)
    photos, plain = _photos_without_gaps(scene), scene.images()
    drawn = scene.scene.render(scene.cameras).color.clamp(0, 1)
    torch.testing.assert_close(photos[1][:, :60], drawn[1][:, :60])
    assert torch.equal(photos[1][:, 60:], plain[1][:, 60:]) and torch.equal(photos[0], plain[0]) and torch.equal(photos[2], plain[2])


def test_facing() -> None:
    R = facing(torch.tensor([0.0, -2.0, 0.0]), torch.tensor([0.0, 0.3, 1.0]))
    np.testing.assert_allclose(R @ [0, -1, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(R @ [0, 0, 1], [0, 0, -1], atol=1e-12)
    for up in ([0.0, 0, 1], [0.3, -0.2, 0.5]):
        R = facing(torch.tensor(up), torch.tensor(up))
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(R) > 0.99


@pytest.mark.parametrize(
    ("options", "says"), [({"resolution": 3}, "--resolution"), ({"texture": 5}, "--texture"), ({"reach": 0.0}, "--reach"), ({"smallest": -1}, "--smallest")]
)
def test_impossible_requests(folder: Path, tmp_path: Path, options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MeshCommand(scene=folder, out=tmp_path / "m.glb", quiet=True, **options).run()


def test_a_scene_is_never_replaced_by_what_is_made_of_it(folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    write_json(folder / "config.json", {"version": 1, "method": "handful", "settings": {}, "names": ["a.png", "b.png", "c.png"], "background": [0, 0, 0]})
    before["config.json"] = (folder / "config.json").read_bytes()
    for out in ("scene.ply", "config.json", "transforms.json"):
        with pytest.raises(ConfigError, match="part of the scene itself|meshes are written as"):
            MeshCommand(scene=folder, out=folder / out, quiet=True).run()
        with pytest.raises(ConfigError, match="part of the scene itself"):
            Export(scene=folder, out=folder / out, quiet=True).run()
    with pytest.raises(ConfigError, match="part of the scene itself"):
        RenderCommand(scene=folder, out=folder / "preview.png", frames=1, quiet=True).run()
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_another_ending_is_told_before_the_work(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.fbx|fbx"):
        MeshCommand(scene=folder, out=tmp_path / "m.fbx", quiet=True).run()
    with pytest.raises(ConfigError, match="holds no texture"):
        MeshCommand(scene=folder, out=tmp_path / "m.ply", texture=512, quiet=True).run()
    with pytest.raises(ConfigError, match="texture needs the photos"):
        mesh_scene(load_scene(folder).scene, MeshOptions(texture=512))
