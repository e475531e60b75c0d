"""A small synthetic start for runs: known cameras, exact depth and flow, a few thousand splats."""

from __future__ import annotations

import pytest
import torch
from handful.data.synthetic import demo_capture
from handful.pipelines.init.protocol import CameraReport, InitState
from handful.pipelines.protocol import Start
from handful.priors.oracle import OracleFlow
from handful.recon.capture import Capture
from handful.recon.depth import DepthMap
from handful.recon.points import PointCloud


@pytest.fixture(scope="session")
def small_demo():
    """Three 120x90 photos of the demo scene and two held-out views, with truth."""
    return demo_capture(n=3, held_out=2, width=120, height=90, supersample=1)


@pytest.fixture(scope="session")
def small_start(small_demo) -> Start:
    truth = small_demo.photo_truth
    capture = Capture(small_demo.photos.views, small_demo.photo_cameras.to(dtype=torch.float32))
    depth = tuple(
        DepthMap(d.float(), torch.where(d > 0, 0.9, 0.0).float(), d > 0) for d in truth.depth
    )
    report = CameraReport("given", 3, 3, 0.0, 100.0, "given", 0.2, 0)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    oracle = OracleFlow(capture.names, torch.stack([d.depth for d in depth]), small_demo.photo_cameras.to(dtype=torch.float32))
    flow = dict(zip(pairs, oracle.predict([(capture.views[i], capture.views[j]) for i, j in pairs]), strict=True))
    return Start(InitState(capture, PointCloud(torch.zeros(0, 3)), report), depth, flow=flow)
