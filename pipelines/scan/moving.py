"""What moved while the scans were taken is no part of a still scene: where it is in a photo, the photo does not count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from ...priors.scan_splats import ScanPrediction
from ...recon.camera import Cameras
from ...recon.capture import Capture, ImageSource
from ...recon.raster.protocol import RasterOptions
from ...recon.raster.registry import get_rasterizer
from ...recon.scan.labels import LABELS
from ...recon.scan.moments import own_sweep
from ...recon.scan.moved import beams_of, moved_returns
from ...recon.scan.sight import seen_returns
from ...recon.sh import sh_dc_from_rgb
from ...recon.sweeps import Sweep

__all__ = ["moved_by_scan", "moving_masks", "said_of_moving", "without_moving"]

ENOUGH = 3  # scans of moments from which it can be told what moved
ASKED = 8  # other scans that are asked, the nearest in place
MOST_ASKED = 60_000  # returns of a scan, evenly
LEAST_LEFT = 0.05  # share of a photo that must be left
BORDER = 0.008  # of the photo's longer side: so far around what moved a photo does not count
SEEN = 0.3  # opacity from which the scan's splats show something


def moved_by_scan(capture: Capture, sweeps: Sequence[Sweep], made: Sequence[ScanPrediction]) -> tuple[Bool[Tensor, "N"], ...] | None:
    """Of each scan the returns that moved, as far as some photo sees them. None where fewer than ENOUGH moments have a scan and a photo.

    Args:
        made: what the scan network says of each scan: which returns are ground.
    """
    assert capture.cameras is not None, "what moved is told in the cameras' world"
    moments = {k for v in capture.views if (k := own_sweep(v.name, sweeps)) is not None}
    if len(moments) < ENOUGH:
        return None
    beams = {k: b for k in sorted(moments) if (b := beams_of(sweeps[k])) is not None}
    out = []
    for k, (sweep, said) in enumerate(zip(sweeps, made, strict=True)):
        moved = torch.zeros(len(sweep), dtype=torch.bool)
        seen = _seen(capture.cameras, sweep.world_xyz)
        if len(seen):
            here = _place(sweep)
            near = sorted((j for j in beams if j != k), key=lambda j: float((beams[j].eye - here).norm()))
            some = seen[:: max(1, -(-len(seen) // MOST_ASKED))]
            said_some = moved_returns(sweep.kept(some), [beams[j] for j in near[:ASKED]], said.label[some] == LABELS.index("ground"))
            moved[seen] = said_some[torch.bucketize(seen, some).clamp_max(len(some) - 1)]  # one that was not asked is what its neighbour in the list is
        out.append(moved)
    return tuple(out)


def _seen(cameras: Cameras, xyz: Float[Tensor, "N 3"]) -> Int[Tensor, "M"]:
    """Points in the frame of some photo, in ascending order."""
    seen = torch.zeros(len(xyz), dtype=torch.bool)
    for i in range(len(cameras)):
        seen[seen_returns(cameras[i], xyz).index] = True
    return seen.nonzero()[:, 0]


def _place(sweep: Sweep) -> Float[Tensor, "3"]:
    exact = sweep.exact()
    return (exact.world_origins if sweep.origin_known else exact.world_xyz).contiguous().median(0).values


def moving_masks(
    capture: Capture, sweeps: Sequence[Sweep], made: Sequence[ScanPrediction], moved: Sequence[Bool[Tensor, "N"]]
) -> Bool[Tensor, "V H W"]:
    """Where each photo shows what moved, by the splats of the scan of its own moment; nowhere in a photo that has none, nor in one of which hardly anything
    would be left: then the scan is rather wrong, or the photo shows nothing else."""
    assert capture.cameras is not None, "what moved is told in the cameras' world"
    w, h = capture.cameras.width, capture.cameras.height
    counts = capture.masks()
    masks = torch.zeros(len(capture), h, w, dtype=torch.bool)
    for i, view in enumerate(capture.views):
        own = own_sweep(view.name, sweeps)
        if own is not None and bool(moved[own].any()):
            mask = _drawn(capture.cameras[i], made[own], moved[own])
            left = ~mask if counts is None else ~mask & (counts[i] > 0.5)
            if int(left.sum()) >= LEAST_LEFT * left.numel():
                masks[i] = mask
    return masks


def _drawn(camera: Cameras, made: ScanPrediction, moved: Bool[Tensor, "N"]) -> Bool[Tensor, "H W"]:
    white = moved[made.source].to(made.gaussians.means)[:, None].expand(-1, 3)
    painted = replace(made.gaussians, sh=sh_dc_from_rgb(white)[:, None])
    with torch.no_grad():
        out = get_rasterizer("auto", torch.device("cpu")).render(painted, camera, RasterOptions(camera_grads=False))
    alpha: Float[Tensor, "H W"] = out.alpha[0]
    mask = (alpha > SEEN) & (out.color[0, ..., 0] > 0.5 * alpha)
    border = max(1, round(BORDER * max(camera.width, camera.height)))
    return max_pool2d(mask[None, None].float(), 2 * border + 1, 1, border)[0, 0] > 0.5


@dataclass(frozen=True, eq=False)
class _Partly:
    """A photo of which a part does not count."""

    source: ImageSource
    leave_out: Bool[Tensor, "H W"]

    @property
    def size(self) -> tuple[int, int]:
        return self.source.size

    def load(self) -> Float[Tensor, "H W 3"]:
        return self.source.load()

    def load_mask(self) -> Float[Tensor, "H W"] | None:
        return self._less(self.source.load_mask())

    def load_extent(self) -> Float[Tensor, "H W"] | None:
        return self._less(self.source.load_extent())

    def digest(self) -> str:
        return hashlib.sha256(self.source.digest().encode() + self.leave_out.contiguous().numpy().tobytes()).hexdigest()

    def _less(self, counts: Float[Tensor, "H W"] | None) -> Float[Tensor, "H W"]:
        whole = torch.ones(self.leave_out.shape) if counts is None else counts
        return torch.where(self.leave_out, 0.0, whole)


def without_moving(capture: Capture, moving: Bool[Tensor, "V H W"] | None) -> Capture:
    """The same photos, which do not count where something moved: there they are as if they ended. None: as it is."""
    if moving is None:
        return capture
    views = tuple(replace(v, image=_Partly(v.image, m)) if bool(m.any()) else v for v, m in zip(capture.views, moving, strict=True))
    return replace(capture, views=views)


def said_of_moving(moving: Bool[Tensor, "V H W"] | None) -> tuple[str, ...]:
    """A sentence for the user where something moved."""
    if moving is None or not bool(moving.any()):
        return ()
    photos, share = int(moving.flatten(1).any(1).sum()), int(moving.count_nonzero()) / moving.numel()
    return (f"Something moved while the scans were taken: {share:.0%} of the pixels, in {photos} of {len(moving)} photos, are left out (--set moving=false keeps them).",)
