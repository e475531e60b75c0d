"""The benchmark of fields runs, and its page shows the stored figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from handful.benchmarks import field
from handful.recon.kernels import native_or_none

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")
def test_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "field.json"
    assert field.main(["--rays", "64", "--repeats", "1", "--json", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    result = json.loads(out.read_text(encoding="utf-8"))
    assert [r["side"] for r in result["rows"]] == [160, 160, 256, 160] and [g["side"] for g in result["generator"]] == [96, 160]
    for row in result["rows"]:
        assert row["samples"] > 1000 and all(row[way]["step_ms"] > 0 for way in ("native", "torch", "index"))
    assert field.main(["--table", str(out)]) == 0
    assert "| solid, 256, 16 channels |" in capsys.readouterr().out
    assert field.main(["--rays", "0"]) == 2 and "must be 1 or more" in capsys.readouterr().err


def test_the_three_ways_see_the_same() -> None:
    import torch
    from handful.recon.field.decoder import Decoder
    from handful.recon.field.occupancy import march
    from handful.recon.field.radiance import RadianceField
    from handful.recon.field.vm import VmGrid

    rng = torch.Generator().manual_seed(1)
    made = RadianceField(VmGrid(24, 16, rng), Decoder(48, 16, 1, rng=rng))
    segments, cells = field.rays_around(50), field.ball(made, field.FOG)
    samples = march(segments, cells, 64)
    colors = [field._colors(way, made, samples, segments) for way in ("native", "torch", "index")]
    torch.testing.assert_close(colors[1], colors[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(colors[0], colors[2], rtol=1e-4, atol=1e-5)


def test_the_page_shows_the_stored_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert field.main(["--table", str(ROOT / "benchmarks/results/field.json")]) == 0
    assert capsys.readouterr().out.strip() in (ROOT / "docs/field.md").read_text(encoding="utf-8")
