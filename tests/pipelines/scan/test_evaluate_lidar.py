"""Scores of starts from thin scans, on a made-up street; and the term that holds depth to a sensor's."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from handful.pipelines.cli.main import main as command
from handful.pipelines.methods.config import TermsConfig
from handful.pipelines.methods.photos import Photos
from handful.pipelines.methods.terms.scan_depth import scan_depth
from handful.pipelines.scan.evaluate import evaluate_lidar, moments
from handful.recon.capture import Capture
from handful.recon.errors import CaptureError, ConfigError

from ..terms_common import rendered, step_on
from .street import street_capture


@pytest.fixture(scope="module")
def street() -> Capture:
    return street_capture(moments=5, beams=64)[0]


def test_ring_interpolation_beats_balls_and_the_network_both(street: Capture) -> None:
    scores = evaluate_lidar(street, 0.125, ("knn", "ring", "learned"), optimise=False)
    assert scores["learned"].acc > scores["ring"].acc + 0.05 > scores["knn"].acc + 0.05
    assert scores["ring"].psnr is not None and scores["ring"].acc_after is None and scores["ring"].scans == 5


def test_optimisation_is_scored_too(street: Capture) -> None:
    (score,) = evaluate_lidar(street, 0.25, ("ring",)).values()
    assert score.acc_after is not None and score.psnr_after is not None and score.psnr is not None
    assert score.acc_after > 0.5 and score.psnr_after > score.psnr


def test_clouds_without_order_have_no_rings(street: Capture) -> None:
    scores = evaluate_lidar(street, 0.25, ("pca", "ring", "learned"), optimise=False, shuffled=True)
    assert set(scores) == {"pca", "learned"} and scores["learned"].acc > scores["pca"].acc + 0.08


def test_bad_input(street: Capture) -> None:
    with pytest.raises(CaptureError, match="no scan with the name of a photo"):
        moments(replace(street, sweeps=()))
    with pytest.raises(CaptureError, match="cameras"):
        moments(replace(street, cameras=None))
    with pytest.raises(ConfigError, match="no start 'splat'"):
        evaluate_lidar(street, 0.25, ("splat",))


def test_command(shared_data, tmp_path) -> None:
    def main(argv: list[str]) -> int:
        with pytest.raises(SystemExit) as done:
            command(argv)
        assert isinstance(done.value.code, int)
        return done.value.code

    file = tmp_path / "l.json"
    args = ["evaluate", "lidar", str(shared_data / "lidar_kitti_seq"), "--keep-rings", "0.125", "--starts", "pca", "--json", str(file), "--quiet"]
    assert main(args) == 0
    (row,) = json.loads(file.read_text()).values()
    assert {"acc", "median_m", "psnr", "acc_after", "psnr_after", "seconds"} <= set(row) and 0 < row["acc"] < 1
    assert main(["evaluate", "lidar", str(shared_data / "fox"), "--quiet"]) == 2
    assert main([*args[:3], "--keep-rings", "0.9", "--quiet"]) == 2


def test_the_term_is_the_log_ratio_without_the_worst(small_start) -> None:
    start = replace(small_start, scan=torch.zeros(3, 90, 120))
    assert start.scan is not None
    start.scan[0, 10, :20] = 2.0
    photos = Photos.of(start)
    depth = torch.full((90, 120), 2.0)
    depth[10, 0], depth[10, 1:5] = 100.0, 2.2
    loss = scan_depth(step_on(photos, rendered(depth)), replace(TermsConfig(), scan=0.5, scan_trim=0.05))
    assert loss is not None and loss.item() == pytest.approx(0.5 * 4 * float(torch.tensor(1.1).log()) / 20, rel=1e-4)
    assert scan_depth(step_on(photos, rendered(depth), index=1), TermsConfig()) is None  # no returns in that photo
    assert scan_depth(step_on(Photos.of(small_start), rendered(depth)), TermsConfig()) is None
    assert scan_depth(step_on(photos, rendered(depth)), replace(TermsConfig(), scan=0.0)) is None
