"""The .splat file of web viewers: 32 bytes a Gaussian, colours without view dependence.

Layout (antimatter15/splat, README): position 3 float32, scale 3 float32, colour and opacity 4 bytes, rotation wxyz 4 bytes; little
endian, the most visible first (so that a half loaded file shows the scene).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..recon.errors import CaptureError
from ..recon.gaussians import Gaussians
from ..recon.sh import rgb_from_sh_dc, sh_dc_from_rgb
from .atomic import atomic_file
from .splat_rows import FiniteRows, Meter, Progress, empty_gaussians, logits_of_bytes, put, spans

__all__ = ["read_splat", "write_splat"]

_RECORD = np.dtype([("xyz", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rot", "u1", 4)])


def write_splat(path: str | Path, gaussians: Gaussians, progress: Progress | None = None) -> None:
    """Atomic. Higher spherical harmonics are dropped: the format has none."""
    rows = FiniteRows.of(gaussians)
    rows = rows.in_order(rows.column(lambda g: g.log_scales.sum(dim=1).exp() * g.opacities).argsort(descending=True))
    with atomic_file(path) as f:
        for g in rows.pieces(Meter(progress, len(rows))):
            v = np.zeros(len(g), _RECORD)
            v["xyz"], v["scale"] = g.means.numpy(), g.scales.nan_to_num().numpy()
            rgba = torch.cat([rgb_from_sh_dc(g.sh[:, 0]), g.opacities[:, None]], dim=1)
            v["rgba"] = (rgba.clamp(0, 1) * 255).round().numpy().astype(np.uint8)
            v["rot"] = (g.quats_wxyz * 128 + 128).round().clamp(0, 255).numpy().astype(np.uint8)
            f.write(v.tobytes())


def read_splat(path: str | Path, progress: Progress | None = None) -> Gaussians:
    """Raises CaptureError when the file's length is no multiple of 32 bytes."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size % _RECORD.itemsize:
            raise CaptureError(f"{path} has {size} bytes, no multiple of 32: it is truncated or no .splat file.")
        n = size // _RECORD.itemsize
        out, at, meter = empty_gaussians(n, 0), 0, Meter(progress, n)
        with path.open("rb") as f:
            for span in spans(n):
                v = np.fromfile(f, _RECORD, span.stop - span.start)
                at = put(out, at, _gaussians_of(v))
                meter.add(len(v))
    except OSError as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror or e}).") from e
    return out[:at]


def _gaussians_of(v: np.ndarray) -> Gaussians:
    rgb = torch.from_numpy(v["rgba"][:, :3].astype(np.float32)) / 255
    quats = (torch.from_numpy(v["rot"].astype(np.float32)) - 128) / 128
    scales = torch.from_numpy(v["scale"].copy()).clamp_min(1e-12)
    return Gaussians(torch.from_numpy(v["xyz"].copy()), quats, scales.log(), logits_of_bytes(v["rgba"][:, 3]), sh_dc_from_rgb(rgb)[:, None])
