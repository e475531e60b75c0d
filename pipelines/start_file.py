"""The stages before the optimisation, saved: cameras, points, depth. So that a continued run starts from the very same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.capture import ArrayImage, Capture, View
from ..recon.depth import DepthMap
from ..recon.errors import CheckpointError
from ..recon.matches import FlowField
from ..recon.points import PointCloud
from ..recon.sweeps import Sweep
from .checkpoint import load_checkpoint, save_checkpoint
from .config import from_jsonable, to_jsonable
from .init.protocol import CameraReport, InitState
from .protocol import Start
from .scan.moving import without_moving

__all__ = ["load_start", "save_start"]


def save_start(path: Path, start: Start, fingerprint: str) -> None:
    capture = start.init.capture
    assert capture.cameras is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {"cam_from_world": capture.cameras.cam_from_world, "K": capture.cameras.K, "xyz": start.init.points.xyz}
    if start.init.points.rgb is not None:
        tensors["rgb"] = start.init.points.rgb
    for (i, j), f in start.flow.items():
        tensors |= {f"flow.{i}.{j}": f.flow, f"flow_confidence.{i}.{j}": f.confidence}
    for k, sweep in enumerate(capture.sweeps):  # where they were moved to; what they measured is in the capture's files
        tensors |= {f"sweep.{k}": sweep.world_from_sensor, f"sweep_size.{k}": _size(sweep)}
    if start.scan is not None:
        tensors["scan"] = start.scan
    if start.moving is not None:
        tensors["moving"] = start.moving
    if start.pictures is not None:
        tensors |= _packed_pictures(start.pictures)
    tensors |= _packed(start.depth, "") | _packed(start.guide, "guide.")
    meta = {
        "fingerprint": fingerprint,
        "names": list(capture.names),
        "notes": list(start.notes),
        "sweeps": [s.name for s in capture.sweeps],
        "report": to_jsonable(start.init.report),
        "estimated_cameras": start.estimated_cameras,
        "kinds": [d.kind for d in start.depth],
        "flow_pairs": [list(pair) for pair in start.flow],
        "guide_kinds": [d.kind for d in start.guide],
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
        depth, guide = _unpacked(tensors, meta["kinds"], ""), _unpacked(tensors, meta["guide_kinds"], "guide.")
        flow = {(i, j): FlowField(tensors[f"flow.{i}.{j}"], tensors[f"flow_confidence.{i}.{j}"]) for i, j in meta["flow_pairs"]}
        sweeps = tuple(_placed(capture, k, name, tensors[f"sweep.{k}"], tensors[f"sweep_size.{k}"]) for k, name in enumerate(meta["sweeps"]))
        report = from_jsonable(CameraReport, meta["report"], "the checkpoint's report")
    except KeyError as e:
        raise CheckpointError(f"{path} lacks {e}; delete it to start anew.") from e
    moving = tensors.get("moving")
    init = InitState(without_moving(replace(placed, cameras=cameras, sweeps=sweeps), moving), points, report)
    scan = tensors.get("scan")
    return Start(init, depth, meta["estimated_cameras"], guide=guide, flow=flow, scan=scan, moving=moving, notes=tuple(meta["notes"]), pictures=_unpacked_pictures(tensors, placed))


def _size(sweep: Sweep) -> Tensor:
    return sweep.xyz.norm(dim=1).max() if len(sweep) else torch.ones(())


def _placed(capture: Capture, k: int, name: str, world_from_sensor: Tensor, size: Tensor) -> Sweep:
    """The capture's scan number k where it was moved to, perhaps scaled. Raises KeyError when the capture has it no more."""
    if k >= len(capture.sweeps) or capture.sweeps[k].name != name:
        raise KeyError(name)
    sweep = capture.sweeps[k]
    scale = size / _size(sweep)
    if bool((scale - 1).abs() < 1e-6):
        return replace(sweep, world_from_sensor=world_from_sensor)
    origins = None if sweep.origins is None else sweep.origins * scale
    return replace(sweep, xyz=sweep.xyz * scale, origins=origins, world_from_sensor=world_from_sensor)


def _packed(depth: tuple[DepthMap, ...], prefix: str) -> dict[str, Tensor]:
    """Without the normals, which no method reads (`Photos` leaves them out, too)."""
    tensors: dict[str, Tensor] = {}
    for i, d in enumerate(depth):
        tensors |= {f"{prefix}depth.{i}": d.depth, f"{prefix}confidence.{i}": d.confidence, f"{prefix}valid.{i}": d.valid}
    return tensors


def _packed_pictures(pictures: Capture) -> dict[str, Tensor]:
    """In whole 255ths, as which they were made."""
    assert pictures.cameras is not None
    masks = pictures.masks()
    kept = {"images": pictures.images(), "masks": torch.ones_like(pictures.images()[..., 0]) if masks is None else masks}
    cameras = {"pictures.cam_from_world": pictures.cameras.cam_from_world, "pictures.K": pictures.cameras.K}
    return {f"pictures.{n}": (t * 255).round().to(torch.uint8) for n, t in kept.items()} | cameras


def _unpacked_pictures(tensors: dict[str, Tensor], photos: Capture) -> Capture | None:
    if "pictures.images" not in tensors:
        return None
    images, masks = tensors["pictures.images"].float() / 255, tensors["pictures.masks"].float() / 255
    cameras = Cameras(tensors["pictures.cam_from_world"], tensors["pictures.K"], images.shape[2], images.shape[1])
    views = tuple(View(f"splats/{k:03}.png", ArrayImage(image, mask)) for k, (image, mask) in enumerate(zip(images, masks, strict=True)))
    return Capture(views, cameras, white_background=photos.white_background, source="splats")


def _unpacked(tensors: dict[str, Tensor], kinds: list[Literal["metric", "affine", "affine_inverse"]], prefix: str) -> tuple[DepthMap, ...]:
    """Raises KeyError for what is missing."""

    def one(i: int, kind: Literal["metric", "affine", "affine_inverse"]) -> DepthMap:
        depth, confidence, valid = (tensors[f"{prefix}{name}.{i}"] for name in ("depth", "confidence", "valid"))
        return DepthMap(depth, confidence, valid.to(torch.bool), kind=kind)

    return tuple(one(i, kind) for i, kind in enumerate(kinds))
