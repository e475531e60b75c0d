"""The page at work in a real browser, with a scene that was reconstructed: looked at in layers and against its photos, edited, flown through, exported."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handful.data.atomic import write_bytes
from handful.data.edits_file import read_edits
from handful.data.image_io import encode_png
from handful.data.nerfstudio_json import write_transforms
from handful.data.ply import read_gaussians
from handful.data.synthetic import demo_capture
from handful.pipelines.cli.export import Export
from handful.pipelines.cli.render import RenderCommand
from handful.pipelines.config import override
from handful.pipelines.job import reconstruct
from handful.pipelines.keeper import FolderKeeper
from handful.pipelines.methods import method_config
from handful.pipelines.path_file import load_path
from handful.pipelines.scene_folder import load_scene
from handful.recon.edits import CropBox, DropFaint, Move
from handful.recon.errors import HandfulError
from handful.viewer.layers import draw_layer
from handful.viewer.server import SceneServer
from handful.viewer.status import LiveInfo
from PIL import Image

from .pages import canvas, psnr, wait_for

SIZE = (480, 360)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos of the demo scene with cameras, reconstructed in seconds."""
    photos = tmp_path_factory.mktemp("photos")
    demo = demo_capture(n=3, held_out=1, width=240, height=180, supersample=1)
    names = [f"images/{view.name}" for view in demo.photos.views]
    for view, name in zip(demo.photos.views, names, strict=True):
        write_bytes(photos / name, encode_png(view.image.load()))
    write_transforms(photos / "transforms.json", demo.photo_cameras, names)
    out = tmp_path_factory.mktemp("scene") / "out"
    reconstruct(photos, out, config=override(method_config("handful"), ["optim.steps=250", "seed.budget=15000", "seed.extra=3000"]))
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def serve(folder: Path, port: int = 18600) -> SceneServer:
    """As `handful view` does."""
    opened = load_scene(folder)
    server = SceneServer(port=port, announce=None, keeper=FolderKeeper(folder))
    server.set_edits(opened.edits())
    server.set_photos(opened.cameras, opened.images(), opened.names)
    server.set_background(opened.scene.background)
    server.set_gaussians(opened.gaussians)
    return server


@pytest.fixture
def server(folder: Path) -> Iterator[SceneServer]:
    with serve(folder) as s:
        yield s


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
    page.set_default_timeout(120_000)
    yield page
    page.close()


def come(server: SceneServer, page: Any, seen: int = 1) -> Any:
    """Opens the page; returns its browser once it stands at the first photo."""
    page.goto(server.url)
    client = wait_for(lambda: [c for i, c in sorted(server.browsers().items())][seen - 1 :])[0]
    wait_for(lambda: server.camera_of(client) is not None and np.linalg.norm(client.camera.position - server.photos[0].position) < 1e-2)
    return client


def drawn(server: SceneServer, client: Any, layer: str) -> torch.Tensor:
    """The same by our own rasterizer, from where the browser stands."""
    shown, camera = server.shown(), server.camera_of(client)
    assert shown is not None and camera is not None
    return draw_layer(shown[0], camera.resized(*SIZE), layer, server.rasterizer(), server.background)


def choose(page: Any, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).first.click()
    page.get_by_role("option", name=option, exact=True).click()


def unfold(page: Any, *names: str) -> None:
    for name in names:
        page.get_by_text(name, exact=True).last.click()


def press(page: Any, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).click()


def test_layers_and_photos(server: SceneServer, page: Any) -> None:
    client = come(server, page)
    server._photos.show.value = False
    best = wait_for(lambda: (p := psnr(canvas(page), drawn(server, client, "color"))) > 25 and p, 90)
    print(f"splats by the browser: {best:.1f} dB")
    for name, layer in (("picture", "color"), ("depth", "depth"), ("normals", "normal"), ("opacity", "opacity")):
        choose(page, "Show", name)
        best = wait_for(lambda layer=layer: (p := psnr(canvas(page), drawn(server, client, layer))) > 30 and p)
        print(f"{name}: {best:.1f} dB")
    # another place: a new picture follows
    server._photos.go(client, server.photos[2].name)
    wait_for(lambda: np.linalg.norm(client.camera.position - server.photos[2].position) < 1e-2)
    wait_for(lambda: psnr(canvas(page), drawn(server, client, "opacity")) > 30)
    choose(page, "Show", "seen by how many photos")
    wait_for(lambda: psnr(canvas(page), drawn(server, client, "opacity")) < 15)
    assert "its depth is a guess" in page.inner_text("body")
    choose(page, "Show", "splats, by the browser")
    wait_for(lambda: psnr(canvas(page), drawn(server, client, "color")) > 25)

    # the photo over the picture: from the left up to the line, then whole
    photo = torch.from_numpy(server.photos[2].picture).float() / 255
    photo = torch.nn.functional.interpolate(photo.permute(2, 0, 1)[None], (SIZE[1], SIZE[0]), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    server._look._wipe.value = 0.5
    server._look._refresh_wipes()
    half = SIZE[0] // 2
    rendered = psnr(drawn(server, client, "color")[:, : half - 8], photo[:, : half - 8])
    wait_for(lambda: psnr(canvas(page)[:, : half - 8], photo[:, : half - 8]) > max(28, rendered + 2))  # but for how each enlarges it
    assert psnr(canvas(page)[:, half + 8 :], drawn(server, client, "color")[:, half + 8 :]) > 25
    before = canvas(page)
    choose(page, "Compare with", "the difference")
    wait_for(lambda: float((canvas(page)[:, : half - 8] - before[:, : half - 8]).abs().mean()) > 0.1)
    assert psnr(canvas(page)[:, half + 8 :], before[:, half + 8 :]) > 35
    server._look._wipe.value = 0.0
    server._look._refresh_wipes()
    wait_for(lambda: psnr(canvas(page), drawn(server, client, "color")) > 25)


def test_a_narrow_screen_shows_the_scene(server: SceneServer, page: Any) -> None:
    """The sheet of controls opens at a third of a telephone's height, and all of it can be reached by scrolling."""
    page.set_viewport_size({"width": 390, "height": 800})
    come(server, page)
    sheet = page.locator(".mantine-Paper-root").filter(has_text="Camera path").first  # the outermost
    assert 100 < sheet.bounding_box()["height"] < 0.34 * 800
    press(page, "Help")
    page.get_by_text("What can be done here").wait_for()


def test_a_path_is_made_saved_and_filmed(server: SceneServer, folder: Path, page: Any, tmp_path: Path) -> None:
    client = come(server, page)
    unfold(page, "Photos", "Look", "Camera path")
    stood = []
    for photo in server.photos[:2]:
        server._photos.go(client, photo.name)
        wait_for(lambda photo=photo: np.linalg.norm(client.camera.position - photo.position) < 1e-3)
        time.sleep(0.3)
        stood.append(server.camera_of(client))
        press(page, "Add keyframe here")
        wait_for(lambda: f"{len(stood)} keyframe" in page.inner_text("body"))
    press(page, "Save the path")
    wait_for((folder / "path.json").exists)
    path = load_path(folder / "path.json")
    assert len(path.cameras) == 2 and path.times.tolist() == [0.0, 2.0]
    torch.testing.assert_close(path.cameras.centers, torch.cat([c.centers for c in stood]), atol=1e-5, rtol=1e-4)
    RenderCommand(scene=folder, out=tmp_path / "film", path=str(folder / "path.json"), frames=3, quiet=True).run()
    frames = sorted((tmp_path / "film").glob("*.png"))
    assert len(frames) == 3
    first = torch.from_numpy(np.asarray(Image.open(frames[0])).astype(np.float32) / 255)
    server._photos.go(client, server.photos[0].name)
    wait_for(lambda: np.linalg.norm(client.camera.position - server.photos[0].position) < 1e-3)
    assert first.shape == (SIZE[1], SIZE[0], 3) and psnr(first, drawn(server, client, "color")) > 40
    # dragged in time, made slower, closed
    server._path._time.value = 3.0
    server._path._retime()
    assert [t for t, _ in server._path._keys] == [0.0, 3.0]
    page.get_by_label("Back to the start").first.check()
    wait_for(lambda: server._path.path().loop)
    # and it is there when the page is opened again, and when the server is started again
    page.reload()
    unfold(page, "Camera path")
    wait_for(lambda: "2 keyframes, 6.0 s" in page.inner_text("body"))
    server.close()
    with serve(folder, 18610) as again:
        assert [t for t, _ in again._path._keys] == [0.0, 2.0]


def test_a_crop_changes_what_is_exported_and_nothing_else(server: SceneServer, folder: Path, page: Any, tmp_path: Path) -> None:
    client = come(server, page)
    scene = (folder / "scene.ply").read_bytes()
    whole = read_gaussians(folder / "scene.ply")
    unfold(page, "Photos", "Look", "Edit", "Crop")
    page.get_by_label("Show the box").first.check()
    wait_for(lambda: server._edit._box is not None)
    press(page, "Keep what is inside")
    (step,) = wait_for(lambda: read_edits(folder / "edits.json"))
    assert isinstance(step, CropBox)
    inside = ((whole.means - torch.tensor(step.center)).abs() <= torch.tensor(step.half)).all(-1)
    assert 0.1 < float(inside.float().mean()) < 0.9
    wait_for(lambda: server._splats.buffer.shape[0] <= int(inside.sum()))
    wait_for(lambda: psnr(canvas(page), drawn(server, client, "color")) > 25)
    Export(scene=folder, out=tmp_path / "cut.ply", quiet=True).run()
    assert torch.equal(read_gaussians(tmp_path / "cut.ply").means, whole.means[inside])
    Export(scene=folder, out=tmp_path / "all.ply", unedited=True, quiet=True).run()
    assert len(read_gaussians(tmp_path / "all.ply")) == len(whole)
    # by the page itself, to the browser and beside the scene
    unfold(page, "Edit", "Take along")
    with page.expect_download() as download:
        press(page, "Export")
    assert torch.equal(read_gaussians(Path(download.value.path()).rename(tmp_path / "taken.ply")).means, whole.means[inside])
    assert (folder / "exports/scene.ply").exists()
    # undone and done again
    unfold(page, "Take along", "Edit")
    press(page, "Undo")
    wait_for(lambda: not (folder / "edits.json").exists())
    wait_for(lambda: len(server.shown()[0]) == len(whole))
    press(page, "Redo")
    wait_for(lambda: read_edits(folder / "edits.json") == (step,))
    assert (folder / "scene.ply").read_bytes() == scene


def test_two_pages_at_once_and_a_server_that_comes_back(folder: Path, browser: Any) -> None:
    pages = [browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}) for _ in range(2)]
    with serve(folder, 18620) as server:
        clients = [come(server, page, i + 1) for i, page in enumerate(pages)]
        server._photos.show.value = False
        server._photos.go(clients[1], server.photos[1].name)
        choose(pages[0], "Show", "depth")  # for both: choices are everybody's, places each one's own
        for page, client in zip(pages, clients, strict=True):
            wait_for(lambda page=page, client=client: psnr(canvas(page), drawn(server, client, "depth")) > 28, 90)
        assert psnr(canvas(pages[0]), canvas(pages[1])) < 25
        port = server.port
    with serve(folder, port) as again:
        assert again.port == port
        wait_for(lambda: len(again.browsers()) == 2, 90)
        again._photos.show.value = False
        client = next(iter(again.browsers().values()))
        wait_for(lambda: any(psnr(canvas(page), drawn(again, client, "color")) > 25 for page in pages), 90)
    for page in pages:
        page.close()


def test_who_looks_stays_where_he_stands_when_the_world_moves(server: SceneServer, page: Any) -> None:
    """Scaled, and turned to another up: the picture stays."""
    client = come(server, page)
    server._photos.show.value = False
    with client.atomic():
        client.camera.position = server.photos[1].position * 1.1
        client.camera.look_at = server.photos[1].look_at
    wait_for(lambda: psnr(canvas(page), drawn(server, client, "color")) > 25)
    before = canvas(page)
    for steps in ([Move(scale=3.0)], [Move((0.9, 0.1, 0.3, -0.2), (3.0, 1.0, -2.0), 3.0, "turned", upright=True)], []):
        server.edit(steps)
        wait_for(lambda: psnr(canvas(page), before) > 25)


def test_two_clicked_points_and_their_length(server: SceneServer, folder: Path, page: Any) -> None:
    """Clicked on the picture; what is measured is the distance of the places that the depth there says."""
    page.set_viewport_size({"width": 800, "height": 700})
    client = come(server, page)
    server._photos.show.value = False
    unfold(page, "Photos", "Look", "Edit", "Up and size")
    press(page, "Click two points to measure")
    wait_for(lambda: server._edit._picker.active)
    page.wait_for_selector("canvas[data-engine][style*='cursor: pointer']", state="attached")  # it was asked to listen, and does so from here on
    camera = server.camera_of(client)
    shown = server.shown()
    out = server.rasterizer().render(shown[0], camera.to(dtype=torch.float32))
    places = []
    for x, y in ((250, 380), (330, 480)):
        page.mouse.click(x, y)
        wait_for(lambda n=len(places): len(server._edit._picker._marks) > n or server._edit._scale.visible)
        places.append(camera.unproject(torch.tensor([[[x + 0.0, y + 0.0]]]).double(), out.depth[:, y, x, None].double())[0, 0])
    wait_for(lambda: server._edit._scale.visible)
    want = float((places[1] - places[0]).norm())
    assert server._edit._length.value == pytest.approx(want, rel=0.05)
    server._edit._length.value = 7.0
    press(page, "Set their distance")
    (step,) = wait_for(lambda: read_edits(folder / "edits.json"))
    assert isinstance(step, Move) and step.scale == pytest.approx(7.0 / want, rel=0.05)


def test_the_link_restores_the_view(server: SceneServer, browser: Any, page: Any) -> None:
    client = come(server, page)
    server._photos.show.value = False
    there = server.photos[1].position * 1.2
    with client.atomic():
        client.camera.position = there
        client.camera.look_at = server.photos[1].look_at
        client.camera.fov = 0.6
    # the page itself stands there: what it said before it did has all come
    wait_for(lambda: psnr(canvas(page), drawn(server, client, "color")) > 25 and np.abs(client.camera.position - there).max() < 1e-3)
    wxyz, link = np.asarray(client.camera.wxyz), server._link(client)
    other = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
    other.goto(link)
    second = wait_for(lambda: [c for i, c in sorted(server.browsers().items())][1:])[0]
    wait_for(lambda: server.camera_of(second) is not None)
    wait_for(lambda: np.abs(second.camera.position - there).max() < 1e-2 and abs(second.camera.fov - 0.6) < 1e-2)
    np.testing.assert_allclose(second.camera.wxyz, wxyz, atol=2e-2)
    other.close()


def test_a_training_is_paused_stepped_and_stopped(page: Any) -> None:
    stopped = []
    torch.manual_seed(0)
    from handful.recon.gaussians import Gaussians

    g = Gaussians(torch.randn(50, 3), torch.randn(50, 4), torch.full((50, 3), -2.0), torch.zeros(50), torch.randn(50, 1, 3))
    with SceneServer(port=18640, announce=None, on_stop=lambda: stopped.append(True)) as server:
        page.set_viewport_size({"width": 800, "height": 700})
        page.goto(server.url)
        wait_for(lambda: len(server.browsers()) == 1)
        for step in range(1, 30):
            server._next_status = 0.0
            server.update_gaussians(g, step, LiveInfo(100, 10 + step / 10, 9.0, loss=1 / step))
        wait_for(lambda: "step 29 of 100" in page.inner_text("body"))
        wait_for(lambda: page.locator(".uplot").count() == 2)
        assert server.live.gate() == 0.0
        press(page, "Pause")
        wait_for(lambda: server.live.paused)
        import threading

        passed: list[float] = []

        def train() -> None:
            for _ in range(3):
                passed.append(server.live.gate())

        thread = threading.Thread(target=train, daemon=True)
        thread.start()
        time.sleep(0.5)
        assert not passed
        press(page, "One step")
        wait_for(lambda: len(passed) == 1)
        time.sleep(0.3)
        assert len(passed) == 1 and passed[0] > 0.4
        press(page, "Go on")
        thread.join(10)
        assert len(passed) == 3 and not server.live.paused
        press(page, "Stop and save")
        wait_for(lambda: stopped and server.live.stopped)


# -- without a browser -----------------------------------------------------------------------------------------------------------


def test_moving_the_world_moves_everything_along(server: SceneServer) -> None:
    """Photos, path and pictures go with it; undoing it brings everything back."""
    before = server.shown()
    assert before is not None
    server._path._keys = [(0.0, before[1][0].to(dtype=torch.float64))]
    first = draw_layer(before[0], before[1][0], "color", server.rasterizer(), server.background)
    server.edit([Move((0.9, 0.1, 0.3, -0.2), (3.0, 1.0, -2.0), 4.0, "turned", upright=True)])
    after = server.shown()
    assert after is not None and not torch.allclose(after[1].centers, before[1].centers, atol=0.1)
    assert psnr(draw_layer(after[0], after[1][0], "color", server.rasterizer(), server.background), first) > 50
    torch.testing.assert_close(server._path._keys[0][1].centers.float(), after[1][0].centers, atol=1e-3, rtol=1e-4)
    server.edit([])
    torch.testing.assert_close(server._path._keys[0][1].centers.float(), before[1][0].centers, atol=1e-3, rtol=1e-3)
    assert server.shown()[1] is not None and torch.equal(server.shown()[1].centers, before[1].centers)


def test_edits_that_cannot_be_kept_are_not_made(server: SceneServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(steps: object) -> None:
        raise HandfulError("the disk is full")

    monkeypatch.setattr(server._keeper, "save_edits", full)
    with pytest.raises(HandfulError):
        server.edit([DropFaint(0.5)])
    assert server.steps() == ()


def test_edits_of_before_are_shown(folder: Path) -> None:
    with serve(folder, 18650) as first:
        first.edit([DropFaint(0.3), Move(scale=2.0)])
    with serve(folder, 18650) as second:
        whole = read_gaussians(folder / "scene.ply")
        assert len(second.shown()[0]) == int((whole.opacities >= 0.3).sum()) and second._splats.buffer.shape[0] == len(second.shown()[0])
        assert "2 edits" in second._shell.status and "drop what is fainter" in second._edit._list.content
