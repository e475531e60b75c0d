"""The benchmark of file formats runs, and writing and reading take no second copy of the scene."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from handful.benchmarks import formats
from handful.data.ply import write_gaussians

from ..splat_scenes import some_gaussians


def test_a_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gaussians(tmp_path / "scene.ply", some_gaussians(200, 1))
    assert formats.main([str(tmp_path / "scene.ply"), "--formats", "ply", "spz", "--json", str(tmp_path / "r.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| ply | 0.02 | 100.0 % |") and lines[3].startswith("| spz |")
    rows = json.loads((tmp_path / "r.json").read_text())
    assert rows["original"] == {"gaussians": 200, "degree": 1, "photo_psnr": None} and rows["spz"]["bytes"] < rows["ply"]["bytes"]


def test_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert formats.main([]) == 2 and formats.main([str(tmp_path / "x.ply")]) == 2 and formats.main(["--memory", "1", "--formats", "gif"]) == 2
    assert "no format 'gif'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("degree", [0, 3])
def test_memory_is_bounded(tmp_path: Path, degree: int) -> None:
    """Two million splats: each process stays within the scene it holds, an index of its rows, and a few hundred MB of pieces."""
    rows = formats.measure_memory(2, degree, (), tmp_path)
    scene = rows.pop("scene")["gib"]
    for name, row in rows.items():
        assert row["write_gib"] < scene + 0.35 and row["read_gib"] < scene + 0.35, (name, row, scene)
