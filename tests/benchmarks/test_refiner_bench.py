"""The benchmark of the refiner: its stored result is what the page shows, and it holds what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from handful.benchmarks import refiner as bench
from handful.benchmarks.refiner import Args, main, run, table

ROOT = Path(__file__).resolve().parents[2]
STORED = json.loads((ROOT / "benchmarks/results/refiner.json").read_text(encoding="utf-8"))


def test_the_page_shows_the_stored_result() -> None:
    page = (ROOT / "docs/refine.md").read_text(encoding="utf-8")
    for part in table(STORED).split("\n\n"):
        assert part in page


def test_real_captures_are_never_worse() -> None:
    for row in STORED["real"]:
        assert row["psnr"][2] >= row["psnr"][0] - 0.005, row["capture"]


@pytest.mark.slow  # pytest -m slow tests/benchmarks
def test_a_small_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "KINDS", ("object",))
    result = run(Args(count=1, lessons=tmp_path, quiet=True))
    (row,) = result["made_up"]
    assert result["real"] == [] and row["kind"] == "object" and 0 <= row["strength"] <= 1
    for group in ("high", "aside", "near", "photos"):
        before, everything, kept = row[group]
        assert 5 < before < 60 and before != everything and (kept == before if row["strength"] == 0 else True)
    assert "object, high" in table(result) and "all, high and aside" in table(result)


def test_no_scenes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quiet", "--count", "0"]) == 2 and "--count" in capsys.readouterr().err
