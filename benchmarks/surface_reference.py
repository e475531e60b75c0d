"""A cloud to judge surfaces by where there is no scan: multi-view stereo on ALL photos of a capture with its given cameras, kept where several photos agree.

It is PSEUDO truth. The same stereo starts the methods (on three photos), so errors that stereo always makes (rims, gloss, plain patches) are in both and go unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data.atomic import write_bytes
from ..priors.depth_stereo import StereoDepth
from ..recon.camera import Cameras
from ..recon.capture import Capture
from ..recon.depth import DepthMap
from ..recon.errors import CaptureError
from .surface_scores import pixels_of

__all__ = ["Reference", "agreed_points", "stereo_reference", "thinned"]

PARTNERS = 10  # nearest other photos that are asked whether they agree
AGREE = 3  # so many of them must
WITHIN = 0.004  # of the depth: the largest difference of two photos that agree


@dataclass(frozen=True)
class Reference:
    """Points of a surface. `seen_by`: how many training photos' own depth maps agree with each point."""

    xyz: Float[np.ndarray, "N 3"]
    seen_by: Int[np.ndarray, "N"]


def agreed_points(depth: Float[Tensor, "V H W"], cameras: Cameras, partners: int = PARTNERS, agree: int = AGREE, within: float = WITHIN) -> Float[Tensor, "N 3"]:
    """World points of all pixels whose depth (0 = none) `agree` or more of the `partners` nearest other photos see within `within` of it, at the mean depth
    of those that agree."""
    cameras, found = cameras.to(dtype=torch.float32), []
    near = cameras.distances.fill_diagonal_(torch.inf).argsort(1)[:, :partners]
    xyz = cameras.unproject_depth(depth)
    for i in range(len(cameras)):
        at = torch.nonzero(depth[i] > 0)
        z = depth[i][at[:, 0], at[:, 1]]
        total, count = z.clone(), torch.zeros(len(z), dtype=torch.long)
        for j in near[i].tolist():
            if j == i:
                continue
            rows, columns, _, inside = pixels_of(cameras[j], xyz[i][at[:, 0], at[:, 1]])
            theirs = xyz[j][rows, columns]  # what photo j sees in that direction, as deep as photo i would see it
            z_theirs = theirs @ cameras.cam_from_world[i, 2, :3] + cameras.cam_from_world[i, 2, 3]
            same = inside & (depth[j][rows, columns] > 0) & ((z_theirs - z).abs() < within * z)
            total += torch.where(same, z_theirs, 0.0)
            count += same
        kept = count >= agree
        uv = at[kept].flip(1).float() + 0.5
        found.append(cameras[i].unproject(uv[None], (total / (1 + count))[kept][None])[0])
    return torch.cat(found)


def thinned(xyz: Float[np.ndarray, "N 3"], cell: float) -> Float[np.ndarray, "M 3"]:
    """The mean of the points in each cubic cell: what many photos see counts no more than what few see."""
    _, inverse, count = np.unique(np.floor(xyz / cell).astype(np.int64), axis=0, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), 3))
    np.add.at(sums, inverse.reshape(-1), xyz)
    return sums / count[:, None]


def stereo_reference(capture: Capture, train: Sequence[int], cell: float, kept: Path | None = None) -> Reference:
    """The cloud of a capture with cameras and masks; minutes for 49 photos. `train`: places of the training photos; `kept`: a file that it is read from, or
    kept in (delete it when the stereo changes)."""
    if kept is not None and kept.is_file():
        with np.load(kept, allow_pickle=False) as stored:
            return Reference(stored["xyz"].astype(np.float64), stored["seen_by"].astype(np.int64))
    if capture.cameras is None:
        raise CaptureError("A stereo reference needs the capture's cameras.")
    cameras, masks = capture.cameras.to(dtype=torch.float32), capture.masks()
    maps = StereoDepth().predict(capture.views, cameras, None)
    depth = _inside(maps, masks)
    xyz = thinned(agreed_points(depth, cameras).double().numpy(), cell)
    seen_by = np.zeros(len(xyz), np.int64)
    for i in train:
        rows, columns, z, inside = pixels_of(cameras[i], torch.from_numpy(xyz).float())
        d = depth[i][rows, columns]
        seen_by += (inside & (d > 0) & ((d - z).abs() < 2 * WITHIN * z)).numpy()
    if kept is not None:
        _keep(kept, Reference(xyz, seen_by))
    return Reference(xyz, seen_by)


def _inside(maps: Sequence[DepthMap], masks: Tensor | None) -> Float[Tensor, "V H W"]:
    valid = torch.stack([m.depth * m.valid for m in maps])
    return valid if masks is None else valid * (masks > 0.5)


def _keep(file: Path, reference: Reference) -> None:
    import io

    file.parent.mkdir(parents=True, exist_ok=True)
    raw = io.BytesIO()
    np.savez_compressed(raw, xyz=reference.xyz.astype(np.float32), seen_by=reference.seen_by.astype(np.int8))
    write_bytes(file, raw.getvalue())
