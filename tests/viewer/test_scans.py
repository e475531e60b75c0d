"""Scans on the page: which returns, in which colours, where the world is moved; and in a real browser."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handful.data.scans.npz_files import write_sweep
from handful.data.synthetic import demo_capture
from handful.pipelines.cli.common import Console
from handful.pipelines.cli.view import scans_of
from handful.recon.camera import Cameras
from handful.recon.colormap import rainbow
from handful.recon.edits import Move
from handful.recon.gaussians import Gaussians
from handful.recon.raster.registry import get_rasterizer
from handful.recon.sh import sh_dc_from_rgb
from handful.recon.sweeps import Sweep
from handful.viewer import scan_panel
from handful.viewer.photos import Photo
from handful.viewer.scan_panel import DISTANCE, ERROR, HEIGHT, INTENSITY, PHOTOS
from handful.viewer.scans import ERROR_SCALE, UNSEEN, Cloud, depth_error, photo_colors, ramp
from handful.viewer.server import SceneServer
from handful.viewer.splats import ViewFrame

from .pages import canvas, wait_for

GREY = torch.tensor(UNSEEN)


@dataclass(frozen=True)
class Scene:
    cameras: Cameras
    images: torch.Tensor
    gaussians: Gaussians  # a disc on every surface the first photo sees
    sweep: Sweep  # exact, from between the photos


@pytest.fixture(scope="module")
def scene() -> Scene:
    return made(240, 180)


def made(width: int, height: int) -> Scene:
    demo = demo_capture(2, 1, width, height, supersample=1)
    cameras, depth = demo.photo_cameras, demo.photo_truth.depth
    means, colors, sizes = [], [], []
    for i in range(2):
        seen = depth[i] > 0
        means.append(cameras.unproject_depth(depth)[i][seen])
        colors.append(demo.photo_truth.images[i][seen])
        sizes.append(depth[i][seen] / cameras.K[0, 0, 0])
    mean, size = torch.cat(means), torch.cat(sizes)
    n = len(mean)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(n, 1)
    gaussians = Gaussians(mean, quats, (0.7 * size).log()[:, None].repeat(1, 3), torch.full((n,), 4.0), sh_dc_from_rgb(torch.cat(colors))[:, None])
    eye, there = demo.held_out.cameras[0], demo.held_out_truth.depth
    world = eye.unproject_depth(there)[0][there[0] > 0]
    sweep = Sweep((world - eye.centers[0]) @ eye.cam_from_world[0, :3, :3].T, eye.world_from_cam[0], intensity=torch.arange(len(world)).float())
    return Scene(cameras, demo.photo_truth.images, gaussians, sweep)


def placed(scene: Scene) -> list[Photo]:
    photos = [Photo.of(image, f"{i}") for i, image in enumerate(scene.images)]
    for i, photo in enumerate(photos):
        photo.stand(scene.cameras[i], 3.0, ViewFrame(), torch.tensor([0.0, 0.0, 1.0]))
    return photos


def test_at_most_so_many_evenly_and_what_all_have() -> None:
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([10.0, 0, 0])
    a = Sweep(torch.rand(3000, 3), torch.eye(4), intensity=torch.rand(3000), rgb=torch.rand(3000, 3))
    b = Sweep(torch.rand(1000, 3), pose, intensity=torch.rand(1000), origins=torch.full((1000, 3), 0.5))
    cloud = Cloud.of([a, b], most=1000)
    grid = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0), torch.zeros(1))
    assert Cloud.of([Sweep(0.25 * grid + 1000, torch.eye(4))]).spacing() == pytest.approx(0.25)
    assert len(cloud) == 1000 and cloud.rgb is None and cloud.intensity is not None
    torch.testing.assert_close(cloud.xyz[:750].float(), a.xyz[::4])
    torch.testing.assert_close(cloud.xyz[750:].float(), b.world_xyz[::4])
    assert cloud.distance is not None
    torch.testing.assert_close(cloud.distance[750:].float(), (b.xyz[::4] - 0.5).norm(dim=-1))
    nobody_knows = replace(b, origin_known=False)
    assert Cloud.of([a, nobody_knows]).distance is None and Cloud.of([nobody_knows]).carried(Move(scale=2.0).similarity).distance is None
    assert len(Cloud.of([a, b])) == 4000
    moved = cloud.carried(Move(translation=(1.0, 2.0, 3.0), scale=2.0).similarity)
    torch.testing.assert_close(moved.distance, 2 * cloud.distance)
    pose[:3, 3] = torch.tensor([3_451_000.0, 5_412_000.0, 0.0])  # of a map: float32 would lose half a metre
    torch.testing.assert_close(Cloud.of([replace(a, world_from_sensor=pose)]).xyz - pose[:3, 3].double(), a.xyz.double(), atol=1e-8, rtol=0)


def test_a_ramp_says_where_it_begins_and_ends() -> None:
    values = torch.linspace(0, 10, 1001)
    values[0] = math.nan
    coloring = ramp(values)
    assert torch.equal(coloring.rgb[0], GREY) and coloring.legend.startswith("0.21 ") and coloring.legend.endswith(" 9.8")
    torch.testing.assert_close(coloring.rgb[500], rainbow(torch.tensor(0.5)), atol=0.01, rtol=0)
    assert torch.equal(ramp(torch.full((3,), math.nan)).rgb, GREY.expand(3, 3))


def test_colours_of_the_photos(scene: Scene) -> None:
    """Where the first photo alone sees a return, its own pixel; where none does, grey."""
    cloud = Cloud.of([scene.sweep])
    behind = Sweep(scene.cameras.centers[:1] - 5 * scene.cameras.world_from_cam[:1, :3, 2], torch.eye(4))
    both = Cloud.of([scene.sweep, behind])
    rgb = photo_colors(both, placed(scene)).rgb
    assert torch.equal(rgb[-1], GREY)
    told = (rgb[:-1] != GREY).any(-1)
    assert float(told.float().mean()) > 0.85
    truth = torch.stack([scene.images[i].reshape(-1, 3) for i in range(2)])
    uv, _ = scene.cameras.project(cloud.xyz.float())
    at = uv[..., 1].clamp(0, 179).long() * 240 + uv[..., 0].clamp(0, 239).long()
    off = torch.stack([(truth[i][at[i]] - rgb[:-1]).abs().mean(-1) for i in range(2)]).min(0).values[told]
    assert float((off < 0.08).float().mean()) > 0.9


def test_the_error_of_a_true_and_of_a_wrong_scene(scene: Scene) -> None:
    cloud, rasterizer = Cloud.of([scene.sweep]), get_rasterizer("auto", "cpu")
    error, coloring = depth_error(cloud, scene.gaussians, scene.cameras, rasterizer)
    good = torch.isfinite(error)
    assert float(good.float().mean()) > 0.8 and float(error[good].median()) < 0.01
    assert torch.equal(coloring.rgb[~good], GREY.expand(int((~good).sum()), 3)) and "half of the returns are within" in coloring.legend
    wrong = scene.gaussians
    eye = scene.cameras.centers.mean(0)
    wrong = Gaussians(eye + 1.1 * (wrong.means - eye), wrong.quats_wxyz, wrong.log_scales + 0.1, wrong.logit_opacities, wrong.sh)
    error, coloring = depth_error(cloud, wrong, scene.cameras, rasterizer)
    good = torch.isfinite(error)
    middle = float(error[good].median())
    assert middle == pytest.approx(0.1, abs=0.02)
    torch.testing.assert_close(coloring.rgb[good], rainbow(error[good] / ERROR_SCALE))
    nothing, _ = depth_error(cloud, scene.gaussians[torch.zeros(0, dtype=torch.long)], scene.cameras, rasterizer)
    assert not bool(torch.isfinite(nothing).any())


def test_a_scene_folders_scans_are_read_and_broken_ones_told(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scans_of(tmp_path, Console()) == ()
    for name in ("10", "9"):
        write_sweep(tmp_path / f"scans/{name}.npz", Sweep(scene.sweep.xyz, scene.sweep.world_from_sensor, name))
    (tmp_path / "scans/5.npz").write_bytes(b"nothing")
    assert [s.name for s in scans_of(tmp_path, Console())] == ["9", "10"]
    assert "this scan is not shown" in capsys.readouterr().err


@pytest.fixture
def server(scene: Scene) -> Iterator[SceneServer]:
    with serve(scene) as s:
        yield s


@pytest.fixture
def small_server() -> Iterator[SceneServer]:
    """For a browser without a GPU, where each frame of the whole scene's 86,000 splats and 43,000 returns takes seconds."""
    small = made(80, 60)
    with serve(small) as s:
        s.set_scans([small.sweep])
        yield s


def serve(scene: Scene) -> SceneServer:
    server = SceneServer(port=18700, announce=None)
    server.set_photos(scene.cameras, scene.images, ["0", "1"])
    server.set_gaussians(scene.gaussians)
    return server


def test_no_panel_without_scans(server: SceneServer) -> None:
    assert not server._scan._folder.visible and server._scan._handle is None
    server.set_scans(())
    assert not server._scan._folder.visible


def test_the_scan_follows_the_world(server: SceneServer, scene: Scene) -> None:
    """Edited after it came, and before; its places are those of the scene, in the page's units."""
    server.set_scans([scene.sweep])
    assert server._scan._folder.visible and INTENSITY in server._scan._color.options
    handle = wait_for(lambda: server._scan._handle)
    np.testing.assert_allclose(handle.points, server.frame.apply(scene.sweep.world_xyz.double()).numpy(), atol=1e-4)
    move = Move((0.9, 0.1, 0.3, -0.2), (3.0, 1.0, -2.0), 3.0, "turned", upright=True)
    server.edit([move])
    want = move.similarity.apply(scene.sweep.world_xyz.double())
    wait_for(lambda: np.allclose(server._scan._handle.points, server.frame.apply(want).numpy(), atol=1e-3), 20)
    server.set_scans([scene.sweep, scene.sweep])
    wait_for(lambda: len(server._scan._handle.points) == 2 * len(scene.sweep), 20)
    np.testing.assert_allclose(server._scan._handle.points[: len(scene.sweep)], server.frame.apply(want).numpy(), atol=1e-3)
    server.set_scans(())
    wait_for(lambda: server._scan._handle is None, 20)


def test_what_is_not_known_is_not_offered(server: SceneServer, scene: Scene) -> None:
    server.set_scans([scene.sweep])
    assert DISTANCE in server._scan._color.options
    server.set_scans([scene.sweep, replace(scene.sweep, origin_known=False)])
    assert DISTANCE not in server._scan._color.options and ERROR in server._scan._color.options


def settled(server: SceneServer) -> None:
    """Everything that was asked of the page's thread is done."""
    done = threading.Event()
    server.in_background(done.set)
    assert done.wait(20)


def test_a_scan_is_painted_once_however_often_it_is_asked(server: SceneServer, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(server)
    panel, painted = server._scan, []
    paint = panel._paint
    monkeypatch.setattr(panel, "_paint", lambda: (painted.append(1), paint()))
    server.set_scans([replace(scene.sweep, rgb=torch.rand(len(scene.sweep), 3))])  # another colour is chosen than before
    settled(server)
    assert len(painted) == 1 and panel._handle is not None
    hold = threading.Event()
    server.in_background(lambda: hold.wait(20))  # the page is busy; meanwhile a visitor plays with the choices
    for color in (PHOTOS, HEIGHT, DISTANCE, PHOTOS, HEIGHT):
        panel._color.value = color
    hold.set()
    settled(server)
    assert len(painted) == 2


def test_the_error_is_measured_when_the_scene_is_another(server: SceneServer, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    panel, measured = server._scan, []
    real = scan_panel.depth_error
    monkeypatch.setattr(scan_panel, "depth_error", lambda *a: (measured.append(1), real(*a))[1])
    server.set_scans([scene.sweep])
    settled(server)
    panel._color.value = ERROR
    settled(server)
    assert len(measured) == 1
    server._send_splats()  # the same scene, sent again
    settled(server)
    assert len(measured) == 1
    server.set_gaussians(scene.gaussians)
    settled(server)
    assert len(measured) == 2
    for _ in range(3):  # one that is being optimised
        server._take(scene.gaussians.clone())
        server._send_splats(live=True)
        settled(server)
    assert len(measured) == 2
    panel._when -= scan_panel.LIVE_INTERVAL
    server._send_splats(live=True)
    settled(server)
    assert len(measured) == 3


def test_measuring_ends_with_the_page(scene: Scene) -> None:
    """Asked before each photo: after one the second is left out."""
    answers = iter((False, True))
    some, _ = depth_error(Cloud.of([scene.sweep]), scene.gaussians, scene.cameras, get_rasterizer("auto", "cpu"), lambda: next(answers))
    whole, _ = depth_error(Cloud.of([scene.sweep]), scene.gaussians, scene.cameras, get_rasterizer("auto", "cpu"))
    assert 0 < int(torch.isfinite(some).sum()) < int(torch.isfinite(whole).sum())
    assert next(answers, None) is None


def test_splats_come_back_when_the_scan_goes(server: SceneServer, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    server.set_scans([scene.sweep])
    shown: list[bool] = []
    monkeypatch.setattr(server._splats, "show", shown.append)
    server._scan._alone.value = True
    assert shown[-1] is False
    server.set_scans(())
    assert shown[-1] is True
    server.set_scans([scene.sweep])
    assert shown[-1] is False


def test_the_cloud_in_a_browser(small_server: SceneServer, browser: Any) -> None:
    """Shown alone it is the photo; other colours are others; hidden it is gone."""
    server = small_server
    page = browser.new_page(viewport={"width": 480, "height": 360})
    page.set_default_timeout(120_000)
    page.goto(server.url)
    client = wait_for(lambda: list(server.browsers().values()))[0]
    wait_for(lambda: server.camera_of(client) is not None and np.linalg.norm(client.camera.position - server.photos[0].position) < 1e-2)
    server._photos.show.value = False
    panel = server._scan
    for name in ("Photos", "Look"):  # folded, so that the panel is in sight
        page.get_by_text(name, exact=True).last.click()
    page.get_by_label("Without the splats", exact=True).first.check()
    wait_for(lambda: panel.alone)
    photo = torch.nn.functional.interpolate(torch.from_numpy(server.photos[0].picture).permute(2, 0, 1)[None].float() / 255, (360, 480), mode="bilinear")[0].permute(1, 2, 0)

    def like_the_photo() -> bool:
        seen = canvas(page)
        there = seen.sum(-1) > 0.05
        return bool(there.float().mean() > 0.6) and float((seen - photo).abs()[there].mean()) < 0.1

    def unlike(pictures: list[torch.Tensor]) -> bool:
        seen = canvas(page)
        return all(float((seen - other).abs().mean()) > 0.02 for other in pictures)

    wait_for(like_the_photo, 60)
    pictures = {PHOTOS: canvas(page)}
    for name in (HEIGHT, DISTANCE, ERROR):
        page.get_by_label("Colour by", exact=True).first.click()
        page.get_by_role("option", name=name, exact=True).click()
        wait_for(lambda: unlike(list(pictures.values())), 60)
        pictures[name] = canvas(page)
    assert "no photo sees it, or nothing is there" in page.inner_text("body")
    page.get_by_label("Show the scan", exact=True).first.uncheck()
    wait_for(lambda: not panel.alone and not panel._handle.visible)
    wait_for(lambda: unlike([other for name, other in pictures.items() if name != PHOTOS]), 60)
    page.close()
