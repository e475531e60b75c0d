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
    assert result["cloud"]["samples"] > 1000 and result["cloud"]["times_faster"] > 0
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


def test_a_cloud_is_seen_the_same_both_ways() -> None:
    import torch
    from handful.recon.field.decoder import Decoder
    from handful.recon.field.occupancy import march
    from handful.recon.field.radiance import RadianceField
    from handful.recon.field.trivec import TriVectors

    rng = torch.Generator().manual_seed(1)
    made = RadianceField(TriVectors([torch.rand(60, 3, generator=rng)], (0.3,), (5,), rng=rng), Decoder(16, 16, 1, rng=rng))
    segments = field.rays_around(50)
    samples = march(segments, field.ball(made, field.FOG), 64)
    colors = [field._colors(way, made, samples, segments) for way in ("native", "index")]
    torch.testing.assert_close(colors[0], colors[1], rtol=1e-4, atol=1e-5)


def test_the_page_shows_the_stored_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert field.main(["--table", str(ROOT / "benchmarks/results/field.json")]) == 0
    assert capsys.readouterr().out.strip() in (ROOT / "docs/field.md").read_text(encoding="utf-8")


def told(name: str) -> dict[str, list[float]]:
    """First cell to figures of the first table behind the link to the results; of mean ± deviation the mean."""
    lines = (ROOT / "docs/field.md").read_text(encoding="utf-8").splitlines()
    link = next(i for i, line in enumerate(lines) if f"benchmarks/results/{name}/results.json" in line)
    head = next(i for i, line in enumerate(lines) if i > link and line.startswith("|---"))
    end = next(i for i, line in enumerate(lines) if i > head and not line.startswith("|"))
    cells = [[c.strip(" *") for c in line.split("|")[1:-1]] for line in lines[head + 1 : end]]
    return {first: [float(c.split("±")[0].strip(" *")) for c in figures] for first, *figures in cells}


@pytest.mark.parametrize(("name", "protocols"), [("field-lego", ("blender-6", "blender-8")), ("field-lego-hull", ("blender-6",)), ("field-lego-spread", ("blender-6-spread",)), ("field-fern", ("llff-3",)), ("field-lego-seeds", ("blender-6",))])
def test_the_page_tells_every_run(name: str, protocols: tuple[str, ...]) -> None:
    rows = json.loads((ROOT / f"benchmarks/results/{name}/results.json").read_text(encoding="utf-8"))["rows"]
    long = {"vm, 6000 steps": "`vm`, as many steps as `zerorf`", "vm from splats": "`vm`, from splats"}
    stored = {(long.get(r["label"], r["label"]), r["protocol"]): r for r in rows}
    table = told(name)
    assert len(table) * len(protocols) == len(stored)
    for label, figures in table.items():
        key = label if label in long.values() else label.split("`")[1]
        within = {"psnr": 0.00501, "ssim": 0.000501, "lpips_vgg": 0.000501, "seconds": 0.501}
        expected = [(stored[key, p][m]["mean"], within[m]) for p in protocols for m in within if stored[key, p][m] is not None]  # no seconds of jobs side by side
        for text, (value, near) in zip(figures, expected, strict=True):
            assert text == pytest.approx(value, abs=near), label


def test_the_page_tells_what_numbers_buy() -> None:
    rows = json.loads((ROOT / "benchmarks/results/field-strivec/results.json").read_text(encoding="utf-8"))["rows"]
    table = told("field-strivec")
    assert len(table) == len(rows)
    for row in rows:
        figures = table[row["label"].replace("vm", "`vm`").replace("strivec", "`strivec`")]
        expected = [row["parameters"] / 1e3, *(row[m]["mean"] for m in ("psnr", "ssim", "lpips_vgg", "seconds"))]
        for text, value, within in zip(figures, expected, [0.501, 0.00501, 0.000501, 0.000501, 0.501], strict=True):
            assert text == pytest.approx(value, abs=within), row["label"]
    vm, strivec = ([r for r in rows if r["label"].startswith(name)] for name in ("vm", "strivec"))
    halved = [v["label"] for v in vm if any(s["psnr"]["mean"] >= v["psnr"]["mean"] and s["parameters"] <= v["parameters"] / 2 for s in strivec)]
    assert "vm, 128" in halved
