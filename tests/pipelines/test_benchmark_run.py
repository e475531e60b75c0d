"""Running a benchmark: jobs in processes of their own, what is done is skipped, failures do not stop the rest, kill -9 loses only the job at work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handful.pipelines import trial
from handful.pipelines.bench import runner
from handful.pipelines.bench.isolated import Task, run_task
from handful.pipelines.bench.material import identity, load_material, photo_digests
from handful.pipelines.bench.plan import read_plan
from handful.pipelines.bench.record import JOB_SCHEMA, JobOutput, check_record, failed_record
from handful.pipelines.bench.store import claim_folder, keep, read_done, read_listed, read_record
from handful.pipelines.bench.work import perform
from handful.pipelines.cli.main import _run
from handful.pipelines.results import read_results
from handful.recon.capture import Unplaced
from handful.recon.errors import CheckpointError, ConfigError
from PIL import Image

from .bench_captures import TINY, write_capture, write_file

MAIN = [sys.executable, "-m", "handful.pipelines.cli.main"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of captures with one in it."""
    root = tmp_path_factory.mktemp("captures")
    write_capture(root / "table", 5)
    return root


@pytest.fixture(scope="module")
def ran(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of two methods, really run; without LPIPS, whose networks want larger photos."""
    out = tmp_path_factory.mktemp("ran") / "out"
    before = os.environ.get("HANDFUL_WEIGHTS")
    os.environ["HANDFUL_WEIGHTS"] = str(table / "none")
    try:
        code = _run(["benchmark", "run", str(write_file(table / "b.json")), "-o", str(out), "--json", str(out.parent / "s.json")])
    finally:
        os.environ.pop("HANDFUL_WEIGHTS") if before is None else os.environ.update(HANDFUL_WEIGHTS=before)
    assert code == 0
    return out


def _records(out: Path) -> dict[str, dict[str, Any]]:
    return {r["label"]: r for r in map(read_record, sorted((out / "jobs").glob("*.json")))}


def test_every_job_leaves_a_whole_record(ran: Path) -> None:
    summary = json.loads((ran.parent / "s.json").read_text())
    assert (summary["done"], summary["skipped"], summary["failed"]) == (2, 0, 0) and Path(summary["report"]).is_file()
    records = _records(ran)
    assert set(records) == {"one", "two"}
    r = records["one"]
    assert r["protocol"]["train"] == ["v1.png", "v2.png", "v4.png"] and r["protocol"]["test"] == ["v0.png", "v3.png"], "the rule is stored as names"
    assert set(r["photos"]) == {f"v{i}.png" for i in range(5)} and r["settings"]["optim"]["steps"] == 2
    assert 8 < r["scores"]["psnr"] < 40 and len(r["views"]) == 2 and r["scores"]["lpips_vgg"] is None
    t = r["training"]
    assert t["timed_alone"] and t["seconds"] > 0 and t["threads"] >= 1 and t["gaussians"] > 50
    assert 100 < t["peak_memory_mb"] < 4000
    assert t["curve"] and t["curve"][-1][0] <= 2 and all(len(p) == 3 for p in t["curve"])
    picture = r["pictures"][0]
    for kind in ("render", "truth", "error", "depth"):
        assert np.asarray(Image.open(ran / picture[kind])).shape == (48, 64, 3)
    assert records["two"]["pictures"][0]["truth"] == picture["truth"], "photos are kept once"
    assert [b["view"] for b in r["blame"]] == r["protocol"]["test"]
    for b in r["blame"]:
        parts = [b[k] for k in ("outside", "hidden", "unmeasured", "measured")]
        assert sum(p["area"] for p in parts) == pytest.approx(1, abs=1e-3) and sum(p["error"] for p in parts) == pytest.approx(1, abs=1e-3)
    name = str(ran.parents[1])
    assert name not in json.dumps(r) and name not in (ran / "report.html").read_text() + (ran / "benchmark.json").read_text(), "no path of this machine"
    assert not (ran / "running").exists()


def test_the_stored_picture_is_what_was_scored(ran: Path) -> None:
    r = _records(ran)["one"]
    picture = r["pictures"][0]
    render, truth = (np.asarray(Image.open(ran / picture[k])).astype(float) / 255 for k in ("render", "truth"))
    view = next(v for v in r["views"] if v["name"] == picture["view"])
    assert -10 * np.log10(((render - truth) ** 2).mean()) == pytest.approx(view["psnr"], abs=1e-3)


def test_photos_that_found_no_place_are_named(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = read_plan(write_file(tmp_path / "b.json"), table)
    job = plan.jobs(plan.places[0])[0]
    material = load_material(job.place)
    trains = trial.train_capture

    def one_is_left_out(*args: Any) -> Any:
        scene, start = trains(*args)
        report = replace(start.init.report, unplaced=(Unplaced("v4.png", "it shares too little with the others."),), focal_loose=True)
        return scene, replace(start, init=replace(start.init, report=report))

    monkeypatch.setattr(trial, "train_capture", one_is_left_out)
    notes = perform(job, identity(job, material, photo_digests(material)), alone=True).record["notes"]
    assert notes[0] == "v4.png is left out: it shares too little with the others." and "focal length" in notes[1]


def test_a_repeat_for_a_metric_that_fails_loses_nothing(ran: Path, table: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Weights have come since: what lacks their metric is done again, and says why; its record stays where that fails."""
    good = _records(ran)["one"]
    monkeypatch.setattr(runner, "run_task", lambda task, *args: JobOutput({**good, **task["base"], "status": "failed", "error": "no memory", "scores": None}))
    monkeypatch.setattr(runner, "available_lpips", lambda protocol, **options: ({"lpips_vgg": None}, ()))
    before = {p.name: p.read_bytes() for p in (ran / "jobs").iterdir()}
    assert _run(["benchmark", "run", str(table / "b.json"), "-o", str(ran)]) != 0
    assert "2 jobs that are done are done again: a metric they lack (lpips_vgg) can be measured now" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in (ran / "jobs").iterdir()} == before


def test_what_is_done_is_skipped_and_a_changed_setting_is_not(ran: Path, table: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    asked: list[str] = []
    good = _records(ran)["one"]

    def pretend(task: Task, *args: Any) -> JobOutput:
        asked.append(task["base"]["label"])
        return JobOutput({**good, **task["base"]})

    monkeypatch.setattr(runner, "run_task", pretend)
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(table / "none"))  # as it was run: weights that have come since are a reason to do it again
    before = {p.name: p.read_bytes() for p in (ran / "jobs").iterdir()}
    assert _run(["benchmark", "run", str(table / "b.json"), "-o", str(ran)]) == 0
    assert asked == [] and "2 of 2 jobs are done already" in capsys.readouterr().out
    changed = write_file(table / "c.json", methods=[{"label": "one", "set": TINY}, {"label": "two", "set": [*TINY, "terms.depth=0.5"]}])
    assert _run(["benchmark", "run", str(changed), "-o", str(ran)]) == 0
    assert asked == ["two"]
    assert {p.name: p.read_bytes() for p in (ran / "jobs").iterdir() if p.name in before} == before, "what was there is as it was"
    assert len(read_listed(ran).records) == 2 and len(list((ran / "jobs").iterdir())) == 3, "the report is of this plan alone"
    victim = next(p for p in (ran / "jobs").iterdir() if "-one-" in p.name)
    whole = victim.read_bytes()
    victim.write_bytes(whole[:100])
    asked.clear()
    assert _run(["benchmark", "run", str(table / "b.json"), "-o", str(ran)]) == 0
    assert asked == ["one"], "a broken record is no record"
    victim.write_bytes(whole)
    assert _run(["benchmark", "run", str(table / "b.json"), "-o", str(ran)]) == 0


def test_a_failure_is_told_and_the_rest_goes_on(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, ran: Path) -> None:
    good = _records(ran)["one"]
    broken = {"one"}

    def pretend(task: Task, *args: Any) -> JobOutput:
        if task["base"]["label"] in broken:
            return JobOutput(failed_record(task["base"], "It <broke>."))
        return JobOutput({**good, **task["base"]})

    monkeypatch.setattr(runner, "run_task", pretend)
    args = ["benchmark", "run", str(table / "b.json"), "-o", str(tmp_path / "out"), "--json", str(tmp_path / "s.json")]
    assert _run(args) == 2
    err = capsys.readouterr().err
    assert err.startswith("handful: Not all jobs could be done") and err.rstrip().endswith("It <broke>.") and err.count("\n") == 1
    listed = read_listed(tmp_path / "out")
    assert len(listed.done) == 1 and len(listed.failed) == 1 and json.loads((tmp_path / "s.json").read_text())["failed"] == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "It &lt;broke&gt;." in page and "<broke>" not in page
    broken.clear()
    assert _run(args) == 0 and len(read_listed(tmp_path / "out").done) == 2, "only the failed one is tried again"


def test_a_place_that_cannot_be_used_does_not_stop_the_others(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, ran: Path) -> None:
    good = _records(ran)["one"]
    monkeypatch.setattr(runner, "run_task", lambda task, *a: JobOutput({**good, **task["base"]}))
    (table / "empty").mkdir(exist_ok=True)
    file = write_file(table / "d.json", benchmarks=[{"dataset": "holdout", "scenes": ["empty", "table"], "views": [0], "every": 3}])
    assert _run(["benchmark", "run", str(file), "-o", str(tmp_path / "out")]) == 2
    assert "holdout empty, all views" in capsys.readouterr().err and len(read_listed(tmp_path / "out").done) == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "holdout empty, all views" in page and str(table) not in page
    alone = write_file(table / "e.json", benchmarks=[{"dataset": "holdout", "scenes": ["empty"], "views": [0]}])
    assert _run(["benchmark", "run", str(alone), "-o", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists(), "nothing to do leaves nothing"


def test_killed_and_run_again_it_goes_on(table: Path, tmp_path: Path) -> None:
    """kill -9 in the second job: the first is kept as it is, the job's process goes too, the rest is done by the same command."""
    out = tmp_path / "out"
    file = write_file(table / "k.json", methods=[{"label": "one", "set": TINY}, {"label": "long", "set": [*TINY[1:], "optim.steps=200000"]}])
    env = {**os.environ, "HANDFUL_WEIGHTS": str(tmp_path / "none")}
    driver = subprocess.Popen([*MAIN, "benchmark", "run", str(file), "-o", str(out)], env=env, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    seen = ""
    for line in driver.stdout:
        seen += line
        if "-long-" in line and "optimising" in line:
            break
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert "[1/2]" in seen, seen
    first = next((out / "jobs").glob("*.json"))
    kept = first.read_bytes()
    assert len(list((out / "jobs").glob("*.json"))) == 1 and len(list((out / "running").iterdir())) == 1
    folder = str(next((out / "running").iterdir()))
    deadline = time.monotonic() + 20
    while any(folder in c for c in _commands()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(folder in c for c in _commands()), "an orphan would disturb what is timed next"
    plan = read_plan(file)
    text = file.read_text().replace("optim.steps=200000", "optim.steps=3")  # so that the test ends: another job of the same plan
    file.write_text(text)
    again = subprocess.run([*MAIN, "benchmark", "run", str(file), "-o", str(out)], env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "1 of 2 jobs are done already" in again.stdout and first.read_bytes() == kept
    assert len(read_listed(out).done) == 2 and not (out / "running").exists() and plan.name == "k.json"


def _commands() -> list[str]:
    """Command lines of this machine's processes."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return lines.splitlines()


def test_a_crash_is_a_failed_job(ran: Path, table: Path) -> None:
    base = _records(ran)["one"]
    job = read_plan(table / "b.json")
    from handful.pipelines.bench.isolated import task_of

    task = task_of(job.jobs(job.places[0])[0], base, True, 1)
    gone = run_task({**task, "job": {**task["job"], "seed": -1, "unknown": 1}})
    assert gone.record["status"] == "failed" and "has no setting 'unknown'" in (gone.record["error"] or "")
    killed = run_task(task, on_start=lambda p: p.kill())
    assert killed.record["status"] == "failed" and "was killed" in killed.record["error"]
    changed = run_task({**task, "identity": "0" * 64})
    assert "are not those it was planned with" in changed.record["error"]


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with claim_folder(out):
        with pytest.raises(CheckpointError, match="Another run is writing"):
            with claim_folder(out):
                pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="files that no benchmark wrote"):
        with claim_folder(tmp_path / "mine"):
            pass
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".benchmark.json.0.partial").write_text("{")  # what a run leaves that was killed while it wrote its first file
    with claim_folder(tmp_path / "begun"):
        pass


def test_two_places_that_tables_cannot_tell_apart_are_refused(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for room in ("kitchen", "garden"):
        shutil.copytree(table / "table", tmp_path / room / "out")
    file = write_file(tmp_path / "b.json", benchmarks=[{"dataset": "holdout", "scenes": ["kitchen/out", "garden/out"], "views": [0], "every": 3}])
    assert _run(["benchmark", "run", str(file), "-o", str(tmp_path / "done")]) == 2
    assert "tables could not tell them apart" in capsys.readouterr().err and not (tmp_path / "done").exists()


def test_records_are_checked(ran: Path, tmp_path: Path) -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(JOB_SCHEMA)
    good = _records(ran)["one"]
    for change, says in (
        ({"status": "half"}, "at status"), ({"speed": 1}, "unknown key speed"), ({"identity": "x"}, "at identity"),
        ({"training": {**good["training"], "seconds": -1}}, "at training"), ({"scores": {"psnr": "high"}}, "at scores"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            check_record({**good, **change}, "r.json")
    with pytest.raises(ConfigError, match="no place in a benchmark's folder"):
        keep(tmp_path, JobOutput(good, {"../evil.png": b""}))
    with pytest.raises(ConfigError, match="no place in a benchmark's folder"):
        keep(tmp_path, JobOutput(good, {"pictures/../../evil.png": b""}))
    keep(tmp_path, JobOutput(good, {"pictures/a/b.png": b"x"}))
    assert read_done(tmp_path, good["name"], good["identity"]) == good and read_done(tmp_path, good["name"], "0" * 64) is None
    assert good["scores"]["lpips_vgg"] is None and read_done(tmp_path, good["name"], good["identity"], ["lpips_vgg"]) is None, "its weights have come since"
    keep(tmp_path, JobOutput({**good, "scores": {**good["scores"], "lpips_vgg": 0.2}}, {}))
    assert read_done(tmp_path, good["name"], good["identity"], ["lpips_vgg"]) is not None
    with pytest.raises(ConfigError):
        read_results(ran / "results.json")
    assert json.loads((ran / "results.json").read_text())["kind"] == "benchmark summary"


@pytest.mark.slow
def test_several_at_a_time_are_not_timed(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert _run(["benchmark", "run", str(write_file(table / "j.json")), "-o", str(tmp_path / "out"), "--jobs", "2"]) == 0
    listed = read_listed(tmp_path / "out")
    assert len(listed.done) == 2 and {(r["training"]["timed_alone"], r["training"]["threads"]) for r in listed.done} == {(False, 1)}
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [r["seconds"] for r in rows] == [None, None]


@pytest.mark.slow
def test_spare_writes_what_has_to_be_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout the challenge asks for: SCENE/rect_NNN_3_r5000.png of 1600x1200, and no score where the truth is not given away."""
    import torch
    from handful.data.atomic import write_bytes
    from handful.data.image_io import encode_png
    from handful.data.synthetic import arc_cameras, make_scene, render_truth

    root, scene = tmp_path / "spare", make_scene(0)
    cameras = arc_cameras(scene, [-15.0, 0.0, 15.0, 7.0], 1600, 1200)
    images = render_truth(scene, cameras[[0, 1, 2]].resized(100, 75), supersample=1).images
    (root / "dtu_calibration").mkdir(parents=True)
    for i in range(4):
        K = cameras.K[i].clone()
        K[:2, 2] -= 0.5
        P = (K @ cameras.cam_from_world[i, :3]).tolist()
        (root / "dtu_calibration" / f"pos_{i + 1:03d}.txt").write_text("\n".join(" ".join(map(str, row)) for row in P))
    for i in range(3):
        write_bytes(root / "scan63" / f"rect_{i + 1:03d}_3_r5000.png", encode_png(images[i]))
    (root / "Track1_split_test.json").write_text(json.dumps({"scan63": {"input_views": [0, 1, 2], "test_views": [3], "dataset": "DTU"}}))
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(tmp_path / "none"))
    file = write_file(tmp_path / "b.json", methods=[{"label": "ours", "set": [*TINY[1:], "optim.steps=40"]}], benchmarks=[{"dataset": "spare", "views": [3]}], data="spare")
    assert _run(["benchmark", "run", str(file), "-o", str(tmp_path / "out")]) == 0
    (folder,) = (tmp_path / "out" / "submission").glob("spare-3-ours-seed0-*")
    assert [p.relative_to(folder).as_posix() for p in folder.rglob("*.png")] == ["scan63/rect_004_3_r5000.png"]
    picture = torch.from_numpy(np.array(Image.open(folder / "scan63" / "rect_004_3_r5000.png"))).float() / 255
    truth = render_truth(scene, cameras[3].resized(100, 75), supersample=1).images[0]
    small = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], (75, 100), mode="area")[0].permute(1, 2, 0)
    assert picture.shape == (1200, 1600, 3) and float(-10 * (small - truth).square().mean().log10()) > 15, "the view that was asked for"
    assert read_listed(tmp_path / "out").done[0]["scores"] is None and folder.name in (tmp_path / "out" / "report.html").read_text()
    # other settings under the same name: pictures of the two do not mix
    write_file(file, methods=[{"label": "ours", "set": [*TINY[1:], "optim.steps=41"]}], benchmarks=[{"dataset": "spare", "views": [3]}], data="spare")
    assert _run(["benchmark", "run", str(file), "-o", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out" / "submission").glob("spare-3-ours-seed0-*/scan63/*.png"))) == 2
