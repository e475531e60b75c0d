"""Commands as a user types them: doctor, evaluate, help; and pictures are never mixed with progress in --quiet."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from handful.pipelines.cli.common import Console, show_log
from handful.pipelines.cli.demo import write_photos
from handful.pipelines.cli.main import COMMANDS, _run
from handful.pipelines.results import check_results
from handful.recon.errors import CaptureError

from .bench_captures import TINY, write_capture


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        _run([name, "--help"])
    out = capsys.readouterr().out
    assert exit_.value.code == 0 and "Examples:" in out and f"handful {name}" in out


def test_unknown_command_exits_with_2() -> None:
    with pytest.raises(SystemExit) as exit_:
        _run(["reconstruckt"])
    assert exit_.value.code == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("handful ")


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = tmp_path / "doctor.json"
    assert _run(["doctor", "--json", str(summary)]) == 0
    out = capsys.readouterr().out
    for text in ("rasterizers", "reference", "xfeat", "lpips", "methods", "llff", "spz"):
        assert text in out
    listed = json.loads(summary.read_text())
    assert listed["rasterizers.reference"] == "available" and "MISSING" not in " ".join(listed.values())
    assert listed["sparse_convolutions.torch"] == "available, taken by auto" and "sparse_convolutions.spconv-cuda" in listed


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    assert _run([str(a) for a in args]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("handful: ") and err.count("\n") == 1 and err.endswith(".\n"), err
    return err


def test_a_summary_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("keep me")
    for wrong in (tmp_path, tmp_path / "file" / "s.json"):
        assert "Cannot write" in refused(capsys, "doctor", "--json", wrong)
    assert (tmp_path / "file").read_text() == "keep me"
    assert "Cannot write" in refused(capsys, "evaluate", "llff", tmp_path, "-o", tmp_path / "file")


def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "handful.pipelines.cli.main", "doctor", "--json", str(tmp_path / "s.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=60) == 0
    assert (tmp_path / "s.json").is_file()


def test_names_that_no_terminal_shows(tmp_path: Path) -> None:
    command = [os.fsencode(sys.executable), b"-m", b"handful.pipelines.cli.main", b"view", os.fsencode(tmp_path) + b"/f\xe9te"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2 and b"f\\udce9te" in done.stderr and b"Traceback" not in done.stderr


def test_no_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def greedy(self: object) -> None:
        torch.empty(1 << 45)

    monkeypatch.setattr(COMMANDS["doctor"], "run", greedy)
    assert "not enough memory" in refused(capsys, "doctor")


def test_demo_leaves_other_photos_alone(tmp_path: Path, small_demo, capsys: pytest.CaptureFixture[str]) -> None:
    assert "2 to 8" in refused(capsys, "demo", "-o", tmp_path / "demo", "--photos", "9")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "photo_07.png").write_bytes(b"somebody's own")
    with pytest.raises(CaptureError, match="photo_07.png, which is no photo of the demo"):
        write_photos(folder, small_demo)
    (folder / "photo_07.png").unlink()
    write_photos(folder, small_demo)
    (folder / "photo_07.png").write_bytes(b"of a demo with more photos")
    assert len(list(write_photos(folder, small_demo).glob("*.png"))) == 3
    (folder / "mine.jpg").write_bytes(b"keep me")
    with pytest.raises(CaptureError, match="mine.jpg, which is no photo of the demo"):
        write_photos(folder, small_demo)
    assert (folder / "mine.jpg").read_bytes() == b"keep me" and len(list(folder.glob("*.*g"))) == 4


def test_evaluate(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The stored protocol end to end, with a run too short to be good: what is written is a valid result."""
    args = ["evaluate", "llff", str(shared_data / "llff_fern"), "--set", "optim.steps=3", "seed.budget=20000", "-o", str(tmp_path / "out")]
    assert _run([*args, "--json", str(tmp_path / "s.json")]) == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["protocol"], summary["scene"], summary["views"], summary["seeds"]) == ("llff-3", "fern", 3, 1)
    assert summary["psnr"] > 14 and summary["psnr_std"] is None
    assert {"psnr", "ssim", "lpips_vgg", "lpips_alex", "psnr_std", "seconds"} <= set(summary)
    check_results(json.loads((tmp_path / "out" / "results.json").read_text()))
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000 and (tmp_path / "out" / "pictures.png").is_file()
    assert _run(["evaluate", "llff", str(shared_data / "llff_fern"), "--views", "5"]) == 2
    assert "3, 6, 9" in capsys.readouterr().err


def test_a_note_that_nobody_reads_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`handful reconstruct ... 2>&1 | head`."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        os.close(read)
        for _ in range(2):
            Console().warn("the photos are dark")


def test_evaluate_photos_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`holdout` is the benchmark's: the same names train and test. Options that do not go together are refused before any work."""
    table = write_capture(tmp_path / "table")
    assert _run(["evaluate", "holdout", str(table), "--every", "3", "--set", *TINY, "-o", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    check_results(results)
    assert [[Path(n).name for n in results["protocol"][part]] for part in ("test", "train")] == [["v0.png", "v3.png"], ["v1.png", "v2.png", "v4.png", "v5.png"]]
    capsys.readouterr()
    assert "--every is for holdout" in refused(capsys, "evaluate", "llff", tmp_path, "--every", "4")
    assert "--seeds must name each seed once, got 3 3" in refused(capsys, "evaluate", "holdout", table, "--seeds", "3", "3")
    assert "--views must be 2 or more" in refused(capsys, "evaluate", "holdout", table, "--views", "1")


def test_what_the_library_logs_is_a_note_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("handful.recon.anything")
    show_log(quiet=False)
    log.warning("slow")
    log.warning("slow")
    log.info("detail")
    assert capsys.readouterr().err == "note: slow\n"
    show_log(quiet=True)
    log.warning("slow")
    assert capsys.readouterr().err == ""
    show_log(quiet=False)


def test_a_depth_prior_that_cannot_work_says_so_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from handful.data.synthetic import demo_capture
    from PIL import Image

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    photos = tmp_path / "photos"
    photos.mkdir()
    for k, image in enumerate(demo_capture(n=2, held_out=1, width=96, height=72, supersample=1).photos.images()):
        Image.fromarray((image.numpy() * 255).astype("uint8")).save(photos / f"{k}.png")
    err = refused(capsys, "reconstruct", photos, "-o", tmp_path / "out", "--set", "depth_prior=depth-anything-v2", "--quiet")
    assert "needs the package transformers; run `pip install 'handful[depth]'`" in err and not (tmp_path / "out").exists()
    assert "no depth prior 'depht'" in refused(capsys, "reconstruct", photos, "-o", tmp_path / "out", "--set", "depth_prior=depht", "--quiet")
