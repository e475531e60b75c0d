"""Meshes against closed forms: a sphere whose depth is known exactly, its colours, its parts, its texture, its files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.recon.camera import Cameras
from handful.recon.errors import ConfigError, HandfulError
from handful.recon.framing import look_at
from handful.recon.mesh import Mesh
from PIL import Image

open3d = pytest.importorskip("open3d", reason="needs open3d")

from handful.data.mesh_glb import vertex_normals  # noqa: E402
from handful.data.mesh_open3d import fuse_depth, keep_large_parts, textured, watertight, write_mesh  # noqa: E402

VOXEL = 0.02


def cameras() -> Cameras:
    """Six around, from a little above and below; the principal point is off the middle."""
    a = torch.arange(6) / 6 * 2 * torch.pi
    eye = torch.stack([3 * torch.cos(a), 3 * torch.sin(a), torch.tensor([1.2, -1.2] * 3)], 1)
    K = torch.tensor([[180.0, 0, 83.3], [0, 190, 57.7], [0, 0, 1]]).expand(6, 3, 3).clone()
    return Cameras(look_at(eye, torch.zeros(6, 3), torch.tensor([0.0, 0, 1])), K, 160, 120)


def seen(cameras: Cameras, spheres: list[tuple[tuple[float, float, float], float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """z-depth (0 = none) and colours of spheres, coloured by direction from the origin, at every pixel centre."""
    origins, rays = (x.double() for x in cameras.rays())
    best = torch.full(rays.shape[:3], torch.inf, dtype=torch.float64)
    for center, radius in spheres:
        to = origins - torch.tensor(center, dtype=torch.float64)
        b, c = (to * rays).sum(-1), (to * to).sum(-1) - radius**2
        root = b * b - c
        t = torch.where(root > 0, -b - root.clamp(min=0).sqrt(), torch.inf)
        best = torch.minimum(best, torch.where(t > 0, t, torch.inf))
    point = origins + rays * best.nan_to_num(posinf=0)[..., None]
    forward = cameras.cam_from_world[:, 2, :3].double()
    z = torch.where(torch.isfinite(best), best * (rays * forward[:, None, None]).sum(-1), 0.0)
    return z.float(), (0.5 + 0.5 * torch.nn.functional.normalize(point, dim=-1)).float()


def fused(spheres: list[tuple[tuple[float, float, float], float]]) -> Mesh:
    c, (z, rgb) = cameras(), seen(cameras(), spheres)
    return fuse_depth(((c[i], z[i], rgb[i]) for i in range(len(c))), VOXEL, 4 * VOXEL)


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return fused([((0.0, 0.0, 0.0), 1.0)])


def test_the_surface_is_where_it_is(ball: Mesh) -> None:
    """Half a pixel off in the intrinsics would shift it by 8 thousandths; a lean of the depth would bend it."""
    radius = np.linalg.norm(ball.vertices, axis=1)
    assert len(ball) > 5000 and abs(np.median(radius) - 1) < 1e-3 and np.quantile(np.abs(radius - 1), 0.95) < 0.6 * VOXEL
    fit = np.linalg.lstsq(np.c_[2 * ball.vertices, np.ones(len(radius))], radius**2, rcond=None)[0]  # the sphere's centre
    assert np.abs(fit[:3]).max() < 2e-3
    want = 0.5 + 0.5 * ball.vertices / radius[:, None]
    assert np.median(np.abs(ball.colors - want)) < 0.01
    a, b, c = (ball.vertices[ball.triangles[:, i]] for i in range(3))
    outwards = (np.cross(b - a, c - a) * (a + b + c)).sum(1) > 0
    assert outwards.mean() > 0.995


def test_small_parts_go_but_never_all() -> None:
    both = fused([((0.0, 0.0, 0.0), 0.8), ((0.0, 1.4, 0.0), 0.15)])
    large = keep_large_parts(both, 3000)
    assert len(large) < len(both) and np.linalg.norm(large.vertices, axis=1).max() < 0.9
    assert len(keep_large_parts(both, 10)) > len(large) and len(keep_large_parts(both, 10**9)) == len(large)
    assert large.triangles.max() == len(large.vertices) - 1


def test_a_closed_surface_has_no_edge(ball: Mesh) -> None:
    top = Mesh(ball.vertices, ball.triangles[(ball.vertices[ball.triangles][:, :, 2] > -0.6).all(1)], ball.colors)
    closed = watertight(top, 6)
    for mesh, border in ((top, True), (closed, False)):
        edges = np.sort(np.concatenate([mesh.triangles[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1)
        _, times = np.unique(edges, axis=0, return_counts=True)
        assert (times.min() == 1) == border and (border or times.max() == 2)


def test_a_texture_shows_the_photos(ball: Mesh) -> None:
    small = textured(ball, seen(cameras(), [((0.0, 0.0, 0.0), 1.0)])[1], cameras(), 512)
    assert small.uvs is not None and small.texture is not None and small.texture.shape == (512, 512, 3)
    assert small.uvs.shape == (len(small), 3, 2) and small.uvs.min() >= 0 and small.uvs.max() <= 1
    middle, at = small.vertices[small.triangles].mean(1), small.uvs.mean(1)
    rows, columns = ((1 - at[:, 1]) * 511).round().astype(int), (at[:, 0] * 511).round().astype(int)
    want = 0.5 + 0.5 * middle / np.linalg.norm(middle, axis=1, keepdims=True)
    side = np.abs(middle[:, 2]) < 0.5  # where photos look straight
    assert np.median(np.abs(small.texture[rows, columns] / 255 - want)[side]) < 0.02


@pytest.mark.parametrize("name", ["m.ply", "m.obj", "m.stl"])
def test_files_read_back(ball: Mesh, tmp_path: Path, name: str) -> None:
    write_mesh(tmp_path / "new" / name, ball)
    back = open3d.io.read_triangle_mesh(str(tmp_path / "new" / name))
    assert len(back.triangles) == len(ball)
    np.testing.assert_allclose(np.asarray(back.vertices).min(0), ball.vertices.min(0), atol=1e-5)
    if name == "m.ply":
        np.testing.assert_allclose(np.asarray(back.vertex_colors), ball.colors, atol=1 / 254)
    assert not [p for p in (tmp_path / "new").iterdir() if p.name.startswith(".")]


def test_a_glb_read_by_another_program(ball: Mesh, tmp_path: Path) -> None:
    """Open3D reads glTF by Assimp."""
    write_mesh(tmp_path / "m.glb", ball)
    back = open3d.io.read_triangle_mesh(str(tmp_path / "m.glb"))
    assert len(back.triangles) == len(ball)
    order, ours = np.lexsort(np.asarray(back.vertices).T.round(5)), np.lexsort(ball.vertices.T.round(5))
    np.testing.assert_allclose(np.asarray(back.vertices)[order].mean(0), ball.vertices[ours].mean(0), atol=1e-3)
    linear = np.where(ball.colors <= 0.04045, ball.colors / 12.92, ((ball.colors + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(np.asarray(back.vertex_colors).mean(0), linear.mean(0), atol=5e-3)


def test_a_texture_travels_with_the_mesh(ball: Mesh, tmp_path: Path) -> None:
    small = textured(ball, seen(cameras(), [((0.0, 0.0, 0.0), 1.0)])[1], cameras(), 256)
    write_mesh(tmp_path / "m.glb", small)
    back = open3d.io.read_triangle_mesh(str(tmp_path / "m.glb"), True)
    assert len(back.triangles) == len(small)
    raw = (tmp_path / "m.glb").read_bytes()
    at = raw.index(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(raw[at:])).convert("RGB")), small.texture)


def test_a_textured_obj_shows_the_photos(ball: Mesh, tmp_path: Path) -> None:
    """Read line by line, as the format says: v goes up, a picture's first row is at v = 1."""
    small = textured(ball, seen(cameras(), [((0.0, 0.0, 0.0), 1.0)])[1], cameras(), 512)
    write_mesh(tmp_path / "m.obj", small)
    assert {p.name for p in tmp_path.iterdir()} == {"m.obj", "m_texture.mtl", "m_texture.png"}
    assert "map_Kd m_texture.png" in (tmp_path / "m_texture.mtl").read_text()
    lines = [line.split() for line in (tmp_path / "m.obj").read_text().splitlines()]
    v = np.array([line[1:] for line in lines if line[0] == "v"], float)
    vt = np.array([line[1:] for line in lines if line[0] == "vt"], float)
    f = np.array([[corner.split("/") for corner in line[1:]] for line in lines if line[0] == "f"], int) - 1
    picture = np.asarray(Image.open(tmp_path / "m_texture.png").convert("RGB")) / 255
    middle, at = v[f[:, :, 0]].mean(1), vt[f[:, :, 1]].mean(1)
    shown = picture[((1 - at[:, 1]) * 511).round().astype(int), (at[:, 0] * 511).round().astype(int)]
    want = 0.5 + 0.5 * middle / np.linalg.norm(middle, axis=1, keepdims=True)
    assert np.median(np.abs(shown - want)[np.abs(middle[:, 2]) < 0.5]) < 0.02


def test_normals_of_a_sphere_point_outwards(ball: Mesh) -> None:
    normals = vertex_normals(ball.vertices, ball.triangles)
    outwards = (normals * ball.vertices).sum(1) / np.linalg.norm(ball.vertices, axis=1)
    assert np.median(outwards) > 0.99 and (outwards > 0).mean() > 0.99


def test_what_cannot_be_is_one_sentence(ball: Mesh, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fbx is not one of them"):
        write_mesh(tmp_path / "m.fbx", ball)
    small = Mesh(ball.vertices, ball.triangles, ball.colors, np.zeros((len(ball), 3, 2)), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ConfigError, match="holds no texture"):
        write_mesh(tmp_path / "m.ply", small)
    with pytest.raises(HandfulError, match="makes no surface"):
        fuse_depth([(cameras()[0], torch.zeros(120, 160), torch.zeros(120, 160, 3))], VOXEL, 4 * VOXEL)
    (tmp_path / "m.ply").mkdir()
    with pytest.raises(HandfulError, match="folder of that name is in the way"):
        write_mesh(tmp_path / "m.ply", ball)
    assert [p.name for p in tmp_path.iterdir()] == ["m.ply"]
