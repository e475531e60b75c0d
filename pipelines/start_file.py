"""The stages before the optimisation, saved: cameras, points, depth. So that a continued run starts from the very same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.capture import Capture
from ..recon.depth import DepthMap
from ..recon.errors import CheckpointError
from ..recon.points import PointCloud
from .checkpoint import load_checkpoint, save_checkpoint
from .config import from_jsonable, to_jsonable
from .init.protocol import CameraReport, InitState
from .protocol import Start

__all__ = ["load_start", "save_start"]


def save_start(path: Path, start: Start, fingerprint: str) -> None:
    capture = start.init.capture
    assert capture.cameras is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {"cam_from_world": capture.cameras.cam_from_world, "K": capture.cameras.K, "xyz": start.init.points.xyz}
    if start.init.points.rgb is not None:
        tensors["rgb"] = start.init.points.rgb
    for i, d in enumerate(start.depth):
        tensors |= {f"depth.{i}": d.depth, f"confidence.{i}": d.confidence, f"valid.{i}": d.valid}
        if d.normal is not None:
            tensors[f"normal.{i}"] = d.normal
    meta = {
        "fingerprint": fingerprint,
        "names": list(capture.names),
        "report": to_jsonable(start.init.report),
        "estimated_cameras": start.estimated_cameras,
        "kinds": [d.kind for d in start.depth],
    }
    save_checkpoint(path, tensors, meta)


def load_start(path: Path, capture: Capture) -> Start:
    """`capture` is the one as loaded; the result holds the photos that were placed."""
    tensors, meta = load_checkpoint(path)
    try:
        placed = capture.select(meta["names"])
        width, height = placed.views[0].image.size
        cameras = Cameras(tensors["cam_from_world"], tensors["K"], width, height)
        points = PointCloud(tensors["xyz"], tensors.get("rgb"))
        depth = tuple(
            DepthMap(tensors[f"depth.{i}"], tensors[f"confidence.{i}"], tensors[f"valid.{i}"].to(torch.bool), tensors.get(f"normal.{i}"), kind)
            for i, kind in enumerate(meta["kinds"])
        )
        report = from_jsonable(CameraReport, meta["report"], "the checkpoint's report")
    except KeyError as e:
        raise CheckpointError(f"{path} lacks {e}; delete it to start anew.") from e
    init = InitState(replace(placed, cameras=cameras), points, report)
    return Start(init, depth, meta["estimated_cameras"])
