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
from .atomic import write_bytes
from .ply import finite_gaussians

__all__ = ["read_splat", "write_splat"]

_RECORD = np.dtype([("xyz", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rot", "u1", 4)])


def write_splat(path: str | Path, gaussians: Gaussians) -> None:
    """Atomic. Higher spherical harmonics are dropped: the format has none."""
    g = finite_gaussians(gaussians)
    g = g[torch.argsort(g.log_scales.sum(dim=1).exp() * g.opacities, descending=True)]
    v = np.zeros(len(g), _RECORD)
    v["xyz"], v["scale"] = g.means.numpy(), g.scales.numpy()
    rgba = torch.cat([rgb_from_sh_dc(g.sh[:, 0]), g.opacities[:, None]], dim=1)
    v["rgba"] = (rgba.clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    v["rot"] = (g.quats_wxyz * 128 + 128).round().clamp(0, 255).numpy().astype(np.uint8)
    write_bytes(path, v.tobytes())


def read_splat(path: str | Path) -> Gaussians:
    """Raises CaptureError when the file's length is no multiple of 32 bytes."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror or e}).") from e
    if len(data) % _RECORD.itemsize:
        raise CaptureError(f"{path} has {len(data)} bytes, no multiple of 32: it is truncated or no .splat file.")
    v = np.frombuffer(data, _RECORD)
    rgba = torch.from_numpy(v["rgba"].astype(np.float32)) / 255
    alpha = rgba[:, 3].clamp(0.5 / 255, 1 - 0.5 / 255)
    quats = (torch.from_numpy(v["rot"].astype(np.float32)) - 128) / 128
    scales = torch.from_numpy(v["scale"].copy()).clamp_min(1e-12)
    return Gaussians(torch.from_numpy(v["xyz"].copy()), quats, scales.log(), torch.logit(alpha), sh_dc_from_rgb(rgba[:, :3])[:, None])
