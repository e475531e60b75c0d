"""Where a scanner stood, from its scans alone: KISS-ICP. The only file that imports kiss_icp.

Vizzo et al. 2023, "KISS-ICP: In Defense of Point-to-Point ICP" (RA-L). Scans must overlap and come in the order they were taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..recon.errors import BackendUnavailable, CaptureError
from ..recon.sweeps import Sweep

__all__ = ["odometry", "reach_of"]

LEAST = 100  # returns: a scan of fewer cannot be followed
FAR = 0.98  # quantile of the ranges that decides how fine the map is
_TURN = 1e-3  # seconds: returns of a scan that lie closer together in time were measured at once, as far as motion goes


def odometry(sweeps: Sequence[Sweep], progress: Callable[[float], None] | None = None) -> tuple[Sweep, ...]:
    """The same scans with poses: the world is the first one's sensor frame, units stay the scans'. Poses that came with them are not looked at.

    Where the returns of every scan carry times that differ (`seconds`), the motion within a scan is taken out for the registration; the returns themselves stay as they were measured.

    Args:
        progress: called with the share done.

    Raises BackendUnavailable without kiss-icp, CaptureError for fewer than two scans or one of hardly any returns.
    """
    kiss = _kiss()
    if len(sweeps) < 2:
        raise CaptureError(f"Odometry follows a scanner from scan to scan, but there is {'one' if len(sweeps) else 'no'} scan; give two or more in the order they were taken.")
    thin = next((s for s in sweeps if len(s) < LEAST), None)
    if thin is not None:
        raise CaptureError(f"The scan {thin.name} has only {len(thin)} returns, too few to be followed; leave it out.")
    config, work = kiss
    reach = reach_of(sweeps)
    settings = config(None)
    # its defaults are for a car's scanner that reaches 60 m; in a room the same shares of 5 m are meant
    settings.data.max_range = 2 * reach
    settings.mapping.voxel_size = reach / 60
    settings.adaptive_threshold.initial_threshold = reach / 15
    settings.adaptive_threshold.min_motion_th = reach / 600
    settings.registration.max_num_threads = torch.get_num_threads()
    times = [_times(s) for s in sweeps]
    # kiss-icp divides by how long a scan takes: with one scan at a single time no pose would ever move
    settings.data.deskew = all(len(t) for t in times)
    follower, out = work(settings), []
    for k, sweep in enumerate(sweeps):
        follower.register_frame(np.ascontiguousarray(sweep.xyz.detach().cpu().double().numpy()), times[k] if settings.data.deskew else np.zeros(0))
        pose = torch.from_numpy(follower.last_pose.copy()).to(sweep.world_from_sensor)
        if not bool(torch.isfinite(pose).all()):
            raise CaptureError(f"Odometry lost the scanner at the scan {sweep.name}; give scans that follow each other more closely.")
        out.append(replace(sweep, world_from_sensor=pose))
        if progress is not None:
            progress((k + 1) / len(sweeps))
    return tuple(out)


def reach_of(sweeps: Sequence[Sweep]) -> float:
    """How far the scanner sees: a high quantile of the ranges, of some returns of each scan."""
    ranges = [s.xyz[:: max(1, len(s) // 5000)].detach().float().norm(dim=-1).cpu().numpy() for s in sweeps]
    return float(np.quantile(np.concatenate(ranges), FAR))  # torch's quantile refuses more than 2^24


def _times(sweep: Sweep) -> np.ndarray:
    """Times within the scan from 0 to 1; empty where they are not known, or the same for all returns."""
    if sweep.seconds is None:
        return np.zeros(0)
    t = sweep.seconds.detach().cpu().double().numpy()
    span = float(t.max() - t.min())
    return (t - t.min()) / span if span > _TURN else np.zeros(0)


def _kiss() -> tuple[Any, Any]:
    try:
        from kiss_icp.config import load_config
        from kiss_icp.kiss_icp import KissICP
    except ImportError as e:
        raise BackendUnavailable(f"Odometry needs kiss-icp, which cannot be imported ({e}): pip install 'handful[odometry]'") from e
    return load_config, KissICP
