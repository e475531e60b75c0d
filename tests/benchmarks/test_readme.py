"""The README's table says what the stored results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCENES = ("fern", "flower", "fortress", "horns")


@pytest.mark.parametrize("scene", [*SCENES, "mean"])
def test_gain_over_3dgs(scene: str) -> None:
    rows = json.loads((ROOT / "benchmarks/results/llff-3-gain/results.json").read_text())["rows"]
    lines = (ROOT / "README.md").read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| scene | PSNR: 3dgs |"))
    told = next(line for line in lines[head:] if line.startswith(f"| {scene} |")).replace("*", "").split("|")[2:8]
    stored = []
    for metric in ("psnr", "ssim", "lpips_vgg"):
        for label in ("3dgs", "handful"):
            values = [r[metric]["mean"] for r in rows if r["label"] == label and scene in (r["scene"], "mean")]
            stored.append(sum(values) / len(values))
    for text, value in zip((t.split("±")[0] for t in told), stored, strict=True):
        digits = len(text.strip().split(".")[1])
        assert abs(float(text) - value) <= 0.5001 * 10**-digits, (scene, told, stored)


def test_the_table_has_three_seeds_and_their_spread() -> None:
    rows = json.loads((ROOT / "benchmarks/results/llff-3-gain/results.json").read_text())["rows"]
    assert all(r["seeds"] == [0, 1, 2] for r in rows) and {r["scene"] for r in rows} == set(SCENES)
    for scene in SCENES:
        line = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| {scene} |"))
        told = [float(cell.split("±")[1]) for cell in line.split("|")[2:4]]
        stored = [next(r for r in rows if (r["scene"], r["label"]) == (scene, label))["psnr"]["std"] for label in ("3dgs", "handful")]
        assert told == pytest.approx(stored, abs=0.0051)
