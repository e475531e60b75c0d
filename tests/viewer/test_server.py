"""The page itself: served, fed while training, and looked at in a real browser."""

from __future__ import annotations

import http.client
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handful.recon.camera import Cameras
from handful.recon.errors import HandfulError, ShapeError
from handful.recon.framing import look_at
from handful.recon.gaussians import Gaussians
from handful.recon.raster.reference import ReferenceRasterizer
from handful.recon.sh import sh_dc_from_rgb
from handful.viewer.server import SceneServer
from handful.viewer.serving import free_port
from handful.viewer.status import LiveInfo

from .pages import canvas, psnr, wait_for

SIZE = (560, 400)
UP = torch.tensor([0.0, 0.6, 0.8])  # no axis of the world is up


def test_ctrl_c_while_closing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SceneServer(port=18490, announce=None)
    stop, stopped = server._server.stop, []

    def slow_stop() -> None:
        signal.raise_signal(signal.SIGINT)
        stop()
        stopped.append(True)

    monkeypatch.setattr(server._server, "stop", slow_stop)
    before = signal.getsignal(signal.SIGINT)
    server.close()
    assert stopped and signal.getsignal(signal.SIGINT) is before


def make_scene() -> tuple[Gaussians, Cameras]:
    """Far from the origin and small: a red ball on the left, a green one on the right, a blue one on top, a grey disc below."""
    right = torch.tensor([1.0, 0, 0])
    centers = torch.stack([-0.5 * right, 0.5 * right, 0.6 * UP])
    rgb = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.15, 0.2, 0.95], [0.6, 0.6, 0.6]])
    balls = centers[:, None] + 0.25 * torch.nn.functional.normalize(torch.randn(3, 400, 3), dim=-1)
    angle, r = torch.rand(800) * 6.2832, torch.rand(800).sqrt() * 1.2
    disc = r[:, None] * (torch.cos(angle)[:, None] * right + torch.sin(angle)[:, None] * torch.linalg.cross(UP, right)) - 0.4 * UP
    means = (torch.cat([balls.flatten(0, 1), disc]) * 0.01 + torch.tensor([5.0, -3.0, 2.0])).float()
    colors = torch.cat([rgb[:3].repeat_interleave(400, 0), rgb[3:].expand(800, 3)])
    n = len(means)
    scales = torch.full((n, 3), 0.0006).log()
    gaussians = Gaussians(means, torch.randn(n, 4), scales, torch.full((n,), 4.0), sh_dc_from_rgb(colors)[:, None])
    eye = torch.tensor([[0.0, -3.0, 0.6], [1.2, -2.8, 0.5], [-1.2, -2.8, 0.5]]) @ torch.stack([right, torch.linalg.cross(UP, right), UP])
    eye = eye * 0.01 + torch.tensor([5.0, -3.0, 2.0])
    target = torch.tensor([5.0, -3.0, 2.0]).expand(3, 3)
    K = torch.tensor([[500.0, 0, 280], [0, 500, 200], [0, 0, 1]]).expand(3, 3, 3).clone()
    return gaussians, Cameras(look_at(eye, target, UP), K, *SIZE)


@pytest.fixture
def scene() -> tuple[Gaussians, Cameras]:
    torch.manual_seed(0)
    return make_scene()


@pytest.fixture
def server() -> Iterator[SceneServer]:
    with SceneServer(port=18400, announce=None) as s:
        yield s


# -- without a browser -----------------------------------------------------------------------------------------------------------


def test_serves_its_page_here_and_only_here(server: SceneServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.status == 200 and b"<html" in answer.read().lower()
    assert server.url == f"http://127.0.0.1:{server.port}"
    with socket.socket() as other:  # another of this machine's own addresses
        other.settimeout(2)
        assert other.connect_ex(("127.0.0.2", server.port)) != 0


def test_no_page_can_make_the_scene_public(server: SceneServer) -> None:
    """viser opens a tunnel for whoever sends this message, shown button or not."""
    import viser
    from viser import _messages

    plain = viser.ViserServer(host="127.0.0.1", port=free_port("127.0.0.1", 8300), verbose=False)
    try:
        assert _messages.ShareUrlRequest in plain._websock_server._incoming_handlers, "else this test proves nothing"
    finally:
        plain.stop()
    handlers = server._server._websock_server._incoming_handlers
    assert _messages.ShareUrlRequest not in handlers and _messages.ShareUrlDisconnect not in handlers


def test_splats_without_a_finite_place_are_shown_without_complaint(server: SceneServer) -> None:
    server.set_gaussians(Gaussians(torch.full((2, 3), torch.nan), torch.ones(2, 4), torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 1, 3)))


def test_the_page_s_own_pictures_draw_surfels_as_surfels(server: SceneServer, scene: tuple[Gaussians, Cameras]) -> None:
    gaussians, cameras = scene
    server.set_gaussians(gaussians)
    assert server.rasterizer().render(gaussians, cameras[0]).distortion is None
    server.set_surfels(True)
    assert server.rasterizer().render(gaussians, cameras[0]).distortion is not None


def test_a_taken_port_moves_on_and_the_link_is_told(server: SceneServer, capsys: pytest.CaptureFixture[str]) -> None:
    with SceneServer(port=server.port) as second:
        assert second.port > server.port
        assert capsys.readouterr().out == f"Open {second.url} in your browser.\n"
    second.close()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("no.such.host.invalid", 8080, "cannot listen"),
        ("203.0.113.7", 8080, "does not have the address"),
        ("127.0.0.1", 70000, "no port 70000"),
    ],
)
def test_an_impossible_address_is_one_sentence(host: str, port: int, says: str) -> None:
    with pytest.raises(HandfulError, match=says):
        SceneServer(host, port, announce=None)


def test_photos_and_names_must_fit(server: SceneServer, scene: tuple[Gaussians, Cameras]) -> None:
    with pytest.raises(ShapeError, match="3 cameras, 2 images, 3 names"):
        server.set_photos(scene[1], torch.rand(2, 8, 8, 3), ["a", "b", "c"])


def test_training_is_not_held_up(server: SceneServer, scene: tuple[Gaussians, Cameras]) -> None:
    """Without a browser the first state is kept for whoever comes; after that a step costs microseconds."""
    gaussians, _ = scene
    calls = []

    def snapshot() -> Gaussians:
        calls.append(1)
        return gaussians

    assert server.update_gaussians(snapshot, 1, LiveInfo(100, 20.0, 9.0))
    assert server._worker.wait(10)
    began = time.perf_counter()
    assert not any(server.update_gaussians(snapshot, i) for i in range(2000))
    assert time.perf_counter() - began < 1.0 and len(calls) == 1
    assert "step 1 of 100 · 20.0 dB" in server._shell.status


def test_what_is_sent_is_the_scene(server: SceneServer, scene: tuple[Gaussians, Cameras]) -> None:
    """Read back from the message that every new browser gets."""
    gaussians, cameras = scene
    server.set_photos(cameras, torch.rand(3, 40, 56, 3), ["a", "b", "c"])
    server.set_gaussians(gaussians)
    buffer = server._splats.buffer
    assert buffer.shape == (len(gaussians), 8)
    centers = buffer[:, :3].view(np.float32)
    assert np.abs(centers).max() < 10 and np.abs(centers).max() > 2, "the viewer's frame brings any scene to a common size"
    variance = np.ascontiguousarray(buffer[:, 4:7]).view(np.float16)[:, [0, 3, 5]]
    scale = server.frame.scale
    np.testing.assert_allclose(variance, (0.0006 * scale) ** 2, rtol=2e-3)
    rgba = np.ascontiguousarray(buffer[:, 7:8]).view(np.uint8)
    np.testing.assert_allclose(rgba[0], [230, 26, 26, 250], atol=1)
    server.set_gaussians(gaussians[:10])
    assert server._splats.buffer.shape == (10, 8)


def test_nothing_at_all_is_shown_without_complaint(server: SceneServer, scene: tuple[Gaussians, Cameras]) -> None:
    server.set_gaussians(scene[0][:0])
    server.set_gaussians(scene[0])
    before = server._splats.buffer.copy()
    server.set_photos(scene[1], torch.rand(3, 40, 56, 3), ["a", "b", "c"])
    assert (before != server._splats.buffer).any(), "photos change the viewer's frame: splats follow"


# -- in a browser ----------------------------------------------------------------------------------------------------------------


def visitor(server: SceneServer) -> Any:
    """The one browser, once it stands at the first photo."""
    client = wait_for(lambda: list(server._server.get_clients().values()))[0]
    wait_for(lambda: np.linalg.norm(client.camera.position - server.photos[0].position) < 1e-2)
    return client


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
    page.set_default_timeout(60_000)
    yield page
    page.close()


def test_chromium_draws_what_our_rasterizer_draws(server: SceneServer, scene: tuple[Gaussians, Cameras], page: Any) -> None:
    gaussians, cameras = scene
    images = torch.stack([ReferenceRasterizer().render(gaussians, cameras[i]).color[0].clamp(0, 1) for i in range(3)])
    server.set_photos(cameras, images, ["one.jpg", "two.jpg", "three.jpg"])
    server.set_gaussians(gaussians)
    page.goto(server.url)
    server._photos.show.value = False
    best = wait_for(lambda: (p := psnr(canvas(page), images[0])) > 30 and p, 90)
    print(f"first photo: {best:.1f} dB")
    client = visitor(server)

    # choosing a photo's name stands there
    server._photos.go(client, "three.jpg")
    best = wait_for(lambda: (p := psnr(canvas(page), images[2])) > 30 and p, 60)
    print(f"third photo: {best:.1f} dB")

    # the background is ours, and smaller splats let it through
    server.set_background((1.0, 0.0, 1.0))
    server._look._splat_size.value = 0.05
    wait_for(lambda: float(canvas(page)[5:50, 5:50].sub(torch.tensor([1.0, 0, 1])).abs().max()) < 0.02)
    wait_for(lambda: float((canvas(page) - torch.tensor([1.0, 0, 1])).abs().sum(-1).lt(0.1).float().mean()) > 0.8)


def test_a_click_on_a_photo_stands_there(server: SceneServer, scene: tuple[Gaussians, Cameras], page: Any) -> None:
    gaussians, cameras = scene
    images = torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 0, 1]])[:, None, None].expand(3, 40, 56, 3)
    server.set_photos(cameras, images, ["one.jpg", "two.jpg", "three.jpg"])
    server.set_gaussians(gaussians)
    page.goto(server.url)
    client = visitor(server)
    frame = server.frame
    assert frame is not None
    # step back behind the photos, further up
    eye = np.asarray(server.photos[0].position) * 1.8 + 2.0 * UP.numpy()
    with client.atomic():
        client.camera.position, client.camera.look_at, client.camera.up_direction, client.camera.fov = eye, np.zeros(3), UP.numpy(), 0.9
    view = look_at(torch.tensor(eye)[None], torch.zeros(1, 3).double(), UP.double())
    f = SIZE[1] / 2 / np.tan(0.45)
    K = torch.tensor([[[f, 0, SIZE[0] / 2], [0, f, SIZE[1] / 2], [0, 0, 1]]], dtype=torch.float64)
    window = Cameras(view, K, *SIZE)
    third = server.photos[2]  # on the left, where no panel covers it
    ahead = third.look_at - third.position
    middle = third.position + ahead / np.linalg.norm(ahead) * server._photos.spacing()
    u, v = window.project(torch.tensor(middle)[None])[0][0, 0].tolist()
    magenta = torch.tensor([1.0, 0, 1])
    wait_for(lambda: float((canvas(page)[int(v), int(u)] - magenta).abs().max()) < 0.35, 90)
    page.mouse.move(u, v)
    page.mouse.click(u, v)
    wait_for(lambda: np.linalg.norm(client.camera.position - third.position) < 1e-2, 30)
    # the photo one stands at does not stand in the way
    wait_for(lambda: server._photos._layers[client.client_id]._shown == [True, True, False], 30)


def test_an_open_page_follows_the_training(server: SceneServer, scene: tuple[Gaussians, Cameras], page: Any) -> None:
    gaussians, cameras = scene
    page.goto(server.url)
    wait_for(lambda: len(server.browsers()) == 1)
    server.set_photos(cameras, torch.rand(3, 40, 56, 3), ["a", "b", "c"])
    white = Gaussians(gaussians.means, gaussians.quats_wxyz, gaussians.log_scales, gaussians.logit_opacities, torch.full_like(gaussians.sh, 2.0))
    server.update_gaussians(white, 1, LiveInfo(50, 11.0, 60))
    wait_for(lambda: "step 1 of 50" in page.inner_text("body"))
    middle = ReferenceRasterizer().render(gaussians, cameras[0]).color[0]
    wait_for(lambda: psnr(canvas(page), middle) < 14 and float(canvas(page).max()) > 0.9, 90)
    sent = wait_for(lambda: server.update_gaussians(gaussians, 40, LiveInfo(50, 25.0, 10)), 30)
    assert sent
    server._photos.show.value = False
    wait_for(lambda: psnr(canvas(page), middle) > 25, 60)


def test_the_garden_is_upright(shared_data: Path, server: SceneServer, page: Any) -> None:
    """A real capture (every third of its points, for speed): the same picture as ours from the first camera."""
    z = np.load(shared_data / "m360_garden3_gsplat" / "test_garden.npz")
    xyz, rgb = torch.from_numpy(z["means3d"])[::3].float(), torch.from_numpy(z["colors"])[::3].float() / 255
    n = len(xyz)
    cameras = Cameras(torch.from_numpy(z["viewmats"]).float(), torch.from_numpy(z["Ks"]).float(), int(z["width"]), int(z["height"]))
    log_scales = (0.006 * torch.cdist(xyz, cameras.centers).amin(1, keepdim=True)).log().expand(n, 3)
    g = Gaussians(xyz, torch.tensor([1.0, 0, 0, 0]).expand(n, 4), log_scales, torch.full((n,), 3.0), sh_dc_from_rgb(rgb)[:, None])
    small = cameras[0].resized(324, 210)
    ours = ReferenceRasterizer().render(g, small).color[0].clamp(0, 1)
    server.set_photos(cameras, ours.expand(3, -1, -1, -1), ["a", "b", "c"])
    server.set_gaussians(g)
    page.set_viewport_size({"width": 324, "height": 210})
    page.goto(server.url)
    server._photos.show.value = False
    best = wait_for(lambda: (p := psnr(canvas(page), ours)) > 30 and p, 120)
    print(f"garden: {best:.1f} dB")
