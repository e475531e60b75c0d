"""docs/conventions.md, executed: one test per row of its table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from handful.recon.camera import Cameras, pixel_centers
from handful.recon.gaussians import Gaussians
from handful.recon.raster.protocol import RasterOptions
from handful.recon.raster.registry import get_rasterizer
from handful.recon.se3 import matrix_from_quat, quat_multiply
from handful.recon.sh import rgb_from_sh, sh_basis, sh_dc_from_rgb

ROOT = Path(__file__).resolve().parents[2]
EXECUTED = {
    "camera axes": "test_camera_axes",
    "transforms": "test_transforms",
    "quaternions": "test_quaternions",
    "pixels": "test_pixels",
    "images": "test_images",
    "depth": "test_depth",
    "spherical harmonics": "test_spherical_harmonics",
}


def camera(width: int = 40, height: int = 30, focal: float = 50.0) -> Cameras:
    """At the world's origin, axes along the world's."""
    return Cameras(torch.eye(4)[None], torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]]), width, height)


def spot(xyz: tuple[float, float, float], rgb: tuple[float, float, float] = (1.0, 1.0, 1.0), size: float = 0.02) -> Gaussians:
    t = torch.tensor
    return Gaussians(t([xyz]), t([[1.0, 0, 0, 0]]), t([[size] * 3]).log(), t([4.0]), sh_dc_from_rgb(t([[rgb]])))


def brightest(image: torch.Tensor) -> tuple[int, int]:
    """(column, row)."""
    k = int(image.flatten().argmax())
    return k % image.shape[1], k // image.shape[1]


def test_every_row_is_executed() -> None:
    rows = [
        line.split("|")[1].strip()
        for line in (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    rows = [r for r in rows if r not in ("thing", "---")]
    assert set(rows) == set(EXECUTED), "docs/conventions.md and its tests went apart"
    assert all(name in globals() for name in EXECUTED.values())


def test_camera_axes() -> None:
    """x right, y down, z forward."""
    render = get_rasterizer("reference").render
    c, r = brightest(render(spot((0.4, 0.0, 2.0)), camera()).alpha[0])
    assert c > 20 and r in (14, 15)
    c, r = brightest(render(spot((0.0, 0.3, 2.0)), camera()).alpha[0])
    assert r > 15 and c in (19, 20)
    assert render(spot((0.0, 0.0, -2.0)), camera()).alpha.max() == 0


def test_transforms() -> None:
    """cam_from_world @ world point = camera point; it is rigid."""
    R = matrix_from_quat(torch.tensor([0.9, 0.1, -0.2, 0.3]))
    w2c = torch.eye(4)
    w2c[:3, :3], w2c[:3, 3] = R, torch.tensor([0.1, 0.2, 3.0])
    cam = Cameras(w2c[None], camera().K, 40, 30).validate()
    p = torch.tensor([0.3, -0.4, 0.5])
    in_camera = w2c @ torch.cat([p, torch.ones(1)])
    _, z = cam.project(p[None])
    assert z.item() == pytest.approx(in_camera[2].item(), abs=1e-6)
    assert (w2c @ torch.cat([cam.centers[0], torch.ones(1)]))[:3].abs().max() < 1e-6


def test_quaternions() -> None:
    """wxyz, Hamilton, any non-zero length; world_from_gaussian in Gaussians."""
    half = torch.tensor(torch.pi / 4)
    about_z = torch.tensor([torch.cos(half), 0, 0, torch.sin(half)])  # 90 degrees: x to y
    torch.testing.assert_close(matrix_from_quat(3 * about_z) @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)
    i, j, k = torch.eye(4)[1:]
    assert torch.equal(quat_multiply(i, j), k)
    long_x = Gaussians(
        torch.tensor([[0.0, 0, 2]]), about_z[None], torch.tensor([[0.3, 0.02, 0.02]]).log(), torch.tensor([4.0]), torch.zeros(1, 1, 3)
    )
    alpha = get_rasterizer("reference").render(long_x, camera()).alpha[0]
    assert (alpha.sum(1) > 0.5).sum() > 2 * (alpha.sum(0) > 0.5).sum()  # it now stands upright


def test_pixels() -> None:
    """Centres at +0.5, the image spans [0, W] x [0, H], (u, v) = (right, down)."""
    centers = pixel_centers(4, 3)
    assert centers.shape == (3, 4, 2)
    assert centers[0, 0].tolist() == [0.5, 0.5] and centers[2, 3].tolist() == [3.5, 2.5]
    # a point in the middle of the image projects to (W/2, H/2), the corner shared by four pixels: they are equally bright
    cam = camera(4, 4, 5.0)
    uv, _ = cam.project(torch.tensor([[0.0, 0.0, 2.0]]))
    assert uv[0, 0].tolist() == [2.0, 2.0]
    alpha = get_rasterizer("reference").render(spot((0.0, 0.0, 2.0)), cam).alpha[0]
    assert torch.allclose(alpha[1:3, 1:3], alpha[1, 1].expand(2, 2), atol=1e-6) and alpha[1, 1] == alpha.max()


def test_images() -> None:
    """float32, H,W,3, sRGB in [0, 1]: what is rendered is what the colour says, no gamma in between."""
    out = get_rasterizer("reference").render(
        spot((0.0, 0.0, 2.0), (0.2, 0.4, 0.6), size=1.0), camera(), RasterOptions(background=(0.2, 0.4, 0.6))
    )
    assert out.color.shape == (1, 30, 40, 3) and out.color.dtype == torch.float32
    torch.testing.assert_close(out.color[0, 15, 20], torch.tensor([0.2, 0.4, 0.6]), atol=1e-5, rtol=0)


def test_depth() -> None:
    """z-depth (not the distance along the ray), 0 where there is nothing."""
    out = get_rasterizer("reference").render(spot((0.6, 0.3, 2.0), size=0.05), camera())
    c, r = brightest(out.alpha[0])
    assert out.depth[0, r, c].item() == pytest.approx(2.0, abs=1e-5)
    assert out.depth[0, 29, 0] == 0


def test_spherical_harmonics() -> None:
    """Real, order and signs of the 3DGS PLY layout; colour = 0.5 + sum, clamped at 0; the direction goes from the camera to the Gaussian."""
    x, y, z = torch.eye(3)
    assert [sh_basis(v, 1)[1:].nonzero().item() for v in (y, z, x)] == [0, 1, 2]
    assert sh_basis(y, 1)[1] < 0 and sh_basis(z, 1)[2] > 0 and sh_basis(x, 1)[3] < 0
    sh = torch.zeros(1, 4, 3)
    assert torch.equal(rgb_from_sh(sh, z[None]), torch.full((1, 3), 0.5))
    sh[0, 2] = torch.tensor([1.0, 0.0, -5.0])  # brighter when looked at along +z
    seen = rgb_from_sh(sh, z[None])[0]
    assert seen[0] > 0.5 and seen[1] == 0.5 and seen[2] == 0
    g = spot((0.0, 0.0, 2.0), size=1.0)
    out = get_rasterizer("reference").render(Gaussians(g.means, g.quats_wxyz, g.log_scales, torch.tensor([20.0]), sh), camera())
    torch.testing.assert_close(out.color[0, 15, 20], 0.999 * seen, atol=2e-3, rtol=0)
