"""`handful render` and `handful view` on a scene folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from handful.data.atomic import write_bytes, write_json
from handful.data.image_io import encode_png
from handful.data.nerfstudio_json import write_transforms
from handful.data.ply import write_gaussians
from handful.data.registry import load_capture
from handful.pipelines.cli.main import _run, main
from handful.pipelines.cli.render import RenderCommand, parse_size
from handful.recon.camera import Cameras
from handful.recon.errors import CaptureError, ConfigError
from handful.recon.framing import look_at
from handful.recon.gaussians import Gaussians


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene folder as `handful reconstruct` leaves it: a few splats, three photos."""
    folder = tmp_path_factory.mktemp("scene")
    torch.manual_seed(0)
    n = 300
    g = Gaussians(torch.randn(n, 3) * 0.3, torch.randn(n, 4), torch.full((n, 3), -2.5), torch.full((n,), 2.0), torch.randn(n, 1, 3))
    eye = torch.tensor([[-1.0, 0, -4], [0, 0, -4], [1, 0, -4]])
    K = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]).expand(3, 3, 3).clone()
    cameras = Cameras(look_at(eye, torch.zeros(3, 3), torch.tensor([0.0, -1, 0])), K, 64, 48)
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        write_bytes(folder / "images" / name, encode_png(torch.rand(48, 64, 3)))
    write_transforms(folder / "transforms.json", cameras, [f"images/{name}" for name in names])
    write_json(folder / "config.json", {"version": 1, "names": names, "background": [0, 0, 0]})
    write_json(folder / "metrics.json", {"version": 1})
    write_gaussians(folder / "scene.ply", g)
    return folder


def test_render_tells_what_it_made(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(["render", str(out), "-o", str(tmp_path / "a.mp4"), "--path", "spiral", "--frames", "3", "--what", "color+depth", "--size", "80x60",
              "--json", str(tmp_path / "s.json")])  # fmt: skip
    assert e.value.code == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["frames"], summary["width"], summary["height"]) == (3, 160, 60) and Path(summary["file"]).stat().st_size > 500
    printed = capsys.readouterr().out
    assert "rendering 3/3, 0:00 left" in printed and "3 frames of 160x60" in printed


def test_render_along_a_file_and_to_frames(out: Path, tmp_path: Path) -> None:
    pose = torch.eye(4)
    pose[2, 3] = 4.0
    keys = [{"time": t, "cam_from_world": pose.tolist(), "fov_y_degrees": 40} for t in (0, 1)]
    write_json(tmp_path / "p.json", {"format": "handful-camera-path", "version": 1, "fps": 2, "width": 40, "height": 30, "keyframes": keys})
    summary = RenderCommand(scene=out, out=tmp_path / "frames", path=str(tmp_path / "p.json"), quiet=True).run()
    assert summary["frames"] == 3 and len(list((tmp_path / "frames").glob("*.png"))) == 3


def test_ctrl_c_in_a_terminal_goes_on_where_it_stopped(out: Path, tmp_path: Path) -> None:
    """The terminal's Ctrl-C reaches the whole process group, ffmpeg as well."""
    film = tmp_path / "film.mp4"
    command = [sys.executable, "-m", "handful.pipelines.cli.main", "render", str(out), "-o", str(film), "--frames", "2000", "--size", "160x120"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    segments: list[Path] = []
    end = time.monotonic() + 60
    while not segments and time.monotonic() < end:
        segments = list(tmp_path.glob(".film.mp4.*.frames/*.mp4"))
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    there = [tuple(map(int, p.stem.split("-"))) for p in sorted(tmp_path.glob(".film.mp4.*.frames/*.mp4"))]
    assert there[0][0] == 0 and all(a[1] == b[0] for a, b in zip(there, there[1:], strict=False)) and there[-1][1] < 2000
    summary = tmp_path / "s.json"
    done = subprocess.run([*command, "--json", str(summary)], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(summary.read_text())["drawn"] == 2000 - there[-1][1]
    assert f"{there[-1][1]} frames were there already" in done.stdout and [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_requests_that_cannot_be_met_end_with_one_sentence(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no camera path 'spin'; choose one of orbit, spiral, between, ellipse"):
        RenderCommand(scene=out, out=tmp_path / "a.mp4", path="spin").run()
    with pytest.raises(ConfigError, match="0 frames a second"):
        RenderCommand(scene=out, out=tmp_path / "a.mp4", fps=0.0).run()
    with pytest.raises(ConfigError, match="frames is too long"):
        RenderCommand(scene=out, out=tmp_path / "a.mp4", frames=10**12).run()
    with pytest.raises(ConfigError, match="too large"):
        RenderCommand(scene=out, out=tmp_path / "a.mp4", frames=1, size="16384x16384").run()
    with pytest.raises(ConfigError, match="nowhere.json cannot be read .No such file or directory.; name one of orbit"):
        RenderCommand(scene=out, out=tmp_path / "a.mp4", path="nowhere.json").run()
    with pytest.raises(CaptureError, match="There is no folder"):
        RenderCommand(scene=tmp_path / "nowhere", out=tmp_path / "a.mp4").run()
    with pytest.raises(ConfigError, match="as in 1280x720; got '5k'"):
        parse_size("5k")
    with pytest.raises(CaptureError, match="holds no scene.ply"):
        RenderCommand(scene=tmp_path, out=tmp_path / "a.mp4").run()
    with pytest.raises(SystemExit) as e:
        main(["render", str(out), "-o", str(tmp_path / "a.avi")])
    assert e.value.code == 2 and "handful: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_folders_that_are_exported_are_whole_captures(out: Path, tmp_path: Path) -> None:
    """With the photos, under the names the cameras have; and nothing that lay there is replaced."""
    for name, source in (("colmap", "colmap"), ("nerfstudio", "nerfstudio")):
        target = tmp_path / name
        assert _run(["export", str(out), "-o", str(target), "--format", name, "--quiet"]) == 0
        capture = load_capture(target)
        assert capture.source == source and capture.names == ("a.png", "b.png", "c.png") and not capture.unplaced
        before = sorted(p.read_bytes() for p in target.rglob("*.*"))
        assert _run(["export", str(out), "-o", str(target), "--format", name]) == 2
        assert sorted(p.read_bytes() for p in target.rglob("*.*")) == before
    assert _run(["export", str(out), "-o", str(out / "again.json"), "--quiet"]) == 0
    assert load_capture(out / "again.json").names == ("a.png", "b.png", "c.png")
    (out / "again.json").unlink()
    assert _run(["export", str(out / "scene.ply"), "-o", str(tmp_path / "b.splat"), "--quiet"]) == 0
    assert _run(["export", str(out / "scene.ply"), "-o", str(tmp_path / "c"), "--format", "colmap"]) == 2
    assert _run(["view", str(out), "--max-splats", "0"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.splat", "colmap", "nerfstudio"]


def test_masks_go_along(out: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    shutil.copytree(out, scene)
    mask = torch.zeros(48, 64, 3)
    mask[10:30, 10:50] = 1
    for name in ("a.png", "b.png", "c.png"):
        write_bytes(scene / "masks" / name, encode_png(mask))
    for name in ("colmap", "nerfstudio"):
        assert _run(["export", str(scene), "-o", str(tmp_path / name), "--format", name, "--quiet"]) == 0
        masks = load_capture(tmp_path / name).masks()
        assert masks is not None and torch.equal(masks, mask[..., 0].expand(3, -1, -1))
    assert (tmp_path / "colmap" / "masks" / "a.png.png").is_file(), "the name that COLMAP looks for"


@pytest.mark.parametrize("what", ["", "scene.ply"])
def test_view_serves_until_ctrl_c(out: Path, tmp_path: Path, what: str) -> None:
    command = [sys.executable, "-m", "handful.pipelines.cli.main", "view", str(out / what), "--port", "18480", "--json", str(tmp_path / "s.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Open http://127.0.0.1:184"), line
        page = urllib.request.urlopen(line.split()[1], timeout=10).read()
        assert b"<html" in page.lower()
        assert "Ctrl-C" in process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0 and errors == "", errors
    assert json.loads((tmp_path / "s.json").read_text()) == {"gaussians": 300, "photos": 0 if what else 3}
