"""What is sent to the browser, and where the visitor stands."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from handful.recon.camera import Cameras
from handful.recon.framing import look_at
from handful.recon.gaussians import Gaussians
from handful.viewer.newest import NewestWins
from handful.viewer.photos import Photo, fit_fov
from handful.viewer.splats import ViewFrame, pack_splats
from handful.viewer.status import LiveInfo, live_text


def some(n: int = 50, degree: int = 0) -> Gaussians:
    return Gaussians(torch.randn(n, 3), torch.randn(n, 4), torch.randn(n, 3) * 0.3 - 2, torch.rand(n) * 3, torch.randn(n, (degree + 1) ** 2, 3) * 0.3)


def test_covariance_of_a_turned_splat() -> None:
    """A quarter turn about z swaps the x and y axes; the viewer's frame scales variances by its scale squared."""
    half = math.sqrt(0.5)
    g = Gaussians(
        torch.tensor([[1.0, 2, 3]]), torch.tensor([[half, 0, 0, half]]), torch.tensor([[0.1, 0.2, 0.3]]).log(), torch.tensor([2.0]), torch.zeros(1, 1, 3)
    )
    p = pack_splats(g, ViewFrame(2.0, (1.0, 0.0, 0.0)))
    np.testing.assert_allclose(p.centers, [[0, 4, 6]], atol=1e-6)
    np.testing.assert_allclose(p.covariances[0], np.diag([0.16, 0.04, 0.36]), atol=1e-6)
    np.testing.assert_allclose(p.rgbs, [[0.5, 0.5, 0.5]])
    np.testing.assert_allclose(p.opacities, [[1 / (1 + math.exp(-2))]], rtol=1e-6)
    np.testing.assert_allclose(pack_splats(g, ViewFrame(2.0, (1.0, 0.0, 0.0)), size=0.5).covariances[0], np.diag([0.04, 0.01, 0.09]), atol=1e-6)


def test_poison_and_faint_splats_stay_at_home() -> None:
    g = some(8)
    g.means[0, 1] = float("nan")
    g.quats_wxyz[1] = 0
    g.log_scales[2, 0] = float("inf")
    g.logit_opacities[3] = -9
    g.logit_opacities[4] = float("nan")
    g.sh[5, 0, 0] = float("nan")
    g.log_scales[6] = 40.0  # e^40: cut to what half precision holds
    p = pack_splats(g)
    assert len(p) == 2 and np.isfinite(p.covariances.astype(np.float16)).all()
    assert len(pack_splats(g[:1])) == 0


def test_no_splat_is_too_small_for_the_browser() -> None:
    g = some(4)
    g.log_scales[:] = -20.0
    variance = pack_splats(g).covariances[:, [0, 1, 2], [0, 1, 2]]
    np.testing.assert_allclose(variance, (8e-4 * 10) ** 2, rtol=1e-4)
    assert (variance.astype(np.float16) > 0).all()


def test_of_too_many_the_smallest_go_and_order_is_kept() -> None:
    g = some(100)
    p = pack_splats(g, max_splats=30)
    importance = (g.opacities * g.scales.sort(-1).values[:, 1:].prod(-1)).numpy()
    kept = np.sort(np.argsort(-importance)[:30])
    np.testing.assert_allclose(p.centers, g.means.numpy()[kept])


def test_colours_are_those_the_photos_see() -> None:
    """A splat that is red from +x and blue from -x: photos on the +x side see red."""
    sh = torch.zeros(1, 4, 3)
    sh[0, 3] = torch.tensor([1.0, 0, -1])  # times -C1 x, x = direction from the camera to the splat
    g = Gaussians(torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), -1.0), torch.tensor([3.0]), sh)
    eye = torch.tensor([[5.0, 0, 0], [5.0, 0.5, 0]])
    K = torch.tensor([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]).expand(2, 3, 3)
    photos = Cameras(look_at(eye, torch.zeros(2, 3), torch.tensor([0.0, 0, 1])), K, 100, 100)
    rgb = pack_splats(g, photos=photos).rgbs[0]
    assert rgb[0] > 0.95 and rgb[2] < 0.05
    behind = Cameras(look_at(eye, 2 * eye, torch.tensor([0.0, 0, 1])), K, 100, 100)
    np.testing.assert_allclose(pack_splats(g, photos=behind).rgbs[0], [0.5, 0.5, 0.5])


@pytest.mark.parametrize("roll", [0.0, 0.2, -0.4])
def test_standing_at_a_photo_gives_its_rotation(roll: float) -> None:
    """A browser's camera is (position, look_at, up): it must come out as the photo's, roll and all, though up stays the scene's."""
    up = torch.tensor([0.0, 0, 1])
    T = look_at(torch.tensor([[3.0, -2, 1]]), torch.tensor([[0.2, 0.1, 0]]), up)
    c, s = math.cos(roll), math.sin(roll)
    turn = torch.tensor([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    camera = Cameras(turn @ T, torch.tensor([[[600.0, 0, 320], [0, 600, 200], [0, 0, 1]]]), 640, 400)
    photo = Photo.of(torch.rand(400, 640, 3), "a.jpg")
    photo.stand(camera, 4.0, ViewFrame(3.0, (1.0, 1.0, 1.0)), up)
    assert photo.thumbnail.shape == (200, 320, 3)
    back = look_at(torch.tensor(photo.position)[None], torch.tensor(photo.look_at)[None], torch.tensor(photo.up))[0, :3, :3]
    torch.testing.assert_close(back, camera.cam_from_world[0, :3, :3].double(), atol=1e-5, rtol=0)
    assert np.linalg.norm(photo.look_at - photo.position) == pytest.approx(12.0)
    np.testing.assert_allclose(photo.position, 3 * (camera.centers[0].numpy() - 1), atol=1e-5)


def test_the_whole_photo_fits_the_window() -> None:
    photo = Photo("a", np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8), tan_half=(0.8, 0.5))
    assert fit_fov(photo, 1.6) == pytest.approx(2 * math.atan(0.5))
    assert fit_fov(photo, 3.0) == pytest.approx(2 * math.atan(0.5))
    assert fit_fov(photo, 0.5) == pytest.approx(2 * math.atan(1.6))


def test_the_newest_job_wins_and_a_broken_one_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    import threading

    gate, started, done = threading.Event(), threading.Event(), []
    worker = NewestWins("test")
    worker.submit(lambda: (started.set(), done.append(gate.wait(5)))[1])
    assert started.wait(5) and worker.busy
    for i in range(10):
        worker.submit(lambda i=i: done.append(i))
    gate.set()
    assert worker.wait(5) and done == [True, 9]
    worker.submit(lambda: 1 / 0)
    assert worker.wait(5)
    worker.submit(lambda: done.append("alive"))
    assert worker.wait(5) and done[-1] == "alive"
    assert "could not update" in caplog.text
    worker.close()


def test_status_line() -> None:
    assert live_text(300, 120_000, LiveInfo(1000, 24.34, 125)) == "**Training** step 300 of 1,000 · 24.3 dB · 120,000 splats · 2:05 left"
    assert live_text(1, 0, LiveInfo(note="Placing photos")) == "**Training** step 1\n\nPlacing photos"
