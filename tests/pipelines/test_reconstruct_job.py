"""The main job as a user runs it: resumes after kill -9 to the same bytes, stops on Ctrl-C with a result, never mixes two jobs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from handful.data.atomic import write_bytes
from handful.data.colmap import read_model, write_model
from handful.data.image_io import encode_png
from handful.data.nerfstudio_json import read_cameras, write_transforms
from handful.data.ply import read_gaussians
from handful.data.registry import load_capture
from handful.pipelines import job
from handful.pipelines.checkpoint import load_checkpoint, save_checkpoint
from handful.pipelines.cli.main import _run
from handful.pipelines.job import reconstruct
from handful.pipelines.scene_folder import load_scene

QUICK = ["--set", "optim.steps=40", "seed.budget=4000"]


@pytest.fixture(scope="session")
def capture(small_demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's photos with their cameras, as a COLMAP folder."""
    root = tmp_path_factory.mktemp("capture")
    names = [v.name.rsplit(".", 1)[0] + ".png" for v in small_demo.photos.views]
    for name, view in zip(names, small_demo.photos.views, strict=True):
        write_bytes(root / "images" / name, encode_png(view.image.load()))
    write_model(root / "sparse" / "0", small_demo.photo_cameras, names)
    return root


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "handful.pipelines.cli.main", *map(str, args)]


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def whole(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    done = run("reconstruct", capture, "-o", out, *QUICK, "--json", out.parent / "summary.json")
    assert done.returncode == 0, done.stderr
    assert "left" in done.stdout or "optimising" in done.stdout
    return out


def test_scene_folder(whole: Path, capture: Path, small_demo) -> None:
    for name in ("scene.ply", "transforms.json", "sparse/0/cameras.bin", "config.json", "metrics.json", "preview.png", "checkpoint/state.safetensors"):
        assert (whole / name).is_file(), name
    folder = load_scene(whole)
    assert folder.images().shape == (3, 90, 120, 3)
    # what went in with cameras came out in the same world, in all three files
    given = small_demo.photo_cameras.cam_from_world.float()
    assert torch.allclose(folder.cameras.cam_from_world.float(), given, atol=1e-5)
    assert torch.allclose(read_cameras(whole / "transforms.json").cam_from_world.float(), given, atol=1e-5)
    assert len(read_model(whole / "sparse" / "0").images) == 3
    out = folder.scene.render(folder.cameras)
    error = (out.color.clamp(0, 1) - folder.images()).square().mean()
    assert -10 * torch.log10(error) > 15
    summary = json.loads((whole.parent / "summary.json").read_text())
    assert {"photos", "registered", "gaussians", "seconds", "reprojection_px", "train_psnr"} <= set(summary)
    assert summary["photos"] == summary["registered"] == 3 and summary["gaussians"] == len(folder.gaussians)


def test_killed_run_continues_to_the_same_bytes(capture: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ("reconstruct", capture, "-o", out, *QUICK, "--checkpoint-seconds", "0")
    process = subprocess.Popen(command(*args), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = out / "checkpoint" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "scene.ply").exists(), "killed too late to prove anything"
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert (out / "scene.ply").read_bytes() == (whole / "scene.ply").read_bytes()


def test_interrupt_gives_a_result(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ("reconstruct", capture, "-o", out, "--set", "optim.steps=100000", "seed.budget=4000", "--checkpoint-seconds", "0.2")
    process = subprocess.Popen(command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint" / "state.safetensors").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "continue" in errors and len(read_gaussians(out / "scene.ply")) > 100
    assert not json.loads((out / "metrics.json").read_text())["finished"]


def test_interrupt_before_there_is_a_result_leaves_nothing(small_demo, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for i, image in enumerate(small_demo.photos.images()):
        write_bytes(photos / f"{i}.png", encode_png(image))
    process = subprocess.Popen(command("reconstruct", photos, "-o", out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    # a shell says 130 to both: Python ends by the signal itself when it came while a string was being executed (imports do that), even if it was caught
    assert process.returncode in (130, -signal.SIGINT) and "interrupted" in errors and "Traceback" not in errors, errors
    assert not out.exists()


def test_another_job_is_refused(capture: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "scene.ply").read_bytes()
    assert _run(["reconstruct", str(capture), "-o", str(whole), "--set", "optim.steps=41"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (whole / "scene.ply").read_bytes() == before


def test_done_stays_done(capture: Path, whole: Path) -> None:
    before = (whole / "scene.ply").read_bytes()
    again = run("reconstruct", capture, "-o", whole, *QUICK, "--quiet")
    assert again.returncode == 0 and again.stdout == ""
    assert (whole / "scene.ply").read_bytes() == before


def test_a_scene_that_another_version_began_says_so(capture: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["reconstruct", str(capture), "-o", str(whole), *QUICK]) == 0
    assert "was begun by" not in capsys.readouterr().err
    monkeypatch.setattr(job, "version_of", lambda package: "99.0")
    state, meta = load_checkpoint(whole / "checkpoint" / "state.safetensors")
    save_checkpoint(whole / "checkpoint" / "state.safetensors", state, {**meta, "by": "98.0"})
    assert _run(["reconstruct", str(capture), "-o", str(whole), *QUICK]) == 0
    assert "was begun by Handful 98.0, this is 99.0" in capsys.readouterr().err


def test_parts_of_what_has_none(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["reconstruct", str(capture), "-o", str(tmp_path / "out"), "--part", "train"]) == 2
    assert "does not come in parts" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_from_python(capture: Path) -> None:
    from handful.pipelines.config import override
    from handful.pipelines.methods import method_config

    events = []
    scene = reconstruct(capture, on_event=events.append, config=override(method_config("handful"), ["optim.steps=5", "seed.budget=2000"]))
    assert scene.render(scene.cameras).color.shape == (3, 90, 120, 3) and events


# -- bad input: one sentence, exit code 2, no traceback -----------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    assert _run([str(a) for a in args]) == 2
    err = capsys.readouterr().err.strip()
    assert "Traceback" not in err and err.startswith("handful: ")
    last = err.splitlines()[-1]
    assert last.endswith("."), last
    return last


def photo(path: Path, seed: int = 0) -> Path:
    write_bytes(path, encode_png(torch.rand(40, 60, 3, generator=torch.Generator().manual_seed(seed))))
    return path


def test_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    assert str(tmp_path / "in") in refused(capsys, "reconstruct", tmp_path / "in", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in refused(capsys, "reconstruct", tmp_path / "nowhere", "-o", tmp_path / "out")


def test_one_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "in" / "a.png")
    assert "2 photos" in refused(capsys, "reconstruct", tmp_path / "in", "-o", tmp_path / "out")


def test_text_named_jpg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in" / name).write_text("this is no photo")
    assert ".jpg" in refused(capsys, "reconstruct", tmp_path / "in", "-o", tmp_path / "out")


def test_same_photo_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = photo(tmp_path / "in" / "a.png").read_bytes()
    (tmp_path / "in" / "b.png").write_bytes(data)
    assert "2 photos" in refused(capsys, "reconstruct", tmp_path / "in", "-o", tmp_path / "out")


def test_the_reason_is_told_when_too_few_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = photo(tmp_path / "in" / "a.png").read_bytes()
    (tmp_path / "in" / "b.png").write_bytes(data)
    assert "b.png is left out: it is the same photo as a.png" in refused(capsys, "reconstruct", tmp_path / "in", "-o", tmp_path / "out")


def test_masks_that_hide_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, name in enumerate(("a.png", "b.png")):
        photo(tmp_path / "in" / name, i)
        write_bytes(tmp_path / "in" / "masks" / name, encode_png(torch.zeros(40, 60, 3)))
    assert "leaves nothing of the photo" in refused(capsys, "reconstruct", tmp_path / "in", "-o", tmp_path / "out")


def test_a_broken_photo_is_named_once(capture: Path, tmp_path: Path) -> None:
    shutil.copytree(capture / "images", tmp_path / "in" / "images")
    write_transforms(tmp_path / "in" / "transforms.json", *given(capture))
    first = sorted((tmp_path / "in" / "images").iterdir())[0]
    first.write_text("not a photo any more")
    done = run("reconstruct", tmp_path / "in", "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 0 and done.stderr.count(first.name) == 1, done.stderr


def given(capture: Path):
    loaded = load_capture(capture)
    return loaded.cameras, [f"images/{n}" for n in loaded.names]


def test_photos_that_share_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "in" / "a.png", 1)
    photo(tmp_path / "in" / "b.png", 2)
    assert "photo" in refused(capsys, "reconstruct", tmp_path / "in", "-o", tmp_path / "out")


def test_no_texture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, grey in (("a.png", 0.4), ("b.png", 0.5)):
        write_bytes(tmp_path / "in" / name, encode_png(torch.full((40, 60, 3), grey)))
    assert "photo" in refused(capsys, "reconstruct", tmp_path / "in", "-o", tmp_path / "out")


def test_output_that_cannot_be(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("keep me")
    assert "file" in refused(capsys, "reconstruct", capture, "-o", tmp_path / "file", *QUICK)
    assert "file" in refused(capsys, "reconstruct", capture, "-o", tmp_path / "file" / "out", *QUICK)
    assert (tmp_path / "file").read_text() == "keep me"


def test_names_that_are_not_there(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "did you mean 'steps'" in refused(capsys, "reconstruct", capture, "-o", out, "--set", "optim.step=3")
    assert "choose one of" in refused(capsys, "reconstruct", capture, "-o", out, "--method", "magic")
    assert "scene.ply" in refused(capsys, "export", tmp_path, "-o", tmp_path / "a.ply")
    assert not out.exists()
