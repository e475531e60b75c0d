"""The benchmark of sparse voxels runs, its page shows the stored figures, and the page's scripts still show spconv's defects."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from handful.benchmarks import voxels

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/voxels.md"


def test_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "voxels.json"
    assert voxels.main(["--voxels", "300", "--repeats", "1", "--parameters", "100000", "--json", str(out), "--quiet"]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert capsys.readouterr().out == ""
    rows = {(r["what"], r["name"]): r for r in result["rows"]}
    assert set(rows) == {("backend", n) for n in ("torch", "spconv", "spconv-cuda")} | {
        ("backbone", n) for n in ("unet", "focal", "sets", "patches")
    }
    assert (
        all(rows["backend", "torch"][k] > 0 for k in ("rulebook_ms", "forward_ms", "backward_ms"))
        and rows["backend", "torch"]["pairs"] > 300
    )
    assert all(abs(r["parameters"] / 100_000 - 1) < 0.3 for r in result["rows"] if r["what"] == "backbone")
    assert voxels.main(["--table", str(out)]) == 0
    assert "| patches |" in capsys.readouterr().out


@pytest.mark.parametrize("count", [3_000, 30_000])
def test_surfaces_are_about_as_large_as_asked(count: int) -> None:
    assert abs(len(voxels.surface_voxels(count, 1)) / count - 1) < 0.15


def test_nothing_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert voxels.main(["--repeats", "0"]) == 2
    assert "must be 1 or more; got 0" in capsys.readouterr().err
    assert voxels.main(["--table", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err


def test_page_shows_the_stored_figures() -> None:
    stored = ROOT / "benchmarks/results/voxels.json"
    if not stored.is_file():
        pytest.skip("needs an installed package with its sources beside the tests")
    assert voxels.table(json.loads(stored.read_text(encoding="utf-8"))) in PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_defects_of_spconv_are_as_reported() -> None:
    """Once this fails, upstream has mended something and the page must say so."""
    pytest.importorskip("spconv", reason="needs spconv")
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs CUDA turned off: the defects are those of the CPU wheel")
    scripts = [s for s in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S) if "import spconv" in s]
    raised, raced = (subprocess.run([sys.executable, "-c", s], capture_output=True, text=True, timeout=300) for s in scripts)
    assert raised.returncode == 1 and "Torch not compiled with CUDA enabled" in raised.stderr
    assert int(raced.stdout.split()[0]) > 0
