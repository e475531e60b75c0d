"""The README's tables say what the stored results say."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results"
TABLES = {  # folder of results: scenes and seeds that it must have
    "llff-3-gain": (("fern", "flower", "fortress", "horns"), [0, 1, 2]),
    "llff-6-gain": (("fern", "flower", "fortress", "horns"), [0]),
    "llff-9-gain": (("fern", "flower", "fortress", "horns"), [0]),
    "dtu-3-gain": (("scan24", "scan37"), [0, 1, 2]),
    "dtu-6-gain": (("scan24", "scan37"), [0, 1, 2]),
    "dtu-9-gain": (("scan24", "scan37"), [0]),
}
METRICS = ("psnr", "ssim", "lpips_vgg")


def rows(name: str) -> list[dict[str, Any]]:
    return json.loads((RESULTS / name / "results.json").read_text())["rows"]


def told(name: str, scene: str, head_begins: str = "| scene | PSNR: 3dgs |") -> list[str]:
    """Cells of the scene's line in the first such table behind the link to the results."""
    lines = (ROOT / "README.md").read_text().splitlines()
    link = next(i for i, line in enumerate(lines) if f"benchmarks/results/{name}/results.json" in line)
    head = next(i for i, line in enumerate(lines) if i > link and line.startswith(head_begins))
    return [c.strip() for c in next(line for line in lines[head:] if line.startswith(f"| {scene} |")).replace("*", "").split("|")[2:-1]]


@pytest.mark.parametrize("name, scene", [(name, scene) for name, (scenes, _) in TABLES.items() for scene in (*scenes, "mean")])
def test_scores(name: str, scene: str) -> None:
    stored = []
    for metric in METRICS:
        for label in ("3dgs", "handful"):
            values = [r[metric]["mean"] for r in rows(name) if r["label"] == label and scene in (r["scene"], "mean")]
            stored.append(sum(values) / len(values))
    for text, value in zip((t.split("±")[0].strip() for t in told(name, scene)[:6]), stored, strict=True):
        digits = len(text.split(".")[1])
        assert abs(float(text) - value) <= 0.5001 * 10**-digits, (scene, told(name, scene), stored)


@pytest.mark.parametrize("scene", ("fern", "flower", "fortress"))
def test_on_a_gpu(scene: str) -> None:
    cells = told("llff-3-gpu", scene, "| scene, on a GPU |")
    by_label = {r["label"]: r for r in rows("llff-3-gpu") if r["scene"] == scene}
    stored = [by_label[label][metric]["mean"] for metric in ("psnr", "ssim") for label in ("3dgs", "handful")]
    assert [float(c) for c in cells[:4]] == [pytest.approx(v, abs=0.5001 * 10**-d) for v, d in zip(stored, (2, 2, 3, 3), strict=True)]
    (job,) = (j for p in (RESULTS / "llff-3-gpu/jobs").glob("*.json") if (j := json.loads(p.read_text()))["label"] == "handful" and scene in p.name)
    assert job["machine"]["gpu"] != "none" and float(cells[4]) == pytest.approx(job["training"]["seconds"], abs=0.51)


@pytest.mark.parametrize("name", TABLES)
def test_seeds_spread_and_seconds(name: str) -> None:
    scenes, seeds = TABLES[name]
    assert all(r["seeds"] == seeds for r in rows(name)) and {r["scene"] for r in rows(name)} == set(scenes)
    jobs = [json.loads(p.read_text()) for p in sorted((RESULTS / name / "jobs").glob("*.json"))]
    for scene in scenes:
        cells = told(name, scene)
        for cell, label in zip(cells, ("3dgs", "handful"), strict=False):
            spread = next(r for r in rows(name) if (r["scene"], r["label"]) == (scene, label))["psnr"]["std"]
            assert (spread is None) == ("±" not in cell) and (spread is None or float(cell.split("±")[1]) == pytest.approx(spread, abs=0.0051))
        seconds = [j["training"]["seconds"] for j in jobs if (j["protocol"]["scene"], j["label"]) == (scene, "handful")]
        assert float(cells[6]) == pytest.approx(median(seconds), abs=0.51), (scene, seconds)


@pytest.mark.parametrize("scene", ["fern", "flower", "horns"])
def test_without_cameras(scene: str) -> None:
    stored = {(r["protocol"], r["scene"]): r for r in rows("posefree")}
    protocols = tuple(f"llff-{n}{poses}" for n in (3, 6, 12) for poses in ("", "-posefree-tto"))
    assert len(stored) == 18 and all(r["seeds"] == [0] for r in stored.values())
    *scores, seconds = map(float, told("posefree", scene, "| scene | PSNR, 3 photos: given |"))
    assert scores == pytest.approx([stored[p, scene]["psnr"]["mean"] for p in protocols], abs=0.00501)
    assert seconds == pytest.approx(stored["llff-3-posefree-tto", scene]["seconds"]["mean"], abs=0.51)
