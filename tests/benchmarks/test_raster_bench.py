"""The rasterizer's benchmark runs, and its numbers have the places other programs read them from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from handful.benchmarks import raster
from handful.recon.kernels import native_or_none

pytestmark = pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")


def test_stages_and_step_of_a_small_scene() -> None:
    stages = raster.measure(*raster.step_scene(800, 60, 40), repeats=1)
    assert {"bin_ms", "forward_ms", "backward_ms", "pairs", "visible", "kernel_peak_mib"} <= stages.keys()
    assert stages["gaussians"] == stages["visible"] == 800 and stages["pairs"] >= 800
    step = raster.time_step(800, 60, 40, repeats=1)
    parts = sum(step[k] for k in ("render_ms", "loss_ms", "backward_ms", "optimiser_ms"))
    assert step["step_ms"] == pytest.approx(parts, rel=0.01)


def test_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert raster.main(["--data", str(tmp_path)]) == 2
    assert "test_garden.npz" in capsys.readouterr().err


def test_unknown_instruction_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert raster.main(["--data", str(tmp_path), "--isa", "mmx"]) == 2
    assert "mmx" in capsys.readouterr().err


@pytest.mark.slow
def test_captured_points(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "raster.json"
    assert raster.main(["--data", str(shared_data), "--json", str(out), "--quiet", "--repeats", "2"]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert capsys.readouterr().out == ""
    for opacity in ("0.2", "0.6"):
        assert result[opacity]["gaussians"] == 138_766
        assert all(result[opacity][k] > 0 for k in ("bin_ms", "forward_ms", "backward_ms"))
