"""Video: the sharp frame of every window, in order, lossless once decoded."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from handful.data import video as video_module
from handful.data.ffmpeg import ffmpeg_exe
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.data.video import _can_map_tones, choose_frames
from handful.recon.errors import CaptureError
from PIL import Image

SHARP = (3, 10, 19, 24)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """28 frames of moving stripes; only the frames SHARP are sharp, one in each quarter."""
    import cv2

    folder = tmp_path_factory.mktemp("video")
    w, h = 160, 96
    frames = []
    y, x = np.mgrid[0:h, 0:w]
    for i in range(28):
        frame = (127 + 120 * np.sign(np.sin((x + 3 * i) / 4.0) * np.cos(y / 5.0))).astype(np.uint8)
        frame = np.repeat(frame[..., None], 3, axis=2)
        frames.append(frame if i in SHARP else cv2.GaussianBlur(frame, (0, 0), 4))
    path = folder / "clip.mp4"
    command = [ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{w}x{h}", "-r", "10", "-i", "-"]
    subprocess.run([*command, "-c:v", "libx264", "-qp", "5", "-pix_fmt", "yuv420p", str(path)], input=np.stack(frames).tobytes(), check=True)
    return path, np.stack(frames)


def test_sharp_frames_evenly(video):
    path, frames = video
    capture = load_capture(path, LoadOptions(max_photos=4))
    assert capture.source == "video" and capture.names == tuple(f"frame_{i:06d}.png" for i in SHARP) and capture.cameras is None
    assert capture.views[0].image.size == (160, 96)
    for view, i in zip(capture.views, SHARP, strict=True):
        assert np.abs(view.image.load().numpy() - frames[i] / 255).mean() < 0.03
    assert len({v.image.digest() for v in capture.views}) == 4
    assert load_capture(path.parent, LoadOptions(max_photos=4, max_side=80)).views[0].image.size == (80, 48)
    assert 20 <= len(load_capture(path)) <= 24


@pytest.mark.parametrize("folder", ["images", "photos", "rgb", "input", "."])
def test_photos_come_before_a_stray_video(video, tmp_path, make_texture, folder):
    (tmp_path / "clip.mp4").write_bytes(video[0].read_bytes())
    (tmp_path / folder).mkdir(exist_ok=True)
    for i in range(2):
        Image.fromarray(make_texture(60, 40, seed=i)).save(tmp_path / folder / f"{i}.png")
    capture = load_capture(tmp_path)
    assert capture.source == "photos" and capture.names == ("0.png", "1.png")


def test_choosing():
    assert choose_frames([1, 5, 2, 9, 0, 0], 2) == [1, 3] and choose_frames([3, 1], 5) == [0, 1]
    assert choose_frames(np.arange(100), 4) == [24, 49, 74, 99]


def test_what_is_no_video(tmp_path):
    for content in (b"", b"not a video at all" * 100, b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n"):
        (tmp_path / "x.mp4").write_bytes(content)
        with pytest.raises(CaptureError) as e:
            load_capture(tmp_path / "x.mp4")
        assert "x.mp4" in str(e.value) and "\n" not in str(e.value)


def test_truncated_video(video, tmp_path):
    path, _ = video
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CaptureError, match="cut.mp4"):
        load_capture(tmp_path / "cut.mp4")


def test_a_table_beside_a_video_makes_no_recording_of_it(video, tmp_path):
    """Only a video of the recording's own name has its cameras in odometry.csv."""
    shutil.copy(video[0], tmp_path / "clip.mp4")
    (tmp_path / "odometry.csv").write_text("day, kilometres\n1, 5\n")
    assert load_capture(tmp_path, LoadOptions(max_photos=2)).source == "video"


def pq(nits):
    """ITU-R BT.2100's curve: signal of light in cd/m2."""
    y = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(nits):
    """The same for HLG, on a display of 1000 cd/m2."""
    e = (nits / 1000) ** (1 / 1.2)
    return np.where(e <= 1 / 12, np.sqrt(3 * e), 0.17883277 * np.log(np.maximum(12 * e - 0.28466892, 1e-9)) + 0.55991073)


@pytest.mark.skipif(not _can_map_tones(), reason="this ffmpeg has no zscale")
@pytest.mark.parametrize(("curve", "coded"), [("smpte2084", pq), ("arib-std-b67", hlg)])
def test_hdr_becomes_what_it_shows(tmp_path, monkeypatch, curve, coded):
    """Greys by the standards' formulas: up to nine tenths of diffuse white they come out as sRGB of that light."""
    nits = np.array([2.0, 5, 10, 25, 50, 80, 120, 160, 203, 400, 900])
    w, h = 16 * len(nits), 64
    luma = np.repeat(np.round(64 + 876 * coded(nits)).astype("<u2"), 16)[None].repeat(h, 0)
    frame = luma.tobytes() + np.full((h // 2, w // 2), 512, "<u2").tobytes() * 2
    said = ["-color_trc", curve, "-color_primaries", "bt2020", "-colorspace", "bt2020nc"]
    command = [ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", f"{w}x{h}", "-r", "10", *said, "-color_range", "tv", "-i", "-"]
    subprocess.run([*command, "-c:v", "libx264", "-qp", "4", *said, str(tmp_path / "hdr.mp4")], input=frame * 3, check=True)
    capture = load_capture(tmp_path / "hdr.mp4")
    shown = capture.views[0].image.load()[32, 8::16].numpy() * 255
    light = nits / 203
    want = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert "HDR" not in str(capture.warnings) and np.abs(shown[:8] - want[:8, None]).max() < 2.5 and shown[8:].min() > 245
    monkeypatch.setattr(video_module, "_can_map_tones", lambda: False)
    pale = load_capture(tmp_path / "hdr.mp4")
    assert "is recorded in HDR" in pale.warnings[-1] and np.abs(pale.views[0].image.load()[32, 8::16].numpy() * 255 - want[:, None])[2:8].max() > 20
