"""Commands as a user types them: doctor, evaluate, help; and pictures are never mixed with progress in --quiet."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from handful.pipelines.cli.common import show_log
from handful.pipelines.cli.main import COMMANDS, _run
from handful.pipelines.results import check_results


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


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = tmp_path / "doctor.json"
    assert _run(["doctor", "--json", str(summary)]) == 0
    out = capsys.readouterr().out
    for text in ("rasterizers", "reference", "xfeat", "lpips", "methods", "llff", "spz"):
        assert text in out
    listed = json.loads(summary.read_text())
    assert listed["rasterizers.reference"] == "available" and "MISSING" not in " ".join(listed.values())


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
