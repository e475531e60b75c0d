"""A radiance field on the page: where it is drawn, coarse to fine, given up when somebody moves; and in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handful.data.atomic import write_bytes
from handful.pipelines.cli.common import Console
from handful.pipelines.cli.view import field_of
from handful.pipelines.nerf.field_file import FIELD, save_field
from handful.pipelines.scene_folder import SceneFolder
from handful.recon.camera import Cameras
from handful.recon.edits import Move
from handful.recon.field.decoder import Decoder
from handful.recon.field.occupancy import cell_centers
from handful.recon.field.radiance import RadianceField
from handful.recon.field.scene import FieldScene
from handful.recon.field.space import BoxSpace
from handful.recon.framing import look_at
from handful.recon.gaussians import Gaussians
from handful.recon.raster.registry import get_rasterizer
from handful.recon.scene import SplatScene
from handful.recon.sh import sh_dc_from_rgb
from handful.viewer.layers import COARSE_PIXELS, FieldDrawing, draw_layer, finished
from handful.viewer.look import FIELD_LAYERS, LAYERS
from handful.viewer.painter import REST, Painter, Wish
from handful.viewer.server import SceneServer
from torch import Tensor, nn

from .pages import canvas, psnr, wait_for

CENTER, RADIUS, EDGE = torch.tensor([5.3, -3.1, 2.2]), 0.12, 2.0
CUBE = torch.tensor([4.0, -4.0, 1.0])  # the cube's lowest corner
WHITE = (1.0, 1.0, 1.0)


class Ball(nn.Module):
    """Features: one within the ball, and one everywhere."""

    features = 2

    def forward(self, xyz: Tensor) -> Tensor:
        inside = (CUBE + EDGE * xyz - CENTER).norm(dim=-1) < RADIUS
        return torch.stack([inside.float(), torch.ones_like(xyz[:, 0])], -1)


def ball_field(cameras: Cameras) -> FieldScene:
    """A solid red ball in nothing, in closed form."""
    decoder = Decoder(2, 2, 0)
    for weight in decoder.parameters():
        nn.init.zeros_(weight)
    decoder.w1.data.copy_(torch.eye(2))
    # the raw density is 12 within and -18 without; colours are sigmoids of +4, -4, -4
    decoder.w2.data[:, 0] = torch.tensor([30.0, -18.0])
    decoder.w2.data[1, 1:4] = torch.tensor([4.0, -4.0, -4.0])
    field = RadianceField(Ball(), decoder).requires_grad_(False).ready()
    space = BoxSpace(CUBE + EDGE / 2, EDGE)
    near = (space.to_world(cell_centers(16)) - CENTER).norm(dim=-1) < RADIUS + EDGE / 16
    return FieldScene(field, space, near.view(16, 16, 16), 256, cameras, tuple(str(i) for i in range(len(cameras))), WHITE)


def ball_splats() -> Gaussians:
    """The same ball, as splats on its surface."""
    n = 1500
    means = CENTER + 0.97 * RADIUS * nn.functional.normalize(torch.randn(n, 3), dim=-1)
    red = sh_dc_from_rgb(torch.sigmoid(torch.tensor([4.0, -4.0, -4.0]))).expand(n, 1, 3).clone()
    return Gaussians(means, torch.tensor([1.0, 0, 0, 0]).expand(n, 4).clone(), torch.full((n, 3), 0.05 * RADIUS).log(), torch.full((n,), 5.0), red)


@pytest.fixture
def cameras() -> Cameras:
    eyes = torch.tensor([[5.0, -5.5, 2.4], [7.0, -4.5, 2.8]])
    K = torch.tensor([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]).expand(2, 3, 3).clone()
    return Cameras(look_at(eyes, torch.tensor([[5.0, -3.0, 2.0]]).expand(2, 3), torch.tensor([0.0, 0, 1])), K, 320, 240)


@pytest.fixture
def server(cameras: Cameras) -> Iterator[SceneServer]:
    with SceneServer(port=18750, announce=None) as s:
        s.set_photos(cameras, torch.ones(2, 24, 32, 3), ["0", "1"])
        s.set_background(WHITE)
        s.set_gaussians(ball_splats())
        yield s


class Visitor:
    """A browser's side of viser: where it stands, and the pictures it got."""

    def __init__(self, number: int, server: SceneServer, camera: Cameras) -> None:
        self.client_id, self.pictures, self.scene = number, [], self
        self.stand(server, camera)

    def stand(self, server: SceneServer, camera: Cameras) -> None:
        from handful.recon.se3 import quat_from_matrix

        class At:
            wxyz = quat_from_matrix(camera.cam_from_world[0, :3, :3].T.contiguous()).numpy()
            position = server.frame.apply(camera.centers)[0].numpy()
            look_at = position
            fov = 2 * float(np.arctan(camera.height / 2 / float(camera.K[0, 1, 1])))
            image_width, image_height = camera.width, camera.height

        self.camera = At()

    def set_background_image(self, picture: np.ndarray, **_: Any) -> None:
        self.pictures.append(picture)


def visit(server: SceneServer, monkeypatch: pytest.MonkeyPatch, *cameras: Cameras) -> list[Visitor]:
    visitors = [Visitor(100 + i, server, camera) for i, camera in enumerate(cameras)]
    monkeypatch.setattr(server, "browsers", lambda: {v.client_id: v for v in visitors})
    return visitors


def red_middle(picture: Tensor) -> Tensor:
    """(u, v) of the middle of what is red."""
    red = (picture[..., 0] - picture[..., 1]).clamp_min(0)
    v, u = torch.meshgrid(torch.arange(picture.shape[0]) + 0.5, torch.arange(picture.shape[1]) + 0.5, indexing="ij")
    return torch.stack([(u * red).sum(), (v * red).sum()]) / red.sum()


def outline_middle(camera: Cameras) -> Tensor:
    """(u, v) of the middle of the ball's outline, by points on it: perspective puts it a little beside the centre's own image."""
    d = nn.functional.normalize(CENTER - camera.centers[0], dim=0)
    far = float((CENTER - camera.centers[0]).norm())
    x = nn.functional.normalize(torch.linalg.cross(d, torch.tensor([0.0, 0, 1])), dim=0)
    y = torch.linalg.cross(d, x)
    angle = torch.linspace(0, 2 * torch.pi, 721)[:-1, None]
    sine = RADIUS / far  # where lines of sight touch the ball
    rim = CENTER - RADIUS * sine * d + RADIUS * (1 - sine**2) ** 0.5 * (angle.cos() * x + angle.sin() * y)
    uv = camera.project(rim)[0][0]
    return (uv.amin(0) + uv.amax(0)) / 2


def test_the_ball_is_where_its_place_projects_to(server: SceneServer, cameras: Cameras) -> None:
    """Through a browser's camera and back, at every size, before and after the world is moved; and where the splats' picture has it."""
    for steps in ((), (Move((0.9, 0.1, 0.3, -0.2), (3.0, 1.0, -2.0), 3.0, "turned", upright=True),)):
        server.edit(steps)
        shown = server.shown()
        assert shown is not None
        for i in range(2):
            window = server.camera_of(Visitor(1, server, shown[1][i]))
            assert window is not None
            drawing = FieldDrawing(ball_field(cameras), server.steps())
            want = outline_middle(cameras[i])
            picture = finished(drawing.draw(window, "color", WHITE))
            assert picture.shape == (240, 320, 3)
            torch.testing.assert_close(red_middle(picture), want, atol=0.1, rtol=0)
            for width, height in drawing.sizes(320, 240)[:1] + ((160, 120),):
                small = finished(drawing.draw(window.resized(width, height), "color", WHITE))
                torch.testing.assert_close(red_middle(small) * 320 / width, want, atol=0.2 * 320 / width, rtol=0)
            splats = draw_layer(shown[0], window, "color", server.rasterizer(), WHITE)
            torch.testing.assert_close(red_middle(splats), want, atol=0.3, rtol=0)
            assert float(((splats - picture).abs().mean(-1) > 0.3).float().mean()) < 0.25 * float((picture[..., 1] < 0.5).float().mean())


def test_the_field_s_layers_are_what_they_are_called(cameras: Cameras) -> None:
    drawing, camera = FieldDrawing(ball_field(cameras)), cameras[0]
    u, v = (int(x) for x in outline_middle(camera))
    opacity = finished(drawing.draw(camera, "opacity", WHITE))
    assert float(opacity[v, u].min()) > 0.99 and float(opacity[10, 10].max()) < 0.01
    normal = finished(drawing.draw(camera, "normal", WHITE))
    assert float(normal[v, u, 2]) > 0.9, "blue is towards the viewer"
    assert float(normal[v, u + 14, 0] - normal[v, u - 14, 0]) > 0.5, "red is to the right"
    assert float(finished(drawing.draw(camera, "depth", WHITE))[v, u].max()) > 0.3
    torch.testing.assert_close(finished(drawing.draw(camera, "color", (0.2, 0.3, 0.4)))[10, 10], torch.tensor([0.2, 0.3, 0.4]))


@pytest.mark.parametrize("window", [(1280, 720), (390, 844), (1920, 1080), (60, 40)])
@pytest.mark.parametrize("shrink", [1, 4])
def test_each_picture_is_twice_the_last(cameras: Cameras, window: tuple[int, int], shrink: int) -> None:
    sizes = FieldDrawing(ball_field(cameras), shrink=shrink).sizes(*window)
    assert sizes[-1] == (round(window[0] / shrink), round(window[1] / shrink))
    for a, b in zip(sizes, sizes[1:], strict=False):
        assert abs(2 * a[0] - b[0]) <= 1 and abs(2 * a[1] - b[1]) <= 1
    assert sizes[0][0] * sizes[0][1] <= 4.1 * COARSE_PIXELS and (len(sizes) == 1 or sizes[0][0] * sizes[0][1] >= 0.9 * COARSE_PIXELS)


class Paced:
    """A drawing in pieces, that are made one by one as they are let through."""

    def __init__(self, pieces: int = 3) -> None:
        self.pieces, self.made = pieces, []
        self.go = threading.Semaphore(0)

    def sizes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        return (width // 4, height // 4), (width // 2, height // 2), (width, height)

    def draw(self, camera: Cameras, layer: str, background: Any) -> Iterator[Tensor | None]:
        for _ in range(1 if camera.width < 100 else self.pieces):
            assert self.go.acquire(timeout=20)
            self.made.append(camera.width)
            yield None
        yield torch.zeros(camera.height, camera.width, 3)


@pytest.fixture
def painter() -> Iterator[Painter]:
    painter = Painter()
    yield painter
    painter.close()
    assert not painter._thread.is_alive()


def test_coarse_to_fine_and_given_up_on_movement(painter: Painter, cameras: Cameras) -> None:
    drawing, got = Paced(), []

    def wish(name: str) -> Wish:
        return Wish(drawing, cameras[0], "color", WHITE, lambda picture, full: got.append((name, picture.shape[1], full)))

    painter.wish(1, wish("a"))
    drawing.go.release(1 + 3 + 1)  # the first two pictures, and a third of the last
    wait_for(lambda: drawing.made == [80, 160, 160, 160, 320])
    assert got == [("a", 80, False), ("a", 160, False)]
    painter.wish(1, wish("b"))  # moved: two thirds are never drawn but for the piece under way
    drawing.go.release(1 + 1 + 3 + 3)
    wait_for(lambda: not painter.waiting)
    assert got[2:] == [("b", 80, False), ("b", 160, False), ("b", 320, True)]
    assert drawing.made[5:] == [320, 80, *[160] * 3, *[320] * 3]


def test_whoever_moves_is_served_first_and_nobody_waits_for_ever(painter: Painter, cameras: Cameras) -> None:
    slow, quick, got = Paced(6), Paced(), []
    painter.wish(1, Wish(slow, cameras[0], "color", WHITE, lambda picture, full: got.append(("rests", picture.shape[1]))))
    slow.go.release(1 + 6 + 1)
    wait_for(lambda: len(slow.made) == 8)  # the painter waits in the second piece of the last
    moves = lambda: Wish(quick, cameras[1], "color", WHITE, lambda picture, full: got.append(("moves", picture.shape[1])))  # noqa: E731
    painter.wish(2, moves())
    quick.go.release(1)
    slow.go.release(1)
    wait_for(lambda: ("moves", 80) in got)
    assert ("rests", 320) not in got
    quick.go.release(100)
    for _ in range(12):  # it goes on moving: each time a first picture, and between them a piece for the other
        painter.wish(2, moves())
        slow.go.release(1)
        if ("rests", 320) in got:
            break
        threading.Event().wait(0.02)
    wait_for(lambda: ("rests", 320) in got, 10)


def test_a_field_that_goes_on_learning_is_drawn_to_the_end(painter: Painter, cameras: Cameras) -> None:
    drawing, got = Paced(), []

    def wish(name: str, coarse: bool) -> Wish:
        return Wish(drawing, cameras[0], "color", WHITE, lambda picture, full: got.append((name, picture.shape[1])), coarse)

    painter.wish(1, wish("first", True))
    painter.then(1, wish("old", False))
    painter.then(1, wish("new", False))
    drawing.go.release(1 + 3 + 3 + 3)
    wait_for(lambda: not painter.waiting)
    assert got == [("first", 80), ("first", 160), ("first", 320), ("new", 320)]


def test_each_visitor_gets_his_own_view(server: SceneServer, cameras: Cameras, monkeypatch: pytest.MonkeyPatch) -> None:
    server.set_field(ball_field(cameras))
    visitors = visit(server, monkeypatch, cameras[0], cameras[1])
    server._look._layer.value = "field"
    for i, visitor in enumerate(visitors):
        wait_for(lambda visitor=visitor: visitor.pictures and visitor.pictures[-1].shape[1] == 320, 30)
        assert [p.shape[1] for p in visitor.pictures] == [160, 320]
        torch.testing.assert_close(red_middle(torch.from_numpy(visitor.pictures[-1]).float()), outline_middle(cameras[i]), atol=0.3, rtol=0)
    server._look._finest.value = "half"
    wait_for(lambda: all(v.pictures[-1].shape[1] == 160 for v in visitors), 30)
    server._look._layer.value = "splats, by the browser"
    wait_for(lambda: not server._look._painter.waiting, 30)
    seen = [len(v.pictures) for v in visitors]
    server._look.moved(visitors[0])
    server.set_field(ball_field(cameras))
    threading.Event().wait(2 * REST)
    assert [len(v.pictures) for v in visitors] == seen and not server._look._painter.waiting, "nobody looks at the field: nothing is drawn"


def test_a_field_that_learns_is_asked_for_by_those_who_look(server: SceneServer, cameras: Cameras, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    field = ball_field(cameras)

    def learned() -> FieldScene:
        asked.append(1.0)
        return field

    (visitor,) = visit(server, monkeypatch, cameras[0])
    server.set_field(field)
    server.set_field(learned)
    assert not asked, "nobody looks at it"
    server._look._layer.value = "field"
    wait_for(lambda: visitor.pictures and visitor.pictures[-1].shape[1] == 320 and not server._look._painter.waiting, 30)
    for _ in range(3):
        server.set_field(learned)
    assert len(asked) == 1
    wait_for(lambda: [p.shape[1] for p in visitor.pictures] == [160, 320, 320], 30)  # no coarse one in between
    server.set_field(learned)
    assert len(asked) == 1, "too soon"
    server._look._next_field = 0.0
    wait_for(lambda: not server._look._painter.waiting)
    server.set_field(learned)
    assert len(asked) == 2


def test_no_field_no_choice_and_no_thread_is_left(server: SceneServer, cameras: Cameras) -> None:
    look = server._look
    assert look._layer.options == tuple(LAYERS) and not look._finest.visible
    for _ in range(2 * len(LAYERS)):
        look.next_layer()
    assert not look.of_field
    server.set_field(ball_field(cameras))
    server.set_field(ball_field(cameras))
    assert look._layer.options == (*LAYERS, *FIELD_LAYERS) and not look._finest.visible
    thread = look._painter._thread
    assert thread.is_alive()
    server.close()
    assert not thread.is_alive() and not [t for t in threading.enumerate() if t.name == "handful-painter"]


def test_a_damaged_field_is_told_in_one_sentence(cameras: Cameras, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from handful.pipelines.nerf.config import GridConfig
    from handful.pipelines.nerf.grids import make_grid

    folder = SceneFolder(tmp_path, SplatScene(ball_splats(), cameras, ("0", "1"), get_rasterizer("auto", "cpu"), WHITE), {})
    assert field_of(folder, Console()) is None and capsys.readouterr().err == "", "no field, no word"
    grid = make_grid(GridConfig(side=8, channels=16, hidden=16), torch.Generator().manual_seed(0), None)
    whole = replace(ball_field(cameras), field=RadianceField(grid, Decoder(grid.features, 16, 0)).ready())
    save_field(tmp_path / FIELD, whole)
    assert field_of(folder, Console()) is not None and capsys.readouterr().err == ""
    content = (tmp_path / FIELD).read_bytes()
    for broken in (content[:-100], content[:50], b"no field", b""):
        write_bytes(tmp_path / FIELD, broken)
        assert field_of(folder, Console()) is None
        said = capsys.readouterr().err
        assert "field.safetensors" in said and "the page shows the splats alone" in said and "Traceback" not in said and said.count("\n") == 1


def test_the_field_in_a_browser(server: SceneServer, cameras: Cameras, browser: Any) -> None:
    """Chosen in the menu, the picture is the field's, from where the browser stands, and so it is from elsewhere; back again it is the splats'."""
    server.set_field(ball_field(cameras))
    server._photos.show.value = False
    page = browser.new_page(viewport={"width": 480, "height": 360})
    page.set_default_timeout(120_000)
    page.goto(server.url)
    client = wait_for(lambda: list(server.browsers().values()))[0]
    wait_for(lambda: server.camera_of(client) is not None and np.linalg.norm(client.camera.position - server.photos[0].position) < 1e-2)
    page.get_by_text("Photos", exact=True).last.click()  # folded, so that the menu is in sight

    def field_now() -> Tensor:
        """By the same drawing, from where the browser stands."""
        window = server.camera_of(client)
        assert window is not None
        return finished(FieldDrawing(ball_field(cameras)).draw(window.resized(480, 360), "color", WHITE))

    def choose(name: str) -> None:
        page.get_by_label("Show", exact=True).first.click()
        page.get_by_role("option", name=name, exact=True).click()

    choose("field")
    wait_for(lambda: psnr(canvas(page), field_now()) > 30, 60)
    torch.testing.assert_close(red_middle(canvas(page)), outline_middle(cameras[0].resized(480, 360)), atol=0.5, rtol=0)
    server._photos.go(client, server.photos[1].name)
    wait_for(lambda: np.linalg.norm(client.camera.position - server.photos[1].position) < 1e-2)
    wait_for(lambda: psnr(canvas(page), field_now()) > 30, 60)
    choose("splats, by the browser")
    wait_for(lambda: server._look.by_browser)
    field = field_now()

    def splats_are_back() -> bool:  # the same ball, but not the same picture
        seen = canvas(page)
        return 10 < psnr(seen, field) < 29.5 and float((red_middle(seen) - outline_middle(cameras[1].resized(480, 360))).abs().max()) < 1.5

    wait_for(splats_are_back, 60)
    page.close()
