"""Camera paths: they stay where the photos were, look at the scene, pass the photos, and survive files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from handful.pipelines.path_file import load_path, save_path
from handful.pipelines.paths import PATHS, make_path
from handful.recon.camera import Cameras
from handful.recon.camera_path import CameraPath, fit_size
from handful.recon.edits import DropFaint, Move
from handful.recon.errors import ConfigError
from handful.recon.framing import frame_scene, look_at

UP = torch.tensor([0.1, 0.2, 0.97], dtype=torch.float64) / torch.tensor([0.1, 0.2, 0.97]).norm()


def ring(azimuths_deg: list[float], radius: float = 4.0, height: float = 1.0, focus: tuple[float, float, float] = (2.0, -1.0, 0.5)) -> Cameras:
    """Cameras on a circle around `focus`, in a world whose up is UP, all looking at the focus."""
    a = torch.deg2rad(torch.tensor(azimuths_deg, dtype=torch.float64))
    side = torch.nn.functional.normalize(torch.linalg.cross(UP, torch.tensor([1.0, 0, 0], dtype=torch.float64)), dim=0)
    other = torch.linalg.cross(side, UP)
    target = torch.tensor(focus, dtype=torch.float64)
    eye = target + radius * (torch.cos(a)[:, None] * side + torch.sin(a)[:, None] * other) + height * UP
    K = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]).expand(len(a), 3, 3)
    return Cameras(look_at(eye, target.expand_as(eye), UP).float(), K.clone(), 640, 480)


def blob(focus: tuple[float, float, float] = (2.0, -1.0, 0.5)) -> torch.Tensor:
    return torch.tensor(focus) + 0.3 * torch.randn(2000, 3)


@pytest.mark.parametrize("azimuths", [[0, 90, 180, 270], [0, 120, 240], [0, 25, 50], [10]])
def test_framing_finds_up_and_focus(azimuths: list[float]) -> None:
    cameras = ring(azimuths)
    framing = frame_scene(cameras, blob())
    assert torch.rad2deg(torch.arccos(framing.up @ UP)) < (1 if len(azimuths) >= 3 and max(azimuths) > 90 else 20)
    assert torch.linalg.vector_norm(framing.focus - torch.tensor([2.0, -1.0, 0.5])) < 0.1
    assert framing.depth == pytest.approx(math.hypot(4, 1), rel=0.05)


def test_framing_of_parallel_axes_is_held_by_the_points() -> None:
    T = torch.eye(4).repeat(3, 1, 1)
    T[:, 0, 3] = torch.tensor([-0.5, 0.0, 0.5])
    cameras = Cameras(T, torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]).expand(3, 3, 3).clone(), 640, 480)
    wall = torch.cat([torch.rand(4000, 2) * 6 - 3, torch.full((4000, 1), 5.0)], 1)
    framing = frame_scene(cameras, wall)
    torch.testing.assert_close(framing.focus, torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(framing.up, torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64))


def test_framing_ignores_poison() -> None:
    xyz = blob()
    xyz[::7] = float("nan")
    xyz[1::7] = float("inf")
    framing = frame_scene(ring([0, 120, 240]), xyz, torch.rand(2000))
    assert torch.isfinite(framing.focus).all() and math.isfinite(framing.depth) and framing.depth > 0


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("azimuths", [[0, 90, 180, 270], [0, 120, 240], [-15, 0, 20], [0, 5], [10]])
def test_paths_stay_near_the_photos_and_see_the_scene(kind, azimuths: list[float]) -> None:
    photos = ring(azimuths)
    path = make_path(kind, photos, 40, blob())
    path.validate()
    assert len(path) == 40 and (path.width, path.height) == (640, 480)
    focus = torch.tensor([[2.0, -1.0, 0.5]])
    uv, z = path.project(focus)
    assert (z > 2.5).all(), "the camera comes too near the scene or looks away"
    assert ((uv[:, 0] - torch.tensor([320.0, 240.0])).abs() < torch.tensor([160.0, 120.0])).all()
    assert (-path.cam_from_world[:, 1, :3].double() @ UP > 0.8).all(), "the horizon tilts"
    if len(azimuths) > 1 and max(azimuths) - min(azimuths) < 60:
        reach = torch.cdist(path.centers, photos.centers).min(1).values.max()
        assert reach < 0.35 * torch.cdist(photos.centers, photos.centers).max() + 0.15
    steps = torch.linalg.vector_norm(path.centers.diff(dim=0), dim=-1)
    assert steps.max() < 4 * steps.mean() + 1e-6, "the camera jumps"


def test_orbit_goes_full_circle_only_where_photos_stand_all_around() -> None:
    def swept(azimuths: list[float]) -> float:
        offset = make_path("orbit", ring(azimuths), 72, blob()).centers - torch.tensor([2.0, -1.0, 0.5])
        flat = torch.nn.functional.normalize(offset - (offset @ UP.float())[:, None] * UP.float(), dim=-1)
        return math.degrees(math.acos(float((flat @ flat.T).min().clamp(-1, 1))))

    assert swept([0, 120, 240]) > 175
    assert swept([0, 20, 40]) == pytest.approx(40, abs=3)
    assert swept([170, 190, 210]) == pytest.approx(40, abs=3)  # across the jump of atan2


def test_between_passes_every_photo_in_a_sensible_order() -> None:
    photos = ring([0, 40, 10, 30, 20])
    path = make_path("between", photos, 401, blob())
    distance = torch.cdist(photos.centers, path.centers)
    assert distance.min(1).values.max() < 0.02
    nearest = distance.argmin(1).tolist()
    assert nearest[0] == 0 and sorted(range(5), key=lambda i: nearest[i]) == [0, 2, 4, 3, 1]
    torch.testing.assert_close(path.cam_from_world[0], photos.cam_from_world[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(path.cam_from_world[-1], photos.cam_from_world[1], atol=1e-5, rtol=0)


def test_between_walks_round_the_object_not_through_it() -> None:
    path = make_path("between", ring([0, 110, 220], height=0.0), 60, blob())
    assert torch.linalg.vector_norm(path.centers - torch.tensor([2.0, -1.0, 0.5]), dim=-1).min() > 3.0


def test_other_sizes_keep_square_pixels_and_show_no_more() -> None:
    photos = ring([0])
    for w, h in [(1280, 720), (200, 400), (641, 479)]:
        c = fit_size(photos, w, h)
        assert c.K[0, 0, 0] == c.K[0, 1, 1]
        corners = torch.tensor([[[0.0, 0.0], [float(w), float(h)]]])
        back, _ = photos.project(c.unproject(corners, torch.ones(1, 2))[0])
        assert (back > -1e-2).all() and (back[..., 0] < 640.01).all() and (back[..., 1] < 480.01).all()


def test_bad_requests_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match="no camera path 'spin'; choose one of orbit, spiral, between, ellipse"):
        make_path("spin", ring([0]), 10)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="at least one frame"):
        make_path("orbit", ring([0]), 0)
    with pytest.raises(ConfigError, match="too small"):
        make_path("orbit", ring([0]), 3, size=(0, 10))


def test_our_file_round_trip(tmp_path: Path) -> None:
    keys = ring([0, 20, 50]).to(dtype=torch.float64)
    saved = CameraPath(keys, torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), fps=10)
    save_path(tmp_path / "p.json", saved)
    assert [p.name for p in tmp_path.iterdir()] == ["p.json"]
    loaded = load_path(tmp_path / "p.json")
    torch.testing.assert_close(loaded.cameras.cam_from_world, keys.cam_from_world)
    torch.testing.assert_close(loaded.cameras.K, keys.K)
    frames = loaded.sample()
    assert len(frames) == 31 and len(loaded.sample(7)) == 7
    torch.testing.assert_close(frames.cam_from_world[10], keys.cam_from_world[1].float(), atol=1e-5, rtol=0)
    assert loaded.sample(size=(320, 240)).K[0, 0, 0] == pytest.approx(250.0)


def test_a_path_made_on_a_moved_scene_follows_its_edits(tmp_path: Path) -> None:
    """Saved in the world that edits left, it is of any other: as before edits, after more of them; a path of no scene stays as it is."""
    keys = ring([0, 20, 50]).to(dtype=torch.float64)
    path, file = CameraPath(keys, torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), fps=10), tmp_path / "p.json"
    large, far = Move(scale=2.0), Move(translation=(1.0, 2.0, 3.0))
    save_path(file, path, [DropFaint(0.1), large])
    torch.testing.assert_close(load_path(file, [DropFaint(0.3), large]).cameras.cam_from_world, keys.cam_from_world, atol=1e-5, rtol=0)
    torch.testing.assert_close(load_path(file).cameras.centers, keys.centers / 2)
    torch.testing.assert_close(load_path(file, [large, far]).cameras.centers, keys.centers + torch.tensor(far.translation), atol=1e-5, rtol=0)
    save_path(file, path, [])
    torch.testing.assert_close(load_path(file, [large]).cameras.centers, keys.centers * 2, atol=1e-5, rtol=0)
    save_path(file, path)
    torch.testing.assert_close(load_path(file, [large]).cameras.centers, keys.centers)
    save_path(file, path, [large])
    file.write_text(file.read_text().replace('"scale": 2.0', '"scale": -2.0'))
    with pytest.raises(ConfigError, match="p.json is not a camera path: step 1: A move needs a scale above 0"):
        load_path(file)


def test_the_ellipse_is_the_one_that_the_photos_span() -> None:
    """Photos evenly on an ellipse give that ellipse, around its middle and looking there; photos on a line give a narrow one before the scene."""
    t = torch.arange(12, dtype=torch.float64) / 12 * 2 * math.pi
    side = torch.nn.functional.normalize(torch.linalg.cross(UP, torch.tensor([1.0, 0, 0], dtype=torch.float64)), dim=0)
    other = torch.linalg.cross(side, UP)
    eye = 5 * torch.cos(t)[:, None] * side + 3 * torch.sin(t)[:, None] * other
    photos = Cameras(look_at(eye, torch.zeros(12, 3, dtype=torch.float64), UP).float(), ring([0] * 12).K, 640, 480)
    path = make_path("ellipse", photos, 40)
    x, y = path.centers.double() @ side / 5, path.centers.double() @ other / 3
    torch.testing.assert_close(x * x + y * y, torch.ones(40, dtype=torch.float64), atol=1e-3, rtol=0)
    assert (path.centers.double() @ UP).abs().max() < 1e-3
    line = make_path("ellipse", ring([-10, 0, 10]), 40)
    gaze = line.cam_from_world[:, 2, :3].double()
    away = torch.tensor([2.0, -1.0, 0.5]).double() - line.centers.double()
    assert (gaze * torch.nn.functional.normalize(away, dim=-1)).sum(-1).min() > 0.98


@pytest.mark.parametrize("count", [2, 3])
def test_a_loop_ends_where_it_began_without_a_jerk(tmp_path: Path, count: int) -> None:
    times = torch.tensor([1.0, 2.0, 4.0][:count], dtype=torch.float64)
    save_path(tmp_path / "p.json", CameraPath(ring([0, 100, 220][:count]).to(dtype=torch.float64), times, fps=100, loop=True))
    path = load_path(tmp_path / "p.json")
    span = float(times[-1] - times[0])
    assert path.loop and path.seconds == pytest.approx(span * count / (count - 1))
    frames = path.sample()
    assert len(frames) == round(path.seconds * 100)
    torch.testing.assert_close(frames.cam_from_world[0], path.cameras.cam_from_world[0].float(), atol=1e-5, rtol=0)
    step = torch.linalg.vector_norm(torch.cat([frames.centers, frames.centers[:1]]).diff(dim=0), dim=-1)
    assert (torch.cat([step[-3:], step[:3]]).diff().abs() < 0.05 * step.max()).all()  # across the seam the speed changes no quicker than elsewhere


def test_a_loop_of_one_stays_where_it_is() -> None:
    path = CameraPath(ring([30]).to(dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64), fps=10, loop=True)
    assert len(path.sample()) == 1 and torch.equal(path.sample(3).centers, path.sample(1).centers.expand(3, 3))


def test_nerfstudio_file(tmp_path: Path) -> None:
    """An OpenGL camera at (1, 2, 3) without rotation looks along -z, y up."""
    pose = [1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 3, 0, 0, 0, 1]
    entry = {"camera_to_world": pose, "fov": 90.0, "aspect": 2.0}
    data = {"camera_type": "perspective", "render_height": 100, "render_width": 200, "fps": 24, "camera_path": [entry]}
    (tmp_path / "camera_path.json").write_text(json.dumps(data))
    path = load_path(tmp_path / "camera_path.json")
    cameras = path.sample(3)
    assert len(path.sample()) == 1 and len(cameras) == 3
    torch.testing.assert_close(cameras.centers, torch.tensor([1.0, 2.0, 3.0]).expand(3, 3))
    uv, z = cameras.project(torch.tensor([[1.0, 3.0, 1.0]]))  # one up, two ahead
    assert z[0, 0] == pytest.approx(2.0) and uv[0, 0].tolist() == pytest.approx([100.0, 25.0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "cannot be read"),
        ("[1, 2]", "neither"),
        ('{"format": "handful-camera-path", "version": 9}', "version 9"),
        ('{"format": "handful-camera-path", "version": 1, "loop": 1, "keyframes": [{"cam_from_world": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]], "fov_y_degrees": 50, "time": 0}], "width": 10, "height": 10}', "loop must be true or false"),
        ('{"format": "handful-camera-path", "version": 1}', "'keyframes' is missing"),
        ('{"format": "handful-camera-path", "version": 1, "width": 10, "height": 10, "keyframes": []}', "keyframes"),
        ('{"camera_path": [{"camera_to_world": [1, 2], "fov": 50}], "render_width": 10, "render_height": 10}', "not a camera path"),
        ('{"camera_path": [{"camera_to_world": [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0], "fov": 50}], "render_width": 9, "render_height": 9}', "not a"),
        ('{"camera_path": [{"camera_to_world": [1,0,0,NaN,0,1,0,0,0,0,1,0,0,0,0,1], "fov": 50}], "render_width": 9, "render_height": 9}', "finite"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ConfigError, match=says) as e:
        load_path(tmp_path / "p.json")
    assert "p.json" in str(e.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.json cannot be read"):
        load_path(tmp_path / "nowhere.json")


def test_the_garden_orbits_its_table(shared_data: Path) -> None:
    import numpy as np

    z = np.load(shared_data / "m360_garden3_gsplat" / "test_garden.npz")
    cameras = Cameras(torch.from_numpy(z["viewmats"]).float(), torch.from_numpy(z["Ks"]).float(), int(z["width"]), int(z["height"]))
    framing = frame_scene(cameras, torch.from_numpy(z["means3d"]))
    assert framing.up[2] > 0.99 and torch.linalg.vector_norm(framing.focus - torch.tensor([0.0, 0.0, 0.25])) < 0.2
