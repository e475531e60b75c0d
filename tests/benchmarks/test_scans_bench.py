"""The benchmark of what scans earn: its stored result is what the page shows, and it holds what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from handful.benchmarks.scans import ROWS, Args, main, run, table
from handful.recon.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
STORED = json.loads((ROOT / "benchmarks/results/scans.json").read_text(encoding="utf-8"))


def test_the_page_shows_the_stored_result() -> None:
    assert table(STORED) in (ROOT / "docs/lidar.md").read_text(encoding="utf-8")


def test_the_claims_hold() -> None:
    alone, started, held, default = STORED["rows"]
    assert [r["name"] for r in STORED["rows"]] == list(ROWS)
    assert default["acc"] > held["acc"] > alone["acc"] + 0.3 and held["median_m"] < started["median_m"] < alone["median_m"] / 5
    assert held["still_psnr"] < alone["still_psnr"] - 0.2 and default["still_psnr"] > alone["still_psnr"] - 0.08
    assert default["still_ssim"] > max(alone["still_ssim"], started["still_ssim"], held["still_ssim"])


def test_missing_data_is_said(shared_data: Path) -> None:
    with pytest.raises(ConfigError, match="--data"):
        run(Args())
    assert main(["--quiet"]) == 2
    with pytest.raises(ConfigError, match="three photos' moments"):
        run(Args(data=shared_data / "llff_fern"))
