"""A whole reconstruction with scans: they count, are kept, judge, and a run that was stopped ends as one that was not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.data.image_io import encode_png
from handful.data.nerfstudio_json import write_transforms
from handful.data.scans.npz_files import write_sweep
from handful.data.scans.registry import load_sweeps
from handful.pipelines.events import StepDone
from handful.pipelines.job import Reconstruction, ReconstructJob
from handful.pipelines.methods import method_config
from handful.pipelines.scan.digest import measured_digest
from handful.pipelines.scene_folder import load_scene
from handful.recon.capture import Capture
from handful.recon.depth import DepthMap

from .street import street_capture

CONFIG = replace(
    method_config("handful"), seed=replace(method_config("handful").seed, budget=6000, extra=500), optim=replace(method_config("handful").optim, steps=12)
)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos with cameras and scans beside them."""
    root = tmp_path_factory.mktemp("drive")
    capture, _ = street_capture(moments=3, width=200, height=90)
    assert capture.cameras is not None
    (root / "images").mkdir()
    names = [f"images/{n}" for n in capture.names]
    for name, view in zip(names, capture.views, strict=True):
        (root / name).write_bytes(encode_png(view.image.load()))
    write_transforms(root / "transforms.json", capture.cameras, names)
    (root / "scans").mkdir()
    for sweep in capture.sweeps:
        write_sweep(root / sweep.name, sweep)
    return root


def run(job: ReconstructJob, stop_after: int | None = None) -> Reconstruction:
    work = Reconstruction(job)
    for event in work.events():
        if stop_after is not None and isinstance(event, StepDone) and event.step >= stop_after:
            work._save()  # as the clock would
            work.close()
            return work  # killed here
    work.finish()
    return work


def test_scans_count_and_a_killed_run_ends_alike(drive: Path, tmp_path: Path) -> None:
    job = ReconstructJob(drive, tmp_path / "a", config=CONFIG)
    run(job)
    folder = load_scene(tmp_path / "a")
    beams = folder.metrics["beams"]
    assert beams["beams"] > 50 and 0.3 < beams["acc"] <= 1 and beams["median_m"] is not None
    kept = load_sweeps(tmp_path / "a" / "scans" / "001.npz")[0]
    assert torch.equal(kept.xyz, load_sweeps(drive / "scans" / "001.npz")[0].xyz)

    other = replace(job, out=tmp_path / "b")
    run(other, stop_after=5)
    run(other)
    again = load_scene(tmp_path / "b")
    assert torch.equal(again.gaussians.means, folder.gaussians.means)
    assert again.metrics["beams"] == beams and again.metrics["warnings"] == folder.metrics["warnings"]


def test_without_scans_the_result_differs(drive: Path, tmp_path: Path) -> None:
    capture = Capture((), None)
    assert measured_digest(capture) == ""
    plain = replace(CONFIG, scan=False)
    job = ReconstructJob(drive, tmp_path / "c", config=plain)
    run(job)
    deaf = load_scene(tmp_path / "c")
    run(ReconstructJob(drive, tmp_path / "d", config=CONFIG))
    assert not torch.equal(deaf.gaussians.means[:100], load_scene(tmp_path / "d").gaussians.means[:100])


def test_scans_of_somebody_else_stay(drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    run(ReconstructJob(drive, out, config=CONFIG))
    mine = out / "scans" / "mine.npz"
    mine.write_bytes((out / "scans" / "000.npz").read_bytes())
    run(ReconstructJob(drive, out, config=CONFIG))
    assert mine.exists()
    assert json.loads((out / "config.json").read_text())["scans"] == ["scans/000.npz", "scans/001.npz", "scans/002.npz"]


def test_what_sensors_say_is_part_of_the_job() -> None:
    capture, depth = street_capture(moments=2)
    moved = replace(capture, sweeps=(capture.sweeps[0], replace(capture.sweeps[1], xyz=capture.sweeps[1].xyz * 1.01)))
    unsure = replace(capture, sweeps=(capture.sweeps[0], replace(capture.sweeps[1], origin_known=False)))
    d = DepthMap(depth[0], torch.ones_like(depth[0]), depth[0] > 0)
    maps = [replace(capture, depth=pair) for pair in ((d, None), (None, d), (replace(d, confidence=d.confidence * 0.5), None))]
    digests = [measured_digest(c) for c in (capture, moved, unsure, *maps, replace(capture, sweeps=()))]
    assert len(set(digests)) == len(digests)


def test_evaluation_does_not_see_a_test_photos_scan() -> None:
    capture, _ = street_capture(moments=4)
    train = capture.select([capture.names[0], capture.names[2]])
    assert [s.name for s in train.sweeps] == ["scans/000.npz", "scans/002.npz"]
    survey = replace(capture, sweeps=(*capture.sweeps, replace(capture.sweeps[0], name="scans/survey.las", origin_known=False)))
    assert [s.name for s in survey.select([capture.names[1]]).sweeps] == ["scans/001.npz", "scans/survey.las"]
