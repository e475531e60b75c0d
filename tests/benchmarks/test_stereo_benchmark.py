"""The stereo benchmark's own arithmetic, and one real case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from handful.benchmarks.stereo import main, score, warp
from handful.recon.camera import Cameras
from handful.recon.depth import DepthMap
from handful.recon.kernels import native_or_none


def test_score_counts_what_it_says():
    depth = [torch.tensor([[1.0, 2.0, 3.0, 0.0]])]
    truth = [(torch.zeros(4, dtype=torch.long), torch.arange(4), torch.tensor([1.005, 2.0, 4.0, 5.0]))]
    out = score(depth, [depth[0] > 0], [torch.tensor([[0.5, 0.7, 0.9, 0.0]])], truth)
    assert out["complete"] == 0.75 and out["within_1"] == pytest.approx(2 / 3) and out["within_10"] == pytest.approx(2 / 3)
    assert out["median"] == pytest.approx(0.005 / 1.005, rel=1e-4) and out["confidence"] == pytest.approx(0.7)


def test_warp_moves_points_and_keeps_the_nearest():
    K = torch.tensor([[[10.0, 0, 5], [0, 10, 4], [0, 0, 1]]])
    poses = torch.eye(4)[None]
    moved = poses.clone()
    moved[0, 0, 3] = 0.4  # depth 2 moves by two pixels, depth 4 by one
    image = torch.rand(1, 8, 10, 3, generator=torch.Generator().manual_seed(0))
    depth = torch.full((8, 10), 4.0)
    depth[:, 4] = 2.0
    m = DepthMap(depth, torch.ones(8, 10), depth > 0)
    seen, on = warp(image, Cameras(poses, K, 10, 8), [m], Cameras(moved, K, 10, 8))
    assert torch.allclose(seen[:, 6], image[0, :, 4], atol=2e-2)
    assert torch.allclose(seen[:, 2], image[0, :, 1], atol=2e-2)
    assert not bool(on[:, 0].any())


def test_errors_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--data", str(tmp_path), "--only", "nonsense"]) == 2
    assert "no case 'nonsense'" in capsys.readouterr().err
    assert main(["--data", str(tmp_path)]) == 2
    assert "holds none of the captures" in capsys.readouterr().err


@pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")
def test_fern_against_colmap(shared_data: Path, tmp_path: Path):
    out = tmp_path / "stereo.json"
    assert main(["--data", str(shared_data), "--only", "fern3", "--json", str(out), "--quiet"]) == 0
    r = json.loads(out.read_text())["fern3"]
    assert r["valid"] > 0.6 and r["above_0.5"]["complete"] > 0.85 and r["above_0.5"]["within_5"] > 0.95
    assert r["above_0.9"]["median"] < 0.006 and r["warp_psnr"] > 19.5
