"""Videos decode again with the right size, frames and colours; outputs are whole or not there."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.ffmpeg import ffmpeg_exe
from handful.pipelines import frame_sinks
from handful.pipelines.frame_sinks import Mp4Sink, open_sink
from handful.pipelines.paths import make_path
from handful.pipelines.video import nearest_photo, parse_what, picture, render_path
from handful.recon.camera import Cameras
from handful.recon.errors import BackendUnavailable, ConfigError, HandfulError
from handful.recon.framing import look_at
from handful.recon.gaussians import Gaussians
from handful.recon.raster.registry import get_rasterizer
from handful.recon.scene import SplatScene
from PIL import Image


def decode(file: Path) -> tuple[np.ndarray, str]:
    """All frames of a video (F, H, W, 3) and what ffmpeg says about it, by another process than the one that wrote it."""
    info = subprocess.run([ffmpeg_exe(), "-i", str(file)], capture_output=True, text=True).stderr
    size = re.search(r", (\d+)x(\d+)[ ,]", info)
    assert size is not None, info
    w, h = int(size[1]), int(size[2])
    raw = subprocess.run([ffmpeg_exe(), "-v", "error", "-i", str(file), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True)
    return np.frombuffer(raw.stdout, np.uint8).reshape(-1, h, w, 3), info


@pytest.fixture(scope="module")
def scene() -> SplatScene:
    """A red ball before a green wall, seen by three cameras."""
    torch.manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(300, 3), dim=-1) * 0.5
    wall = torch.cat([torch.rand(500, 2) * 8 - 4, torch.full((500, 1), 2.0)], 1)
    means = torch.cat([ball, wall])
    n = len(means)
    rgb = torch.cat([torch.tensor([0.9, 0.1, 0.1]).expand(300, 3), torch.tensor([0.1, 0.8, 0.2]).expand(500, 3)])
    gaussians = Gaussians(
        means, torch.tensor([1.0, 0, 0, 0]).expand(n, 4).clone(), torch.tensor([-2.0, -2, -4]).expand(n, 3).clone(), torch.full((n,), 3.0),
        ((rgb - 0.5) / 0.28209479)[:, None],
    )  # fmt: skip
    eye = torch.tensor([[-1.0, 0, -4], [0, 0, -4], [1, 0, -4]])
    K = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]).expand(3, 3, 3).clone()
    cameras = Cameras(look_at(eye, torch.zeros(3, 3), torch.tensor([0.0, -1, 0])), K, 64, 48)
    return SplatScene(gaussians, cameras, ("a.jpg", "b.jpg", "c.jpg"), get_rasterizer("reference"))


def test_mp4_has_the_right_size_frames_and_colours(scene: SplatScene, tmp_path: Path) -> None:
    cameras = make_path("spiral", scene.cameras, 7, scene.gaussians.means, size=(65, 49))
    seen: list[tuple[int, int]] = []
    report = render_path(scene, cameras, tmp_path / "new" / "a.mp4", fps=12, on_frame=lambda i, n, left: seen.append((i, n)))
    frames, info = decode(tmp_path / "new" / "a.mp4")
    assert frames.shape == (7, 48, 64, 3) and (report.frames, report.width, report.height) == (7, 64, 48)
    assert seen == [(i, 7) for i in range(1, 8)]
    assert "h264" in info and "yuv420p" in info and "12 fps" in info and "bt709" in info
    want = (picture(scene, cameras[0])[:48, :64] * 255).numpy()
    assert np.abs(frames[0].astype(float) - want).mean() < 10  # 4:2:0 blurs the colours of this speckled scene
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_colours_survive_the_video(tmp_path: Path) -> None:
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.1, 0.2, 0.9], [0.5, 0.5, 0.5]])
    with Mp4Sink(tmp_path / "c.mp4", 64, 64) as sink:
        for c in colours:
            sink.add(c.expand(64, 64, 3))
    frames, _ = decode(tmp_path / "c.mp4")
    np.testing.assert_allclose(frames[:, 20:40, 20:40].mean((1, 2)) / 255, colours.numpy(), atol=0.02)


def test_layers_side_by_side(scene: SplatScene) -> None:
    image = picture(scene, scene.cameras[1], ("color", "depth", "normal"))
    assert image.shape == (48, 3 * 64, 3) and image.min() >= 0 and image.max() <= 1
    color, depth, normal = image[24, 32], image[24, 96], image[24, 160]
    assert color[0] > 0.5 and color[1] < 0.3
    assert depth[0] > depth[2], "the near ball is warm"
    assert image[4, 68, 2] > image[4, 68, 0], "the wall behind is cold"
    assert normal[2] > 0.9 and (normal[:2] - 0.5).abs().max() < 0.15, "what faces the camera is blue"


def test_png_frames_replace_an_older_longer_run(scene: SplatScene, tmp_path: Path) -> None:
    cameras = make_path("between", scene.cameras, 5, scene.gaussians.means)
    render_path(scene, cameras, tmp_path / "frames", what="depth")
    (tmp_path / "frames" / "mine.txt").write_text("kept")
    render_path(scene, cameras[[0, 1, 2]], tmp_path / "frames")
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [".handful-frames", "frame_00000.png", "frame_00001.png", "frame_00002.png", "mine.txt"]
    assert Image.open(tmp_path / "frames" / "frame_00000.png").size == (64, 48)
    render_path(scene, cameras[0], tmp_path / "one.png", what="color+depth")
    assert Image.open(tmp_path / "one.png").size == (128, 48)


def test_an_interrupted_video_leaves_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    out.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        with Mp4Sink(out, 32, 32) as sink:
            sink.add(torch.rand(32, 32, 3))
            raise KeyboardInterrupt
    assert out.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]




def test_interrupted_frames_leave_the_old_ones(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    with open_sink(frames, 32, 32, 2) as sink:
        sink.add(torch.zeros(32, 32, 3)), sink.add(torch.zeros(32, 32, 3))
    before = {p.name: p.read_bytes() for p in frames.iterdir()}
    assert len(before) == 3
    for out in (frames, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            with open_sink(out, 32, 32, 2) as sink:
                sink.add(torch.rand(32, 32, 3))
                raise KeyboardInterrupt
    assert {p.name: p.read_bytes() for p in frames.iterdir()} == before and [p.name for p in tmp_path.iterdir()] == ["frames"]


class Stopping:
    """A rasterizer that is interrupted before it draws its n-th picture."""

    def __init__(self, scene: SplatScene, at: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.inner, self.left, self.error, self.drawn = scene.rasterizer, at, error, 0

    def render(self, *args, **options):
        if self.left == 0:
            raise self.error
        self.left -= 1
        self.drawn += 1
        return self.inner.render(*args, **options)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "frames"])
def test_what_was_interrupted_goes_on_where_it_stopped(scene: SplatScene, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_sinks, "SEGMENT", 3)
    cameras = make_path("spiral", scene.cameras, 11, scene.gaussians.means)
    render_path(scene, cameras, tmp_path / "whole" / name, fps=12)
    out = tmp_path / "new" / name
    for at in (5, 2):
        with pytest.raises(KeyboardInterrupt):
            render_path(replace(scene, rasterizer=Stopping(scene, at)), cameras, out, fps=12)
        assert not out.exists() or not list(out.glob("frame_*.png"))
        assert any(p.name.endswith(".frames") for p in (*out.parent.iterdir(), *(out.iterdir() if out.is_dir() else ())))
    counting = Stopping(scene, -1)
    report = render_path(replace(scene, rasterizer=counting), cameras, out, fps=12)
    assert (report.frames, report.drawn, counting.drawn) == (11, 4, 4)
    if name == "frames":
        assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in (tmp_path / "whole" / name).iterdir()}
        return
    assert [p.name for p in out.parent.iterdir()] == [name]
    if name == "a.gif":
        assert out.read_bytes() == (tmp_path / "whole" / name).read_bytes()
    else:
        (whole, info), (pieces, info2) = decode(tmp_path / "whole" / name), decode(out)
        assert whole.shape == pieces.shape and np.abs(whole.astype(float) - pieces.astype(float)).mean() < 6  # key frames elsewhere; a frame off would be 18
        assert "12 fps" in info and "12 fps" in info2 and re.search("Duration: (.*?),", info)[1] == re.search("Duration: (.*?),", info2)[1]


@pytest.mark.parametrize(("at", "kept"), [(1, 0), (4, 3), (6, 3)])
def test_ctrl_c_while_a_frame_is_on_its_way_to_ffmpeg(scene: SplatScene, tmp_path: Path, at: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows then how many frames the segment holds, so it is not kept; one of no frames would be found again without end."""
    monkeypatch.setattr(frame_sinks, "SEGMENT", 3)
    cameras, out = make_path("spiral", scene.cameras, 7, scene.gaussians.means), tmp_path / "new" / "a.mp4"
    calls, write = [], frame_sinks._Ffmpeg.write

    def interrupted(self: object, frame: torch.Tensor) -> None:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        write(self, frame)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(frame_sinks._Ffmpeg, "write", interrupted)
        render_path(scene, cameras, out)
    segments = sorted(p.name for p in out.parent.glob(".*.frames/*.mp4"))
    assert segments == (["000000-000003.mp4"] if kept else []) and (kept or not list(out.parent.iterdir()))
    if kept:
        (next(out.parent.glob(".*.frames")) / "000003-000003.mp4").write_bytes(b"of no frames, as an older version left it")
    assert render_path(scene, cameras, out).drawn == 7 - kept
    assert [p.name for p in out.parent.iterdir()] == ["a.mp4"] and len(decode(out)[0]) == 7


def test_a_gif_whose_making_was_cut_short_needs_no_frame_again(scene: SplatScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while ffmpeg puts it together, and a run that was killed half way: frames that are on the disk are not drawn again."""
    cameras, out = make_path("spiral", scene.cameras, 5, scene.gaussians.means), tmp_path / "50%d" / "a.gif"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(frame_sinks, "_run_ffmpeg", interrupted)
        render_path(scene, cameras, out)
    (waiting,) = out.parent.iterdir()
    kept = tmp_path / "kept"
    waiting.rename(kept)
    report = render_path(scene, cameras, out)
    assert report.drawn == 5 and [p.name for p in out.parent.iterdir()] == ["a.gif"]
    whole = out.read_bytes()
    out.unlink(), kept.rename(waiting)
    (waiting / "frame_00003.png").unlink()  # as kill -9 leaves it: a gap, and what is half written
    (waiting / ".frame_00003.png.00000000-1-00000000.partial").write_bytes(b"half")
    assert render_path(scene, cameras, out).drawn == 2
    assert out.read_bytes() == whole and [p.name for p in out.parent.iterdir()] == ["a.gif"]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_another_job_begins_anew_and_clears_what_waited(scene: SplatScene, tmp_path: Path, name: str) -> None:
    cameras = make_path("spiral", scene.cameras, 4, scene.gaussians.means)
    out = tmp_path / name
    with pytest.raises(KeyboardInterrupt):
        render_path(replace(scene, rasterizer=Stopping(scene, 2)), cameras, out)
    (tmp_path / f".{name}.mine.frames").mkdir()
    other = replace(scene, gaussians=replace(scene.gaussians, means=scene.gaussians.means + 0.01))
    assert render_path(other, cameras, out).drawn == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".{name}.mine.frames", name]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_frames_wait_when_ffmpeg_fails_at_the_end(scene: SplatScene, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_sinks, "SEGMENT", 2)
    cameras, out = make_path("spiral", scene.cameras, 4, scene.gaussians.means), tmp_path / "new" / name
    fake = tmp_path / "ffmpeg"
    fake.write_text(f"#!/bin/sh\ncase \"$*\" in *rawvideo*) exec {ffmpeg_exe()} \"$@\";; esac\necho 'No space left on device' >&2\nexit 1\n")
    fake.chmod(0o755)
    with monkeypatch.context() as patch, pytest.raises(HandfulError, match="disk is full.* wait in .*goes on from them"):
        patch.setattr(frame_sinks, "ffmpeg_exe", lambda: str(fake))
        render_path(scene, cameras, out)
    assert [p.suffix for p in out.parent.iterdir()] == [".frames"]
    assert render_path(scene, cameras, out).drawn == 0
    assert [p.name for p in out.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_missing_ffmpeg_is_told_before_the_first_frame(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise BackendUnavailable("Videos need ffmpeg")

    with monkeypatch.context() as patch, pytest.raises(BackendUnavailable):
        patch.setattr(frame_sinks, "ffmpeg_exe", missing)
        open_sink(tmp_path / name, 32, 32, 2, job="0" * 16).__enter__()
    with monkeypatch.context() as patch, pytest.raises(BackendUnavailable, match="cannot be run"):
        patch.setattr(frame_sinks, "ffmpeg_exe", lambda: str(tmp_path / "gone"))
        with open_sink(tmp_path / name, 32, 32, 2) as sink:
            sink.add(torch.zeros(32, 32, 3))
    assert list(tmp_path.iterdir()) == []


def test_an_ffmpeg_named_from_here_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "./ffmpeg")
    ffmpeg_exe.cache_clear()
    try:
        assert Path(ffmpeg_exe()) == tmp_path / "ffmpeg"
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "./none")
        ffmpeg_exe.cache_clear()
        with pytest.raises(BackendUnavailable, match="none is no program"):
            ffmpeg_exe()
    finally:
        ffmpeg_exe.cache_clear()


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_what_cannot_begin_leaves_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise HandfulError("the disk is full")

    (tmp_path / f".{name}.00000000-1-00000000.partial").mkdir()  # of a run without a job that was killed a day ago
    os.utime(tmp_path / f".{name}.00000000-1-00000000.partial", (0, 0))
    monkeypatch.setattr(frame_sinks, "ensure_folder", full)
    with pytest.raises(HandfulError, match="full"):
        open_sink(tmp_path / name, 32, 32, 2, job="0" * 16).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing_to_go_on_from(scene: SplatScene, tmp_path: Path) -> None:
    cameras = make_path("spiral", scene.cameras, 4, scene.gaussians.means)
    for name in ("a.mp4", "frames", "a.gif"):
        with pytest.raises(ValueError):
            render_path(replace(scene, rasterizer=Stopping(scene, 2, ValueError)), cameras, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_gif_moves_and_has_its_colours(scene: SplatScene, tmp_path: Path) -> None:
    cameras = make_path("spiral", scene.cameras, 5, scene.gaussians.means)
    report = render_path(scene, cameras, tmp_path / "a.gif", fps=10)
    gif = Image.open(tmp_path / "a.gif")
    assert gif.n_frames == report.frames == 5 and gif.size == (64, 48) and gif.info["loop"] == 0 and gif.info["duration"] == 100
    gif.seek(2)
    want = (picture(scene, cameras[2]) * 255).numpy()
    assert np.abs(np.asarray(gif.convert("RGB")).astype(float) - want).mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_the_nearest_photo_beside_the_frame(scene: SplatScene, tmp_path: Path) -> None:
    cameras = make_path("between", scene.cameras, 5, scene.gaussians.means)
    assert nearest_photo(scene, scene.cameras) == [0, 1, 2]
    photos = [torch.full((24, 48, 3), v) for v in (0.2, 0.5, 0.8)]
    render_path(scene, cameras, tmp_path / "frames", what="color+photo", photos=photos)
    for i, near in ((0, nearest_photo(scene, cameras)[0]), (4, nearest_photo(scene, cameras)[4])):
        frame = np.asarray(Image.open(tmp_path / "frames" / f"frame_{i:05d}.png")) / 255
        assert frame.shape == (48, 128, 3)
        np.testing.assert_allclose(frame[12:36, 70:120], float(photos[near][0, 0, 0]), atol=0.01)
        assert frame[:6, 70:120].max() == 0, "a wide photo in a higher frame"
    with pytest.raises(ConfigError, match="no photos"):
        render_path(scene, cameras, tmp_path / "more", what="photo")


def test_frames_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    """ffmpeg calls its pictures so, too."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(3):
        (frames / f"frame_{i:05d}.png").write_bytes(b"mine")
    with pytest.raises(HandfulError, match="frame_0000[012].png, which Handful did not write"):
        with open_sink(frames, 32, 32, 2) as sink:
            sink.add(torch.zeros(32, 32, 3))
    assert {p.name: p.read_bytes() for p in frames.iterdir()} == {f"frame_{i:05d}.png": b"mine" for i in range(3)}


def test_frames_past_the_99999th_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names are longer; a shorter film then leaves none of them."""
    frames = tmp_path / "frames"
    for first, added in ((99_999, 3), (99_998, 1)):
        with open_sink(frames, 8, 8, added) as sink:
            assert isinstance(sink, frame_sinks.PngSink)
            sink._count = first
            for _ in range(added):
                sink.add(torch.zeros(8, 8, 3))
        made = sorted(p.name for p in frames.iterdir() if p.suffix == ".png")
        assert made == (["frame_100000.png", "frame_100001.png", "frame_99999.png"] if added == 3 else ["frame_99998.png"])


def test_an_encoder_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\necho 'av_interleaved_write_frame(): No space left on device' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("handful.pipelines.frame_sinks.ffmpeg_exe", lambda: str(fake))
    with pytest.raises(HandfulError, match="disk is full"):
        with Mp4Sink(tmp_path / "a.mp4", 640, 480) as sink:
            for _ in range(50):
                sink.add(torch.rand(480, 640, 3))
    assert [p.name for p in tmp_path.iterdir()] == ["ffmpeg"]


def test_bad_requests_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing called 'colour'"):
        parse_what("colour+depth")
    with pytest.raises(ConfigError, match=".webm is not one of them"):
        open_sink(tmp_path / "a.webm", 64, 48, 3)
    with pytest.raises(ConfigError, match="add --frames 1"):
        open_sink(tmp_path / "a.png", 64, 48, 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(HandfulError, match="Cannot write"):
        open_sink(tmp_path / "file" / "a.mp4", 64, 48, 3).__enter__()
    (tmp_path / "dir.mp4").mkdir()
    with pytest.raises(HandfulError, match="folder of that name is in the way"):
        open_sink(tmp_path / "dir.mp4", 64, 48, 3).__enter__()
