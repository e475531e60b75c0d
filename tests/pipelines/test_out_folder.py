"""The output folder: what was in it before, whose it is, and that a disk that cannot take the scene leaves the old one whole."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.data.atomic import beside, write_bytes, write_json, writing
from handful.data.image_io import encode_png
from handful.pipelines import scene_folder
from handful.pipelines.checkpoint import load_checkpoint, save_checkpoint
from handful.pipelines.config import override, to_jsonable
from handful.pipelines.events import StageProgress, StepDone
from handful.pipelines.job import Reconstruction, ReconstructJob, reconstruct
from handful.pipelines.methods import method_config
from handful.pipelines.methods.splat import SplatMethod
from handful.pipelines.out_folder import START, STATE, claim_out, make_room
from handful.pipelines.scene_folder import image_names, load_scene, write_scene_folder
from handful.pipelines.start_file import load_start, save_start
from handful.recon.capture import ArrayImage, View
from handful.recon.errors import CaptureError, CheckpointError, ConfigError, HandfulError

QUICK = override(method_config("handful"), ["optim.steps=3", "seed.budget=1000", "seed.extra=0"])


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def write(small_start):
    """write(out, **metrics) writes a scene folder of the small start."""
    scene = SplatMethod(QUICK).start(small_start).snapshot()

    def make(out: Path, **metrics: object) -> Path:
        write_scene_folder(out, scene, small_start.init, QUICK, {"method": "handful", **metrics})
        return out

    return make


@pytest.mark.parametrize("name", ["images/mine.jpg", "sparse/0/cameras.bin", "transforms.json", "scene.ply", "config.json"])
def test_a_foreign_capture_is_never_written_into(tmp_path: Path, name: str) -> None:
    out = tmp_path / "capture"
    write_bytes(out / name, b"somebody's")
    for overwrite in (False, True):
        with pytest.raises(CaptureError, match="Handful did not write"):
            claim_out(out, tmp_path / "photos", "x", overwrite)
    assert contents(out) == {name: b"somebody's"}


def test_the_photos_own_folder_is_refused(tmp_path: Path, write) -> None:
    photos = tmp_path / "photos"
    write_bytes(photos / "a.png", encode_png(torch.rand(20, 20, 3)))
    with pytest.raises(CaptureError, match="lies where the scene would be written"):
        claim_out(photos, photos, "x", True)
    with pytest.raises(CaptureError, match="holds photos"):
        claim_out(photos, tmp_path / "clip.mp4", "x", True)
    out = write(tmp_path / "out")
    for source in (out, out / "images", out / "sparse" / "0", out / "transforms.json"):
        with pytest.raises(CaptureError, match="lies where the scene would be written"):
            claim_out(out, source, "x", True)
    claim_out(tmp_path / "photos" / "out", photos, "x", False)  # below the photos is fine
    claim_out(tmp_path / "new", out, "x", False)


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path, write) -> None:
    source, out = write(tmp_path / "capture"), tmp_path / "out"
    first = Reconstruction(ReconstructJob(source, out, config=QUICK))
    events = first.events()
    while first.init is None:
        next(events)
    other = Reconstruction(ReconstructJob(source, out, config=QUICK), overwrite=True)
    with pytest.raises(CheckpointError, match="Another run is writing"):
        list(other.events())
    list(events)
    first.finish()
    assert list(Reconstruction(ReconstructJob(source, out, config=QUICK)).events()), "free again"


def test_a_refused_or_failed_run_leaves_the_folder_as_it_was(tmp_path: Path, write) -> None:
    out, empty = write(tmp_path / "out"), tmp_path / "empty"
    empty.mkdir()
    before = contents(out)
    with pytest.raises(CheckpointError, match="--overwrite"):
        claim_out(out, tmp_path / "photos", "x", False)
    assert contents(out) == before
    photos = tmp_path / "photos"
    for i in range(2):
        write_bytes(photos / f"{i}.png", encode_png(torch.full((40, 40, 3), 0.5)))
    with pytest.raises(HandfulError):
        list(Reconstruction(ReconstructJob(photos, empty, config=QUICK)).events())
    assert list(empty.iterdir()) == []


def test_photos_that_find_no_place_leave_the_scene_they_were_to_replace(tmp_path: Path, write) -> None:
    """Its edits stay beside it, and its own job goes on in it."""
    source, out, photos = write(tmp_path / "capture"), tmp_path / "out", tmp_path / "photos"
    job = ReconstructJob(source, out, config=QUICK)
    first = Reconstruction(job)
    list(first.events())
    first.finish()
    write_json(out / "edits.json", {"format": "handful-edits", "version": 1, "steps": [{"step": "drop_faint", "below": 0.2}]})
    before = contents(out)
    assert {START, STATE} <= set(before)
    for i in range(2):
        write_bytes(photos / f"{i}.png", encode_png(torch.full((40, 40, 3), 0.5)))
    work = Reconstruction(ReconstructJob(photos, out, config=QUICK), overwrite=True)
    with pytest.raises(HandfulError):
        list(work.events())
    work.close()
    before.pop("checkpoint/lock", None)
    assert {k: v for k, v in contents(out).items() if k != "checkpoint/lock"} == before
    said = [event.what for event in Reconstruction(job).events() if isinstance(event, StageProgress)]
    assert any(what.startswith("continuing after step") for what in said)


def test_a_lock_does_not_make_the_files_beside_it_ours(tmp_path: Path) -> None:
    """Killed before it had anything to keep; then somebody put a capture there."""
    out = tmp_path / "out"
    claim_out(out, tmp_path / "photos", "x", False).close()
    claim_out(out, tmp_path / "photos", "x", False).close()
    write_bytes(out / "images" / "mine.jpg", b"somebody's")
    with pytest.raises(CaptureError, match="Handful did not write"):
        claim_out(out, tmp_path / "photos", "x", True)


def test_edits_and_path_of_another_scene_are_set_aside(tmp_path: Path, write) -> None:
    out = write(tmp_path / "out")
    for turn in (1, 2):
        write_json(out / "edits.json", {"turn": turn})
        write_json(out / "path.json", {"turn": turn})
        claim_out(out, tmp_path / "photos", "another", overwrite=True).close()
        assert (out / "edits.json").exists(), "until there is something to put in its place"
        make_room(out)
    assert not (out / "edits.json").exists() and not (out / "path.json").exists()
    for name in ("edits", "path"):
        assert "1" in (out / f"{name}.before.json").read_text() and "2" in (out / f"{name}.before2.json").read_text()


def test_only_overwrite_replaces_another_scene(tmp_path: Path, write) -> None:
    out = write(tmp_path / "out")
    with pytest.raises(CheckpointError, match="--overwrite"):
        claim_out(out, tmp_path / "photos", "x", False)
    claim_out(out, tmp_path / "photos", "x", True)
    assert (out / "scene.ply").is_file()


def test_a_disk_that_fills_up_leaves_the_old_scene_whole(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write(tmp_path / "out", run=1)
    before = contents(out)

    def full(path: Path, *args: object) -> None:
        with writing(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scene_folder, "write_gaussians", full)
    with pytest.raises(HandfulError, match=r"Cannot write .*/out/scene.ply: the disk is full"):
        write(out, run=2)
    assert contents(out) == before
    monkeypatch.undo()
    write(out, run=2)
    assert contents(out).keys() == before.keys() and load_scene(out).metrics["run"] == 2


def test_photos_of_a_replaced_scene_go(tmp_path: Path, write) -> None:
    out = write(tmp_path / "out")
    config = scene_folder._read_json(out / "config.json")
    write_json(out / "config.json", {**config, "names": [*config["names"], "old.jpg"]})
    write_bytes(out / "images" / "old.png", b"of the scene before")
    write_bytes(out / "images" / "mine.png", b"put there by the user")
    write(out)
    assert not (out / "images" / "old.png").exists() and (out / "images" / "mine.png").exists()


def test_masks_of_a_replaced_scene_go(tmp_path: Path, write) -> None:
    out = write(tmp_path / "out")
    stale = out / "masks" / Path(image_names(load_scene(out).names)[0]).name
    write_bytes(stale, encode_png(torch.zeros(90, 120, 3)))
    write(out)
    assert not stale.exists(), "else the new scene's photos would be masked by the old one's"


def test_a_photo_of_another_size_is_one_sentence(tmp_path: Path, write) -> None:
    folder = load_scene(write(tmp_path / "out"))
    write_bytes(tmp_path / "out" / image_names(folder.names)[1], encode_png(torch.zeros(8, 9, 3)))
    with pytest.raises(CaptureError, match="has 9 x 8 pixels, its camera 120 x 90"):
        folder.images()


def test_cameras_that_nothing_vouches_for_can_be_written_and_continued(tmp_path: Path, small_start) -> None:
    """No match agrees with the given cameras; their own points are used. There is no reprojection error then, and no file may hold NaN."""
    report = replace(small_start.init.report, reprojection_px=None, baseline=None)
    start = replace(small_start, init=replace(small_start.init, report=report))
    save_start(tmp_path / "start.safetensors", start, "x")
    assert load_start(tmp_path / "start.safetensors", start.init.capture).init.report == report
    scene = SplatMethod(QUICK).start(start).snapshot()
    metrics = {"method": "handful", "reprojection_px": report.reprojection_px, "cameras": to_jsonable(report)}
    folder = write_scene_folder(tmp_path / "out", scene, start.init, QUICK, metrics)
    assert load_scene(folder.path).metrics["cameras"]["baseline"] is None


def test_what_a_killed_run_left_half_written_does_not_close_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    claim_out(out, tmp_path / "photos", "x", False).close()
    left = beside(out / "checkpoint" / "start.safetensors")
    left.write_bytes(b"half")
    claim_out(out, tmp_path / "photos", "x", False).close()
    write_bytes(out / "checkpoint" / "mine.txt", b"somebody's")
    with pytest.raises(CaptureError, match="Handful did not write"):
        claim_out(out, tmp_path / "photos", "x", True)


def test_a_failed_run_lets_go_of_the_folder(tmp_path: Path, write) -> None:
    """In a notebook the traceback keeps everything alive that the run held."""
    source, out = write(tmp_path / "capture"), tmp_path / "out"

    def fails(event: object) -> None:
        if isinstance(event, StepDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        reconstruct(source, out, on_event=fails, config=QUICK)
    assert kept is not None and len(reconstruct(source, out, config=QUICK).gaussians) > 0
    with pytest.raises(CheckpointError, match="--overwrite"):
        reconstruct(source, out, config=QUICK, seed=1)
    reconstruct(source, out, config=QUICK, seed=1, overwrite=True)


def test_image_names_never_meet() -> None:
    names = ["a.jpg", "a.png", "A.webp", "a_jpg.jpg", "x/y.jpg", "x__y.jpg", "b.jpg"]
    files = image_names(names)
    assert len({f.lower() for f in files}) == len(names) and files[-1] == "images/b.png"


@pytest.mark.parametrize(
    ("key", "value", "words"), [("names", "abc", "list of photo names"), ("names", [1, 2, 3], "list of photo names"), ("background", ["red"], "three numbers")]
)
def test_a_broken_config_is_one_sentence(tmp_path: Path, write, key: str, value: object, words: str) -> None:
    out = write(tmp_path / "out")
    write_json(out / "config.json", {**scene_folder._read_json(out / "config.json"), key: value})
    with pytest.raises(CaptureError, match=words):
        load_scene(out)


def test_a_checkpoint_of_another_job_is_not_continued(tmp_path: Path, write) -> None:
    """Killed between the removal of the old start and the end of the new one: the old state must not enter the new run."""
    source = write(tmp_path / "capture")
    job = ReconstructJob(source, tmp_path / "out", config=QUICK)
    clean = reconstruct(source, config=QUICK)
    work = Reconstruction(job)
    list(work.events())
    tensors, meta = load_checkpoint(tmp_path / "out" / STATE)
    tensors["field0.rows.means"] = tensors["field0.rows.means"] + 1
    save_checkpoint(tmp_path / "out" / STATE, tensors, {**meta, "fingerprint": "another"})
    work = Reconstruction(job)
    list(work.events())
    assert work.run is not None and torch.equal(work.run.snapshot().gaussians.means, clean.gaussians.means)


def test_masks_come_back_with_the_scene_folder(tmp_path: Path, small_start) -> None:
    from handful.data.registry import load_capture

    mask = torch.zeros(90, 120)
    mask[20:60, 30:90] = 1
    capture = small_start.init.capture
    views = tuple(View(v.name, ArrayImage(v.image.load(), mask)) for v in capture.views)
    start = replace(small_start, init=replace(small_start.init, capture=replace(capture, views=views)))
    scene = SplatMethod(QUICK).start(start).snapshot()
    write_scene_folder(tmp_path / "out", scene, start.init, QUICK, {"method": "handful"})
    masks = load_capture(tmp_path / "out").masks()
    assert masks is not None and torch.equal(masks, mask.expand(3, -1, -1))


def test_padding_comes_back_as_padding(tmp_path: Path, small_start) -> None:
    """Not as the mask of an object: else photos of mixed shapes would be continued as objects, and their black bars scored as truth."""
    from handful.data.registry import load_capture

    extent = torch.ones(90, 120)
    extent[:, :20] = 0
    capture = small_start.init.capture
    views = tuple(replace(v, image=ArrayImage(v.image.load() * extent[..., None], extent=extent)) for v in capture.views)
    start = replace(small_start, init=replace(small_start.init, capture=replace(capture, views=views)))
    scene = SplatMethod(QUICK).start(start).snapshot()
    write_scene_folder(tmp_path / "out", scene, start.init, QUICK, {"method": "handful"})
    back = load_capture(tmp_path / "out")
    assert torch.equal(back.extents(), extent.expand(3, -1, -1)) and torch.equal(back.masks(), back.extents()) and not back.is_cut_out()  # pyright: ignore
    write_scene_folder(tmp_path / "out", scene, small_start.init, QUICK, {"method": "handful"})
    assert load_capture(tmp_path / "out").masks() is None, "those of the scene before are gone"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_photos": 1}, "max_photos must be at least 2"), ({"max_photos": 0}, "max_photos"), ({"max_side": 0}, "max_side"),
        ({"max_seconds": 0.0}, "max_seconds must be more than 0"), ({"max_seconds": float("nan")}, "max_seconds"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds"), ({"seed": -1}, "seed"), ({"seed": 10**30}, "seed"),
        ({"config": override(method_config("handful"), ["optim.steps=0"])}, "optim.steps must be at least 1"),
        ({"config": override(method_config("handful"), ["fields=0"])}, "fields must be at least 1"),
        ({"config": override(method_config("handful"), ["seed.guess_spacing=0"])}, "seed.guess_spacing must be from 1 to 100, got 0"),
        ({"config": override(method_config("handful"), ["optim.opacity_decay=1.5"])}, "optim.opacity_decay must be from 0.001 to 1"),
        ({"config": override(method_config("handful"), ["seed.sh_degree=4"])}, "seed.sh_degree must be from 0 to 3"),
        ({"config": override(method_config("handful"), ["seed.size=-1"])}, "seed.size must be from"),
    ],
)  # fmt: skip
def test_senseless_numbers_are_refused_before_any_work(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ReconstructJob(tmp_path / "photos", tmp_path / "out", **options)


def test_settings_are_finite_numbers() -> None:
    with pytest.raises(ConfigError, match="expected float, got nan"):
        override(method_config("handful"), ["optim.lr_means=NaN"])
