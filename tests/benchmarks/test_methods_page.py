"""The tables of docs/methods.md say what the stored results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCENES = ("fern", "horns")
TABLES = ("methods", "ablation", "ablation-add")  # folders of results


def rows(name: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / f"benchmarks/results/{name}/results.json").read_text())["rows"]


def told(name: str) -> dict[str, list[float]]:
    """First cell to figures of the first table behind the link to the results."""
    lines = (ROOT / "docs/methods.md").read_text().splitlines()
    link = next(i for i, line in enumerate(lines) if f"benchmarks/results/{name}/results.json" in line)
    head = next(i for i, line in enumerate(lines) if i > link and line.startswith("|---"))
    end = next(i for i, line in enumerate(lines) if i > head and not line.startswith("|"))
    cells = [[c.strip(" `*") for c in line.split("|")[1:-1]] for line in lines[head + 1 : end]]
    return {first: [float(c) for c in figures] for first, *figures in cells}


@pytest.mark.parametrize("name", TABLES)
def test_every_run_is_told(name: str) -> None:
    stored = {(r["label"], r["scene"]): r for r in rows(name)}
    table = told(name)
    assert {(label, scene) for label in table for scene in SCENES} == set(stored)
    for label, figures in table.items():
        runs = [stored[label, scene] for scene in SCENES]
        assert all(r["seeds"] == [0] for r in runs)
        expected = [r[metric]["mean"] for r in runs for metric in ("psnr", "ssim", "lpips_vgg")]
        for i, (text, value) in enumerate(zip(figures, expected, strict=False)):
            assert text == pytest.approx(value, abs=0.00501 if i % 3 == 0 else 0.000501), (label, i)
        assert figures[6] == pytest.approx(sum(r["seconds"]["mean"] for r in runs) / 2, abs=0.51), label
