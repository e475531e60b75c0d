"""The benchmark of starts from thin scans: its stored result is what the page shows, and it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from handful.benchmarks.lidar import Args, main, run, table
from handful.recon.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "benchmarks" / "results" / "lidar.json"


def test_the_page_shows_the_stored_result() -> None:
    page = (ROOT / "docs" / "lidar.md").read_text(encoding="utf-8")
    for stored in (STORED, STORED.with_name("scan_nets.json")):
        for part in table(json.loads(stored.read_text(encoding="utf-8"))).split("\n\n"):
            assert part in page


def test_the_claims_hold() -> None:
    rows = {(r["keep"], r["order"], r["start"]): r for r in json.loads(STORED.read_text(encoding="utf-8"))["rows"]}
    for keep, least in ((0.25, 0.80), (0.125, 0.73)):
        learned, ring = rows[keep, "rings", "learned"], rows[keep, "rings", "ring"]
        classical = [rows[keep, "rings", s] for s in ("knn", "pca", "ring")]
        assert learned["acc"] >= least and learned["psnr"] >= ring["psnr"] and learned["seconds"] < 1
        assert learned["acc_after"] >= max(r["acc_after"] for r in classical) + 0.05
        assert learned["psnr_after"] >= max(r["psnr_after"] for r in classical)
        assert rows[keep, "none", "learned"]["acc"] >= rows[keep, "none", "pca"]["acc"] + 0.2


def test_missing_data_is_said() -> None:
    with pytest.raises(ConfigError, match="--data"):
        run(Args())
    assert main(["--quiet"]) == 2
