"""Which format a path is: the specific ones win, two are an error, none is a list of what there is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from handful.data.colmap import write_model
from handful.data.files import natural_key
from handful.data.registry import ADAPTERS, get_adapter, load_capture
from handful.recon.errors import CaptureError, ConfigError

REAL = {
    "llff_fern": "llff", "llff_flower": "llff", "llff_fortress": "llff", "llff_horns": "llff",
    "dtu_scan24": "dtu", "dtu_scan37": "dtu", "strecha_fountain_P11": "strecha", "fox": "nerfstudio",
    "middlebury_temple16": "middlebury", "synthetic_lego": "blender", "pi3_room8": "rgbd",
    "m360_kitchen25": "photos", "m360_kitchen25/images": "photos", "fox/images": "photos", "llff_fern/images_8": "photos",
}  # fmt: skip


@pytest.mark.parametrize("folder", REAL)
def test_exactly_one_format_recognises_each_real_capture(shared_data, folder):
    assert [n for n in ADAPTERS if get_adapter(n).recognises(shared_data / folder)] == [REAL[folder]]


@pytest.mark.parametrize(
    ("folder", "entry"),
    [("llff_fern", "poses_bounds.npy"), ("fox", "transforms.json"), ("synthetic_lego", "transforms_test.json"), ("dtu_scan24", "cameras_sphere.npz"),
     ("pi3_room8", "condition.npz"), ("middlebury_temple16", "templeSR_par.txt")],
)  # fmt: skip
def test_the_file_itself_names_the_capture(shared_data, folder, entry):
    path = shared_data / folder / entry
    assert [n for n in ADAPTERS if get_adapter(n).recognises(path)] == [REAL[folder]]
    if folder == "synthetic_lego":
        assert len(load_capture(path)) == 25


def test_every_adapter_keeps_the_protocol(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for name in ADAPTERS:
        adapter = get_adapter(name)
        assert adapter.name == name
        for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "nowhere"):
            assert adapter.recognises(path) is False


def test_recognising_decodes_nothing(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_text("no photo")
    assert get_adapter("photos").recognises(tmp_path)


def test_photos_beside_a_camera_file_are_not_a_plain_folder(nerfstudio_folder):
    root = nerfstudio_folder(3)
    capture = load_capture(root)
    assert capture.source == "nerfstudio" and capture.cameras is not None
    assert load_capture(root / "transforms.json").names == capture.names
    for photo in (root / "images").iterdir():
        shutil.copy(photo, root / photo.name)
    assert load_capture(root).source == "nerfstudio"
    assert load_capture(root, adapter="photos").cameras is None


def test_two_formats_are_an_error_that_names_both(nerfstudio_folder):
    root = nerfstudio_folder(3)
    np.save(root / "poses_bounds.npy", np.zeros((3, 17)))
    with pytest.raises(CaptureError, match=r"can be read as llff and nerfstudio; give .*poses_bounds.npy or .*transforms.json"):
        load_capture(root)
    assert load_capture(root / "transforms.json").source == "nerfstudio"
    assert load_capture(root, adapter="nerfstudio").source == "nerfstudio"


def test_what_is_no_capture(tmp_path: Path, photo_folder):
    def message(path: Path) -> str:
        with pytest.raises(CaptureError) as e:
            load_capture(path)
        assert "\n" not in str(e.value) and str(path) in str(e.value)
        return str(e.value)

    assert "no file or folder" in message(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is empty" in message(empty)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.DNG").write_bytes(b"x")
    assert "raw camera files" in message(raw)
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text("hello")
    assert all(word in message(text) for word in ("poses_bounds.npy", "transforms.json", "sparse/0"))
    assert "single photo" in message(photo_folder(1) / "p0.jpg")
    with pytest.raises(ConfigError, match="choose one of"):
        load_capture(text, adapter="banana")
    for name in ADAPTERS:
        with pytest.raises(CaptureError):
            load_capture(text, adapter=name)


def test_a_folder_of_folders_names_the_one_with_photos(tmp_path, photo_folder):
    photo_folder(2, folder="holiday/day 2")
    photo_folder(2, folder="holiday/day 10")
    with pytest.raises(CaptureError, match="holds no photos itself, but .*day 2 does .and 1 more folder do"):
        load_capture(tmp_path / "holiday")


def test_a_folder_of_videos_asks_for_one(tmp_path):
    for name in ("b.mp4", "a.mov"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CaptureError, match="holds 2 videos; give one of them, such as .*a.mov"):
        load_capture(tmp_path)


def test_a_scene_folder_is_one_capture(nerfstudio_folder):
    """Handful's own result has the cameras twice, for COLMAP and for nerfstudio; so has many a foreign folder, which stays ambiguous."""
    root = nerfstudio_folder(3)
    capture = load_capture(root)
    assert capture.cameras is not None
    write_model(root / "sparse" / "0", capture.cameras, capture.names)
    with pytest.raises(CaptureError, match="can be read as nerfstudio and colmap"):
        load_capture(root)
    (root / "config.json").write_text(json.dumps({"version": 1, "method": "handful", "settings": {}, "names": list(capture.names)}))
    assert load_capture(root).source == "colmap" and load_capture(root).names == capture.names
    (root / "config.json").write_text("[")
    with pytest.raises(CaptureError, match="can be read as"):
        load_capture(root)


def test_names_that_are_no_utf8(tmp_path, photo_folder):
    root = photo_folder(2)
    try:
        os.rename(root / "p0.jpg", os.fsencode(root) + b"/f\xe9te.jpg")
    except OSError:  # macOS refuses such names: nothing to read there
        return
    assert load_capture(root).names == ("f\xe9te.jpg", "p1.jpg")


def test_natural_order_of_odd_names():
    names = ["a10.jpg", "a²1.jpg", "a2.jpg", "a002.jpg", "a" + "9" * 5000, "٣.jpg"]
    assert sorted(names, key=natural_key)[:4] == ["a002.jpg", "a2.jpg", "a10.jpg", "a" + "9" * 5000]


def test_apple_double_files_are_ignored(photo_folder):
    root = photo_folder(2)
    (root / "._p0.jpg").write_bytes(b"\0" * 100)
    assert len(load_capture(root)) == 2 and not load_capture(root).warnings
