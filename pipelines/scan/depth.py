"""What scans say of the photos: where a return is, its depth; between returns, the depth of the splats that the scan network makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...priors.scan_splats import ScanPrediction, ScanSplats
from ...recon.camera import Cameras
from ...recon.capture import Capture
from ...recon.depth import DepthMap
from ...recon.gaussians import Gaussians
from ...recon.raster.protocol import RasterOptions
from ...recon.raster.registry import get_rasterizer
from ...recon.scan.labels import LABELS
from ...recon.scan.moments import own_sweep
from ...recon.scan.rings import tells_rings, with_rings
from ...recon.scan.sight import seen_returns
from ...recon.sweeps import Sweep
from .moving import moved_by_scan, moving_masks, without_moving

__all__ = ["ScanDepth", "judging", "scan_depth", "withheld", "with_scan_depth"]

EVERY = 16  # rings, or returns of a scan without rings: one of so many is kept back to judge the scene
CELL = 8  # pixels; see seen_returns
AGREES = 0.05  # relative difference up to which two depths are one surface
BETWEEN = 0.6  # confidence of depth between returns
TRUSTED = 0.5  # confidence from which a sensor's depth holds the render


@dataclass(frozen=True)
class ScanDepth:
    """Per photo. returns: z-depth of what the sensor measured, 0 = none. dense: between the returns, too. moving: where it shows something that moved between
    the scans; None where that cannot be told."""

    returns: Float[Tensor, "V H W"]
    dense: tuple[DepthMap, ...]
    moving: Bool[Tensor, "V H W"] | None = None


def judging(sweep: Sweep) -> Bool[Tensor, "N"]:
    """The beams that judge the scene: whole rings, since a ring's neighbouring returns tell each other."""
    number = sweep.ring if tells_rings(sweep, EVERY) else torch.arange(len(sweep))
    assert number is not None
    return number % EVERY == EVERY // 2


def withheld(sweep: Sweep) -> tuple[Sweep, Sweep]:
    """The scan without the beams that judge, and those."""
    sweep = with_rings(sweep)
    judges = judging(sweep)
    return sweep.kept(~judges), sweep.kept(judges)


def scan_depth(capture: Capture, most_sweeps: int = 3, find_moving: bool = True) -> ScanDepth | None:
    """None where the capture has neither scans nor sensor depth. Withheld beams are left out.

    Each photo is told by its own scan and the nearest others, `most_sweeps` in all; of the others, things that moved (or could, where that cannot be told) and
    what its own scan contradicts are left out.

    Args:
        find_moving: tell what moved from the scans of at least three moments.
    """
    assert capture.cameras is not None, "depth follows the cameras"
    sensor = _sensor(capture) if any(d is not None for d in capture.depth) else None
    if not capture.sweeps or sensor is not None:
        return sensor
    sweeps, net = [withheld(s)[0] for s in capture.sweeps], ScanSplats()
    eyes = [_eye(s, capture.cameras) for s in sweeps]
    made = [net.predict(s, None if s.origin_known else eye) for s, eye in zip(sweeps, eyes, strict=True)]
    moved = moved_by_scan(capture, sweeps, made) if find_moving else None
    stays = [~m for m in moved] if moved is not None else [p.label != LABELS.index("movable") for p in made]
    returns, dense = [], []
    for i, view in enumerate(capture.views):
        camera, own = capture.cameras[i], own_sweep(view.name, sweeps)
        seen, depth = _of_photo(camera, own, _nearest(camera, eyes, own, most_sweeps), sweeps, made, stays, None if moved is None or own is None else moved[own])
        returns.append(seen)
        dense.append(depth)
    moving = None if moved is None else moving_masks(capture, sweeps, made, moved)
    return _where_photos_count(ScanDepth(torch.stack(returns), tuple(dense), moving), without_moving(capture, moving))


def with_scan_depth(measured: Sequence[DepthMap], scan: ScanDepth) -> tuple[DepthMap, ...]:
    """Stereo where it measured and the scan does not contradict it, the scan's elsewhere; returns hold whatever stereo says."""
    return tuple(_joined(m, d, r) for m, d, r in zip(measured, scan.dense, scan.returns, strict=True))


def _joined(stereo: DepthMap, scan: DepthMap, returns: Float[Tensor, "H W"]) -> DepthMap:
    agrees = (stereo.depth - scan.depth).abs() < AGREES * scan.depth
    keep = stereo.valid & (agrees | ~scan.valid)
    take = scan.valid & ~keep
    depth = torch.where(take, scan.depth, stereo.depth)
    confidence = torch.where(take, scan.confidence, torch.where(keep & scan.valid, stereo.confidence.maximum(scan.confidence), stereo.confidence))
    hit = returns > 0
    return DepthMap(torch.where(hit, returns, depth), torch.where(hit, 1.0, confidence), hit | take | stereo.valid)


def _sensor(capture: Capture) -> ScanDepth:
    """Depth pictures of a phone or camera: what is trusted holds the render, the rest is a hint."""
    w, h = capture.views[0].image.size
    nothing = DepthMap(torch.zeros(h, w), torch.zeros(h, w), torch.zeros(h, w, dtype=torch.bool))
    maps = tuple(nothing if d is None else d for d in capture.depth)
    made = ScanDepth(torch.stack([torch.where(d.valid & (d.confidence >= TRUSTED), d.depth, 0.0) for d in maps]), maps)
    return _where_photos_count(made, capture)


def _where_photos_count(scan: ScanDepth, capture: Capture) -> ScanDepth:
    """Without what the photos' masks and borders leave out: what stands there is not to be seen."""
    masks = capture.masks()
    if masks is None:
        return scan
    counts = masks > 0.5
    dense = tuple(replace(d, valid=d.valid & c, confidence=torch.where(c, d.confidence, 0.0)) for d, c in zip(scan.dense, counts, strict=True))
    return replace(scan, returns=torch.where(counts, scan.returns, 0.0), dense=dense)


def _eye(sweep: Sweep, cameras: Cameras) -> Float[Tensor, "3"]:
    """Where a scan was taken; for a cloud that does not say, probably: the photo's place nearest to its middle."""
    if not len(sweep):
        return sweep.world_from_sensor[:3, 3]
    if sweep.origin_known:
        return sweep.world_origins.contiguous().median(0).values
    middle = sweep.world_xyz.median(0).values
    return cameras.centers[(cameras.centers - middle).norm(dim=1).argmin()]


def _nearest(camera: Cameras, eyes: Sequence[Float[Tensor, "3"]], own: int | None, most: int) -> list[int]:
    """Other scans, nearest first."""
    far = torch.stack([(eye - camera.centers[0]).norm() for eye in eyes])
    return [k for k in far.argsort(stable=True).tolist() if k != own][: most - (own is not None)]


def _of_photo(
    camera: Cameras,
    own: int | None,
    others: list[int],
    sweeps: Sequence[Sweep],
    made: Sequence[ScanPrediction],
    stays: Sequence[Bool[Tensor, "N"]],
    went: Bool[Tensor, "N"] | None,
) -> tuple[Float[Tensor, "H W"], DepthMap]:
    """stays: what of each scan tells photos of other moments. went: what of the own scan had moved."""
    splats = [made[own].gaussians] if own is not None else []
    splats += [made[k].gaussians[stays[k][made[k].source]] for k in others]
    first = _drawn(splats[0], camera) if own is not None else None
    w, h = camera.width, camera.height
    clouds = [sweeps[own].world_xyz] if own is not None else []
    for k in others:
        clouds.append(sweeps[k].world_xyz[stays[k]])
    xyz = torch.cat(clouds)
    found = seen_returns(camera, xyz, cell=CELL)
    if went is not None:  # what moved hides what lies behind it, and then says nothing
        gone = torch.cat([went, torch.zeros(len(xyz) - len(went), dtype=torch.bool)])
        found = found.kept(~gone[found.index])
    if own is not None and first is not None:
        at = found.pixels(w)
        there, known = first.depth.reshape(-1)[at], first.valid.reshape(-1)[at]
        mine = found.index < len(clouds[0])
        found = found.kept(mine | ~known | ((found.z - there).abs() < AGREES * there))
    whole = _drawn(Gaussians.concatenate(splats), camera)
    if first is not None:  # what the photo's own scan shows stands; the others fill
        whole = replace(whole, depth=torch.where(first.valid, first.depth, whole.depth), valid=first.valid | whole.valid,
                        confidence=torch.where(first.valid, first.confidence, whole.confidence))  # fmt: skip
    return found.depth_map(w, h), whole


def _drawn(gaussians: Gaussians, camera: Cameras) -> DepthMap:
    with torch.no_grad():
        out = get_rasterizer("auto", torch.device("cpu")).render(gaussians, camera, RasterOptions(camera_grads=False))
    valid: Bool[Tensor, "H W"] = out.alpha[0] >= 0.5
    return DepthMap(torch.where(valid, out.depth[0], 0.0), valid.float() * BETWEEN, valid)
