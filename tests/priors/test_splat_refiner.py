"""The refiner's network: what must hold whatever it has learned, and that its weights are there. What they earn: benchmarks/refiner.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.priors.net_files import packed
from handful.priors.refiner_net import RefinerConfig, RefinerNet, ask_photos, changed, surroundings
from handful.priors.splat_refiner import SplatRefiner, load_refiner
from handful.recon.camera import Cameras
from handful.recon.errors import BackendUnavailable, ShapeError
from handful.recon.framing import look_at
from handful.recon.gaussians import Gaussians
from handful.recon.raster.reference import ReferenceRasterizer
from handful.recon.raster.registry import get_rasterizer
from handful.recon.scene import SplatScene
from handful.recon.se3 import matrix_from_quat, quat_from_matrix, quat_multiply, so3_exp
from handful.recon.sh import sh_dc_from_rgb

BLACK = (0.0, 0.0, 0.0)
RASTER = get_rasterizer("auto", "cpu")


def wall(n: int = 30, z: float = 0.0, rgb: tuple[float, float, float] = (0.7, 0.4, 0.2)) -> Gaussians:
    """Opaque discs in the plane of that z, from -1 to 1."""
    grid = torch.linspace(-1, 1, n)
    means = torch.stack([*torch.meshgrid(grid, grid, indexing="ij"), torch.full((n, n), z)], -1).flatten(0, 1)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(len(means), 1)
    scales = torch.tensor([1.2 / n, 1.2 / n, 0.1 / n]).log().repeat(len(means), 1)
    return Gaussians(means, quats, scales, torch.full((len(means),), 5.0), sh_dc_from_rgb(torch.tensor(rgb).repeat(len(means), 1))[:, None])


def photos(z: float = -3.0) -> Cameras:
    eye = torch.tensor([[-0.8, 0, z], [0, 0.2, z], [0.9, 0, z]])
    K = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]).expand(3, 3, 3).clone()
    return Cameras(look_at(eye, torch.zeros(3, 3), torch.tensor([0.0, -1, 0])), K, 64, 48)


def moved(g: Gaussians, cameras: Cameras, R: torch.Tensor, shift: torch.Tensor, scale: float) -> tuple[Gaussians, Cameras]:
    """Both in another world: x -> scale R x + shift."""
    turn = quat_from_matrix(R)[None].expand(len(g), 4)
    there = replace(g, means=scale * g.means @ R.T + shift, quats_wxyz=quat_multiply(turn, g.quats_wxyz), log_scales=g.log_scales + torch.tensor(scale).log())
    pose = cameras.cam_from_world.clone()
    pose[:, :3, :3] = cameras.cam_from_world[:, :3, :3] @ R.T
    pose[:, :3, 3] = scale * cameras.cam_from_world[:, :3, 3] - (pose[:, :3, :3] @ shift)
    return there, replace(cameras, cam_from_world=pose)


def awake(seed: int = 0) -> RefinerNet:
    """A network that does change something."""
    torch.manual_seed(seed)
    net = RefinerNet(RefinerConfig(parameters=60_000)).eval()
    torch.nn.init.normal_(net.head[-1].weight, std=0.05)  # pyright: ignore
    return net


def scene_of(g: Gaussians, cameras: Cameras) -> SplatScene:
    return SplatScene(g, cameras, ("a", "b", "c"), RASTER, BLACK)


def test_an_untrained_network_changes_nothing() -> None:
    g, cameras = wall(), photos()
    heard, around = ask_photos(g, cameras, torch.rand(3, 48, 64, 3), RASTER, BLACK)
    change = RefinerNet(RefinerConfig(parameters=60_000))(g, around, heard)
    assert not bool(change.any())
    after = changed(g, change, around, heard)
    for name in ("means", "quats_wxyz", "log_scales", "logit_opacities", "sh"):
        assert torch.equal(getattr(after, name), getattr(g, name))


def test_what_a_photo_says() -> None:
    """Two walls: the photos show the near one; what they say of the far one is that it lies behind, and that nothing of it is in the picture."""
    near, far = wall(z=0.0), wall(z=1.0, rgb=(0.1, 0.9, 0.1))
    g, cameras = Gaussians.concatenate([near, far]), photos()
    images = RASTER.render(g, cameras).color.clamp(0, 1)
    heard, around = ask_photos(g, cameras, images, RASTER, BLACK)
    told, n = heard.told[1], len(near)
    middle = near.means[:, :2].norm(dim=1) < 0.5
    assert told[:n][middle, 0].abs().max() < 0.02 and told[n:][middle, 0].min() > 0.2, "behind"
    assert told[n:][middle, 9].max() < 0.05 < told[:n][middle, 9].min(), "share of the picture"
    assert told[:n][middle, 3:6].abs().max() < 0.03, "its colour fits the photo"
    assert told[n:][middle, 3].min() > 0.5, "the photo is redder there"
    shares = (told[:, 9].exp() - 1).sum()
    assert torch.isclose(shares, RASTER.render(g, cameras[1]).alpha.sum(), rtol=1e-3), "all splats together are the picture"
    assert abs(around.unit - 3.0) < 0.3 and around.center.norm() < 0.2
    assert torch.allclose(heard.distance[:n][middle], torch.tensor(3.0), atol=0.15)
    assert torch.allclose(heard.footprint, heard.distance / 60)


def test_a_dark_splat_is_part_of_the_picture_too() -> None:
    """Its green is clamped at 0, so green does not depend on it; red does."""
    g, cameras = wall(rgb=(0.6, -0.2, -0.1)), photos()
    heard, _ = ask_photos(g, cameras, torch.zeros(3, 48, 64, 3), RASTER, BLACK)
    assert torch.isclose((heard.told[0, :, 9].exp() - 1).sum(), RASTER.render(g, cameras[0]).alpha.sum(), rtol=1e-3)


def test_where_a_photo_does_not_count_it_says_nothing() -> None:
    g, cameras = wall(), photos()
    counts = torch.ones(3, 48, 64)
    counts[:, :, :32] = 0
    heard, _ = ask_photos(g, cameras, torch.zeros(3, 48, 64, 3), RASTER, BLACK, counts)
    whole, _ = ask_photos(g, cameras, torch.zeros(3, 48, 64, 3), RASTER, BLACK)
    uv, _ = cameras.project(g.means)
    left = uv[..., 0] < 32
    assert not heard.inside[left].any() and torch.equal(heard.inside[~left], whole.inside[~left])


def test_colours_that_depend_on_the_direction_fit_their_photos() -> None:
    torch.manual_seed(3)
    g, cameras = wall(), photos()
    g = replace(g, sh=torch.cat([g.sh, torch.zeros(len(g), 3, 3)], 1))
    g.sh[:, 3, 0] = 0.5  # redder from the left than from the right
    images = RASTER.render(g, cameras).color
    heard, _ = ask_photos(g, cameras, images, RASTER, BLACK)
    middle = g.means[:, :2].norm(dim=1) < 0.5
    assert (images[0, 24, 32, 0] - images[2, 24, 32, 0]).abs() > 0.1 and heard.told[:, middle, 3:6].abs().max() < 0.04


def test_photos_all_around() -> None:
    """An orbit looks nowhere on the mean; the frame is a frame all the same."""
    for count in (2, 4, 7):
        a = torch.arange(count) * 2 * torch.pi / count
        eye = torch.stack([3 * a.cos(), torch.full_like(a, -0.5), 3 * a.sin()], 1)
        K = photos().K[:1].expand(count, 3, 3)
        cameras = Cameras(look_at(eye, torch.zeros(count, 3), torch.tensor([0.0, -1, 0])), K, 64, 48)
        around = surroundings(cameras, torch.full((count, 48, 64), 3.0))
        assert torch.allclose(around.rotation @ around.rotation.T, torch.eye(3), atol=1e-5) and torch.linalg.det(around.rotation) > 0.99


def test_the_slow_rasterizer_says_the_same() -> None:
    g, cameras = wall(10), photos()
    images = torch.rand(3, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    a, _ = ask_photos(g, cameras, images, RASTER, BLACK)
    b, _ = ask_photos(g, cameras, images, ReferenceRasterizer(), BLACK)
    assert torch.allclose(a.told, b.told, atol=2e-3) and torch.equal(a.inside, b.inside)


def test_another_world_is_the_same_scene() -> None:
    """The change does not depend on where the origin lies, how the axes are turned, how long a unit is."""
    g, cameras = Gaussians.concatenate([wall(14), wall(14, z=0.7)]), photos()
    images, net = torch.rand(3, 48, 64, 3, generator=torch.Generator().manual_seed(1)), awake()
    R, shift, scale = so3_exp(torch.tensor([0.4, -0.8, 1.1])), torch.tensor([2.0, -1.0, 0.5]), 2.5
    there, cameras_there = moved(g, cameras, R, shift, scale)
    results = []
    for gaussians, cams in ((g, cameras), (there, cameras_there)):
        heard, around = ask_photos(gaussians, cams, images, RASTER, BLACK)
        results.append(changed(gaussians, net(gaussians, around, heard), around, heard))
    expected, _ = moved(results[0], cameras, R, shift, scale)
    moves = (results[0].means - g.means).abs().max()
    assert moves > 1e-3, "it does change something"
    # a splat on the border of a voxel may fall into the next one by rounding
    near = (results[1].means - expected.means).norm(dim=1) < 0.05 * moves * scale
    assert near.float().mean() > 0.98
    turned = (matrix_from_quat(results[1].quats_wxyz) - matrix_from_quat(expected.quats_wxyz)).abs().amax((1, 2)) < 0.02
    assert turned.float().mean() > 0.98
    assert ((results[1].log_scales - expected.log_scales).abs().amax(1) < 0.02).float().mean() > 0.98


def test_the_order_of_photos_and_splats_means_nothing() -> None:
    g, cameras, net = wall(14), photos(), awake()
    g.means[:, 2] = 0.1 * torch.rand(len(g), generator=torch.Generator().manual_seed(3))  # none as far as another: what is drawn first is told by depth
    images = torch.rand(3, 48, 64, 3, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(len(g), generator=torch.Generator().manual_seed(2))
    heard, around = ask_photos(g, cameras, images, RASTER, BLACK)
    one = net(g, around, heard)
    swap = [2, 0, 1]
    heard, around = ask_photos(g[order], cameras[swap], images[swap], RASTER, BLACK)
    assert torch.allclose(net(g[order], around, heard), one[order], atol=1e-4)


def test_each_number_of_a_change() -> None:
    g, cameras = wall(6), photos()
    heard, around = ask_photos(g, cameras, torch.zeros(3, 48, 64, 3), RASTER, BLACK)
    change = torch.zeros(len(g), 13)
    change[:, 2], change[:, 3], change[:, 6], change[:, 9], change[:, 12] = 10.0, 0.5, 0.2, 0.25, 1.0
    after = changed(g, change, around, heard)
    assert torch.allclose((after.means - g.means) @ around.rotation.T, torch.tensor([0.0, 0, 1]) * 0.05 * heard.distance[:, None], atol=1e-5), "away, at most so far"
    assert torch.allclose(after.log_scales - g.log_scales, torch.tensor([0.5, 0, 0]))
    assert torch.allclose(after.logit_opacities, g.logit_opacities + 1)
    angle = 2 * torch.atan(torch.tensor(0.1))
    R = so3_exp(around.rotation[0] * angle)
    assert torch.allclose(matrix_from_quat(after.quats_wxyz), R @ matrix_from_quat(g.quats_wxyz), atol=1e-5), "turned about the photos' right"
    assert torch.allclose((after.sh - g.sh)[:, 0], torch.tensor([0, 0, 0.3 / 0.28209479]), atol=1e-5)


def test_weights_travel(tmp_path: Path) -> None:
    net = awake()
    Path(tmp_path / "w.safetensors").write_bytes(packed(net, net.config))
    back = load_refiner(tmp_path / "w.safetensors")
    for a, b in zip(net.parameters(), back.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    with pytest.raises(BackendUnavailable, match="make them with"):
        load_refiner(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(BackendUnavailable, match=r"bad\.safetensors"):
        load_refiner(tmp_path / "bad.safetensors")


def test_shipped_weights_and_odd_scenes() -> None:
    refiner, g, cameras = SplatRefiner(), wall(8), photos()
    images = torch.zeros(3, 48, 64, 3)
    nothing, all_of_it = refiner.refine(scene_of(g, cameras), images, (0.0, 1.0))
    assert torch.equal(nothing.means, g.means) and not torch.equal(all_of_it.means, g.means)
    bad = replace(g, means=g.means.clone(), quats_wxyz=g.quats_wxyz.clone())
    bad.means[3, 1], bad.quats_wxyz[5] = float("nan"), 0.0
    (made,) = refiner.refine(scene_of(bad, cameras), images)
    assert len(made) == len(g) - 2 and bool(made.means.isfinite().all())
    (made,) = refiner.refine(scene_of(g[:0], cameras), images)
    assert len(made) == 0
    with pytest.raises(ShapeError, match="3 photos"):
        refiner.refine(scene_of(g, cameras), images[:2])
    with pytest.raises(ShapeError, match="surfels"):
        refiner.refine(replace(scene_of(g, cameras), surfels=True), images)
    assert (Path(__file__).parents[2] / "priors/weights/splat_refiner.safetensors").stat().st_size < 10e6
