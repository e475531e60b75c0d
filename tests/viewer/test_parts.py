"""The page's parts without a browser: who is served first, what is drawn, what a click hits, which way is up."""

from __future__ import annotations

import html
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from handful.data.ply import read_gaussians
from handful.data.splats import read_splats
from handful.pipelines.keeper import FolderKeeper
from handful.pipelines.path_file import load_path
from handful.recon.camera import Cameras
from handful.recon.edits import DropFaint, DropFar, DropLarge, DropLoose, Move, apply_edits
from handful.recon.errors import HandfulError
from handful.recon.framing import look_at
from handful.recon.gaussians import Gaussians
from handful.recon.raster.reference import ReferenceRasterizer
from handful.recon.se3 import matrix_from_quat
from handful.recon.sh import rgb_from_sh_dc, sh_dc_from_rgb
from handful.recon.sightings import COLORS, count_sightings, painted_by_sightings
from handful.viewer.edit_panel import upright
from handful.viewer.layers import COARSE, SplatDrawing, draw_layer
from handful.viewer.painter import Painter, Wish, window_camera
from handful.viewer.path_panel import PathPanel
from handful.viewer.photos import Photo
from handful.viewer.picker import hit
from handful.viewer.plain import plain
from handful.viewer.server import SceneServer
from handful.viewer.splats import ViewFrame
from handful.viewer.wipe import Wipe, difference


def wall(z: float, n: int = 40, size: float = 0.05) -> Gaussians:
    """A wall of small opaque splats across the z axis, 2 x 2 units."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    means = torch.stack([x.flatten(), y.flatten(), torch.full((n * n,), z)], 1)
    return Gaussians(
        means, torch.tensor([1.0, 0, 0, 0]).expand(n * n, 4).clone(), torch.full((n * n, 3), size).log(), torch.full((n * n,), 6.0),
        sh_dc_from_rgb(torch.full((n * n, 3), 0.5))[:, None],
    )  # fmt: skip


def camera(eye: tuple[float, float, float], target: tuple[float, float, float] = (0.0, 0, 0), size: int = 64) -> Cameras:
    K = torch.tensor([[[size * 1.0, 0, size / 2], [0, size * 1.0, size / 2], [0, 0, 1]]])
    return Cameras(look_at(torch.tensor([eye]), torch.tensor([target]), torch.tensor([0.0, -1, 0])), K, size, size)


def together(*cameras: Cameras) -> Cameras:
    return Cameras(torch.cat([c.cam_from_world for c in cameras]), torch.cat([c.K for c in cameras]), cameras[0].width, cameras[0].height)


# -- drawing ---------------------------------------------------------------------------------------------------------------------


def test_a_window_is_the_camera_it_came_from() -> None:
    frame, c = ViewFrame(2.5, (1.0, -2.0, 0.5)), camera((0.3, 0.4, -3.0)).to(dtype=torch.float64)
    R = c.cam_from_world[0, :3, :3]
    from handful.recon.se3 import quat_from_matrix

    window = window_camera(
        quat_from_matrix(R.T.contiguous()).numpy(), frame.apply(c.centers)[0].numpy(), 2 * np.arctan(0.5), 64, 64, frame
    )
    torch.testing.assert_close(window.cam_from_world, c.cam_from_world)
    torch.testing.assert_close(window.K, c.K)


def test_layers_show_what_they_are_called() -> None:
    g, c, r = wall(1.0), camera((0.0, 0, -2)), ReferenceRasterizer()
    middle = {layer: draw_layer(g, c, layer, r, (1.0, 0.0, 0.0))[32, 32] for layer in ("color", "normal", "opacity")}
    torch.testing.assert_close(middle["color"], torch.full((3,), 0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(middle["opacity"], torch.ones(3), atol=0.02, rtol=0)
    assert draw_layer(g, c, "opacity", r, (1.0, 0.0, 0.0))[1, 1].max() < 0.05 and draw_layer(g, c, "color", r, (1.0, 0.0, 0.0))[1, 1, 0] > 0.9
    two = Gaussians.concatenate([wall(1.0)[:800], wall(6.0)])
    depth = draw_layer(two, c, "depth", r, (0.0, 0, 0))
    near, far = depth[32, 20], depth[32, 38]
    assert near[0] > near[2] and far[2] > far[0], "near is red, far is blue"


class Slow:
    """A rasterizer that takes its time and tells what it drew."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, float]] = []
        self.go, self.begun = threading.Event(), threading.Event()

    def render(self, gaussians: Gaussians, cameras: Cameras, options: Any) -> Any:
        self.begun.set()
        self.go.wait(10)
        self.sizes.append((cameras.width, float(cameras.K[0, 0, 0]) / cameras.width))
        h, w = cameras.height, cameras.width
        return SimpleNamespace(color=torch.zeros(1, h, w, 3), alpha=torch.ones(1, h, w), depth=torch.ones(1, h, w), normal=None)


def test_the_newest_wish_wins_and_coarse_pictures_come_first() -> None:
    slow = Slow()
    painter = Painter()
    got: list[tuple[str, bool, int]] = []

    def wish(who: str, focal: float) -> Wish:
        c = camera((0.0, 0, -2))
        K = c.K.clone()
        K[:, 0, 0] = focal * 64
        drawing = SplatDrawing(wall(1.0, 3), slow)  # pyright: ignore[reportArgumentType]
        return Wish(drawing, Cameras(c.cam_from_world, K, 64, 64), "color", (0.0, 0, 0), lambda p, full: got.append((who, full, p.shape[1])))

    try:
        painter.wish(1, wish("a old", 1.0))
        assert slow.begun.wait(10)
        painter.wish(1, wish("a older", 2.0))
        painter.wish(1, wish("a", 3.0))
        painter.wish(2, wish("b", 4.0))
        painter.wish(3, wish("gone", 5.0))
        painter.forget(3)
        slow.go.set()
        end = time.monotonic() + 10
        while sum(full for _, full, _ in got) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        painter.close()
    assert [(who, full) for who, full, _ in got] == [("a old", False), ("a", False), ("b", False), ("a", True), ("b", True)]
    assert [w for _, _, w in got] == [64 // COARSE] * 3 + [64] * 2
    assert [round(f) for _, f in slow.sizes] == [1, 3, 4, 3, 4]


def test_a_browser_that_fails_does_not_end_the_painter(caplog: pytest.LogCaptureFixture) -> None:
    painter, drawing = Painter(), SplatDrawing(wall(1.0, 3), ReferenceRasterizer())
    done = threading.Event()

    def fails(picture: np.ndarray, full: bool) -> None:
        raise RuntimeError("gone")

    try:
        painter.wish(1, Wish(drawing, camera((0.0, 0, -2)), "color", (0.0, 0, 0), fails))
        painter.wish(2, Wish(drawing, camera((0.0, 0, -2)), "color", (0.0, 0, 0), lambda p, full: done.set() if full else None))
        assert done.wait(10)
    finally:
        painter.close()
    assert "could not draw for browser 1" in caplog.text


def test_difference_has_its_scale() -> None:
    photo = np.full((4, 6, 3), 100, np.uint8)
    render = photo.copy()
    render[:, 2:4] += 26  # a tenth
    render[:, 4:] += 80
    shown = difference(photo, render) / 255.0
    assert shown[0, 0, 2] > shown[0, 0, 1] and shown[0, 2, 1] > 0.8 and shown[0, 5, 0] > 0.5 > shown[0, 5, 1]


# -- what photos vouch for -------------------------------------------------------------------------------------------------------


def test_sightings_count_photos_that_see_it() -> None:
    """A wall with another behind it: the left photo sees the front alone, the right one looks past it at the one behind, too."""
    front, behind, aside = wall(0.0), wall(3.0), wall(0.0)
    aside = Gaussians(aside.means + torch.tensor([50.0, 0, 0]), *(getattr(aside, f) for f in ("quats_wxyz", "log_scales", "logit_opacities", "sh")))
    g = Gaussians.concatenate([front, behind, aside])
    cameras = together(camera((0.0, 0, -3)), camera((0.1, 0, -3)), camera((0.0, 0, 8.0), (0.0, 0, 3)))
    n = len(front)
    count = count_sightings(g, cameras, ReferenceRasterizer())
    inner = (front.means[:, :2].abs() < 0.7).all(-1)
    assert (count[:n][inner] == 2).all() and (count[n : 2 * n][inner] == 1).all() and (count[2 * n :] == 0).all()
    painted = rgb_from_sh_dc(painted_by_sightings(g, count).sh[:, 0])
    for number, rows in ((2, slice(0, n)), (1, slice(n, 2 * n)), (0, slice(2 * n, None))):
        same = count[rows] == number
        torch.testing.assert_close(painted[rows][same], (torch.tensor(COLORS[number]) * 0.725).expand(int(same.sum()), 3))


def test_padding_sees_nothing() -> None:
    """The left half of the first picture is padding: what only it would show there is seen by one photo less."""
    g, cameras = wall(0.0), together(camera((0.0, 0, -3)), camera((0.1, 0, -3)))
    extent = torch.ones(64, 64, dtype=torch.bool)
    extent[:, :32] = False
    before, after = (count_sightings(g, cameras, ReferenceRasterizer(), extents) for extents in ((), (extent, None)))
    u = cameras[0].project(g.means)[0][0, :, 0]
    left, right = (u > 1) & (u < cameras.width / 2 - 1), u > cameras.width / 2 + 1
    assert (before[left] - after[left] == 1).all() and left.sum() > 50 and torch.equal(before[right], after[right])
    photo = Photo.of(torch.rand(64, 64, 3), "a", extent=extent.float())
    assert photo.extent is not None and np.array_equal(photo.extent, extent.numpy())
    assert Photo.of(torch.rand(64, 64, 3), "a", extent=torch.ones(64, 64)).extent is None


def test_text_of_files_is_no_markup() -> None:
    shown = plain("<img src=x onerror=alert(1)> a*b*c [x](javascript:y) `z` _d_ & ä.jpg")
    assert not set("<>*[]()`_") & set(shown)
    assert html.unescape(shown) == "<img src=x onerror=alert(1)> a*b*c [x](javascript:y) `z` _d_ & ä.jpg"


# -- clicking --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), (0.2, -0.1, 1.0), (-0.3, 0.25, 1.0)])
def test_a_click_hits_the_surface_in_its_way(direction: tuple[float, float, float]) -> None:
    g = Gaussians.concatenate([wall(0.0), wall(3.0)])
    origin = torch.tensor([0.1, 0.0, -2.0])
    point = hit(g, origin, torch.tensor(direction), ReferenceRasterizer())
    assert point is not None
    want = origin + torch.tensor(direction) * 2
    torch.testing.assert_close(point.float(), want, atol=0.05, rtol=0)
    assert hit(g, origin, -torch.tensor(direction), ReferenceRasterizer()) is None


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, 0.0, -3.0), (0.3, -0.8, 0.2), (1.0, 0.0, 0.0)])
def test_upright_turns_up_to_z_and_puts_the_floor_at_0(up: tuple[float, float, float]) -> None:
    floor = torch.tensor([1.0, 2.0, 3.0])
    move = upright(torch.tensor(up), floor)
    s = move.similarity
    assert move.upright and abs(float(s.apply(floor.double())[2])) < 1e-9
    turned = matrix_from_quat(torch.tensor(move.wxyz, dtype=torch.float64)) @ torch.nn.functional.normalize(torch.tensor(up, dtype=torch.float64), dim=0)
    torch.testing.assert_close(turned, torch.tensor([0.0, 0, 1], dtype=torch.float64), atol=1e-6, rtol=0)


# -- panels ----------------------------------------------------------------------------------------------------------------------




@pytest.fixture
def server(tmp_path: Path) -> Any:
    g = Gaussians.concatenate([wall(0.0), wall(3.0)])
    opacity = g.logit_opacities.clone()
    opacity[:100] = -2.0
    g = Gaussians(g.means, g.quats_wxyz, g.log_scales, opacity, g.sh)
    with SceneServer(port=18760, announce=None, keeper=FolderKeeper(tmp_path)) as s:
        s.set_photos(together(camera((0.0, 0, -3)), camera((0.5, 0, -3))), torch.rand(2, 64, 64, 3), ["a.png", "b.png"])
        s.set_gaussians(g)
        yield s


def test_floaters_are_counted_before_they_go(server: SceneServer) -> None:
    panel, whole = server._edit, server.shown()
    assert whole is not None
    panel._faint.value = 0.5
    panel._tell_floaters()
    assert panel._would.content.startswith("**100** of 3,200")
    panel._large.value, panel._far.value, panel._loose.value = 0.5, 10.0, 200
    steps = panel._floaters()
    assert [type(s) for s in steps] == [DropFaint, DropLarge, DropFar, DropLoose]
    panel._drop(None)
    assert server.steps() == tuple(steps) and len(server.shown()[0]) == len(apply_edits(*whole, steps)[0])
    assert panel._floaters() == [] and "4. drop loose parts" in panel._list.content


def test_three_points_of_the_floor_and_a_known_length(server: SceneServer) -> None:
    """The wall at z = 0 is the floor: photos look at it from z < 0, so up is -z."""
    server._edit._floor(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]).double(), None)
    gaussians, cameras = server.shown()
    assert gaussians.means[:1600, 2].abs().max() < 1e-5 and (cameras.centers[:, 2] > 2.9).all()
    assert server._server.scene is not None and len(server.steps()) == 1
    server._edit._measured(torch.tensor([[0.0, 0, 0], [0, 2, 0]]).double(), None)
    assert server._edit._length.value == 2.0 and server._edit._scale.visible
    server._edit._length.value = 5.0
    server._edit._rescale(None)
    assert server.steps()[-1] == Move(scale=2.5, what="two points are 5 apart")
    server._edit.undo()
    server._edit.undo()
    assert server.steps() == () and torch.equal(server.shown()[0].means[:3], wall(0.0).means[:3])


def test_a_floor_without_photos_is_seen_from_above_too() -> None:
    """As with a file of splats: whoever clicks looks from above, in whatever order the points come."""
    eye = camera((0.0, 0, -3)).to(dtype=torch.float64)
    for order in ([0, 1, 2], [0, 2, 1]):
        with SceneServer(port=18780, announce=None) as s:
            s.set_gaussians(wall(0.0))
            s.camera_of = lambda client: eye  # pyright: ignore[reportAttributeAccessIssue]
            s._edit._floor(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]).double()[order], None)
            up = s.steps()[0].similarity.R[2]  # pyright: ignore[reportAttributeAccessIssue]
            torch.testing.assert_close(up, torch.tensor([0.0, 0, -1]).double(), atol=1e-6, rtol=0)


def test_what_was_measured_in_another_world_is_forgotten(server: SceneServer) -> None:
    server._edit.add([Move(scale=2.0)])
    server._edit._measured(torch.tensor([[0.0, 0, 0], [0, 2, 0]]).double(), None)
    server._edit.undo()
    assert not server._edit._scale.visible
    server._edit._rescale(None)
    assert server.steps() == ()


def test_undo_that_cannot_be_kept_changes_nothing(server: SceneServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server._edit.add([DropFaint(0.5)])
    kept = server._keeper.save_edits

    def full(steps: object) -> None:
        raise HandfulError("the disk is full")

    monkeypatch.setattr(server._keeper, "save_edits", full)
    with pytest.raises(HandfulError):
        server._edit.undo()
    assert server.steps() == (DropFaint(0.5),) and not server._edit._undone
    monkeypatch.setattr(server._keeper, "save_edits", kept)
    server._edit.undo()
    monkeypatch.setattr(server._keeper, "save_edits", full)
    with pytest.raises(HandfulError):
        server._edit.redo()
    assert server.steps() == () and len(server._edit._undone) == 1


def test_two_clicks_on_undo_undo_twice(server: SceneServer) -> None:
    steps = [DropFaint(0.1), Move(scale=2.0), DropFaint(0.2)]
    for step in steps:
        server._edit.add([step])
    for _ in range(2):
        threading.Thread(target=lambda: server.in_background(lambda: server._edit.undo(None))).start()
    end = time.monotonic() + 10
    while len(server.steps()) > 1 and time.monotonic() < end:
        time.sleep(0.02)
    server._actions.submit(lambda: None).result(10)
    assert server.steps() == (steps[0],) and server._edit._undone == [steps[2], steps[1]]


def test_a_saved_path_moves_with_the_world(server: SceneServer, tmp_path: Path) -> None:
    server._path._keys = [(0.0, camera((0.0, 0, -3)).to(dtype=torch.float64)), (2.0, camera((1.0, 0, -3)).to(dtype=torch.float64))]
    server._edit.add([Move(scale=2.0)])
    assert not (tmp_path / "path.json").exists(), "what was not saved is not"
    server._path.save(SimpleNamespace(add_notification=lambda *a, **k: None))
    server._edit.add([Move(scale=3.0)])
    torch.testing.assert_close(load_path(tmp_path / "path.json", server.steps()).cameras.centers[1], torch.tensor([6.0, 0, -18]).double(), atol=1e-4, rtol=0)
    server._edit.undo()
    torch.testing.assert_close(load_path(tmp_path / "path.json", server.steps()).cameras.centers[1], torch.tensor([2.0, 0, -6]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(load_path(tmp_path / "path.json").cameras.centers[1], torch.tensor([1.0, 0, -3]).double(), atol=1e-4, rtol=0)  # unedited


def test_path_and_edits_are_those_beside_the_scene_when_it_begins(server: SceneServer, tmp_path: Path) -> None:
    """A page may be open while another scene, with edits and a path of its own, still lies there and then makes room."""
    keeper = FolderKeeper(tmp_path)
    server._path._keys = [(0.0, camera((0.0, 0, -3)).to(dtype=torch.float64)), (2.0, camera((1.0, 0, -3)).to(dtype=torch.float64))]
    made = server._path.path()
    assert made is not None
    keeper.save_path(made)
    server._path._keys = []
    server.set_edits([])
    loaded = server._path.path()
    assert loaded is not None and len(loaded.cameras) == 2
    (tmp_path / "path.json").unlink()
    server.set_edits([])
    assert server._path.path() is None
    server._path._keys = [(0.0, camera((0.5, 0, -3)).to(dtype=torch.float64))]
    server.set_edits([])
    assert server._path.path() is not None, "what a visitor has made meanwhile stays"


def test_nothing_is_kept_of_a_page_before_its_scene_begins(tmp_path: Path) -> None:
    """Another scene may still lie in the folder."""
    keeper = FolderKeeper(tmp_path, ready=False)
    with SceneServer(port=18790, announce=None, keeper=keeper) as s:
        s.set_photos(together(camera((0.0, 0, -3))), torch.rand(1, 64, 64, 3), ["a.png"])
        s.set_gaussians(wall(0.0))
        s._path._keys = [(0.0, camera((0.5, 0, -3)).to(dtype=torch.float64))]
        for act in (lambda: s.edit([DropFaint(0.3)]), lambda: s._path.save(None), lambda: keeper.export("ply", wall(0.0))):
            with pytest.raises(HandfulError, match="has not begun yet"):
                act()
        assert not list(tmp_path.iterdir()) and s.steps() == ()
        keeper.ready = True
        s.edit([DropFaint(0.3)])
        assert (tmp_path / "edits.json").is_file()


def test_a_path_of_before_is_drawn_where_it_is(server: SceneServer, tmp_path: Path) -> None:
    server._path._keys = [(0.0, camera((0.5, 0, -3)).to(dtype=torch.float64))]
    server._path.save(SimpleNamespace(add_notification=lambda *a, **k: None))
    with SceneServer(port=18790, announce=None, keeper=FolderKeeper(tmp_path)) as again:
        again.set_photos(together(camera((0.0, 0, -3)), camera((0.5, 0, -3))), torch.rand(2, 64, 64, 3), ["a.png", "b.png"])
        again.set_edits([])
        again.set_gaussians(wall(0.0))
        assert abs(again.frame.scale - 1) > 0.1
        np.testing.assert_allclose(again._path._drawn[-1].position, again.frame.apply(torch.tensor([[0.5, 0, -3.0]]))[0].numpy(), atol=1e-5)


def test_keyframes_are_told_and_dragged_in_time(server: SceneServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be done yet is grey; the slider keeps its scale while it is dragged; the film begins at the first keyframe."""
    panel = server._path
    eyes = [camera((x, 0.0, -3.0)).to(dtype=torch.float64) for x in (0.0, 0.5, 1.0)]
    assert panel._time.disabled and panel._play.disabled and all(control.disabled for control in panel._of_one)
    for n, eye in enumerate(eyes):
        monkeypatch.setattr(server, "camera_of", lambda client, eye=eye: eye)
        panel.add_key(None)
        assert panel._time.disabled == panel._play.disabled == (n == 0) and not any(control.disabled for control in panel._of_one)
        assert panel._about.content.startswith(f"{n + 1} keyframe{'s' if n else '.'}")
    assert (panel._time.value, panel._time.max) == (4.0, 10.0)
    panel._time.value = 9.0
    panel._retime()
    assert [t for t, _ in panel._keys] == [0.0, 2.0, 9.0] and panel._time.max == 10.0
    panel._choose("a visitor")
    assert panel._time.max == 18.0
    panel._which.value = panel._which.options[0]
    panel._chosen()
    panel._time.value = 5.0
    panel._retime()
    assert [t for t, _ in panel._keys] == [0.0, 2.0, 9.0] and panel._time.disabled
    panel._remove()
    assert [t for t, _ in panel._keys] == [0.0, 7.0] and torch.equal(panel._keys[0][1].centers, eyes[1].centers)
    panel._remove()
    panel._remove()
    assert panel.path() is None and panel._about.content.startswith("Stand somewhere") and panel._play.disabled


def test_a_path_that_cannot_be_read_is_told_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "path.json").write_text("{")
    with SceneServer(port=18790, announce=None, keeper=FolderKeeper(tmp_path)) as s:
        s.set_edits([])
        assert "path.json" in s._path._about.content and s._path.path() is None


def test_a_pack_that_comes_late_is_not_sent(server: SceneServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow pack of the whole scene must not land on that of the edited one."""
    import handful.viewer.server as module

    begun, go, real = threading.Event(), threading.Event(), module.pack_splats

    def slow(gaussians: Gaussians, *args: Any) -> Any:
        if len(gaussians) == 3200:
            begun.set()
            go.wait(10)
        return real(gaussians, *args)

    monkeypatch.setattr(module, "pack_splats", slow)
    late = threading.Thread(target=server._send_splats)
    late.start()
    assert begun.wait(10)
    server.edit([DropFaint(0.5)])
    assert server._splats.buffer.shape[0] == 3100
    go.set()
    late.join(10)
    assert server._splats.buffer.shape[0] == 3100


def test_edits_that_are_told_are_shown_and_the_page_is_never_without_a_frame(server: SceneServer) -> None:
    server.set_edits([DropFaint(0.5)])
    assert server._splats.buffer.shape[0] == 3100
    world, before = server._world, server.frame
    assert world.edit([DropFaint(0.5), Move(scale=2.0)]) is not None and world.frame == before
    assert world.place() and world.frame != before and not world.place()


def test_photos_it_has_not_learned_from_vouch_for_nothing(server: SceneServer) -> None:
    cameras = together(camera((0.0, 0, -3)), camera((0.1, 0, -3)), camera((0.0, 0, 8.0), (0.0, 0, 3)))
    server.set_photos(cameras, torch.rand(3, 64, 64, 3), ["a", "b", "held"], [False, False, True])
    assert "1 of 3 photos are held out" in server._photos._about.content
    server._look._count(*server.shown())
    painted = rgb_from_sh_dc(server._look._painted[1].sh[:, 0])
    behind = painted[1600:][(server.shown()[0].means[1600:, :2].abs() < 0.5).all(-1)]
    torch.testing.assert_close(behind, (torch.tensor(COLORS[0]) * 0.725).expand_as(behind))


def test_the_wipe_goes_when_one_leaves_while_it_is_measured() -> None:
    there: list[Any] = []

    class Image:
        def remove(self) -> None:
            there.remove(self)

    def add_image(*args: Any, **options: Any) -> Image:
        there.append(Image())
        return there[-1]

    wipe = Wipe(SimpleNamespace(scene=SimpleNamespace(add_image=add_image)))
    photo = Photo("a", np.zeros((2, 2, 3), np.uint8), np.zeros((4, 4, 3), np.uint8))
    wipe.refresh(photo, 0.5, photo.picture, "the difference")
    wipe.forget()
    wipe.refresh(None, 0.5, None, "the difference")
    assert not there


def test_edits_are_named_while_it_trains(tmp_path: Path) -> None:
    with SceneServer(port=18790, announce=None, keeper=FolderKeeper(tmp_path)) as s:
        s.set_edits([DropFaint(0.3)])
        s.set_photos(together(camera((0.0, 0, -3))), torch.rand(1, 64, 64, 3), ["a.png"])
        s.update_gaussians(wall(0.0), 1)
        assert s._worker.wait(10)
        assert "drop what is fainter" in s._edit._list.content and not s._edit._undo.disabled and not s._take_panel._export.disabled


def test_clicks_of_a_pause_do_not_leak_into_the_next() -> None:
    with SceneServer(port=18790, announce=None) as s:
        s.live.pause(True)
        for _ in range(3):
            s.live._one.release()
        assert all(s.live.gate() < 1 for _ in range(3)), "three clicks, three steps"
        s.live._one.release()
        s.live.pause(False)
        s.live.pause(True)
        began = time.monotonic()
        s.live.gate(lambda: time.monotonic() - began > 0.3)
        assert time.monotonic() - began > 0.3


def test_a_tiny_world_is_drawn_too(server: SceneServer) -> None:
    before = draw_layer(server.shown()[0], server.shown()[1][0], "color", server.rasterizer(), (0.0, 0, 0))
    server.edit([Move(scale=1e-4)])
    after = draw_layer(server.shown()[0], server.shown()[1][0], "color", server.rasterizer(), (0.0, 0, 0))
    assert before.max() > 0.3 and float((before - after).abs().mean()) < 0.01


def test_points_on_a_line_are_no_floor(server: SceneServer) -> None:
    server._edit._floor(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]).double(), None)
    server._edit._measured(torch.zeros(2, 3).double(), None)
    assert server.steps() == () and not server._edit._scale.visible


def test_a_path_is_retimed_in_all_its_ways(server: SceneServer) -> None:
    panel: PathPanel = server._path
    for x in (0.0, 0.5, 1.0):
        panel._keys.append((2 * x, camera((x, 0, -3)).to(dtype=torch.float64)))
    panel._refresh(2)
    assert panel._which.value == "3 at 2.0 s" and panel._speed.value == 2.0
    panel._time.value = 0.5
    panel._retime()
    assert [t for t, _ in panel._keys] == [0.0, 0.5, 1.0] and panel._which.value == "2 at 0.5 s"
    assert [float(c.centers[0, 0]) for _, c in panel._keys] == pytest.approx([0.0, 1.0, 0.5], abs=1e-6)
    panel._speed.value = 4.0
    panel._respeed()
    assert [t for t, _ in panel._keys] == [0.0, 2.0, 4.0]
    panel._fov.value = 90.0
    panel._refov()
    assert float(panel._keys[1][1].K[0, 1, 1]) == pytest.approx(32.0)
    panel._remove()
    assert len(panel._keys) == 2 and panel._which.value == "2 at 4.0 s"
    panel._remove(), panel._remove()
    assert panel.path() is None and panel._which.value == "-" and panel._about.content.startswith("Stand somewhere")


def test_clicks_that_come_at_once_each_see_what_the_other_left(server: SceneServer) -> None:
    panel: PathPanel = server._path
    panel._keys = [(2 * x, camera((x, 0, -3)).to(dtype=torch.float64)) for x in (0.0, 0.5, 1.0)]
    panel._refresh(2)
    failed: list[BaseException] = []

    def click() -> None:
        try:
            panel._remove()
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=click) for _ in range(2)]
    with panel._lock:
        for t in threads:
            t.start()
        time.sleep(0.1)
    for t in threads:
        t.join()
    assert not failed and len(panel._keys) == 1
    panel._keys = []  # the page still names a keyframe that has gone
    panel._remove(), panel._refov(), panel._retime(), panel._go(None), panel._replace(None)
    assert panel._keys == []


def test_what_is_taken_along_is_what_is_shown(server: SceneServer, tmp_path: Path) -> None:
    sent: list[tuple[str, bytes]] = []
    client: Any = SimpleNamespace(send_file_download=lambda name, content, save_immediately: sent.append((name, content)), add_notification=lambda *a, **k: None)
    server.edit([DropFaint(0.5)])
    panel = server._take_panel
    for text, name in panel._names.items():
        panel._format.value = text
        panel._take(client)
        file, content = sent.pop()
        said = text.rsplit("(", 1)[1].removesuffix(" MB)")
        assert (tmp_path / "exports" / file).read_bytes() == content and len(read_splats(tmp_path / "exports" / file)) == 3100, name
        if not said.startswith("about"):
            assert abs(len(content) / 1e6 - float(said)) < 0.1, name
    assert {p.name for p in (tmp_path / "exports").iterdir()} == {"scene.ply", "scene.compressed.ply", "scene.splat", "scene.glb", "scene.spz", "scene.sog"}
    assert len(read_gaussians(tmp_path / "exports/scene.ply")) == 3100
